"""A data set: subsets keep images, labels and names together; the digest sees every pixel and the shape."""

import numpy as np
import pytest

from training.data.dataset import Dataset, digest


def test_a_subset_keeps_rows_together() -> None:
    images = np.random.default_rng(0).integers(0, 256, (7, 3, 2, 1), dtype=np.uint8)
    whole = Dataset.of(images, name="n", split="train", labels=np.arange(7), label_names=tuple("abcdefg"))
    part = whole.subset(np.array([5, 0]), "validation")
    assert np.array_equal(part.images, images[[5, 0]])
    assert part.labels is not None
    assert part.labels.tolist() == [5, 0]
    assert (part.name, part.split, part.label_names, len(part)) == ("n", "validation", whole.label_names, 2)
    assert part.sha256 == digest(images[[5, 0]])
    assert whole.subset(np.arange(7)).sha256 == whole.sha256


def test_the_digest_sees_every_pixel_the_order_and_the_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 4, 3, 1), dtype=np.uint8)
    changed = images.copy()
    changed[-1, -1, -1, -1] ^= 1
    same_bytes = images.reshape(5, 3, 4, 1)
    assert len({digest(each) for each in (images, changed, images[::-1], same_bytes)}) == 4
    whole = digest(images)
    monkeypatch.setattr("training.data.dataset._PIECE_BYTES", 25)
    assert digest(images) == whole


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (np.zeros((2, 3, 3), np.uint8), None),
        (np.zeros((2, 3, 3, 1), np.float32), None),
        (np.zeros((2, 3, 3, 1), np.uint8), np.zeros(3, np.int64)),
        (np.zeros((2, 3, 3, 1), np.uint8), np.zeros(2, np.int32)),
    ],
)
def test_other_arrays_are_refused(images: np.ndarray, labels: np.ndarray | None) -> None:
    with pytest.raises(ValueError, match="must be"):
        Dataset.of(images, name="n", split="train", labels=labels)
