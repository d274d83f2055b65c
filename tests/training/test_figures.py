"""Figures are pictures of the model: of the promised size, not blank, and different for another model."""

import io
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console

from model.bundle.errors import ModelFault
from model.bundle.latents import gaussian_kl, prior_latents
from model.bundle.measurements import (
    Annealing,
    AnnealingProtocol,
    Bound,
    EffectiveSampleSize,
    Estimate,
    Metrics,
    Protocol,
)
from model.bundle.pixels import from_network, to_network, to_uint8
from model.bundle.runtime import Posterior
from model.bundle.store import open_bundle
from tests.support.runs import CONV, GAUSSIAN, pictures, write_run
from tests.support.tiny import write_tiny_bundle
from training.data.splits import choose
from training.errors import ConfigError, DataError
from training.figures import draw_bundle, draw_run
from training.figures.bounds import annealing_line, bound_curve
from training.figures.charts import CLASSES, latent_scatter, training_curves
from training.figures.page import Panel, constant_style, page, png
from training.figures.panels import (
    SEED,
    encode_images,
    interpolations,
    kl_importance,
    kl_of_dimensions,
    reconstructions,
    samples,
    traversals,
)
from training.images import training_images
from training.run import RunFolder
from training.trained import TorchModel, load_best

pytestmark = pytest.mark.usefixtures("few_moves")

RUN_FIGURES = ["reconstructions", "samples", "traversals", "interpolations", "latents", "training_curves"]
BUNDLE_FIGURES = ["overview", "reconstructions", "samples", "traversals", "interpolations"]


def _quiet() -> Console:
    return Console(file=io.StringIO(), width=500)


