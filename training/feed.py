"""From stored uint8 images to float batches on the device."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.data.dataset import Dataset

# Images go to an accelerator whole if they take at most this share of its free memory: the rest is for activations.
_SHARE_OF_DEVICE_MEMORY = 0.5
_PIECE_BYTES = 1 << 26


class Feed:
    """Batches ``(B, C, H, W)`` float32 in [0, 1] of a dataset, by index; images stay uint8 until then.

    They are moved to an accelerator once where they fit, and otherwise batch by batch; a CPU reads memory-mapped images
    where they are.
    """

    def __init__(self, dataset: Dataset, device: torch.device) -> None:
        self._images = dataset.images
        self._device = device
        self._resident: Tensor | None = None
        mapped = isinstance(dataset.images, np.memmap)
        if not (mapped and device.type == "cpu") and _fits(dataset.images.nbytes, device):
            self._resident = _moved(dataset.images, device)

    def __len__(self) -> int:
        return len(self._images)

    def batch(self, indices: Tensor) -> Tensor:
        """The images at ``indices`` (int64 on the CPU), in that order."""
        if self._resident is not None:
            # Copies whole rows; an index in brackets goes byte by byte, and takes more than ten times as long.
            pixels = self._resident.index_select(0, indices.to(self._device))
        else:
            pixels = torch.from_numpy(np.ascontiguousarray(self._images[indices.numpy()])).to(self._device)
        # Strides and all: images of one channel are contiguous as they lie, but with strides of channels last, which
        # convolutions then keep to; in bfloat16 that takes a third longer on a CPU.
        count, height, width, channels = pixels.shape
        images = torch.empty((count, channels, height, width), device=self._device)
        return images.copy_(pixels.permute(0, 3, 1, 2)).div_(255)

    def in_order(self, batch_size: int) -> Iterator[Tensor]:
        """All images once, in their stored order."""
        for indices in torch.split(torch.arange(len(self)), batch_size):
            yield self.batch(indices)


def _moved(images: NDArray[np.uint8], device: torch.device) -> Tensor:
    """The images on the device, copied in pieces: a memory map may be larger than this machine's own memory."""
    moved = torch.empty(images.shape, dtype=torch.uint8, device=device)
    rows = max(1, _PIECE_BYTES // max(1, images[:1].nbytes))
    for start in range(0, len(images), rows):
        moved[start : start + rows] = torch.from_numpy(np.array(images[start : start + rows]))
    return moved


def _fits(size: int, device: torch.device) -> bool:
    if device.type != "cuda":
        return True
    free, _ = torch.cuda.mem_get_info(device)
    return size <= free * _SHARE_OF_DEVICE_MEMORY
