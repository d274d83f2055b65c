"""The picture of a comparison: a column for each run, in which nothing is missing and nothing is claimed."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.collections import EllipseCollection
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from PIL import Image
from rich.console import Console

from model.bundle.pixels import to_network
from model.posteriors import FullGaussian
from tests.support.runs import CONV, GAUSSIAN, pictures, write_run
from training.checkpoint import save_checkpoint
from training.comparison import Comparison
from training.config import check
from training.errors import CheckpointError, DataError
from training.figures.charts import Group
from training.figures.columns import NO_MODEL
from training.figures.comparison import draw_comparison
from training.figures.page import constant_style
from training.figures.plane import Ellipses, Plane, draw_plane, plane_of
from training.loop import build_trainee
from training.run import RunFolder
from training.trained import TorchModel, load_best


def quiet() -> Console:
    return Console(file=io.StringIO(), width=500)


def with_sections(run: RunFolder, **sections: object) -> RunFolder:
    """The run with other sections in its configuration, and fresh weights that fit them."""
    config = check(run.config().model_dump() | sections, "test")
    run.config_file.write_text(config.model_dump_json())
    torch.manual_seed(0)  # the layers draw their weights from the global generator
    save_checkpoint(run.best, build_trainee(config, torch.device("cpu")))
    return run


def with_posterior(run: RunFolder, kind: str) -> RunFolder:
    return with_sections(run, model=run.config().model.model_dump() | {"posterior": {"kind": kind}})


def words_of(figure: Figure) -> str:
    return " ".join(text.get_text() for text in figure.texts)


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The pages that were drawn."""
    drawn: list[Figure] = []

    def write(figures: dict[str, Figure], folder: Path) -> list[Path]:
        from training.figures.page import write_figures

        drawn.extend(figures.values())
        return write_figures(figures, folder)

    monkeypatch.setattr("training.figures.comparison.write_figures", write)
    return drawn


# --- the page


def test_runs_are_compared_in_a_page_and_a_file(tmp_path: Path, pages: list[Figure]) -> None:
    runs = [
        write_run(tmp_path / "two", latent_dim=2),
        write_run(tmp_path / "five", latent_dim=5),
        with_sections(write_run(tmp_path / "plain", latent_dim=2), objective={"kind": "autoencoder"}),
    ]
    console = quiet()
    comparison, files = draw_comparison(runs, tmp_path / "new" / "out", data_dir=None, console=console)
    assert [file.name for file in files] == ["comparison.png", "comparison.json"]
    assert sorted((tmp_path / "new" / "out").iterdir()) == sorted(files)
    assert Comparison.model_validate_json(files[1].read_bytes()) == comparison
    assert [numbers.run for numbers in comparison.runs] == ["two", "five", "plain"]
    with Image.open(files[0]) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    assert 700 < pixels.shape[1] < 900
    assert pixels.std() > 10
    (page,) = pages
    assert len(page.axes) == 3
    assert len(page.images) == 1 + 2 * 3
    shown = words_of(page)
    for word in ("two", "five", "plain", "-ELBO", "distortion at the mean", "colored by label"):
        assert word in shown
    assert f"{comparison.protocol.images} validation images" in shown.replace("\n", " ")
    for numbers in comparison.runs:
        assert f"{numbers.distortion.value:.2f}" in shown
    (legend,) = page.legends
    assert [text.get_text() for text in legend.get_texts()] == ["0", "1", "2"]
    assert isinstance(console.file, io.StringIO)
    assert "distortion at the mean" in console.file.getvalue()


def test_an_autoencoder_has_no_samples_of_a_model_and_that_is_said(tmp_path: Path, pages: list[Figure]) -> None:
    plain = with_sections(write_run(tmp_path / "plain"), objective={"kind": "autoencoder"})
    draw_comparison([write_run(tmp_path / "a"), write_run(tmp_path / "b")], tmp_path, data_dir=None, console=quiet())
    draw_comparison([write_run(tmp_path / "c"), plain], tmp_path, data_dir=None, console=quiet())
    without, with_one = (words_of(page) for page in pages)
    assert NO_MODEL not in without
    assert with_one.count(NO_MODEL) == 1
    assert with_one.count("–") == 3


