"""Posteriors as they are drawn: the points are the chains', the ellipses q's, and a run without p(z|x) has none."""

import io
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.patches import Ellipse
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from torch.distributions import MultivariateNormal, kl_divergence

from tests.support.runs import GAUSSIAN, write_run
from training.chains import PosteriorChains
from training.convergence import chain_sample_size, split_r_hat
from training.figures import draw_run
from training.figures.page import constant_style, png
from training.figures.posteriors import Drawn, furthest_pair, posterior_page, sample_run
from training.run import RunFolder
from training.trained import load_best

Floats = NDArray[np.float64]


pytestmark = pytest.mark.usefixtures("few_moves")


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=500)


def said(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def drawn_of(truth: Floats, encoder: Floats, *, gaussian: bool = True) -> Drawn:
    """Draws ``(M, S, N, D)`` of p and ``(K, N, D)`` of q, with blank images."""
    latents = torch.from_numpy(truth)
    chains = PosteriorChains(latents, torch.ones(1), torch.ones(1), split_r_hat(latents), chain_sample_size(latents))
    count, dimension = encoder.shape[1:]
    covariances = np.stack([np.cov(encoder[:, image], rowvar=False).reshape(dimension, -1) for image in range(count)])
    return Drawn(
        np.zeros((count, 8, 8, 1), np.uint8),
        chains,
        encoder,
        encoder.mean(axis=0),
        covariances if gaussian else None,
    )


def correlated() -> tuple[Floats, Floats]:
    """p and q of two images in 4 dimensions: p has a correlation of 0.9 in the second and the fourth."""
    random = np.random.default_rng(0)
    truth = random.normal(size=(50, 4, 2, 4))
    truth[..., 3] = 0.9 * truth[..., 1] + np.sqrt(1 - 0.81) * truth[..., 3]
    return truth, random.normal(size=(2000, 2, 4))


class TestPair:
    def test_is_the_pair_of_the_largest_divergence(self) -> None:
        random = np.random.default_rng(1)
        mixing = random.normal(size=(2, 6, 6))
        truth, encoder = (random.normal(size=(500, 6)) @ part for part in mixing)
        gaussians = [
            {pair: MultivariateNormal(*moments(draws[:, pair])) for pair in combinations(range(6), 2)}
            for draws in (truth, encoder)
        ]
        divergences = {pair: kl_divergence(gaussians[1][pair], gaussians[0][pair]).item() for pair in gaussians[0]}
        assert furthest_pair(truth, encoder) == max(divergences, key=lambda pair: divergences[pair])

    def test_sees_a_correlation_that_q_has_not(self) -> None:
        truth, encoder = correlated()
        assert furthest_pair(truth[:, :, 0].reshape(-1, 4), encoder[:, 0]) == (1, 3)

    def test_is_looked_for_where_images_say_most(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("training.figures.posteriors._MOST_DIMENSIONS", 2)
        truth, encoder = correlated()
        truth[..., [0, 2]] *= 0.1
        assert furthest_pair(truth[:, :, 0].reshape(-1, 4), encoder[:, 0]) == (0, 2)


def moments(draws: Floats) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(draws.mean(axis=0)), torch.from_numpy(np.cov(draws, rowvar=False))


def panels(drawn: Drawn) -> list[Axes]:
    with constant_style():
        figure = posterior_page(drawn)
        assert png(figure)
    return [axes for axes in figure.axes if axes.get_title()]


def points_of(axes: Axes) -> list[Floats]:
    return [np.asarray(each.get_offsets()) for each in axes.collections if isinstance(each, PathCollection)]


class TestPage:
    def test_points_are_the_chains_and_ellipses_are_q(self) -> None:
        truth, encoder = correlated()
        drawn = drawn_of(truth, encoder)
        first, second = panels(drawn)
        (points,) = points_of(second)
        np.testing.assert_allclose(points, truth[:, :, 1].reshape(-1, 4)[:, [1, 3]])
        assert (first.get_xlabel(), first.get_ylabel()) == ("z1", "z3")
        assert "correlation of p 0.9" in first.get_title()
        assert f"R-hat {drawn.chains.r_hat[0].max().item():.2f}" in first.get_title()
        ellipses = [patch for patch in first.patches if isinstance(patch, Ellipse)]
        assert drawn.covariances is not None
        variances = np.linalg.eigvalsh(drawn.covariances[0][np.ix_([1, 3], [1, 3])])
        for deviations, ellipse in zip((1, 2, 3), ellipses, strict=True):
            np.testing.assert_allclose(np.asarray(ellipse.get_center()), drawn.means[0, [1, 3]])
            axes = sorted((ellipse.get_width(), ellipse.get_height()))
            np.testing.assert_allclose(axes, 2 * deviations * np.sqrt(variances))

    def test_an_ellipse_lies_as_the_draws_do(self) -> None:
        """Of a Gaussian with a full covariance: along its correlation."""
        truth, encoder = correlated()
        encoder[..., 3] = -0.8 * encoder[..., 1] + 0.6 * encoder[..., 3]
        axes = panels(drawn_of(truth, encoder))[0]
        ellipse = next(patch for patch in axes.patches if isinstance(patch, Ellipse))
        assert ellipse.get_width() > ellipse.get_height()
        assert ellipse.get_angle() % 180 == pytest.approx(135, abs=3)

    def test_a_flow_is_drawn_as_points(self) -> None:
        truth, encoder = correlated()
        axes = panels(drawn_of(truth, encoder, gaussian=False))[0]
        assert not [patch for patch in axes.patches if isinstance(patch, Ellipse)]
        chains, q = points_of(axes)
        assert len(chains) == len(q) == 200
        np.testing.assert_allclose(q, encoder[:200, 0][:, [1, 3]])

    def test_one_dimension_has_a_histogram(self) -> None:
        truth, encoder = correlated()
        axes = panels(drawn_of(truth[..., :1], encoder[..., :1]))[0]
        assert axes.get_xlabel() == "z0"
        assert points_of(axes) == []
        assert len(axes.patches) > 40

    def test_the_picture_is_where_the_fewest_points_are(self) -> None:
        """In one of the two corners that a correlation leaves free, whichever its sign."""
        for sign in (1, -1):
            truth, encoder = correlated()
            truth[..., 3] = sign * truth[..., 1] + 0.05 * truth[..., 3]
            encoder[..., 3] = sign * encoder[..., 1] + 0.2 * encoder[..., 3]
            axes = panels(drawn_of(truth, encoder))[0]
            (inset,) = axes.child_axes
            box, outer = inset.get_position(), axes.get_position()
            left, low = box.x1 < (outer.x0 + outer.x1) / 2, box.y1 < (outer.y0 + outer.y1) / 2
            assert (left == low) == (sign < 0)


def written(run: RunFolder, folder: Path, console: Console) -> Path:
    files = draw_run(run, folder, data_dir=None, console=console)
    assert files[-1] == folder / "posteriors.png"
    return files[-1]


@pytest.mark.parametrize(
    "options",
    [
        {"binarization": "dynamic"},
        {"binarization": "dynamic", "latent_dim": 1},
        {"likelihood": GAUSSIAN, "shape": (8, 8, 3)},
        {"binarization": "dynamic", "posterior": {"kind": "full"}},
        {"binarization": "dynamic", "posterior": {"kind": "planar"}},
        {"binarization": "dynamic", "prior": {"kind": "vamp", "components": 4}},
    ],
    ids=["diagonal", "one dimension", "colors", "full", "planar", "vamp"],
)
def test_a_run_is_drawn(options: dict[str, object], tmp_path: Path, console: Console) -> None:
    run = write_run(tmp_path / "run", **options)  # type: ignore[arg-type]
    with Image.open(written(run, tmp_path / "figures", console)) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    assert 600 < pixels.shape[1] < 1300
    assert pixels.std() > 10
    assert "true posteriors of 6 images: 24 of 24 moves" in said(console)


def test_the_same_run_gives_the_same_bytes_and_another_gives_others(tmp_path: Path, console: Console) -> None:
    one, other = (write_run(tmp_path / str(seed), binarization="dynamic", seed=seed) for seed in (0, 1))
    first, again, different = (
        written(run, tmp_path / name, console).read_bytes() for run, name in ((one, "a"), (one, "b"), (other, "c"))
    )
    assert first == again != different


def test_pixels_are_those_that_the_likelihood_saw(tmp_path: Path, console: Console) -> None:
    run = write_run(tmp_path / "run", binarization="dynamic")
    model, _ = load_best(run)
    grey = np.full((2, 8, 8, 1), 128, np.uint8)
    drawn = sample_run(model.vae, run.config(), grey, console)
    assert set(np.unique(drawn.images)) == {0, 255}


def test_what_has_no_likelihood_has_no_posterior(tmp_path: Path, console: Console) -> None:
    run = write_run(tmp_path / "run")
    files = draw_run(run, tmp_path / "figures", data_dir=None, console=console)
    assert "posteriors" not in [file.stem for file in files]
    assert "no posteriors.png: tiny-run: grey or color values under a Bernoulli have no likelihood" in said(console)


def test_who_does_not_want_them_does_not_wait(tmp_path: Path, console: Console) -> None:
    run = write_run(tmp_path / "run", binarization="dynamic")
    files = draw_run(run, tmp_path / "figures", data_dir=None, console=console, posteriors=False)
    assert "posteriors" not in [file.stem for file in files]
    assert "true posteriors" not in said(console)
