"""pythae's trainer as its documentation starts it: a `TrainingPipeline` with a `BaseTrainerConfig`, all else default.

https://pythae.readthedocs.io, "Training". Its model gets our layers for encoder and decoder, as it takes anybody's, and
its loss is the same -ELBO ("bce", in nats per image).
"""

import sys
from importlib import metadata
from typing import Any

import numpy as np
import torch
from pythae.models import VAE, VAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from pythae.pipelines import TrainingPipeline
from pythae.trainers import BaseTrainerConfig
from pythae.trainers.training_callbacks import TrainingCallback
from torch import Tensor, nn

from benchmarks.contenders.training_job import LATENT_DIMS, LEARNING_RATE, SHAPE, Clock, Job, Outcome, networks, prepare


class Encoder(BaseEncoder):
    """Ours, in pythae's words."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Any:
        mean, log_variance = self.network(images).chunk(2, dim=-1)
        return ModelOutput(embedding=mean, log_covariance=log_variance)


class Decoder(BaseDecoder):
    """Ours, with the probabilities that pythae's loss expects in the place of logits."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, latents: Tensor) -> Any:
        return ModelOutput(reconstruction=torch.sigmoid(self.network(latents)))


class Watch(TrainingCallback):
    """Reads the clock at the end of each epoch."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.loss = float("nan")

    def on_epoch_end(self, training_config: Any, **_: Any) -> None:
        self.clock.read()

    def on_log(self, training_config: Any, logs: dict[str, float], **_: Any) -> None:
        self.loss = float(logs["train_epoch_loss"])


def main(job: Job) -> Outcome:
    """Train, and tell how long it took."""
    prepare(job)
    encoder, decoder = networks(job)
    dimension = LATENT_DIMS[job.network]
    with np.load(job.data, allow_pickle=False) as arrays:
        images = (arrays["train"][:, None] / 255).astype(np.float32)
    assert len(images) == job.images
    model_config = VAEConfig(input_dim=SHAPE, latent_dim=dimension, reconstruction_loss="bce")
    model = VAE(model_config, encoder=Encoder(encoder), decoder=Decoder(decoder))
    training_config = BaseTrainerConfig(
        output_dir=job.folder,
        num_epochs=job.epochs + 1,
        per_device_train_batch_size=job.batch,
        learning_rate=LEARNING_RATE,
        no_cuda=True,
    )
    watch = Watch()
    TrainingPipeline(training_config=training_config, model=model)(train_data=images, callbacks=[watch])
    assert torch.get_num_threads() == job.threads
    versions = {"pythae": metadata.version("pythae"), "torch": torch.__version__, "precision": "float32"}
    return watch.clock.outcome(watch.loss, (encoder, decoder), versions)


if __name__ == "__main__":
    main(Job.parse(sys.argv[1])).tell()
