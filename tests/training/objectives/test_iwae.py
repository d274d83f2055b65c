"""L_k and its three gradients, on a model where posterior and ELBO are known: float64, many draws at once."""

import math

import pytest
import torch
from torch import Generator, Tensor

from model.posteriors import DiagonalGaussian
from tests.support.linear import LATENTS, LinearVAE
from training.objectives.elbo import UNWEIGHTED
from training.objectives.iwae import Iwae
from training.objectives.settings import Gradient
from training.objectives.weights import log_weights

GRADIENTS: tuple[Gradient, ...] = ("standard", "stl", "dreg")
DRAWS = 20_000


def wrong(shift: float = 0.4, widening: float = 0.6) -> tuple[LinearVAE, Tensor]:
    """A model, and one image many times, with a posterior that is not the true one."""
    vae = LinearVAE()
    images = vae.draw_images(1, seed=0).expand(DRAWS, -1, -1, -1)
    vae.set_posterior(images, shift=shift, widening=widening)
    return vae, images


def encoder_gradients(vae: LinearVAE, images: Tensor, objective: Iwae, seed: int = 1) -> Tensor:
    """Of each draw, with respect to mean and log_variance: ``(DRAWS, 2 D)``. The loss is a mean over draws."""
    loss = objective.loss(vae, images, Generator().manual_seed(seed), autocast=False).objective
    mean, log_variance = torch.autograd.grad(loss, [vae.mean, vae.log_variance])
    return torch.cat([mean, log_variance], 1) * len(images)


def first(vae: LinearVAE) -> DiagonalGaussian:
    """The posterior of the first image."""
    return DiagonalGaussian(vae.mean[:1], vae.log_variance[:1])


def standard_errors_from_zero(values: Tensor) -> Tensor:
    """How many standard errors the mean of each column is away from 0."""
    errors: Tensor = values.std(0) / len(values) ** 0.5
    return values.mean(0).abs() / errors


class TestBound:
    @pytest.mark.parametrize("gradient", GRADIENTS)
    @pytest.mark.parametrize("k", [1, 3])
    def test_is_the_mean_of_the_log_of_the_mean_weight(self, k: int, gradient: Gradient) -> None:
        vae = LinearVAE()
        images = vae.draw_images(6, seed=0)
        vae.set_posterior(images, shift=0.4)
        loss = Iwae(k, gradient).loss(vae, images, Generator().manual_seed(2), autocast=False)
        noise = torch.randn(k, 6, LATENTS, generator=Generator().manual_seed(2))
        posterior = vae.posterior(images)
        latents = posterior.reparameterize(noise)
        joint = vae.likelihood.log_prob(vae.decode(latents), images) + (
            -0.5 * (latents.square() + math.log(2 * math.pi))
        ).sum(-1)
        weights = (joint - posterior.log_density(latents)).exp()
        assert loss.objective.item() == pytest.approx(-weights.mean(0).log().mean().item())
        assert loss.parts["negative_elbo"].item() == pytest.approx(-weights.log().mean().item())
        assert loss.parts["negative_elbo"] == loss.parts["distortion"] + loss.parts["rate"]
        assert not any(part.requires_grad for part in loss.parts.values())

    def test_with_one_sample_it_is_the_elbo_in_expectation(self) -> None:
        """The rate is estimated here and in closed form there; both have the expectation that is known."""
        vae, images = wrong()
        exact = -vae.exact_elbo(images[:1], first(vae)).item()
        with torch.no_grad():
            noise = torch.randn(1, DRAWS, LATENTS, generator=Generator().manual_seed(3))
            estimated = -log_weights(vae, images, noise).total[0]
            closed_form = vae.elbo(images, noise[0]).negative
            loss = Iwae(1).loss(vae, images, Generator().manual_seed(3), autocast=False).objective
            elbo = UNWEIGHTED.loss(vae, images, Generator().manual_seed(3), autocast=False).objective
        torch.testing.assert_close(loss, estimated.mean())
        torch.testing.assert_close(elbo, closed_form.mean())
        for values in (estimated, closed_form):
            assert standard_errors_from_zero(values[:, None] - exact).item() < 4

    def test_more_samples_are_a_tighter_bound(self) -> None:
        vae, images = wrong()
        with torch.no_grad():
            bounds = [
                Iwae(k).loss(vae, images, Generator().manual_seed(5), autocast=False).objective for k in (1, 5, 50)
            ]
            evidence = vae.exact_elbo(images[:1], vae.true_posterior(images[:1])).item()
        assert bounds[0] > bounds[1] > bounds[2] > -evidence

    def test_with_the_true_posterior_it_is_the_evidence_of_every_image(self) -> None:
        vae = LinearVAE()
        images = vae.draw_images(50, seed=0)
        vae.set_posterior(images)
        evidence = vae.exact_elbo(images, vae.true_posterior(images)).mean().item()
        for k in (1, 7):
            loss = Iwae(k).loss(vae, images, Generator().manual_seed(6), autocast=False)
            assert loss.objective.item() == pytest.approx(-evidence, abs=1e-6)  # noise is float32


