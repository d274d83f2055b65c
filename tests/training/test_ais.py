"""Annealing of whole models: bounds where the evidence is known, memory that is bounded, parameters left alone."""

import math

import pytest
import torch
from torch import Generator, Tensor, nn

from model.likelihoods import Gaussian
from model.linear_gaussian import LinearGaussian
from model.posteriors import LOG_VARIANCE_LIMIT
from model.vae import VAE, Architecture
from training.ais import Initial, ais_images, bracket
from training.simulate import simulate

SHAPE, LATENTS, SCALE = (1, 2, 3), 3, 0.5
PIXELS = math.prod(SHAPE)


class Unsquashed(Gaussian):
    """A Gaussian likelihood whose mean is the decoder's output itself, so that the whole model is Gaussian."""

    def mean(self, parameters: Tensor) -> Tensor:
        return parameters


class LinearDecoder(nn.Module):
    """offset + loadings z; remembers the largest batch of latents that it saw."""

    def __init__(self, solved: LinearGaussian) -> None:
        super().__init__()
        self.loadings, self.offset = nn.Parameter(solved.loadings), nn.Parameter(solved.offset)
        self.largest_batch = 0

    def forward(self, latents: Tensor) -> Tensor:
        self.largest_batch = max(self.largest_batch, len(latents))
        return torch.unflatten(self.offset + latents @ self.loadings.T, 1, SHAPE)


class NearPosterior(nn.Module):
    """The true posterior but for a shift, and for its correlations."""

    def __init__(self, solved: LinearGaussian, shift: float) -> None:
        super().__init__()
        self.solved, self.shift = solved, shift

    def forward(self, images: Tensor) -> Tensor:
        mean, covariance = self.solved.posterior(images.flatten(1))
        bounded = covariance.diagonal().log() / LOG_VARIANCE_LIMIT
        return torch.cat([mean + self.shift, LOG_VARIANCE_LIMIT * torch.atanh(bounded).expand_as(mean)], 1)


