"""L_k on a model whose likelihood is known in closed form."""

import math

import pytest
import torch
from torch import Generator, Tensor, nn
from torch.distributions import MultivariateNormal

from model.posteriors import LOG_VARIANCE_LIMIT
from model.vae import VAE, Architecture
from tests.support.densities import log_density
from tests.support.solved import LinearDecoder, Unsquashed
from training.estimators import estimate_images
from training.importance import bound_grid

SHAPE, LATENTS, SCALE = (1, 2, 4), 4, 0.5
PIXELS = math.prod(SHAPE)


class LinearEncoder(nn.Module):
    """q(z|x) = N(projection (x - offset) + shift, diag exp(log_variance))."""

    def __init__(self, projection: Tensor, offset: Tensor, log_variance: Tensor, shift: float) -> None:
        super().__init__()
        self.projection, self.offset, self.log_variance, self.shift = projection, offset, log_variance, shift

    def forward(self, images: Tensor) -> Tensor:
        mean = (images.flatten(1) - self.offset) @ self.projection.T + self.shift
        raw = LOG_VARIANCE_LIMIT * torch.atanh(self.log_variance / LOG_VARIANCE_LIMIT)  # what the soft bound undoes
        return torch.cat([mean, raw.expand_as(mean)], 1)


class LinearVAE(VAE):
    """Probabilistic PCA (Tipping and Bishop, 1999): x ~ N(offset, loadings loadings^T + scale^2 I).

    Orthogonal loadings make the true posterior a diagonal Gaussian; ``shift`` and ``widening`` spoil it.
    """

    def __init__(self, *, shift: float = 0.0, widening: float = 0.0) -> None:
        settings = {
            "latent_dim": LATENTS,
            "network": {"kind": "mlp", "hidden": [1]},
            "likelihood": {"family": "gaussian", "scale": SCALE},
        }
        super().__init__(Architecture.model_validate(settings), SHAPE)
        random = Generator().manual_seed(7)
        basis, _ = torch.linalg.qr(torch.randn(PIXELS, LATENTS, generator=random))
        loadings = basis * torch.tensor([2.0, 1.0, 0.5, 0.1])
        offset = torch.randn(PIXELS, generator=random)
        precision = 1 + loadings.square().sum(0) / SCALE**2
        projection = loadings.T / SCALE**2 / precision[:, None]
        self.encoder = LinearEncoder(projection, offset, widening - precision.log(), shift)
        self.decoder: LinearDecoder = LinearDecoder(loadings, offset, SHAPE)
        self.likelihood = Unsquashed(SCALE)
        covariance = loadings @ loadings.T + SCALE**2 * torch.eye(PIXELS)
        self.evidence = MultivariateNormal(offset.double(), covariance.double())

    def log_evidence(self, images: Tensor) -> Tensor:
        """log p(x), ``(N,)``, in closed form."""
        return log_density(self.evidence, images.flatten(1).double())


@pytest.fixture
def generator() -> Generator:
    return Generator().manual_seed(0)


@pytest.fixture
def images(generator: Generator) -> Tensor:
    """64 images of the model itself."""
    vae = LinearVAE()
    with torch.no_grad():
        clean = vae.decode(torch.randn(64, LATENTS, generator=generator))
    return clean + SCALE * torch.randn(clean.shape, generator=generator)


