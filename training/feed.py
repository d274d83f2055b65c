"""From stored uint8 images to float batches on the device."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from training.data.dataset import Dataset

# Images go to an accelerator whole if they take at most this share of its free memory: the rest is for activations.
_SHARE_OF_DEVICE_MEMORY = 0.5


class Feed:
    """Batches ``(B, C, H, W)`` float32 in [0, 1] of a dataset, by index; images stay uint8 until then.

    They are moved to the device once where they fit, and otherwise batch by batch; memory-mapped images are read batch
    by batch.
    """

    def __init__(self, dataset: Dataset, device: torch.device) -> None:
        self._images = dataset.images
        self._device = device
        self._resident: Tensor | None = None
        if not isinstance(dataset.images, np.memmap) and _fits(dataset.images.nbytes, device):
            self._resident = torch.tensor(dataset.images, device=device)

    def __len__(self) -> int:
        return len(self._images)

    def batch(self, indices: Tensor) -> Tensor:
        """The images at ``indices`` (int64 on the CPU), in that order."""
        if self._resident is not None:
            pixels = self._resident[indices.to(self._device)]
        else:
            pixels = torch.from_numpy(np.ascontiguousarray(self._images[indices.numpy()])).to(self._device)
        return pixels.permute(0, 3, 1, 2).float().div_(255).contiguous()

    def in_order(self, batch_size: int) -> Iterator[Tensor]:
        """All images once, in their stored order."""
        for indices in torch.split(torch.arange(len(self)), batch_size):
            yield self.batch(indices)


def _fits(size: int, device: torch.device) -> bool:
    if device.type != "cuda":
        return True
    free, _ = torch.cuda.mem_get_info(device)
    return size <= free * _SHARE_OF_DEVICE_MEMORY
