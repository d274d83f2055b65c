"""What a bundle says of an image is what PyTorch says of it, whatever its posterior, prior and likelihood."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from rich.console import Console

from model.bundle.latents import posterior_noise
from model.bundle.pixels import stack_for_network
from model.bundle.scores import observed, score_images
from model.bundle.store import open_bundle
from tests.support.runs import pictures, write_run
from training.estimators import estimate_images
from training.export import export
from training.trained import load_best

CASES: list[dict[str, Any]] = [
    {"binarization": "dynamic"},
    {"posterior": {"kind": "sylvester-triangular", "steps": 2}, "binarization": "dynamic"},
    {"prior": {"kind": "vamp", "components": 5}, "likelihood": {"family": "gaussian"}},
]


@pytest.mark.parametrize("case", CASES, ids=["bernoulli", "flow", "vamp, gaussian"])
def test_scores_are_those_of_pytorch(case: dict[str, Any], tmp_path: Path) -> None:
    """With the same noise image by image, and in expectation with PyTorch's own estimator."""
    run, quiet = write_run(tmp_path / "run", **case), Console(file=io.StringIO())
    bundle = open_bundle(export(run, tmp_path / "bundle", "1", data_dir=None, console=quiet))
    vae = load_best(run)[0].vae
    images, k = pictures(4, (8, 8, 1)), 300
    found = score_images(bundle, images, k, seed=9)
    x = torch.from_numpy(stack_for_network([observed(images, bundle.manifest.likelihood, seed=9)]))
    noise = torch.from_numpy(posterior_noise(4, k, vae.latent_dim, seed=9)).transpose(0, 1)
    with torch.inference_mode():
        posterior, prior = vae.posterior(x), vae.prior()
        latents, log_density = posterior.draw(noise)
        given = vae.likelihood.log_prob(vae.decode(latents.flatten(0, 1)), x.repeat(k, 1, 1, 1)).reshape(k, 4)
        log_prior = prior.log_density(latents)
        weights = (given + log_prior - log_density).double()
        closed = prior.rate(posterior)
    rate = (log_density - log_prior).mean(0) if closed is None else closed
    assert_allclose(found.log_likelihood, torch.logsumexp(weights, 0) - np.log(k), rtol=1e-5, atol=1e-3)
    assert_allclose(found.distortion, -given.mean(0), rtol=1e-5, atol=1e-3)
    assert_allclose(found.kl, rate, rtol=1e-4, atol=1e-3)
    size = weights.softmax(0).square().sum(0).reciprocal()
    assert_allclose(found.effective_sample_size, size, rtol=1e-2)
    others = [estimate_images(vae, x, k, torch.Generator().manual_seed(seed), chunk=100) for seed in range(40)]
    distortions = torch.stack([each.distortion for each in others])
    error = distortions.std(0) * (1 + 1 / 40) ** 0.5
    assert ((torch.from_numpy(found.distortion) - distortions.mean(0)).abs() < 5 * error).all()