def build(likelihood: str = "gaussian", posterior: str = "diagonal") -> VAE:
    settings = {
        "latent_dim": LATENTS,
        "network": {"kind": "mlp", "hidden": [8]},
        "posterior": {"kind": posterior},
        "likelihood": {"family": likelihood} | ({"scale": SCALE} if likelihood == "gaussian" else {}),
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return VAE(Architecture.model_validate(settings), SHAPE)


class LinearVAE:
    """A VAE around a linear Gaussian model, and the model itself."""

    def __init__(self, shift: float = 0.2) -> None:
        random = Generator().manual_seed(5)
        loadings = torch.randn(PIXELS, LATENTS, generator=random)
        self.solved = LinearGaussian(loadings, torch.randn(PIXELS, generator=random), torch.tensor(2 * math.log(SCALE)))
        self.decoder = LinearDecoder(self.solved)
        self.vae = build()
        self.vae.encoder, self.vae.decoder = NearPosterior(self.solved, shift), self.decoder
        self.vae.likelihood = Unsquashed(SCALE)

    def evidence(self, images: Tensor) -> Tensor:
        exact = LinearGaussian(*(part.double() for part in self.solved))
        return exact.log_evidence(images.flatten(1).double())


@pytest.fixture
def linear() -> LinearVAE:
    return LinearVAE()


@pytest.fixture
def generator() -> Generator:
    return Generator().manual_seed(0)


class TestImages:
    @pytest.mark.parametrize("initial", ["prior", "posterior"])
    def test_bounds_rise_to_the_evidence(self, initial: Initial, linear: LinearVAE, generator: Generator) -> None:
        images, _ = simulate(linear.vae, 40, generator)
        gaps = []
        for temperatures in (1, 10, 200):
            estimates = ais_images(
                linear.vae, images, generator, chains=8, temperatures=temperatures, leapfrog_steps=4, initial=initial
            )
            gap = linear.evidence(images) - estimates.log_likelihood
            assert gap.mean() > -4 * gap.std() / math.sqrt(len(gap))
            gaps.append(gap.mean().item())
        assert gaps == sorted(gaps, reverse=True)
        assert gaps[0] > 0.1
        assert abs(gaps[-1]) < 0.15

    def test_effective_sample_size_and_acceptance_say_how_it_went(
        self, linear: LinearVAE, generator: Generator
    ) -> None:
        images, _ = simulate(linear.vae, 20, generator)
        few, many = (
            ais_images(linear.vae, images, generator, chains=8, temperatures=temperatures, leapfrog_steps=4)
            for temperatures in (1, 200)
        )
        for estimates in (few, many):
            assert estimates.effective_sample_size.min() >= 1
            assert estimates.effective_sample_size.max() <= 8 + 1e-9
        assert few.effective_sample_size.mean() < 2 < 4 < many.effective_sample_size.mean()
        assert many.acceptance_rate.mean().item() == pytest.approx(0.65, abs=0.12)

    def test_a_better_encoder_is_a_better_start(self, generator: Generator) -> None:
        near, far = LinearVAE(shift=0.0), LinearVAE(shift=1.0)
        images, _ = simulate(near.vae, 40, generator)
        good, bad = (
            ais_images(
                linear.vae, images, generator, chains=4, temperatures=5, leapfrog_steps=3, initial="posterior"
            ).log_likelihood
            for linear in (near, far)
        )
        assert good.mean() > bad.mean()

    @pytest.mark.parametrize("initial", ["prior", "posterior"])
    def test_what_is_decoded_at_a_time_is_bounded_and_changes_nothing(
        self, initial: Initial, generator: Generator, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # Sums in batches of another size are rounded differently, and hundreds of moves would make much of that.
        monkeypatch.setattr("model.ais._TUNING_MOVES", 7)
        monkeypatch.setattr("model.ais._FIRST_MOVES", 1)
        whole, pieces = LinearVAE(), LinearVAE()
        images, _ = simulate(whole.vae, 6, generator)
        expected, found = (
            ais_images(
                linear.vae, images, Generator().manual_seed(1), chains=5, temperatures=8, leapfrog_steps=2,
                initial=initial, at_a_time=at_a_time,
            )
            for linear, at_a_time in ((whole, None), (pieces, 7))
        )  # fmt: skip
        assert whole.decoder.largest_batch == 5 * 6
        assert pieces.decoder.largest_batch == 7
        for one, other in zip(expected, found, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)

    def test_parameters_are_left_alone(self, linear: LinearVAE, generator: Generator) -> None:
        linear.decoder.offset.requires_grad_(False)
        images, _ = simulate(linear.vae, 3, generator)
        before = {name: parameter.clone() for name, parameter in linear.vae.named_parameters()}
        estimates = ais_images(linear.vae, images, generator, chains=2, temperatures=3, leapfrog_steps=2)
        assert not any(part.requires_grad for part in estimates)
        for name, parameter in linear.vae.named_parameters():
            assert parameter.grad is None
            assert torch.equal(parameter, before[name])
        assert linear.decoder.loadings.requires_grad
        assert not linear.decoder.offset.requires_grad

    @pytest.mark.parametrize(
        ("initial", "posterior"),
        [("prior", "diagonal"), ("posterior", "diagonal"), ("posterior", "full"), ("posterior", "planar")],
    )
    def test_networks_and_binary_pixels_too(self, initial: Initial, posterior: str, generator: Generator) -> None:
        """Against importance sampling from the prior, which is good enough for so small a model; from flows, too."""
        vae = build("bernoulli", posterior)
        images, _ = simulate(vae, 5, generator)
        found = ais_images(
            vae, images, generator, chains=100, temperatures=100, leapfrog_steps=3, initial=initial
        ).log_likelihood
        with torch.no_grad():
            latents = torch.randn(20_000, LATENTS, generator=generator)
            log_likelihood = vae.likelihood.log_prob(vae.decode(latents)[:, None], images)
        expected = torch.logsumexp(log_likelihood.double(), 0) - math.log(len(latents))
        torch.testing.assert_close(found, expected, rtol=0, atol=0.15)

    def test_seeds_decide(self, linear: LinearVAE) -> None:
        images, _ = simulate(linear.vae, 3, Generator().manual_seed(0))
        one, same, other = (
            ais_images(
                linear.vae, images, Generator().manual_seed(seed), chains=2, temperatures=5, leapfrog_steps=2
            ).log_likelihood
            for seed in (1, 1, 2)
        )
        assert torch.equal(one, same)
        assert not torch.equal(one, other)

    def test_no_chain_is_refused(self, linear: LinearVAE, generator: Generator) -> None:
        with pytest.raises(ValueError, match="at least one chain"):
            ais_images(linear.vae, torch.zeros(1, *SHAPE), generator, chains=0)


class TestBracket:
    def test_the_evidence_is_inside_and_the_gap_closes(self, linear: LinearVAE) -> None:
        gaps = []
        for temperatures in (2, 20, 200):
            found = bracket(
                linear.vae, 40, Generator().manual_seed(3), chains=8, temperatures=temperatures, leapfrog_steps=4
            )
            # The same seed draws the same images first.
            evidence = linear.evidence(simulate(linear.vae, 40, Generator().manual_seed(3)).images)
            for above in (evidence - found.lower, found.upper - evidence):
                assert above.mean() > -4 * above.std() / math.sqrt(40)
            torch.testing.assert_close(found.gap, found.upper - found.lower)
            gaps.append(found.gap.mean().item())
        assert gaps == sorted(gaps, reverse=True)
        assert gaps[-1] < 0.15

    def test_no_chain_is_refused(self, linear: LinearVAE, generator: Generator) -> None:
        with pytest.raises(ValueError, match="at least one chain"):
            bracket(linear.vae, 1, generator, chains=0)
