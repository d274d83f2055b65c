"""As many images at a time as fit into the budget, and always one."""

import pytest
import torch

from model.vae import VAE
from tests.support.digits import digits_config
from training.memory import CACHE_BUDGET, images_at_a_time

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("network", "largest"),
    [
        ({"kind": "mlp", "hidden": [300, 20]}, 300),
        ({"kind": "mlp", "hidden": [3]}, 64),
        ({"kind": "conv", "channels": 8, "max_channels": 8, "hidden": 16}, 8 * 4 * 4),
    ],
)
@pytest.mark.parametrize(("workers", "budget"), [(1, 10**6), (7, 10**6), (2, 10**9)])
def test_the_widest_layer_decides(network: dict[str, object], largest: int, workers: int, budget: int) -> None:
    config = digits_config(model={"network": network})
    model = VAE(config.model, config.image.shape)
    assert images_at_a_time(model, CPU, workers=workers, budget=budget) == budget // (workers * largest * 16)


@pytest.mark.parametrize("workers", [1, 3])
def test_each_thread_of_a_cpu_has_caches_of_its_own(workers: int) -> None:
    config = digits_config(model={"network": {"kind": "mlp", "hidden": [300]}})
    model = VAE(config.model, config.image.shape)
    assert images_at_a_time(model, CPU, workers=workers) == CACHE_BUDGET // (300 * 16)


@pytest.mark.parametrize(("layers", "alive"), [(10, 10 * (30 + 30) + 2 * 64), (1, 4 * 64)])
def test_gradients_need_the_features_of_all_layers(layers: int, alive: int) -> None:
    """Linear maps, what bends them, and the image, flat and not; of few layers, what is alive without gradients."""
    config = digits_config(model={"network": {"kind": "mlp", "hidden": [30] * layers}})
    model = VAE(config.model, config.image.shape)
    found = images_at_a_time(model, CPU, workers=2, budget=10**6, gradients=True)
    assert found == 10**6 // (2 * 4 * alive)


def test_one_image_is_always_taken() -> None:
    config = digits_config()
    assert images_at_a_time(VAE(config.model, config.image.shape), CPU, workers=64, budget=1) == 1


def test_a_model_is_left_without_hooks() -> None:
    config = digits_config()
    model = VAE(config.model, config.image.shape)
    images_at_a_time(model, CPU, workers=1)
    assert not any(module._forward_hooks for module in model.modules())
