"""How many images a model takes at a time in a given memory."""

import torch
from torch import Tensor, nn

from model.vae import VAE

MEMORY_BUDGET = 1 << 30
"""Bytes, roughly, of an accelerator for the features of all images that are being decoded or encoded."""

CACHE_BUDGET = 1 << 24
"""The same of a CPU, for each of its threads: what caches hold. ``python -m benchmarks.pieces`` measures others."""

# Tensors of the size of the largest that are alive at the same time: a residual block has its input, what it makes of
# it, and the next thing that it makes of that; a convolution brings a copy in another memory format.
_ALIVE = 4
_BYTES = 4  # float32


def images_at_a_time(
    model: VAE, device: torch.device, *, workers: int, budget: int | None = None, gradients: bool = False
) -> int:
    """How many images each of ``workers`` may decode at a time, 1 or more, so that all stay within ``budget`` bytes.

    Without one, it is a budget that suits the device.
    Measured on one image, whatever the network: the largest output of any of its layers; with ``gradients``, which need
    the features of all of them, their sum. The encoder sees the same sizes.
    """
    if budget is None:
        budget = CACHE_BUDGET * workers if device.type == "cpu" else MEMORY_BUDGET
    largest, whole = 0, 0

    def measure(module: nn.Module, inputs: object, output: Tensor) -> None:
        nonlocal largest, whole
        largest = max(largest, output.numel())
        whole += output.numel() if next(module.children(), None) is None else 0

    hooks = [module.register_forward_hook(measure) for module in model.decoder.modules()]
    try:
        with torch.inference_mode():
            model.decode(torch.zeros(1, model.latent_dim, device=device))
    finally:
        for hook in hooks:
            hook.remove()
    alive = max(whole, largest * _ALIVE) if gradients else largest * _ALIVE
    return max(1, budget // (workers * alive * _BYTES))
