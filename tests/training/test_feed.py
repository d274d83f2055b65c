"""Batches are the stored images, in the order asked for, in the numbers that serving computes."""

from pathlib import Path

import numpy as np
import pytest
import torch

from model.bundle.pixels import to_network
from training import feed as module
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


def test_images_of_one_channel_have_the_strides_of_channels_first() -> None:
    dataset = Dataset.of(np.zeros((4, 3, 5, 1), np.uint8), name="noise", split="train")
    batch = Feed(dataset, torch.device("cpu")).batch(torch.arange(4))
    assert batch.stride() == (15, 15, 5, 1)


def test_in_order_is_every_image_once(dataset: Dataset) -> None:
    feed = Feed(dataset, torch.device("cpu"))
    batches = list(feed.in_order(4))
    assert [len(batch) for batch in batches] == [4, 4, 3]
    assert np.array_equal(torch.cat(batches).numpy(), to_network(np.asarray(dataset.images)))
    assert len(feed) == 11


def test_an_accelerator_gets_all_that_fits_and_a_cpu_reads_a_memory_map_where_it_is(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device "meta" stands for an accelerator: it has shapes and no content."""
    mapped = isinstance(dataset.images, np.memmap)
    assert (Feed(dataset, torch.device("cpu"))._resident is None) == mapped
    resident = Feed(dataset, torch.device("meta"))._resident
    assert resident is not None
    assert (resident.device.type, resident.shape) == ("meta", SHAPE)
    monkeypatch.setattr(module, "_fits", lambda size, device: False)
    assert Feed(dataset, torch.device("meta"))._resident is None


@pytest.mark.parametrize("piece", [1, 60, 61, 1000])
def test_images_arrive_in_pieces_of_any_size(piece: int, dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PIECE_BYTES", piece)
    moved = module._moved(dataset.images, torch.device("cpu"))
    assert np.array_equal(moved.numpy(), dataset.images)


def test_batches_may_be_changed_without_changing_the_images(dataset: Dataset) -> None:
    feed = Feed(dataset, torch.device("cpu"))
    before = feed.batch(torch.arange(11))
    feed.batch(torch.arange(11)).zero_()
    assert torch.equal(feed.batch(torch.arange(11)), before)
