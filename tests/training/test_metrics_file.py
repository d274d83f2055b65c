"""What stays in metrics.json: of each part what says more, of the same weights only."""

import io
from pathlib import Path

import pytest
import torch
from rich.console import Console

from model.bundle.measurements import Metrics
from tests.support.digits import digits_config, run_digits
from training.ais import AnnealingSettings
from training.errors import ConfigError
from training.evaluate import NOTHING_MORE, Wishes, evaluate_run
from training.metrics_file import merged, says_more, stored
from training.run import RunFolder

pytestmark = pytest.mark.usefixtures("few_tuning_moves")

QUICK = AnnealingSettings(chains=2, temperatures=3, leapfrog_steps=1)
BOTH = Wishes(annealing=QUICK, gaps=4, subset=6)


def copy_of(run: RunFolder, folder: Path) -> RunFolder:
    """What evaluation reads of a run, in another folder, and what it measured."""
    for file in (run.config_file, run.provenance_file, run.best, run.metrics_file):
        if file.exists():
            (folder / file.name).write_bytes(file.read_bytes())
    return RunFolder(folder)


def evaluated(run: RunFolder, wishes: Wishes = NOTHING_MORE, **options: int) -> tuple[Metrics, str]:
    """The metrics, and the words that were printed, however the lines were broken."""
    printed = io.StringIO()
    console = Console(file=printed, width=160)
    metrics = evaluate_run(run, data_dir=None, console=console, wishes=wishes, **options)
    assert isinstance(metrics, Metrics)
    return metrics, " ".join(printed.getvalue().split())


def on_disk(run: RunFolder) -> Metrics:
    return Metrics.model_validate_json(run.metrics_file.read_bytes())


