"""Weights of the two halves, and free bits."""

import pytest
import torch
from torch import Generator, Tensor

from model.posteriors import DiagonalGaussian
from model.vae import VAE
from tests.support.digits import digits_config
from tests.support.linear import LATENTS, LinearVAE
from training.objectives.elbo import UNWEIGHTED, Elbo, FreeBits
from training.objectives.loss import Objective


@pytest.fixture
def model() -> VAE:
    torch.manual_seed(0)  # the layers draw their weights from the global generator
    config = digits_config()
    return VAE(config.model, config.image.shape)


@pytest.fixture
def images() -> Tensor:
    return torch.rand(20, 1, 8, 8, generator=Generator().manual_seed(1))


def gradients(model: VAE, images: Tensor, objective: Objective) -> dict[str, Tensor]:
    """Of every parameter."""
    loss = objective.loss(model, images, Generator().manual_seed(2), autocast=False)
    names, parameters = zip(*model.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(loss.objective, parameters), strict=True))


def test_without_weights_it_is_the_elbo_to_the_last_bit(model: VAE, images: Tensor) -> None:
    """As it was before there were weights: value, and gradient of every parameter."""
    noise = torch.randn(20, 3, generator=Generator().manual_seed(2))
    distortion, rate = (half.mean() for half in model.elbo(images, noise))
    before = torch.autograd.grad(distortion + rate, list(model.parameters()), retain_graph=True)
    loss = UNWEIGHTED.loss(model, images, Generator().manual_seed(2), autocast=False)
    assert loss.objective.item() == (distortion + rate).item() == loss.parts["negative_elbo"].item()
    now = gradients(model, images, UNWEIGHTED).values()
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(now, before, strict=True))


@pytest.mark.parametrize(("beta", "weight"), [(4.0, 1.0), (0.25, 1.0), (1.0, 0.5), (0.0, 1.0), (1.0, 0.0)])
def test_weights_are_those_of_the_halves_and_the_report_has_none(
    beta: float, weight: float, model: VAE, images: Tensor
) -> None:
    loss = Elbo(beta, weight).loss(model, images, Generator().manual_seed(2), autocast=False)
    plain = UNWEIGHTED.loss(model, images, Generator().manual_seed(2), autocast=False)
    assert loss.parts == plain.parts
    expected = weight * plain.parts["distortion"] + beta * plain.parts["rate"]
    torch.testing.assert_close(loss.objective.detach(), expected)
    halves = gradients(model, images, Elbo(beta=0)), gradients(model, images, Elbo(distortion_weight=0))
    for name, found in gradients(model, images, Elbo(beta, weight)).items():
        torch.testing.assert_close(found, weight * halves[0][name] + beta * halves[1][name], rtol=1e-4, atol=1e-5)


def test_the_rate_alone_leaves_the_decoder_as_it_is(model: VAE, images: Tensor) -> None:
    """With gradients of 0, and not without: a checkpoint has the optimizer's state of every parameter."""
    for name, gradient in gradients(model, images, Elbo(distortion_weight=0)).items():
        assert (gradient == 0).all() == name.startswith("decoder"), name


@pytest.mark.parametrize(
    ("objective", "name"),
    [
        (UNWEIGHTED, "-ELBO"),
        (Elbo(beta=4), "distortion + 4 rate"),
        (Elbo(beta=0), "distortion"),
        (Elbo(distortion_weight=0), "rate"),
        (Elbo(2, 0.5), "0.5 distortion + 2 rate"),
        (FreeBits(0.25), "-ELBO with 0.25 free nats a dimension"),
    ],
)
def test_names_say_what_is_minimized(objective: Objective, name: str) -> None:
    assert objective.name == name


class TestFreeBits:
    """Two images, two dimensions. KL of N(m, 1) is m^2 / 2."""

    MEANS = torch.tensor([[2.0, 0.0], [0.0, 0.2]]).double()  # KL 2 and 0, 0 and 0.02: means 1 and 0.01

    @pytest.fixture
    def vae(self) -> LinearVAE:
        vae = LinearVAE()
        vae.mean, vae.log_variance = self.MEANS.clone().requires_grad_(), torch.zeros(2, 2).double().requires_grad_()
        return vae

    @pytest.mark.parametrize(("nats", "charged"), [(0.0, 1.01), (0.005, 1.01), (0.5, 1.5), (3.0, 6.0)])
    def test_a_dimension_costs_its_mean_kl_and_no_less_than_the_free_nats(
        self, nats: float, charged: float, vae: LinearVAE
    ) -> None:
        loss = FreeBits(nats, beta=2.0, distortion_weight=0.0).loss(
            vae, vae.draw_images(2, seed=0), Generator().manual_seed(0), autocast=False
        )
        assert loss.objective.item() == pytest.approx(2 * charged)
        assert loss.parts["rate"].item() == pytest.approx(1.01)  # what is reported is not charged

    def test_the_floor_is_under_the_mean_of_the_batch_and_not_under_each_image(self, vae: LinearVAE) -> None:
        """The first dimension is above it on average, though not for the second image, which has a gradient too; the
        second is below, and has none."""
        images = vae.draw_images(2, seed=0)
        objective = FreeBits(0.5, distortion_weight=0.0)
        loss = objective.loss(vae, images, Generator().manual_seed(0), autocast=False).objective
        mean, log_variance = torch.autograd.grad(loss, [vae.mean, vae.log_variance])
        torch.testing.assert_close(mean, self.MEANS * torch.tensor([0.5, 0.0]))
        assert (log_variance == 0).all()  # N(m, 1): the variance is already that of the prior
        vae.log_variance = torch.full((2, 2), -1.0).double().requires_grad_()
        loss = FreeBits(0.9, distortion_weight=0.0).loss(vae, images, Generator(), autocast=False).objective
        (log_variance,) = torch.autograd.grad(loss, [vae.log_variance])
        assert (log_variance[:, 0] != 0).all()
        assert (log_variance[:, 1] == 0).all()

    def test_none_are_the_elbo(self) -> None:
        vae = LinearVAE()
        images = vae.draw_images(6, seed=0)
        vae.set_posterior(images, shift=0.3, widening=-0.2)
        free, plain = (
            objective.loss(vae, images, Generator().manual_seed(1), autocast=False)
            for objective in (FreeBits(0.0, 3.0, 0.5), Elbo(3.0, 0.5))
        )
        torch.testing.assert_close(free.objective, plain.objective)
        torch.testing.assert_close(free.parts, plain.parts)

    def test_other_posteriors_are_refused(self) -> None:
        class Correlated(LinearVAE):
            def posterior(self, images: Tensor, *, autocast: bool = False) -> DiagonalGaussian:
                return None  # type: ignore[return-value]  # anything that is not a diagonal Gaussian

        vae = Correlated()
        assert vae.latent_dim == LATENTS
        with pytest.raises(TypeError, match="diagonal posteriors only"):
            FreeBits(0.1).loss(vae, vae.draw_images(2, seed=0), Generator(), autocast=False)
