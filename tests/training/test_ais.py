"""Annealing of whole models: bounds where the evidence is known, memory that is bounded, parameters left alone."""

import math

import pytest
import torch
from torch import Generator

from tests.support.solved import LATENTS, SHAPE, LinearVAE, build
from training.ais import AnnealingSettings, Initial, ais_images, bracket, reversible
from training.simulate import simulate


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
            estimates = ais_images(linear.vae, images, generator, AnnealingSettings(8, temperatures, 4, initial))
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
            ais_images(linear.vae, images, generator, AnnealingSettings(8, temperatures, 4, "prior"))
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
            ais_images(linear.vae, images, generator, AnnealingSettings(4, 5, 3)).log_likelihood
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
                linear.vae, images, Generator().manual_seed(1), AnnealingSettings(5, 8, 2, initial), at_a_time=at_a_time
            )
            for linear, at_a_time in ((whole, None), (pieces, 7))
        )
        assert whole.decoder.largest_batch == 5 * 6
        assert pieces.decoder.largest_batch == 7
        for one, other in zip(expected, found, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)

    def test_parameters_are_left_alone(self, linear: LinearVAE, generator: Generator) -> None:
        linear.decoder.offset.requires_grad_(False)
        images, _ = simulate(linear.vae, 3, generator)
        before = {name: parameter.clone() for name, parameter in linear.vae.named_parameters()}
        estimates = ais_images(linear.vae, images, generator, AnnealingSettings(2, 3, 2, "prior"))
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
        found = ais_images(vae, images, generator, AnnealingSettings(100, 100, 3, initial)).log_likelihood
        with torch.no_grad():
            latents = torch.randn(20_000, LATENTS, generator=generator)
            log_likelihood = vae.likelihood.log_prob(vae.decode(latents)[:, None], images)
        expected = torch.logsumexp(log_likelihood.double(), 0) - math.log(len(latents))
        torch.testing.assert_close(found, expected, rtol=0, atol=0.15)

    def test_seeds_decide(self, linear: LinearVAE) -> None:
        images, _ = simulate(linear.vae, 3, Generator().manual_seed(0))
        one, same, other = (
            ais_images(
                linear.vae, images, Generator().manual_seed(seed), AnnealingSettings(2, 5, 2, "prior")
            ).log_likelihood
            for seed in (1, 1, 2)
        )
        assert torch.equal(one, same)
        assert not torch.equal(one, other)

    def test_no_chain_is_refused(self, linear: LinearVAE, generator: Generator) -> None:
        with pytest.raises(ValueError, match="at least one chain"):
            ais_images(linear.vae, torch.zeros(1, *SHAPE), generator, AnnealingSettings(chains=0))


class TestBracket:
    def test_the_evidence_is_inside_and_the_gap_closes(self, linear: LinearVAE) -> None:
        gaps = []
        for temperatures in (2, 20, 200):
            found = bracket(linear.vae, 40, Generator().manual_seed(3), AnnealingSettings(8, temperatures, 4, "prior"))
            # The same seed draws the same images first.
            evidence = linear.evidence(simulate(linear.vae, 40, Generator().manual_seed(3)).images)
            for above in (evidence - found.lower, found.upper - evidence):
                assert above.mean() > -4 * above.std() / math.sqrt(40)
            torch.testing.assert_close(found.gap, found.upper - found.lower)
            gaps.append(found.gap.mean().item())
        assert gaps == sorted(gaps, reverse=True)
        assert gaps[-1] < 0.15

    @pytest.mark.parametrize("posterior", ["diagonal", "full"])
    def test_from_a_gaussian_posterior_few_temperatures_are_enough(self, posterior: str) -> None:
        """The noise of the exact sample is where the chains go back from."""
        linear = LinearVAE(posterior=posterior)
        assert reversible(linear.vae)
        settings = AnnealingSettings(8, 10, 4)
        near, far = (
            bracket(linear.vae, 40, Generator().manual_seed(3), each)
            for each in (settings, settings._replace(initial="prior"))
        )
        evidence = linear.evidence(simulate(linear.vae, 40, Generator().manual_seed(3)).images)
        for above in (evidence - near.lower, near.upper - evidence):
            assert above.mean() > -4 * above.std() / math.sqrt(40)
        assert near.gap.mean() < 0.5 * far.gap.mean()

    def test_chains_do_not_go_back_to_a_flow(self, generator: Generator) -> None:
        vae = build(posterior="planar")
        assert not reversible(vae)
        with pytest.raises(ValueError, match="not to a flow"):
            bracket(vae, 2, generator, AnnealingSettings())

    def test_no_chain_is_refused(self, linear: LinearVAE, generator: Generator) -> None:
        with pytest.raises(ValueError, match="at least one chain"):
            bracket(linear.vae, 1, generator, AnnealingSettings(chains=0))
