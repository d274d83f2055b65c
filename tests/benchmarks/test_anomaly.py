"""The area under a ROC curve is what scikit-learn says, and others are what their names say."""

import math
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from sklearn.metrics import roc_auc_score

from benchmarks.anomaly import area, digits_of, others, scored, table
from model.bundle.drawing import encode_picture
from model.bundle.runtime import Bundle, RuntimeOptions
from model.bundle.store import open_bundle
from tests.support.tiny import write_tiny_bundle
from training.config import load
from training.data import mnist
from training.data.load import load_test
from training.errors import DataError


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny", scores=True)
    return open_bundle(folder, RuntimeOptions(threads=1))


@pytest.mark.parametrize("shift", [-2.0, 0.0, 0.5])
def test_the_area_is_scikit_learns(shift: float) -> None:
    random = np.random.default_rng(0)
    normal, other = random.normal(size=300).round(1), (random.normal(size=200) + shift).round(1)  # with ties
    found = area(normal, other)
    wanted = roc_auc_score(np.r_[np.zeros(300), np.ones(200)], -np.r_[normal, other])
    assert found.value == pytest.approx(wanted)
    assert found.low < found.value < found.high
    draws = [area(random.normal(size=300), random.normal(size=200) + shift).value for _ in range(400)]
    assert (found.high - found.low) / (2 * 1.96) == pytest.approx(np.std(draws), rel=0.25)


def test_what_is_always_lower_is_always_found_and_a_few_are_no_proof() -> None:
    few = area(np.array([5.0, 6.0]), np.array([1.0, 2.0]))
    many = area(np.arange(1000.0) + 5, np.arange(1000.0) - 1000)
    one = area(np.arange(1000.0) + 5, np.array([1.0]))
    assert few.value == few.high == many.value == one.value == 1
    assert 0.1 < few.low < one.low < 0.9 < 0.99 < many.low < 1
    never = area(np.array([1.0, 2.0]), np.array([5.0, 6.0]))
    assert never.low == never.value == 0
    assert never.high == pytest.approx(1 - few.low)


@pytest.mark.parametrize("shift", [-1.5, 0.0, 0.5])
def test_the_ends_of_an_interval_are_1_96_of_their_own_errors_away(shift: float) -> None:
    """Hanley and McNeil (1982), equation 1: q1 is that two of the others are below one normal image, q2 that one of the
    others is below two of these."""
    random = np.random.default_rng(0)
    normal, other = random.normal(size=90), random.normal(size=20) + shift
    found = area(normal, other)
    for end in (found.low, found.high):
        q1, q2 = end / (2 - end), 2 * end**2 / (1 + end)
        variance = (end * (1 - end) + (20 - 1) * (q1 - end**2) + (90 - 1) * (q2 - end**2)) / (20 * 90)
        assert abs(end - found.value) == pytest.approx(1.96 * math.sqrt(variance), rel=1e-6)


@pytest.mark.parametrize("shift", [-1.0, -3.0])
def test_intervals_hold_the_area_as_often_as_they_say(shift: float) -> None:
    random, exact = np.random.default_rng(0), 0.5 * math.erfc(shift / 2)
    found = [area(random.normal(size=60), random.normal(size=30) + shift) for _ in range(500)]
    assert 0.9 < np.mean([each.low <= exact <= each.high for each in found]) <= 1


def test_digits_are_looked_for_and_kept_where_training_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load(Path(mnist.__file__).parents[1] / "configs" / "mnist.toml")
    places: list[Path] = []

    def offline(urls: list[str], place: Path, **_: object) -> Path:
        places.append(place)
        raise DataError("no network")

    monkeypatch.setattr(mnist, "download", offline)
    with pytest.raises(DataError) as of_training:
        load_test(config.data, config.image, seed=0, data_dir=tmp_path)
    with pytest.raises(DataError) as of_benchmark:
        digits_of(tmp_path)
    assert places == [tmp_path / "mnist" / "t10k-images-idx3-ubyte.gz"] * 2
    for error in (of_training, of_benchmark):
        assert f"is not in {tmp_path / 'mnist'}, {tmp_path}" in str(error.value)


def test_others_are_made_of_digits_and_read_from_files(bundle: Bundle, tmp_path: Path) -> None:
    digits = np.random.default_rng(1).integers(0, 256, (4, 8, 8, 1)).astype(np.uint8)
    for number in range(5):
        (tmp_path / f"{number}.png").write_bytes(encode_picture(np.full((30, 30, 3), 50 * number, np.uint8), "png"))
    found = dict(others(digits, {"plain": tmp_path}, bundle, 3, seed=0))
    assert list(found) == [
        "plain", "digits, turned by a quarter", "digits, inverted", "digits, pixels in another order", "black",
    ]  # fmt: skip
    assert found["plain"].shape == (3, 8, 8, 1)
    assert np.unique(found["plain"].reshape(3, -1), axis=1).shape == (3, 1)
    np.testing.assert_array_equal(np.rot90(found["digits, turned by a quarter"], -1, axes=(1, 2)), digits)
    np.testing.assert_array_equal(255 - found["digits, inverted"], digits)
    shuffled = found["digits, pixels in another order"]
    assert (shuffled != digits).any()
    np.testing.assert_array_equal(np.sort(shuffled.reshape(4, -1)), np.sort(digits.reshape(4, -1)))


def test_the_table_has_a_line_for_each(bundle: Bundle) -> None:
    digits = np.random.default_rng(1).integers(0, 256, (4, 8, 8, 1)).astype(np.uint8)
    quiet = Console(quiet=True)
    normal = scored(bundle, digits, "digits", 8, 0, quiet)
    lines = table(bundle, normal, {"same": normal}).splitlines()
    assert lines[2].startswith("| digits (4) | ")
    assert "| 0.5000 (" in lines[3]
    assert all(line.count("|") == 6 for line in lines)