@pytest.fixture(scope="module")
def whole(finished: RunFolder, few_tuning_moves: None, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run with all parts measured; to be copied."""
    before = torch.get_num_threads()
    run = copy_of(finished, tmp_path_factory.mktemp("whole"))
    evaluated(run, BOTH)
    torch.set_num_threads(before)
    return run


def test_all_parts_are_measured_and_told(whole: RunFolder, tmp_path: Path) -> None:
    run = copy_of(whole, tmp_path)
    run.metrics_file.unlink()
    metrics, printed = evaluated(run, BOTH)
    assert on_disk(run) == metrics == on_disk(whole)
    assert metrics.annealing is not None
    assert metrics.gaps is not None
    annealing, gaps = metrics.annealing, metrics.gaps
    assert (annealing.protocol.images, annealing.protocol.simulated_images, gaps.protocol.images) == (6, 6, 6)
    assert (annealing.protocol.chains, annealing.protocol.temperatures, annealing.protocol.leapfrog_steps) == (2, 3, 1)
    assert (annealing.protocol.initial, annealing.protocol.simulated_initial) == ("posterior", "posterior")
    assert annealing.protocol.importance_samples == metrics.protocol.importance_samples == 20
    assert annealing.protocol.step == metrics.protocol.step
    assert gaps.total.value == pytest.approx(gaps.approximation.value + gaps.amortization.value)
    assert gaps.diagonal is None
    for estimate in (annealing.negative_log_likelihood, annealing.difference, annealing.gap, gaps.total):
        assert estimate.low < estimate.value < estimate.high
        assert f"{estimate.value:.2f}" in printed
    assert "2 chains an image from the encoder's posterior, 3 temperatures, 1 leapfrog step a move" in printed
    assert "4 steps of Adam an image" in printed
    assert "annealing of digits (drawn at random from 719), and of simulated images: 12 of 12 images" in printed


def test_the_rest_is_not_measured_again_for_a_part(whole: RunFolder, tmp_path: Path) -> None:
    run = copy_of(whole, tmp_path)
    metrics, printed = evaluated(run, BOTH)
    assert "has the rest of these weights: it is not measured again" in printed
    assert "L_20 of digits (drawn at random from 719): 100 of 100 images" not in printed
    assert metrics == on_disk(whole) == on_disk(run)
    again, printed = evaluated(run, Wishes(gaps=6, subset=6), images=100)  # a number was given: it is measured with it
    assert "L_20 of digits (drawn at random from 719): 100 of 100 images" in printed
    assert again.gaps is not None
    assert again.gaps.protocol.steps == 6
    assert again.annealing == metrics.annealing


def test_measuring_the_rest_again_loses_no_part(whole: RunFolder, tmp_path: Path) -> None:
    run = copy_of(whole, tmp_path)
    before = on_disk(run)
    metrics, _ = evaluated(run, images=101)
    assert metrics.protocol.images == 101
    assert (metrics.annealing, metrics.gaps) == (before.annealing, before.gaps)
    assert on_disk(run) == metrics


def test_a_quick_look_writes_its_new_parts_and_no_smaller_ones(whole: RunFolder, tmp_path: Path) -> None:
    run = copy_of(whole, tmp_path)
    before = on_disk(run)
    bare = before.model_copy(update={"annealing": None})
    run.metrics_file.write_text(bare.model_dump_json(), encoding="utf-8")
    metrics, printed = evaluated(run, Wishes(annealing=QUICK, gaps=2, subset=6), images=7)
    assert (
        f"Not written: {run.metrics_file} keeps what was measured on 100 images with 20 importance samples" in printed
    )
    assert f"Not written: {run.metrics_file} keeps the gaps of 6 images after 4 steps each." in printed
    assert metrics.protocol.images == 7
    found = on_disk(run)
    assert found.protocol == before.protocol
    assert found.gaps == before.gaps
    assert found.annealing == metrics.annealing is not None
    _, printed = evaluated(run, Wishes(annealing=QUICK, subset=3))
    assert f"Not written: {run.metrics_file} keeps the annealing of 6 images by 2 chains of 3 temperatures" in printed
    assert on_disk(run) == found


def test_more_images_or_more_draws_take_the_place_of_less(whole: RunFolder, tmp_path: Path) -> None:
    run = copy_of(whole, tmp_path)
    for wishes in (
        BOTH._replace(subset=7),
        Wishes(annealing=QUICK._replace(temperatures=4), gaps=5, subset=7),
        Wishes(annealing=QUICK._replace(temperatures=2, chains=4, initial="prior"), subset=7),
    ):
        metrics, printed = evaluated(run, wishes)
        assert "Not written" not in printed
        assert on_disk(run) == metrics
    assert metrics.annealing is not None
    assert metrics.annealing.protocol.initial == "prior"


def test_nothing_stays_of_other_weights(whole: RunFolder, tmp_path: Path) -> None:
    run = copy_of(whole, tmp_path)
    before = on_disk(run)
    other = before.model_copy(update={"protocol": before.protocol.model_copy(update={"step": 1})})
    run.metrics_file.write_text(other.model_dump_json(), encoding="utf-8")
    assert stored(run, before.protocol.step or 0) is None
    metrics, printed = evaluated(run, images=7)
    assert "Not written" not in printed
    assert (metrics.annealing, metrics.gaps) == (None, None)
    assert on_disk(run) == metrics


def test_one_part_does_not_depend_on_the_other(whole: RunFolder, tmp_path: Path) -> None:
    """Noise is of streams of their own; the reference of the gaps is told."""
    run = copy_of(whole, tmp_path)
    run.metrics_file.unlink()
    alone, _ = evaluated(run, Wishes(annealing=QUICK, subset=6), images=7)
    both = on_disk(whole)
    assert alone.annealing == both.annealing
    assert alone.gaps is None
    gaps, _ = evaluated(run, Wishes(gaps=4, subset=6), images=7)
    assert gaps.gaps is not None
    assert both.gaps is not None
    assert gaps.gaps.amortization == both.gaps.amortization
    assert gaps.annealing == both.annealing


def test_the_larger_of_two_measurements_wins_whichever_came_first(whole: RunFolder) -> None:
    metrics = on_disk(whole)
    less = metrics.model_copy(update={"protocol": metrics.protocol.model_copy(update={"images": 50})})
    assert says_more(metrics.protocol, less.protocol)
    assert not says_more(metrics.protocol, metrics.protocol)
    assert merged(metrics, less) == merged(less, metrics) == merged(None, metrics) == metrics


@pytest.mark.parametrize("wishes", [Wishes(annealing=QUICK), Wishes(gaps=2)])
@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"data": {"binarization": "none"}}, "grey or color values under a Bernoulli have no likelihood"),
        ({"objective": {"kind": "autoencoder"}}, r"a plain autoencoder has no p\(x\)"),
    ],
)
def test_what_has_no_likelihood_is_refused_before_anything_is_measured(
    wishes: Wishes, changes: dict[str, object], why: str, tmp_path: Path
) -> None:
    run, _, _ = run_digits(tmp_path / "run", digits_config(optimization={"epochs": 1}, **changes))
    with pytest.raises(ConfigError, match=why):
        evaluated(run, wishes)
    assert not run.metrics_file.exists()
