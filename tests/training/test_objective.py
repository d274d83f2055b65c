"""What is minimized: one function for training and validation, sums over pixels, means over images only."""

import pytest
import torch
from torch import Generator, Tensor

from model.vae import VAE
from tests.support.digits import digits_config
from training.objective import Binarization, binarize, training_loss, validation_loss
from training.objectives.autoencoder import Autoencoder
from training.objectives.elbo import UNWEIGHTED, Elbo, FreeBits
from training.objectives.iwae import Iwae
from training.objectives.loss import Objective
from training.objectives.total_correlation import BetaTC

OBJECTIVES = (
    UNWEIGHTED,
    Elbo(4, 0.5),
    FreeBits(0.1, 2),
    Iwae(3),
    Iwae(3, "dreg"),
    Iwae(5, "dreg", 2),
    BetaTC(1, 6, 1, 100),
    Autoencoder(),
)


@pytest.fixture
def model() -> VAE:
    torch.manual_seed(0)  # the layers draw their weights from the global generator
    config = digits_config()
    return VAE(config.model, config.image.shape)


@pytest.fixture
def images() -> Tensor:
    return torch.rand(30, 1, 8, 8, generator=Generator().manual_seed(1))


def seeded() -> Generator:
    return Generator().manual_seed(2)


class TestBinarize:
    def test_dynamic_pixels_are_one_as_often_as_they_are_bright(self) -> None:
        grey = torch.linspace(0, 1, 11)
        count = 20_000
        drawn = binarize(grey.expand(count, 11), "dynamic", seeded())
        assert ((drawn == 0) | (drawn == 1)).all()
        assert ((drawn.mean(0) - grey).abs() <= 4.5 * (grey * (1 - grey) / count).sqrt()).all()

    def test_dynamic_pixels_are_drawn_anew_at_every_use(self, images: Tensor) -> None:
        generator = seeded()
        assert not torch.equal(binarize(images, "dynamic", generator), binarize(images, "dynamic", generator))

    @pytest.mark.parametrize("binarization", ["static", "none"])
    def test_otherwise_nothing_is_drawn(self, binarization: Binarization, images: Tensor) -> None:
        generator = seeded()
        assert torch.equal(binarize(images, binarization, generator), images)
        assert torch.equal(generator.get_state(), seeded().get_state())


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("binarization", ["dynamic", "none"])
@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda objective: type(objective).__name__)
def test_training_and_validation_are_the_same_function(
    model: VAE, images: Tensor, objective: Objective, binarization: Binarization, autocast: bool
) -> None:
    training = training_loss(model, images, binarization, seeded(), autocast=autocast, objective=objective)
    validation = validation_loss(model, [images], binarization, seeded(), autocast=autocast, objective=objective)
    assert validation.pop("criterion") == pytest.approx(training.objective.item(), rel=1e-6)
    assert validation == pytest.approx({name: part.item() for name, part in training.parts.items()}, rel=1e-6)
    assert training.objective.requires_grad
    assert not any(part.requires_grad for part in training.parts.values())


def test_the_loss_is_the_mean_over_images_of_both_halves(model: VAE, images: Tensor) -> None:
    loss = training_loss(model, images, "none", seeded(), autocast=False)
    noise = torch.randn(30, model.latent_dim, generator=seeded())
    elbo = model.elbo(images, noise)
    torch.testing.assert_close(loss.parts["distortion"], elbo.distortion.mean().detach())
    torch.testing.assert_close(loss.parts["rate"], elbo.rate.mean().detach())
    torch.testing.assert_close(loss.objective, elbo.negative.mean())


def test_every_validation_image_weighs_the_same(model: VAE, images: Tensor) -> None:
    """The last batch is smaller; a mean of batch means would give its images more weight."""
    uneven = validation_loss(model, torch.split(images, 28), "none", seeded(), autocast=False)
    generator = seeded()
    batches = [training_loss(model, batch, "none", generator, autocast=False) for batch in torch.split(images, 28)]
    large, small = batches
    for name, part in large.parts.items():
        expected = (28 * part.item() + 2 * small.parts[name].item()) / 30
        assert uneven[name] == pytest.approx(expected, rel=1e-6)
    expected = (28 * large.objective.item() + 2 * small.objective.item()) / 30
    assert uneven["criterion"] == pytest.approx(expected, rel=1e-6)


def test_a_batch_twice_as_large_has_the_same_loss(model: VAE, images: Tensor) -> None:
    """Averaged over images: the learning rate means the same at every batch size."""
    posterior = model.posterior(images)
    noise = torch.zeros_like(posterior.mean)
    once = model.elbo(images, noise).negative.mean()
    twice = model.elbo(torch.cat([images, images]), torch.cat([noise, noise])).negative.mean()
    torch.testing.assert_close(once, twice)
