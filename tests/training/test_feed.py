"""Batches are the stored images, in the order asked for, in the numbers that serving computes."""

from pathlib import Path

import numpy as np
import pytest
import torch

from model.bundle.pixels import to_network
from training.data.dataset import Dataset
from training.feed import Feed

SHAPE = (11, 3, 5, 2)


@pytest.fixture(params=["memory", "mapped"])
def dataset(request: pytest.FixtureRequest, tmp_path: Path) -> Dataset:
    pixels = np.random.default_rng(0).integers(0, 256, SHAPE, dtype=np.uint8)
    if request.param == "mapped":
        np.save(tmp_path / "images.npy", pixels)
        pixels = np.load(tmp_path / "images.npy", mmap_mode="r")
    return Dataset.of(pixels, name="noise", split="train")


def test_batches_are_what_serving_would_see(dataset: Dataset) -> None:
    indices = torch.tensor([7, 0, 7])
    batch = Feed(dataset, torch.device("cpu")).batch(indices)
    assert batch.dtype == torch.float32
    assert batch.is_contiguous()
    assert np.array_equal(batch.numpy(), to_network(np.asarray(dataset.images)[indices.numpy()]))


def test_in_order_is_every_image_once(dataset: Dataset) -> None:
    feed = Feed(dataset, torch.device("cpu"))
    batches = list(feed.in_order(4))
    assert [len(batch) for batch in batches] == [4, 4, 3]
    assert np.array_equal(torch.cat(batches).numpy(), to_network(np.asarray(dataset.images)))
    assert len(feed) == 11


def test_batches_may_be_changed_without_changing_the_images(dataset: Dataset) -> None:
    feed = Feed(dataset, torch.device("cpu"))
    before = feed.batch(torch.arange(11))
    feed.batch(torch.arange(11)).zero_()
    assert torch.equal(feed.batch(torch.arange(11)), before)