class TestEncoderGradient:
    @pytest.mark.parametrize("gradient", GRADIENTS)
    def test_with_one_sample_its_mean_is_the_gradient_of_the_exact_elbo(self, gradient: Gradient) -> None:
        vae, images = wrong()
        found = encoder_gradients(vae, images, Iwae(1, gradient))
        exact = -vae.exact_elbo(images[:1], first(vae)).sum()
        expected = torch.cat([part[:1] for part in torch.autograd.grad(exact, [vae.mean, vae.log_variance])], 1)
        assert (standard_errors_from_zero(found - expected) < 4).all()

    @pytest.mark.parametrize("k", [2, 5])
    def test_dreg_has_the_mean_of_the_standard_one(self, k: int) -> None:
        """Same noise, so that what differs between them is all that varies."""
        vae, images = wrong()
        standard, dreg = (encoder_gradients(vae, images, Iwae(k, gradient)) for gradient in ("standard", "dreg"))
        assert not torch.allclose(standard, dreg)
        assert (standard_errors_from_zero(standard - dreg) < 4).all()

    def test_stl_is_biased_for_more_than_one_sample(self) -> None:
        """Tucker et al. (2019): the score that it leaves out has no mean of 0 under weights that depend on it."""
        vae, images = wrong()
        standard, stl = (encoder_gradients(vae, images, Iwae(5, gradient)) for gradient in ("standard", "stl"))
        assert standard_errors_from_zero(standard - stl).max() > 10

    def test_with_one_sample_dreg_is_stl(self) -> None:
        vae, images = wrong()
        stl, dreg = (encoder_gradients(vae, images, Iwae(1, gradient)) for gradient in ("stl", "dreg"))
        torch.testing.assert_close(stl, dreg)

    @pytest.mark.parametrize("k", [1, 5])
    @pytest.mark.parametrize("gradient", ["stl", "dreg"])
    def test_at_the_true_posterior_it_is_zero_for_every_noise(self, gradient: Gradient, k: int) -> None:
        vae, images = wrong(shift=0.0, widening=0.0)
        assert encoder_gradients(vae, images, Iwae(k, gradient)).abs().max() < 1e-12
        assert encoder_gradients(vae, images, Iwae(k, "standard")).std(0).min() > 0.01

    @pytest.mark.parametrize("k", [5, 50])
    def test_dreg_varies_less_than_the_standard_one(self, k: int) -> None:
        vae, images = wrong()
        few = images[:2000]
        vae.set_posterior(few, shift=0.4, widening=0.6)
        standard, dreg = (encoder_gradients(vae, few, Iwae(k, gradient)) for gradient in ("standard", "dreg"))
        assert (dreg.var(0) < standard.var(0)).all()


