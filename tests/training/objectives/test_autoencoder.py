"""A plain autoencoder: no noise, and nothing that would need any."""

import torch
from torch import Generator, Tensor

from model.vae import VAE
from tests.support.digits import digits_config
from training.objectives.autoencoder import Autoencoder


def model_and_images() -> tuple[VAE, Tensor]:
    torch.manual_seed(0)  # the layers draw their weights from the global generator
    config = digits_config(model={"network": {"kind": "mlp", "hidden": [6]}})
    model = VAE(config.model, config.image.shape)
    return model, torch.rand(20, 1, 8, 8, generator=Generator().manual_seed(1))


def test_the_latent_is_the_mean_and_nothing_is_drawn() -> None:
    model, images = model_and_images()
    generator = Generator().manual_seed(2)
    loss = Autoencoder().loss(model, images, generator, autocast=False)
    assert torch.equal(generator.get_state(), Generator().manual_seed(2).get_state())
    parameters = model.decode(model.posterior(images).mean)
    torch.testing.assert_close(loss.objective, -model.likelihood.log_prob(parameters, images).mean())


def test_it_tells_of_no_rate_and_no_elbo() -> None:
    model, images = model_and_images()
    loss = Autoencoder().loss(model, images, Generator(), autocast=False)
    assert loss.parts == {"distortion": loss.objective.detach()}


def test_the_log_variance_is_not_trained_and_every_parameter_has_a_gradient() -> None:
    """Of 0 where it is for the log_variance: a checkpoint has the optimizer's state of every parameter."""
    model, images = model_and_images()
    loss = Autoencoder().loss(model, images, Generator(), autocast=False).objective
    names, parameters = zip(*model.named_parameters(), strict=True)
    gradients = dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))
    last = max(name for name in names if name.startswith("encoder") and name.endswith("bias"))
    assert (gradients[last][:3] != 0).all()
    assert (gradients[last][3:] == 0).all()