def test_the_same_runs_give_the_same_bytes_and_others_give_others(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name, latent_dim=dim) for name, dim in (("a", 2), ("b", 3), ("c", 3))]
    drawn = [
        draw_comparison(chosen, tmp_path / str(number), data_dir=None, console=quiet())[1][0].read_bytes()
        for number, chosen in enumerate((runs[:2], runs[:2], runs[1:]))
    ]
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.parametrize(("binarization", "grey"), [("none", True), ("dynamic", False)])
def test_grey_values_under_a_bernoulli_have_no_likelihood_and_that_is_said(
    binarization: str, grey: bool, tmp_path: Path
) -> None:
    runs = [write_run(tmp_path / name, binarization=binarization) for name in ("a", "b")]
    console = quiet()
    draw_comparison(runs, tmp_path, data_dir=None, console=console)
    assert isinstance(console.file, io.StringIO)
    assert ("bounds no likelihood" in console.file.getvalue()) == grey


def test_samples_are_of_the_same_latents(tmp_path: Path, pages: list[Figure]) -> None:
    """Runs of the same weights have the same column."""
    draw_comparison([write_run(tmp_path / "a"), write_run(tmp_path / "b")], tmp_path, data_dir=None, console=quiet())
    _, *columns = (np.asarray(image.get_array()) for image in pages[0].images)
    for first, second in zip(columns[:2], columns[2:], strict=True):
        np.testing.assert_array_equal(first, second)
    assert (columns[0] != columns[1]).any()


def test_without_labels_there_is_one_color_and_no_legend(tmp_path: Path, pages: list[Figure]) -> None:
    runs = [write_run(tmp_path / name, labels=False, latent_dim=dim) for name, dim in (("a", 1), ("b", 2))]
    draw_comparison(runs, tmp_path, data_dir=None, console=quiet())
    assert pages[0].legends == []
    assert "colored" not in words_of(pages[0])


@pytest.mark.parametrize("width", [28, 96, 200])
def test_images_of_any_size_and_color_fit(width: int, tmp_path: Path) -> None:
    runs = [
        write_run(tmp_path / name, network=CONV, likelihood=GAUSSIAN, shape=(24, width, 3), seed=0, latent_dim=dim)
        for name, dim in (("a", 2), ("a-run-with-a-very-long-name-in-a-place-that-is-narrow", 4))
    ]
    _, (file, _) = draw_comparison(runs, tmp_path, data_dir=None, console=quiet())
    with Image.open(file) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    assert pixels.shape[1] < 900
    assert (pixels[:, -8:] == 255).all(), "something goes beyond the page"
    assert (pixels[-8:] == 255).all()


def test_one_validation_image_is_not_enough(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name, images=5) for name in ("a", "b")]
    with pytest.raises(DataError, match="one validation image says nothing of others"):
        draw_comparison(runs, tmp_path, data_dir=None, console=quiet())


def test_two_are(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name, images=8) for name in ("a", "b")]
    comparison, _ = draw_comparison(runs, tmp_path, data_dir=None, console=quiet())
    assert comparison.protocol.images == 2


def test_a_run_without_weights_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name) for name in ("a", "b")]
    runs[1].best.unlink()
    console = quiet()
    with pytest.raises(CheckpointError, match="not validated yet"):
        draw_comparison(runs, tmp_path / "out", data_dir=None, console=console)
    assert not (tmp_path / "out").exists()
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue() == ""


# --- the plane


def model_of(run: RunFolder) -> TorchModel:
    return load_best(run)[0]


IMAGES = pictures(120, (8, 8, 1))


def test_the_plane_is_of_the_dimensions_that_vary_most_in_their_own_order(tmp_path: Path) -> None:
    model = model_of(write_run(tmp_path / "run", latent_dim=6))
    plane = plane_of(model, IMAGES, noisy=True)
    means = model.encode(to_network(IMAGES)).mean
    first, second = sorted(np.argsort(means.var(axis=0))[-2:])
    assert plane.names == (f"z{first}", f"z{second}")
    np.testing.assert_allclose(plane.means, means[:, [first, second]], atol=1e-5)
    assert plane.ellipses is not None
    variances = np.exp(model.encode(to_network(IMAGES)).log_variance)[plane.ellipses.images]
    for row, number in enumerate((first, second)):
        np.testing.assert_allclose(plane.ellipses.covariances[:, row, row], variances[:, number], rtol=1e-4)
    np.testing.assert_array_equal(plane.ellipses.covariances[:, 0, 1], 0)


