"""Which device, how many threads, which precision: decided once, at the start of a run, and recorded in it."""

from typing import Literal

import torch

from training.errors import ConfigError


def choose_device(name: str) -> torch.device:
    """The device that ``auto``, ``cpu``, ``cuda`` or ``cuda:N`` means on this machine.

    Raises:
        ConfigError: CUDA was asked for and is not there, or the name means nothing.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device = '{name}': use auto, cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"device = '{name}': use auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"device = '{name}': PyTorch sees {torch.cuda.device_count()} CUDA devices here")
    return device


def prepare(device: torch.device, threads: int | None) -> None:
    """Set up this process for work that can be repeated bit for bit: so many CPU threads, and on CUDA only those
    convolution algorithms whose sums always have the same order, in float32 where float32 is said: TensorFloat-32 has
    10 bits of it. To be called before PyTorch computes anything: its CPU threads become what the first of them is."""
    if threads is not None:
        torch.set_num_threads(threads)
    # Below 1e-38 a float32 loses digits one by one, and a CPU takes a hundred times as long over it. Adam's moments of
    # weights that see a gradient now and then, as those of pixels that are nearly always black, fade into that range.
    torch.set_flush_denormal(True)
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False


def choose_precision(wish: Literal["auto", "float32", "bfloat16"], network: str, device: torch.device) -> torch.dtype:
    """The autocast type: ``auto`` is bfloat16 for convolutions on hardware that multiplies it natively, else float32.

    Of small matrices the casts cost what the products save. A fully connected network gains where both its layers and
    its batches are wide (`benchmarks.training` has one), and a narrow one loses: who has one asks for it.
    """
    if wish != "auto":
        return torch.bfloat16 if wish == "bfloat16" else torch.float32
    native = (
        torch.cuda.is_bf16_supported(including_emulation=False)
        if device.type == "cuda"
        else bool(torch.cpu.get_capabilities().get("avx512_bf16"))
    )
    return torch.bfloat16 if native and network != "mlp" else torch.float32
