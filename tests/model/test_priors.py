"""Priors are normalized densities of what they draw, and pseudo-inputs are learned."""

import math

import pytest
import torch
from torch import Generator, Tensor, nn
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from model import priors
from model.posteriors import DiagonalGaussian, FullGaussian
from model.priors import Mixture, Prior, PseudoInputs, StandardNormal, mixture
from model.vae import VAE, Architecture
from tests.support.densities import log_density

SHAPE, LATENTS = (1, 8, 8), 3


@pytest.fixture
def generator() -> Generator:
    return Generator().manual_seed(0)


def some_mixture(count: int = 5, dimension: int = 2, dtype: torch.dtype = torch.float64) -> Mixture:
    random = Generator().manual_seed(1)
    mean = 2 * torch.randn(count, dimension, generator=random, dtype=dtype)
    return Mixture(mean, torch.randn(count, dimension, generator=random, dtype=dtype) - 1)


def reference(components: Mixture) -> MixtureSameFamily:
    normals = Independent(Normal(components.mean, (0.5 * components.log_variance).exp()), 1)
    return MixtureSameFamily(Categorical(logits=torch.zeros(len(components.mean))), normals)


def build(components: int = 4, **model: object) -> VAE:
    document = {
        "latent_dim": LATENTS,
        "network": {"kind": "mlp", "hidden": [12]},
        "likelihood": {"family": "bernoulli"},
        "prior": {"kind": "vamp", "components": components},
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return VAE(Architecture.model_validate(document | model), SHAPE)


class TestDensity:
    @pytest.mark.parametrize("prior", [StandardNormal(1), some_mixture(dimension=1)])
    def test_integrates_to_one_over_a_line(self, prior: Prior) -> None:
        grid = torch.linspace(-40, 40, 400_001, dtype=torch.float64)
        total = prior.log_density(grid[:, None]).exp().sum() * (grid[1] - grid[0])
        assert total.item() == pytest.approx(1, abs=1e-9)

    @pytest.mark.parametrize("prior", [StandardNormal(2), some_mixture(dimension=2)])
    def test_integrates_to_one_over_a_plane(self, prior: Prior) -> None:
        grid = torch.linspace(-15, 15, 1501, dtype=torch.float64)
        total = prior.log_density(torch.cartesian_prod(grid, grid)).exp().sum() * (grid[1] - grid[0]) ** 2
        assert total.item() == pytest.approx(1, abs=1e-6)

    @pytest.mark.parametrize("count", [1, 5])
    def test_is_that_of_torch_distributions(self, count: int, generator: Generator) -> None:
        components = some_mixture(count, 4)
        latents = 3 * torch.randn(2, 7, 4, generator=generator, dtype=torch.float64)
        torch.testing.assert_close(components.log_density(latents), log_density(reference(components), latents))

    def test_so_are_its_gradients(self, generator: Generator) -> None:
        latents = torch.randn(7, 2, generator=generator, dtype=torch.float64).requires_grad_()
        components = Mixture(*(part.requires_grad_() for part in some_mixture()))
        wanted, found = (
            torch.autograd.grad(density.sum(), [latents, *components])
            for density in (log_density(reference(components), latents), components.log_density(latents))
        )
        for one, other in zip(found, wanted, strict=True):
            torch.testing.assert_close(one, other)

    def test_float32_keeps_its_digits_where_components_are_narrow_and_far_out(self) -> None:
        """With the squares written out in float32, terms of 10^7 would cancel to a hundredth of a nat at best."""
        narrow = Mixture(torch.full((2, 3), 5.0), torch.full((2, 3), -12.0))
        latents = 5 + math.exp(-6) * torch.tensor([[0.0, 1.0, -2.0]])
        exact = log_density(reference(Mixture(*(part.double() for part in narrow))), latents.double())
        found = narrow.log_density(latents)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), exact, rtol=1e-6, atol=1e-5)

    def test_nothing_overflows_far_from_every_component(self) -> None:
        far = some_mixture().log_density(torch.full((1, 2), 1e4, dtype=torch.float64))
        assert far.isfinite().all()
        assert far < -1e6

    def test_what_is_held_at_a_time_changes_nothing(
        self, generator: Generator, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        components, latents = some_mixture(), torch.randn(3, 11, 2, generator=generator, dtype=torch.float64)
        whole = components.log_density(latents)
        monkeypatch.setattr(priors, "_AT_A_TIME", 20)
        torch.testing.assert_close(components.log_density(latents), whole)


class TestSamples:
    def test_have_the_moments_of_the_mixture(self, generator: Generator) -> None:
        components, count = some_mixture(), 200_000
        samples = components.sample(count, generator)
        mean = components.mean.mean(0)
        centered = components.mean - mean
        covariance = torch.diag(components.log_variance.exp().mean(0)) + centered.T @ centered / len(centered)
        products = (samples - mean)[:, :, None] * (samples - mean)[:, None, :]
        for found, wanted in ((samples, mean), (products, covariance)):
            assert ((found.mean(0) - wanted).abs() < 4 * found.std(0) / math.sqrt(count)).all()

    def test_each_component_makes_as_many(self, generator: Generator) -> None:
        count, components = 40_000, Mixture(torch.arange(8.0)[:, None], torch.full((8, 1), -10.0))
        shares = components.sample(count, generator).round().long().flatten().bincount(minlength=8) / count
        assert ((shares - 1 / 8).abs() < 4 * math.sqrt(7 / 64 / count)).all()

    def test_their_mean_log_density_is_minus_the_entropy(self, generator: Generator) -> None:
        components = some_mixture(dimension=1)
        grid = torch.linspace(-40, 40, 400_001, dtype=torch.float64)
        density = components.log_density(grid[:, None])
        negentropy = (density.exp() * density).sum() * (grid[1] - grid[0])
        found = components.log_density(components.sample(50_000, generator))
        assert (found.mean() - negentropy).abs() < 4 * found.std() / math.sqrt(len(found))

    def test_carry_no_gradient_and_seeds_decide(self) -> None:
        components = Mixture(*(part.requires_grad_() for part in some_mixture()))
        one, same, other = (components.sample(10, Generator().manual_seed(seed)) for seed in (1, 1, 2))
        assert torch.equal(one, same)
        assert not torch.equal(one, other)
        assert not one.requires_grad

    def test_of_the_standard_normal_are_plain_noise(self) -> None:
        found = StandardNormal(3).sample(5, Generator().manual_seed(1))
        assert torch.equal(found, torch.randn(5, 3, generator=Generator().manual_seed(1)))


class TestRate:
    def test_has_a_closed_form_beside_the_standard_normal_only(self, generator: Generator) -> None:
        posterior = DiagonalGaussian(*torch.randn(2, 6, 2, generator=generator))
        rate = StandardNormal(2).rate(posterior)
        assert rate is not None
        assert torch.equal(rate, posterior.rate())
        assert some_mixture().rate(posterior) is None

    def test_one_standard_normal_component_is_the_standard_normal_in_expectation(self, generator: Generator) -> None:
        """A VampPrior whose one posterior is N(0, I): the ELBO of each image is that under the closed form."""
        vae = build(components=1)
        assert vae.pseudo_inputs is not None
        vae.encoder = Centered(vae.encoder, vae.pseudo_inputs().detach())
        images = torch.rand(3, *SHAPE, generator=generator).round()
        with torch.no_grad():
            prior = vae.prior()
            noise = torch.randn(4000, 3, LATENTS, generator=generator)
            rates = torch.stack([vae.elbo(images, each).rate for each in noise])
            closed = vae.posterior(images).rate()
        assert isinstance(prior, Mixture)
        assert all(torch.equal(part, torch.zeros(1, LATENTS)) for part in prior)
        assert closed is not None
        assert closed.min() > 0.1
        assert ((rates.mean(0) - closed).abs() < 4 * rates.std(0) / math.sqrt(len(rates))).all()


class Centered(nn.Module):
    """An encoder that gives N(0, I) for one image."""

    def __init__(self, encoder: nn.Module, image: Tensor) -> None:
        super().__init__()
        self.encoder, self.image = encoder, image

    def forward(self, images: Tensor) -> Tensor:
        difference: Tensor = 8 * (self.encoder(images) - self.encoder(self.image))
        return difference


class TestPseudoInputs:
    def test_are_images(self) -> None:
        vae = build()
        assert vae.pseudo_inputs is not None
        images = vae.pseudo_inputs()
        assert images.shape == (4, *SHAPE)
        assert images.min() > 0
        assert images.max() < 1
        assert not torch.equal(images[0], images[1])

    def test_start_where_they_are_told(self, generator: Generator) -> None:
        pseudo_inputs, images = PseudoInputs(4, SHAPE), torch.rand(4, *SHAPE, generator=generator).round()
        pseudo_inputs.start_at(images)
        found = pseudo_inputs().detach()
        assert (found - images).abs().max() < 0.02
        near = PseudoInputs(4, SHAPE)
        near.start_at(images[:1])
        assert (near().detach() - images[0]).abs().max() < 0.02
        assert not torch.equal(near()[0], near()[1])
        with pytest.raises(ValueError, match="4 pseudo-inputs cannot start at 3 images"):
            pseudo_inputs.start_at(images[:3])

    def test_black_and_white_pixels_have_a_gradient(self) -> None:
        pseudo_inputs = PseudoInputs(2, SHAPE)
        pseudo_inputs.start_at(torch.stack([torch.zeros(SHAPE), torch.ones(SHAPE)]))
        torch.autograd.backward(pseudo_inputs().sum())
        assert pseudo_inputs.raw.grad is not None
        assert pseudo_inputs.raw.grad.min() > 1e-3

    def test_their_posteriors_are_the_prior(self) -> None:
        vae = build()
        assert vae.pseudo_inputs is not None
        for at_a_time in (None, 3):
            prior = vae.prior(at_a_time=at_a_time)
            assert isinstance(prior, Mixture)
            posterior = vae.posterior(vae.pseudo_inputs())
            torch.testing.assert_close(prior.mean, posterior.mean)
            torch.testing.assert_close(prior.log_variance, posterior.log_variance)

    def test_the_prior_has_a_gradient_for_them_and_for_the_encoder(self, generator: Generator) -> None:
        """Also of latents that are given: what is left is the gradient through the components."""
        vae = build()
        latents = torch.randn(5, LATENTS, generator=generator)
        torch.autograd.backward(vae.prior().log_density(latents).sum())
        learned = dict(vae.named_parameters())
        for name in ("pseudo_inputs.raw", *(name for name in learned if name.startswith("encoder."))):
            gradient = learned[name].grad
            assert gradient is not None, name
            assert gradient.isfinite().all(), name
            assert gradient.count_nonzero() > 0, name

    def test_every_parameter_has_a_gradient_of_the_elbo(self, generator: Generator) -> None:
        vae = build()
        images, noise = torch.rand(5, *SHAPE, generator=generator), torch.randn(5, LATENTS, generator=generator)
        torch.autograd.backward(vae.elbo(images, noise).negative.sum())
        for name, parameter in vae.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.count_nonzero() > 0, name

    def test_the_rate_is_that_of_the_draw(self, generator: Generator) -> None:
        vae = build()
        images, noise = torch.rand(5, *SHAPE, generator=generator), torch.randn(5, LATENTS, generator=generator)
        prior, (latents, density) = vae.prior(), vae.posterior(images).draw(noise)
        assert isinstance(prior, Mixture)
        torch.testing.assert_close(vae.elbo(images, noise).rate, density - log_density(reference(prior), latents))

    def test_autocast_leaves_densities_in_float32(self, generator: Generator) -> None:
        vae = build()
        images, noise = torch.rand(5, *SHAPE, generator=generator), torch.randn(5, LATENTS, generator=generator)
        rounded, exact = vae.elbo(images, noise, autocast=True).rate, vae.elbo(images, noise).rate
        assert rounded.dtype == torch.float32
        assert not torch.equal(rounded, exact)
        torch.testing.assert_close(rounded, exact, rtol=0.1, atol=0.5)


@pytest.mark.parametrize("kind", ["full", "planar", "iaf", "sylvester-triangular"])
def test_posteriors_whose_density_is_not_at_hand_everywhere_are_refused(kind: str) -> None:
    with pytest.raises(ValueError, match=rf"diagonal Gaussians: model\.posterior\.kind is '{kind}'"):
        build(posterior={"kind": kind})


def test_only_diagonal_gaussians_are_mixed() -> None:
    with pytest.raises(TypeError, match="diagonal Gaussians only"):
        mixture(FullGaussian(torch.zeros(1, 2), torch.eye(2)[None]))
