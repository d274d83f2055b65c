"""A training run from a configuration: data, device, model, run folder, loop."""

from contextlib import ExitStack
from pathlib import Path

import torch
from rich.console import Console

from model.bundle.files import write_text_atomically
from model.bundle.folders import SUFFIXES
from training.checkpoint import restore_checkpoint
from training.compiled import check_compiler, compiler_of
from training.config import RunConfig
from training.data.load import Survey, check_test, load_training, survey
from training.data.seen import SeenImages
from training.device import choose_precision, prepare
from training.distributed import ALONE, World
from training.errors import ConfigError, DataError
from training.feed import Feed
from training.interruption import Interruption
from training.lint import lint, lint_data
from training.loop import Loop, Observer, Plan, build_trainee
from training.objectives.words import chooses
from training.observers import ConsoleObserver, DataProgress, LogObserver, TensorBoardObserver
from training.provenance import Provenance, provenance_of
from training.pseudo_inputs import first_pseudo_inputs
from training.run import MetricsLog, RunFolder
from training.words import count, say


def train(
    config: RunConfig,
    folder: Path,
    *,
    data_dir: Path | None,
    resume: bool,
    console: Console,
    world: World = ALONE,
) -> bool:
    """Train in a run folder; with ``resume`` go on from its last checkpoint if it has one.

    All processes of ``world`` call it with the same arguments. They read the same data and the same checkpoint, and the
    first writes and speaks.

    Returns:
        True when the run is complete, False when it was interrupted and can be resumed.

    Raises:
        ConfigError, DataError, CheckpointError, CompilationFailed, NonFiniteLoss, ProcessLost: as their docstrings say.
    """
    world.check(config)
    device = world.device(config.device)
    prepare(device, config.threads)
    if config.optimization.compile:
        check_compiler(device)
    with world.joined(device):
        return _train(config, folder, device, world, data_dir=data_dir, resume=resume, console=console)


def _train(
    config: RunConfig,
    folder: Path,
    device: torch.device,
    world: World,
    *,
    data_dir: Path | None,
    resume: bool,
    console: Console,
) -> bool:
    precision = choose_precision(config.optimization.precision, config.model.network.kind, device)
    run = RunFolder(folder)
    found = survey(config.data, config.image, data_dir=data_dir)
    decoded_before = False
    if resume and run.config_file.exists():
        decoded_before = run.provenance().test_images_decoded
    else:
        _refuse_idle_shares(config, found)
    with DataProgress(console) as progress:
        with world.one_after_the_other():
            training, validation = load_training(
                config.data, config.image, seed=config.seed, data_dir=data_dir, progress=progress
            )
        tests, seen = None, SeenImages()
        if world.leads and not decoded_before:
            tests = check_test(
                config.data, config.image, seed=config.seed, data_dir=data_dir, progress=progress, look=seen.add
            )
    digests = {
        "name": training.name,
        "training": training.sha256,
        "validation": validation.sha256,
        "listing": found.listing,
    }
    if not world.agrees(training.sha256):
        raise DataError(f"{training.name}: other training images than those of the first process")
    provenance = provenance_of(
        config,
        device,
        precision,
        digests,
        processes=world.size,
        test_images_decoded=tests is not None,
        compiler=compiler_of(device) if config.optimization.compile else None,
    )
    # Whatever is wrong with the plan is said before there is a run folder.
    plan = Plan.of(config, len(training.images))
    pseudo_inputs = first_pseudo_inputs(config.model.prior, training, config.seed)

    with ExitStack() as stack:
        if world.leads:
            stack.enter_context(run.held())
        trainee = build_trainee(config, device, mean_image=training.mean_image(), pseudo_inputs=pseudo_inputs)
        resuming = world.told(world.leads and _enter(run, config, provenance, resume=resume))
        if resuming and world.told(run.last.exists()):
            restore_checkpoint(run.last, trainee)
        world.copy_first([*trainee.model.state_dict().values(), *trainee.average.state_dict().values()])
        if world.leads and resuming and not trainee.progress.finished:
            run.record_resumption(provenance, trainee.progress.step)
        if trainee.progress.finished:
            say(console, f"{folder}: complete already, after step {trainee.progress.step:,}")
            return True
        start = trainee.progress.step
        parameters = sum(parameter.numel() for parameter in trainee.model.parameters())
        resumed = f", resumed at step {start:,}" if start else ""
        say(
            console,
            f"{config.name}: {len(training):,} training and {count(len(validation), 'validation image')} of "
            f"{training.name}, {parameters:,} parameters, {count(plan.total_steps, 'step')} on {provenance.device} "
            f"({_engaged(provenance)}, {provenance.precision}){resumed}",
        )
        if config.optimization.compile:
            say(console, "compiling: the first two steps may take a minute or more")
        for remark in (*_remarks(found, tests), *lint(config), *lint_data(config, training, validation, seen)):
            say(console, remark)
        observers = []
        if world.leads:
            observers = _observers(config, run, plan, console, stack, start=start, resuming=resuming)
        interruption = stack.enter_context(Interruption())
        feeds = Feed(training, device), Feed(validation, device)
        autocast = precision == torch.bfloat16
        Loop(config, run, trainee, feeds, autocast=autocast, observers=observers, world=world).train(interruption)
    if not trainee.progress.finished:
        step = trainee.progress.step
        where = f"after step {step:,}; a checkpoint is written" if step else "before the first step"
        say(console, f"interrupted {where}")
    return trainee.progress.finished