def test_two_dimensions_are_the_latent_space_as_it_is(tmp_path: Path) -> None:
    model = model_of(write_run(tmp_path / "run", latent_dim=2))
    plane = plane_of(model, IMAGES, noisy=True)
    assert plane.names == ("z0", "z1")
    np.testing.assert_allclose(plane.means, model.encode(to_network(IMAGES)).mean, atol=1e-5)


def test_one_dimension_is_a_line(tmp_path: Path) -> None:
    plane = plane_of(model_of(write_run(tmp_path / "run", latent_dim=1)), IMAGES, noisy=True)
    assert plane.names == ("z0", "")
    assert plane.means[:, 0].std() > 0
    assert (plane.means[:, 1] == 0).all()
    assert plane.ellipses is not None
    assert (plane.ellipses.covariances[:, 0, 0] > 0).all()
    assert (plane.ellipses.covariances[:, 1] == 0).all()


def test_a_full_covariance_is_that_of_its_two_dimensions(tmp_path: Path) -> None:
    model = model_of(with_posterior(write_run(tmp_path / "run", latent_dim=4), "full"))
    plane = plane_of(model, IMAGES, noisy=True)
    assert plane.ellipses is not None
    posterior = model.vae.posterior(torch.from_numpy(to_network(IMAGES[plane.ellipses.images])))
    assert isinstance(posterior, FullGaussian)
    chosen = [int(name[1:]) for name in plane.names]
    whole = (posterior.factor @ posterior.factor.mT).numpy()
    np.testing.assert_allclose(plane.ellipses.covariances, whole[:, chosen][:, :, chosen], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("kind", "noisy"), [("planar", True), ("diagonal", False)])
def test_what_has_no_ellipse_gets_none(kind: str, noisy: bool, tmp_path: Path) -> None:
    plane = plane_of(model_of(with_posterior(write_run(tmp_path / "run"), kind)), IMAGES, noisy=noisy)
    assert plane.ellipses is None


def test_an_ellipse_is_one_standard_deviation_of_its_posterior_and_nothing_is_outside() -> None:
    covariances = np.array([[[2.0, 0.9], [0.9, 1.0]], [[0.1, 0.0], [0.0, 4.0]]])
    means = np.array([[5.0, -7.0], [0.0, 1.0], [2.0, 2.0]])
    plane = Plane(means, Ellipses(np.array([0, 2]), covariances), ("z0", "z1"))
    groups = [Group(np.array([True, False, False]), "a", "#ff0000", "o")]
    groups.append(Group(np.array([False, True, True]), "b", "#0000ff", "s"))
    with constant_style():
        axes = Figure().subplots()
        draw_plane(axes, plane, groups)
    (ellipses,) = [each for each in axes.collections if isinstance(each, EllipseCollection)]
    np.testing.assert_array_equal(ellipses.get_offsets(), means[[0, 2]])
    np.testing.assert_array_equal(np.asarray(ellipses.get_edgecolor())[:, [0, 2]], [[1, 0], [0, 1]])
    widths, heights, angles = (
        np.asarray(values, dtype=np.float64)
        for values in (ellipses.get_widths(), ellipses.get_heights(), ellipses.get_angles())
    )
    for width, height, angle, covariance in zip(widths, heights, np.radians(angles), covariances, strict=True):
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        np.testing.assert_allclose(turn @ np.diag([width / 2, height / 2]) ** 2 @ turn.T, covariance, atol=1e-12)
    (low, high) = axes.get_xlim()
    assert low == -high
    assert high > 7
    assert axes.get_ylim() == axes.get_xlim()
    assert [patch.get_radius() for patch in axes.patches if isinstance(patch, Circle)] == [1, 2, 3]