def _said(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def _pixels(file: Path | bytes) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB"))


@pytest.fixture(scope="module")
def grey(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return write_run(tmp_path_factory.mktemp("grey") / "run")


@pytest.fixture(scope="module")
def color(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = tmp_path_factory.mktemp("color")
    return write_run(folder / "run", network=CONV, likelihood=GAUSSIAN, shape=(28, 20, 3), latent_dim=5)


@pytest.fixture
def model(grey: RunFolder) -> TorchModel:
    return load_best(grey)[0]


# --- files


@pytest.mark.parametrize("which", ["grey", "color"])
def test_a_run_is_drawn(which: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    console = _quiet()
    files = draw_run(request.getfixturevalue(which), tmp_path / "new" / "figures", data_dir=None, console=console)
    # Grey values under a Bernoulli have no posterior to be drawn.
    names = RUN_FIGURES if which == "grey" else [*RUN_FIGURES, "posteriors"]
    assert [file.name for file in files] == [f"{name}.png" for name in names]
    assert sorted((tmp_path / "new" / "figures").iterdir()) == sorted(files)
    for file in files:
        pixels = _pixels(file)
        assert 300 < pixels.shape[1] < 1300, file
        assert pixels.std() > 10, file
        # The grey model is drawn in greys; lines and points of charts have colors.
        chart = file.stem in ("latents", "training_curves", "posteriors")
        assert bool(np.ptp(pixels.astype(int), axis=2).any()) == (chart or which == "color"), file
    assert "reconstructions.png" in _said(console)


def test_a_bundle_is_drawn_without_data(tmp_path: Path) -> None:
    bundle = open_bundle(write_tiny_bundle(tmp_path / "tiny"))
    files = draw_bundle(bundle, tmp_path / "figures", console=_quiet())
    assert [file.name for file in files] == [f"{name}.png" for name in BUNDLE_FIGURES]
    for file in files:
        assert _pixels(file).std() > 10


def test_the_figures_of_a_color_bundle_have_colors(tmp_path: Path) -> None:
    bundle = open_bundle(write_tiny_bundle(tmp_path / "tiny", channels=3, height=12, width=10))
    overview = _pixels(draw_bundle(bundle, tmp_path, console=_quiet())[0]).astype(int)
    assert np.ptp(overview, axis=2).max() > 10


def test_the_same_model_gives_the_same_bytes_and_another_gives_others(tmp_path: Path, grey: RunFolder) -> None:
    other = write_run(tmp_path / "other", seed=1)
    drawn = [
        draw_run(run, tmp_path / str(number), data_dir=None, console=_quiet())
        for number, run in enumerate((grey, grey, other))
    ]
    for first, again, different in zip(*drawn, strict=True):
        assert first.read_bytes() == again.read_bytes()
        if first.stem != "training_curves":
            assert first.read_bytes() != different.read_bytes(), first.stem


def test_without_labels_or_log_the_figure_is_left_out_and_that_is_said(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", labels=False)
    run.log_file.unlink()
    console = _quiet()
    files = draw_run(run, run.figures, data_dir=None, console=console)
    assert [file.stem for file in files] == RUN_FIGURES[:4]
    assert "no latents.png: run has no labels" in _said(console)
    assert "no training_curves.png: metrics.jsonl has no lines" in _said(console)


def test_bounds_are_drawn_where_they_were_measured_of_these_weights(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", binarization="dynamic")
    step = load_best(run)[1]
    run.metrics_file.write_text(measured_bounds(step=step + 1).model_dump_json())
    drawn = draw_run(run, run.figures, data_dir=None, console=_quiet(), posteriors=False)
    assert "bounds" not in [file.stem for file in drawn]
    run.metrics_file.write_text(measured_bounds(step=step).model_dump_json())
    drawn = draw_run(run, run.figures, data_dir=None, console=_quiet(), posteriors=False)
    assert [file.stem for file in drawn] == [*RUN_FIGURES, "bounds"]
    assert _pixels(drawn[-1]).std() > 10


class TestBoundCurve:
    def test_points_are_the_bounds_and_the_elbo_stands_at_one(self) -> None:
        (axes,) = bound_curve(measured_bounds()).axes
        curve, elbo = axes.lines[:2]
        assert np.asarray(curve.get_xdata()).tolist() == [1, 2, 5, 10]
        assert np.asarray(curve.get_ydata()).tolist() == [94.0, 92.0, 91.0, 90.0]
        assert (np.asarray(elbo.get_xdata()).tolist(), np.asarray(elbo.get_ydata()).tolist()) == ([1], [94.1])
        legend = axes.get_legend()
        assert legend is not None
        assert [text.get_text() for text in legend.get_texts()] == ["−L_k, 95% interval over images", "−ELBO"]

    def test_annealing_of_some_images_is_a_line_by_its_difference(self) -> None:
        """Of other images than the curve, so that its own mean would stand elsewhere."""
        metrics = measured_bounds(annealed=True)
        line = annealing_line(metrics)
        assert line is not None
        assert (line.value, line.low, line.high) == pytest.approx((89.5, 89.25, 89.75))
        (axes,) = bound_curve(metrics).axes
        drawn = [line for line in axes.lines if "annealing" in str(line.get_label())]
        assert [np.asarray(line.get_ydata()).tolist() for line in drawn] == [[89.5, 89.5]]

    def test_beside_a_bound_that_is_not_on_the_curve_there_is_no_line(self) -> None:
        metrics = measured_bounds(annealed=True)
        assert annealing_line(metrics.model_copy(update={"bounds": metrics.bounds[:-1]})) is None
        assert annealing_line(measured_bounds()) is None


def measured_bounds(*, step: int = 0, annealed: bool = False) -> Metrics:
    """Metrics with a curve up to k = 10, and annealing half a nat below it."""

    def about(value: float) -> Estimate:
        return Estimate(value=value, low=value - 0.25, high=value + 0.25)

    protocol = Protocol(
        dataset="waves", split="test", images=1000, binarization="static", importance_samples=10, seed=0, step=step
    )
    annealing = Annealing(
        negative_log_likelihood=about(70.0),
        difference=about(0.5),
        effective_sample_size=EffectiveSampleSize(mean=9.0, minimum=2.0),
        acceptance_rate=0.65,
        gap=about(0.1),
        protocol=AnnealingProtocol.model_validate(
            protocol.model_dump()
            | {"images": 100, "chains": 16, "temperatures": 100, "leapfrog_steps": 10, "initial": "prior"}
            | {"simulated_images": 100, "simulated_initial": "prior"}
        ),
    )
    return Metrics(
        rate=about(25.0),
        distortion=about(69.1),
        negative_elbo=about(94.1),
        negative_log_likelihood=about(90.0),
        bounds=tuple(
            Bound(importance_samples=k, negative=about(value))
            for k, value in ((1, 94.0), (2, 92.0), (5, 91.0), (10, 90.0))
        ),
        active_units=1,
        kl_per_dimension=(1.0, 0.0, 0.0),
        reconstruction_error=about(0.5),
        annealing=annealing if annealed else None,
        protocol=protocol,
    )


def test_one_validation_image_is_enough(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", images=5)
    assert len(draw_run(run, run.figures, data_dir=None, console=_quiet())) == len(RUN_FIGURES)


def test_errors_are_of_the_project(tmp_path: Path, grey: RunFolder) -> None:
    with pytest.raises(ConfigError, match="no run"):
        draw_run(RunFolder(tmp_path / "nowhere"), tmp_path, data_dir=None, console=_quiet())
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        draw_run(grey, tmp_path / "file" / "figures", data_dir=None, console=_quiet())


def test_a_users_style_changes_nothing_and_is_left_alone(tmp_path: Path) -> None:
    bundle = open_bundle(write_tiny_bundle(tmp_path / "tiny"))
    plain = draw_bundle(bundle, tmp_path / "plain", console=_quiet())
    with mpl.rc_context({"text.color": "red", "font.size": 30, "savefig.facecolor": "black", "savefig.dpi": 10}):
        styled = draw_bundle(bundle, tmp_path / "styled", console=_quiet())
        assert mpl.rcParams["text.color"] == "red"
    assert [file.read_bytes() for file in plain] == [file.read_bytes() for file in styled]


def test_a_model_that_gives_nan_is_not_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = open_bundle(write_tiny_bundle(tmp_path / "tiny", decoder="overflowing"))
    monkeypatch.setattr("training.figures.panels.REACH", 1e6)
    with pytest.raises(ModelFault, match="NaN"):
        draw_bundle(bundle, tmp_path / "figures", console=_quiet())
    assert not (tmp_path / "figures").exists()


def test_of_many_validation_images_some_from_all_over_are_encoded(
    tmp_path: Path, grey: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[NDArray[np.uint8]] = []

    def watched(model: TorchModel, images: NDArray[np.uint8]) -> Posterior:
        encoded.append(images)
        return encode_images(model, images)

    monkeypatch.setattr("training.figures.draw.encode_images", watched)
    monkeypatch.setattr("training.figures.draw._MOST_IMAGES", 4)
    draw_run(grey, tmp_path, data_dir=None, console=_quiet())
    _, validation = training_images(grey, data_dir=None, console=_quiet())
    assert np.array_equal(encoded[0], validation.images[choose(len(validation), 4, grey.config().seed)])
    assert not np.array_equal(encoded[0], validation.images[:4])


# --- panels


def test_reconstructions_stand_below_their_originals(model: TorchModel) -> None:
    images = pictures(25, (8, 8, 1))
    panel = reconstructions(model, images)
    assert panel.images.shape == (4, 10, 8, 8, 1)
    assert panel.row_labels == ("original", "reconstruction") * 2
    decoded = to_uint8(from_network(model.decode(model.encode(to_network(images[:20])).mean)))
    np.testing.assert_array_equal(panel.images[[0, 2]].reshape(20, 8, 8, 1), images[:20])
    # Sums in batches of another size may round a pixel to the neighboring level.
    assert np.abs(panel.images[[1, 3]].reshape(20, 8, 8, 1).astype(int) - decoded).max() <= 1


def test_samples_are_seeded_latents_of_the_prior(model: TorchModel) -> None:
    panel = samples(model, model.prior, 8, rows=2)
    decoded = to_uint8(from_network(model.decode(prior_latents(20, 3, seed=SEED))))
    np.testing.assert_array_equal(panel.images.reshape(20, 8, 8, 1), decoded)


def test_interpolations_end_in_the_reconstructions_of_their_images(model: TorchModel) -> None:
    images = pictures(4, (8, 8, 1))
    panel = interpolations(model, images)
    ends = to_uint8(from_network(model.decode(model.encode(to_network(images)).mean)))
    found = panel.images[:, [0, -1]].reshape(4, 8, 8, 1)
    assert np.abs(found.astype(int) - ends).max() <= 1


def test_traversals_are_of_the_dimensions_with_the_largest_kl(model: TorchModel) -> None:
    panel = traversals(model, model.prior, pictures(1, (8, 8, 1))[0], kl_importance(np.array([0.5, 3.25, 1.0])), rows=2)
    assert panel.row_labels == ("z1  3.25 nats", "z2  1.00 nats")
    assert panel.column_labels[0] == "−3"
    assert panel.column_labels[len(panel.column_labels) // 2] == "0"
    assert panel.images.shape[:2] == (2, len(panel.column_labels))
    assert (panel.images[0] != panel.images[1]).any()


def test_kl_of_dimensions_sums_to_the_rate() -> None:
    random = np.random.default_rng(0)
    mean, log_variance = random.normal(size=(2, 7, 4)).astype(np.float32)
    kl = kl_of_dimensions(Posterior(mean, log_variance, mean[:, :0]))
    assert kl.shape == (4,)
    assert kl.sum() == pytest.approx(gaussian_kl(mean, log_variance).mean())


def test_many_images_are_encoded_in_batches(model: TorchModel) -> None:
    images = pictures(203, (8, 8, 1))
    np.testing.assert_allclose(encode_images(model, images).mean, model.encode(to_network(images)).mean, atol=1e-5)


# --- pages and charts


def test_every_image_pixel_is_a_whole_number_of_page_pixels() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (2, 10, 28, 28, 1), np.uint8)
    with constant_style():
        pixels = _pixels(png(page([Panel("noise", noise)])))
    zoom = 3
    width = 10 * 28 * zoom + 9 * 4
    assert pixels.shape[1] == width + 2 * 16
    left, bottom = 16, pixels.shape[0] - 16
    last = pixels[bottom - 28 * zoom : bottom, left : left + 28 * zoom, 0]
    np.testing.assert_array_equal(last, noise[1, 0, :, :, 0].repeat(zoom, 0).repeat(zoom, 1))


def test_panels_stack_and_labels_widen_the_page() -> None:
    images = pictures(4, (8, 8, 3)).reshape(1, 4, 8, 8, 3)
    with constant_style():
        one = _pixels(png(page([Panel("waves", images)])))
        two = _pixels(png(page([Panel("waves", images), Panel("again", images)])))
        labelled = _pixels(png(page([Panel("waves", images, row_labels=("a rather long label",))])))
    assert one.shape[1] == two.shape[1] < labelled.shape[1]
    assert two.shape[0] == 2 * one.shape[0] - 16


def test_a_title_is_not_cut_off() -> None:
    small = np.zeros((1, 1, 256, 256, 3), np.uint8)
    with constant_style():
        pixels = _pixels(
            png(page([Panel("traversals: one image, one latent dimension changed (KL on the left)" * 2, small)]))
        )
    assert (pixels[:, -8:] == 255).all()


@pytest.mark.parametrize("dimensions", [1, 2, 6])
@pytest.mark.parametrize("classes", [2, 13])
def test_latents_are_drawn_in_the_plane_and_every_class_is_named(dimensions: int, classes: int) -> None:
    random = np.random.default_rng(0)
    mean, log_variance = random.normal(size=(2, 60, dimensions)).astype(np.float32)
    labels = np.arange(60, dtype=np.int64) % classes
    with constant_style():
        figure = latent_scatter(
            Posterior(mean, log_variance, mean[:, :0]), labels, [f"class {index}" for index in range(classes)]
        )
        assert _pixels(png(figure)).std() > 10
    named = [text.get_text() for text in figure.legends[0].get_texts()]
    shown = [f"class {index}" for index in range(min(classes, len(CLASSES)))]
    assert named == (["others"] if classes > len(CLASSES) else []) + shown
    points = [len(np.asarray(collection.get_offsets())) for collection in figure.axes[0].collections]
    assert sum(points) == 60


def test_curves_have_the_three_quantities_with_units_and_both_splits() -> None:
    log: list[dict[str, Any]] = [
        {"step": step, "split": split, "negative_elbo": 1e6 / step**3, "distortion": 90 / step, "rate": float(step)}
        for step in range(1, 200)
        for split in ("train", "validation")
    ]
    figure = training_curves(log)
    assert [axes.get_title() for axes in figure.axes] == ["−ELBO", "distortion", "rate"]
    for axes in figure.axes:
        assert axes.get_xlabel() == "step"
        assert axes.get_ylabel() == "nats per image"
        assert [line.get_label() for line in axes.lines] == ["training", "validation"]
    assert figure.axes[0].get_ylim()[1] < 1e4, "the steep start hides all that follows"
    assert figure.axes[2].get_ylim()[1] > 190


@pytest.mark.parametrize("lines", [1, 2])
def test_what_has_no_curve_has_no_entry(lines: int) -> None:
    log: list[dict[str, Any]] = [
        {"step": step, "split": "validation", "negative_elbo": 3.0, "distortion": 2.0, "rate": 1.0}
        for step in range(lines)
    ]
    (axes, *_) = training_curves(log).axes
    legend = axes.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["validation"]
    assert axes.lines[0].get_marker() == "o"


def test_an_autoencoder_has_one_curve_of_the_three() -> None:
    log: list[dict[str, Any]] = [{"step": step, "split": "train", "distortion": 9.0 - step} for step in range(5)]
    figure = training_curves(log)
    assert [len(axes.lines) for axes in figure.axes] == [0, 1, 0]
    assert figure.axes[1].get_legend() is not None
    assert _pixels(png(figure)).std() > 1


@pytest.mark.parametrize("value", [3.0, float("nan")])
def test_a_log_of_one_line_is_drawn(value: float) -> None:
    line = {"step": 1, "split": "train", "negative_elbo": value, "distortion": value, "rate": value}
    assert _pixels(png(training_curves([line]))).std() > 1
