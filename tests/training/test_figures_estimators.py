"""The pictures of the theory show what it says, and are the same at every drawing."""

import io
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from training.errors import DataError
from training.figures.estimators import (
    bidirectional,
    divergence_directions,
    draw_theory,
    gradient_variance,
    local_optima,
)
from training.figures.page import constant_style, png

FIGURES = ["gradient_variance", "divergence_directions", "local_optima", "bidirectional"]


def points(figure: Figure, label: str) -> NDArray[np.float64]:
    """The ordinates of the line with this label."""
    (line,) = [line for axes in figure.axes for line in axes.lines if line.get_label() == label]
    return np.asarray(line.get_ydata(), dtype=np.float64)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.figures.estimators._SAMPLES", 1000)
    monkeypatch.setattr("training.figures.estimators._GRID", 60)
    monkeypatch.setattr("training.figures.estimators.bidirectional", lambda: bidirectional((1, 10)))


@pytest.mark.usefixtures("quick")
def test_all_are_drawn_and_drawn_again_the_same(tmp_path: Path) -> None:
    first, again = draw_theory(tmp_path / "new" / "theory"), draw_theory(tmp_path / "again")
    assert [path.name for path in first] == [f"{name}.png" for name in FIGURES]
    assert sorted((tmp_path / "new" / "theory").iterdir()) == sorted(first)
    for one, other in zip(first, again, strict=True):
        assert one.read_bytes() == other.read_bytes()
        with Image.open(one) as picture:
            pixels = np.asarray(picture.convert("RGB"))
        assert 600 < pixels.shape[1] < 1200
        assert pixels.std() > 10


@pytest.mark.usefixtures("quick")
def test_a_folder_that_cannot_be_written_is_an_error_of_the_project(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        draw_theory(tmp_path / "file" / "theory")


def test_the_variance_of_the_score_function_grows_with_the_dimensions() -> None:
    figure = gradient_variance((1, 8, 64))
    score = points(figure, "score function")
    baseline = points(figure, "score function, leave-one-out baseline")
    reparameterization = points(figure, "reparameterization")
    assert (reparameterization < baseline).all()
    assert (baseline < score).all()
    assert score[2] > 30 * score[1]
    np.testing.assert_allclose(reparameterization, 1, rtol=0.05)
    np.testing.assert_allclose(score, [7.5, 49 + 38.5 + 7.5, 63**2 + 5.5 * 63 + 7.5], rtol=0.1)


def test_bounds_close_in_on_the_evidence() -> None:
    figure = bidirectional((1, 10, 100))
    lower, upper = points(figure, "lower: from the prior"), points(figure, "upper: from the posterior")
    assert (np.diff(lower) > 0).all()
    assert (np.diff(upper) < 0).all()
    assert lower[-1] < 0.05
    assert upper[-1] > -0.05
    assert upper[-1] - lower[-1] < 0.1 * (upper[0] - lower[0])


@pytest.mark.parametrize(("draw", "panels"), [(divergence_directions, 2), (local_optima, 3)])
def test_contours_are_of_the_target_and_of_the_fit(draw: object, panels: int) -> None:
    assert callable(draw)
    with constant_style():
        figure = draw()
        assert isinstance(figure, Figure)
        with Image.open(io.BytesIO(png(figure))) as picture:
            assert np.asarray(picture.convert("RGB")).std() > 10
    assert len(figure.axes) == panels
    for axes in figure.axes:
        assert len(axes.collections) == 2
        assert axes.get_aspect() == 1
    (legend,) = figure.legends
    assert len(legend.get_texts()) == 2