def test_the_decoder_s_gradient_is_the_same_for_all() -> None:
    """The hook lies behind the point where the decoder took its share."""
    found = []
    for gradient in GRADIENTS:
        vae = LinearVAE()
        images = vae.draw_images(6, seed=0)
        vae.set_posterior(images, shift=0.4)
        loss = Iwae(5, gradient).loss(vae, images, Generator().manual_seed(8), autocast=False).objective
        found.append(torch.autograd.grad(loss, list(vae.decoder.parameters())))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0])


@pytest.mark.parametrize("some", [None, 2])
@pytest.mark.parametrize("gradient", GRADIENTS)
def test_without_gradients_it_has_a_value(gradient: Gradient, some: int | None) -> None:
    vae = LinearVAE()
    images = vae.draw_images(6, seed=0)
    vae.set_posterior(images)
    with torch.no_grad():
        found = Iwae(3, gradient, some).loss(vae, images, Generator().manual_seed(9), autocast=False).objective
    assert found.isfinite()


@pytest.mark.parametrize("gradient", GRADIENTS)
class TestGradientThroughSome:
    def test_what_it_tells_is_of_all(self, gradient: Gradient) -> None:
        vae = LinearVAE()
        images = vae.draw_images(6, seed=0)
        vae.set_posterior(images, shift=0.4)
        every, some = (
            Iwae(6, gradient, m).loss(vae, images, Generator().manual_seed(2), autocast=False) for m in (None, 3)
        )
        torch.testing.assert_close(some.objective, every.objective)
        torch.testing.assert_close(some.parts, every.parts)

    @pytest.mark.parametrize("m", [1, 3])
    def test_the_encoder_s_has_the_mean_of_that_of_all(self, gradient: Gradient, m: int) -> None:
        """Same noise: what differs is which latents were chosen."""
        vae, images = wrong()
        every, some = (encoder_gradients(vae, images, Iwae(6, gradient, through)) for through in (None, m))
        assert not torch.allclose(every, some)
        assert (standard_errors_from_zero(every - some) < 4).all()

    def test_through_almost_all_it_is_nearer_than_through_one(self, gradient: Gradient) -> None:
        vae, images = wrong()
        every, one, most = (encoder_gradients(vae, images, Iwae(6, gradient, m)) for m in (None, 1, 5))
        assert (most - every).square().mean() < 0.1 * (one - every).square().mean()


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_the_decoder_s_gradient_through_some_has_the_mean_of_that_through_all(gradient: Gradient) -> None:
    vae, images = wrong()
    few = images[:100]
    vae.set_posterior(few, shift=0.4, widening=0.6)
    differences = []
    for seed in range(300):
        pair = []
        for through in (None, 2):
            objective = Iwae(6, gradient, through)
            loss = objective.loss(vae, few, Generator().manual_seed(seed), autocast=False).objective
            found = torch.autograd.grad(loss, list(vae.decoder.parameters()))
            pair.append(torch.cat([part.flatten() for part in found]))
        differences.append(pair[0] - pair[1])
    assert torch.stack(differences).abs().max() > 1e-6
    assert (standard_errors_from_zero(torch.stack(differences)) < 4.5).all()  # of two dozen parameters


@pytest.mark.parametrize(("m", "rows"), [(None, [(True, 30)]), (2, [(False, 30), (True, 12)])])
def test_a_gradient_through_some_goes_through_no_others(m: int | None, rows: list[tuple[bool, int]]) -> None:
    """Or nothing would be saved: all are decoded for their weights, and m of each image once more."""
    vae = LinearVAE()
    images = vae.draw_images(6, seed=0)
    vae.set_posterior(images, shift=0.4)
    decoded: list[tuple[bool, int]] = []
    vae.decoder.register_forward_hook(lambda _, given, __: decoded.append((torch.is_grad_enabled(), len(given[0]))))
    Iwae(5, "dreg", m).loss(vae, images, Generator().manual_seed(1), autocast=False)
    assert decoded == rows
