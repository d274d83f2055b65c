"""Our training loop, with what surrounds it in `vae train`: checkpoints, the average of the weights, the log."""

import statistics
import sys
from pathlib import Path

import torch

from benchmarks.contenders.training_job import Clock, Job, Outcome, document
from model.vae import VAE
from training.config import check
from training.data.load import load_training
from training.device import choose_precision, prepare
from training.feed import Feed
from training.interruption import Interruption
from training.loop import Loop, Plan, Values, build_trainee
from training.observers import LogObserver
from training.run import MetricsLog, RunFolder


class Watch:
    """An observer that reads the clock at the end of each epoch, before validation."""

    def __init__(self, plan: Plan) -> None:
        self.clock = Clock()
        self.losses: list[float] = []
        self._plan = plan

    def trained(self, step: int, values: Values) -> None:
        """Some steps of equal number ended, and maybe an epoch."""
        first = step <= self._plan.total_steps - self._plan.steps_per_epoch
        if not first:
            self.losses.append(values["negative_elbo"])
        if step % self._plan.steps_per_epoch == 0:
            self.clock.read()

    def validated(self, step: int, values: Values) -> None:
        """After all that is timed."""


def main(job: Job) -> Outcome:
    """Train, and tell how long it took."""
    config, cpu = check(document(job), "benchmark"), torch.device("cpu")
    prepare(cpu, job.threads)
    training, validation = load_training(config.data, config.image, seed=config.seed)
    assert len(training) == job.images
    trainee = build_trainee(config, cpu, mean_image=training.mean_image())
    run = RunFolder(Path(job.folder))
    log = MetricsLog(run.log_file, resume_at=None)
    plan = Plan.of(config, len(training))
    watch = Watch(plan)
    autocast = choose_precision(config.optimization.precision, config.model.network.kind, cpu) == torch.bfloat16
    feeds = Feed(training, cpu), Feed(validation, cpu)
    Loop(config, run, trainee, feeds, autocast=autocast, observers=[LogObserver(log), watch]).train(Interruption())
    log.close()
    model: VAE = trainee.model
    versions = {"torch": torch.__version__, "precision": "bfloat16" if autocast else "float32"}
    return watch.clock.outcome(statistics.mean(watch.losses), (model.encoder, model.decoder), versions)


if __name__ == "__main__":
    main(Job.parse(sys.argv[1])).tell()