def _enter(run: RunFolder, config: RunConfig, provenance: Provenance, *, resume: bool) -> bool:
    """Write down what runs in the folder from now on; whether it goes on with what is there."""
    if not (resume and run.config_file.exists()):
        run.start(config, provenance)
        return False
    run.check_resumable(config, provenance)
    write_text_atomically(run.config_file, config.model_dump_json(indent=2) + "\n")
    return True


def _observers(
    config: RunConfig, run: RunFolder, plan: Plan, console: Console, stack: ExitStack, *, start: int, resuming: bool
) -> list[Observer]:
    """Who watches a run from step ``start`` on, until the stack is left."""
    log = MetricsLog(run.log_file, resume_at=start if resuming else None)
    stack.callback(log.close)
    bar = stack.enter_context(ConsoleObserver(plan, console, start=start, criterion=chooses(config.objective)))
    observers: list[Observer] = [LogObserver(log), bar]
    if config.schedule.tensorboard:
        board = TensorBoardObserver(run.folder / "tensorboard", start=start)
        stack.callback(board.close)
        observers.append(board)
    return observers


def _engaged(provenance: Provenance) -> str:
    """How many threads, of how many processes."""
    threads = count(provenance.threads, "thread")
    return threads if provenance.processes == 1 else f"{provenance.processes} processes, {threads} each"


def _refuse_idle_shares(config: RunConfig, found: Survey) -> None:
    """Refuse a share to hold out, where it was asked for, of data that are divided already."""
    for split in found.own_splits:
        if f"{split}_fraction" in config.data.model_fields_set:
            raise ConfigError(
                f"data.{split}_fraction = {getattr(config.data, f'{split}_fraction')} is without effect: "
                f"the data have {split} images of their own; leave it out"
            )


def _remarks(found: Survey, tests: int | None) -> list[str]:
    """What of the files is allowed and may still not be meant."""
    remarks = []
    if found.ignored:
        formats = ", ".join(sorted(SUFFIXES))
        files = count(found.ignored, "file of the data is", "files of the data are")
        names = "its name does" if found.ignored == 1 else "their names do"
        remarks.append(f"{files} not looked at: {names} not end in {formats}")
    if tests == 1:
        remarks.append("there is one test image, and measuring takes two or more: this model could not be evaluated")
    return remarks