class TestLinearGaussian:
    @pytest.mark.parametrize("k", [1, 2, 50])
    def test_with_the_true_posterior_every_bound_is_the_evidence(
        self, k: int, images: Tensor, generator: Generator
    ) -> None:
        """Every importance weight is p(x): no variance, and all k of them count."""
        vae = LinearVAE()
        estimates = estimate_images(vae, images, k, generator, chunk=7)
        torch.testing.assert_close(estimates.log_likelihood, vae.log_evidence(images), rtol=0, atol=1e-4)
        torch.testing.assert_close(
            estimates.effective_sample_size, torch.full((64,), float(k), dtype=torch.float64), rtol=1e-4, atol=0
        )

    def test_with_the_true_posterior_the_elbo_is_the_evidence(self, images: Tensor, generator: Generator) -> None:
        vae = LinearVAE()
        estimates = estimate_images(vae, images, 4000, generator, chunk=500)
        negative_elbo = (estimates.distortion + estimates.rate).mean()
        assert negative_elbo.item() == pytest.approx(-vae.log_evidence(images).mean().item(), abs=0.03)

    def test_with_a_wrong_posterior_bounds_rise_with_k_to_the_evidence(
        self, images: Tensor, generator: Generator
    ) -> None:
        vae = LinearVAE(shift=0.3, widening=0.5)
        evidence = vae.log_evidence(images).mean().item()
        bounds = {
            k: torch.stack(
                [estimate_images(vae, images, k, generator, chunk=1000).log_likelihood.mean() for _ in range(repeats)]
            ).mean()
            for k, repeats in ((1, 200), (5, 50), (50, 10), (5000, 1))
        }
        gaps = [evidence - bound.item() for bound in bounds.values()]
        assert gaps == sorted(gaps, reverse=True)
        assert gaps[0] > 0.5
        assert gaps[2] > 0
        assert abs(gaps[-1]) < 0.02

    def test_the_gap_of_one_sample_is_the_divergence_of_the_posteriors(
        self, images: Tensor, generator: Generator
    ) -> None:
        """log p(x) = ELBO + KL(q(z|x) || p(z|x)): both Gaussians are known."""
        vae, wrong = LinearVAE(), LinearVAE(shift=0.3, widening=0.5)
        estimates = estimate_images(wrong, images, 4000, generator, chunk=500)
        with torch.no_grad():
            q, p = wrong.posterior(images), vae.posterior(images)
            ratio = (q.log_variance - p.log_variance).double()
            distance = (q.mean - p.mean).double().square() / p.log_variance.double().exp()
            divergence = 0.5 * (ratio.exp() + distance - 1 - ratio).sum(1)
        gap = (vae.log_evidence(images) + estimates.distortion + estimates.rate).mean()
        assert gap.item() == pytest.approx(divergence.mean().item(), abs=0.05)

    def test_weights_that_differ_count_for_less(self, images: Tensor, generator: Generator) -> None:
        sizes = estimate_images(LinearVAE(shift=0.5), images, 200, generator, chunk=64).effective_sample_size
        assert sizes.min() >= 1
        assert sizes.max() < 200

    def test_chunks_do_not_change_the_result(self, images: Tensor) -> None:
        """16 noise values a sample, so that PyTorch draws the same noise in one piece and in many."""
        vae, few = LinearVAE(shift=0.3), images[:4]
        whole, one, seven = (
            estimate_images(vae, few, 21, Generator().manual_seed(5), chunk=chunk) for chunk in (21, 1, 7)
        )
        for part, first, second in zip(whole, one, seven, strict=True):
            torch.testing.assert_close(part, first, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(part, second, rtol=1e-5, atol=1e-5)

    def test_no_more_than_a_chunk_is_decoded_at_a_time(self, images: Tensor, generator: Generator) -> None:
        """Memory does not grow with k; the last chunk is smaller, and no sample is left out."""
        vae = LinearVAE()
        estimates = estimate_images(vae, images, 103, generator, chunk=10)
        assert vae.decoder.largest_batch == 10 * len(images)
        assert estimates.effective_sample_size.mean().item() == pytest.approx(103, rel=1e-4)

    @pytest.mark.parametrize("at_a_time", [1, 5, 64, 1000])
    def test_the_images_decoded_at_a_time_are_bounded_and_change_nothing(self, at_a_time: int, images: Tensor) -> None:
        """A bound below the number of images and one between, on top of a chunk that would take more."""
        whole, pieces = LinearVAE(shift=0.3), LinearVAE(shift=0.3)
        expected = estimate_images(whole, images, 30, Generator().manual_seed(5), chunk=11)
        found = estimate_images(pieces, images, 30, Generator().manual_seed(5), chunk=11, at_a_time=at_a_time)
        assert pieces.decoder.largest_batch == min(at_a_time, 11 * 64)
        for one, other in zip(expected, found, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)

    def test_the_curve_rises_from_the_elbo_to_the_last_bound(self, images: Tensor, generator: Generator) -> None:
        """Its first point is the ELBO of the same draws, with their log q - log p in the place of the closed form."""
        vae = LinearVAE(shift=0.3, widening=0.5)
        found = estimate_images(vae, images, 2000, generator, chunk=300)
        assert found.bounds.shape == (64, len(bound_grid(2000)))
        torch.testing.assert_close(found.bounds[:, -1], found.log_likelihood)
        elbo = -(found.distortion + found.rate)
        assert found.bounds[:, 0].mean().item() == pytest.approx(elbo.mean().item(), abs=0.05)
        means = found.bounds.mean(0).tolist()
        assert means == sorted(means)
        alone = estimate_images(vae, images, 50, generator, chunk=50)
        at_fifty = found.bounds[:, bound_grid(2000).index(50)].mean().item()
        assert at_fifty == pytest.approx(alone.log_likelihood.mean().item(), abs=0.05)
