"""A run is measured on what was held out when it began, or not at all."""

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from tests.support.digits import digits_config, run_digits
from tests.support.runs import pictures
from training.config import RunConfig, check
from training.data.load import survey
from training.errors import DataError
from training.evaluate import evaluate_run
from training.figures import draw_run
from training.images import held_out_images, training_images
from training.run import RunFolder

QUIET = Console(file=io.StringIO())


def config_of(**data: object) -> RunConfig:
    """Forty images need small batches."""
    return digits_config(
        model={"network": {"kind": "mlp", "hidden": [5]}},
        data={"binarization": "none", **data},
        optimization={"epochs": 1, "batch_size": 5},
    )


def write_pictures(folder: Path, count: int = 40) -> Path:
    """Two classes of small grey pictures."""
    for number, picture in enumerate(pictures(count, (8, 8, 1))):
        file = folder / "ab"[number % 2] / f"{number:02}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture[..., 0]).save(file)
    return folder


@pytest.fixture
def trained(tmp_path: Path) -> tuple[RunFolder, Path]:
    """A run on a folder of pictures, and the folder."""
    folder = write_pictures(tmp_path / "pictures")
    return run_digits(tmp_path / "run", config_of(source="pictures", path=str(folder)))[0], folder


def test_a_picture_less_moves_the_line_between_training_and_test_and_is_refused(
    trained: tuple[RunFolder, Path],
) -> None:
    run, folder = trained
    evaluate_run(run, data_dir=None, console=QUIET)
    measured = run.metrics_file.read_bytes()
    before = training_images(run, data_dir=None, console=QUIET)
    (folder / "a" / "00.png").rename(folder.parent / "00.png")
    with pytest.raises(DataError, match=r"^pictures: images were added, removed or changed since .* was trained"):
        evaluate_run(run, data_dir=None, console=QUIET)
    assert run.metrics_file.read_bytes() == measured
    with pytest.raises(DataError, match="these are not the images"):
        draw_run(run, run.figures, data_dir=None, console=QUIET)
    (folder.parent / "00.png").rename(folder / "a" / "00.png")
    after = training_images(run, data_dir=None, console=QUIET)
    assert [part.sha256 for part in before] == [part.sha256 for part in after]
    evaluate_run(run, data_dir=None, console=QUIET)


def test_a_run_of_before_there_were_listings_is_measured(trained: tuple[RunFolder, Path]) -> None:
    run, folder = trained
    document = json.loads(run.provenance_file.read_text(encoding="utf-8"))
    assert len(document["data"].pop("listing")) == 64
    run.provenance_file.write_text(json.dumps(document), encoding="utf-8")
    (folder / "a" / "00.png").unlink()
    assert len(held_out_images(run, data_dir=None, console=QUIET)) == 16


def test_a_test_set_of_its_own_is_named_with_the_data(tmp_path: Path) -> None:
    folders = write_pictures(tmp_path / "pets"), write_pictures(tmp_path / "test", 6)
    config = config_of(source="pictures", path=str(folders[0]), test_path=str(folders[1]))
    without_share = check(config.model_dump(exclude={"data": {"test_fraction"}}), "test")
    run, _, _ = run_digits(tmp_path / "run", without_share)
    metrics = evaluate_run(run, data_dir=None, console=QUIET, images=4)
    assert metrics.protocol.dataset == "pets (test set: test) (drawn at random from 6)"


class TestListing:
    def digest(self, path: Path, **data: object) -> str:
        source = "arrays" if path.suffix in (".npy", ".npz") else "pictures"
        config = config_of(source=source, path=str(path), **data)
        return survey(config.data, config.image).listing

    def test_a_zip_or_a_copy_of_a_folder_is_listed_as_the_folder(self, tmp_path: Path) -> None:
        folder = write_pictures(tmp_path / "pictures")
        digest = self.digest(folder)
        assert self.digest(Path(shutil.copytree(folder, tmp_path / "copy", copy_function=shutil.copyfile))) == digest
        for name, root in (("inside", folder), ("around", tmp_path)):
            archive = shutil.make_archive(str(tmp_path / name), "zip", root, "pictures" if root == tmp_path else None)
            assert self.digest(Path(archive)) == digest

    @pytest.mark.parametrize("change", ["added", "renamed", "rewritten"])
    def test_another_list_of_pictures_has_another_digest(self, change: str, tmp_path: Path) -> None:
        folder = write_pictures(tmp_path / "pictures")
        digest = self.digest(folder)
        file = folder / "a" / "00.png"
        match change:
            case "added":
                shutil.copy(file, folder / "b" / "00.png")
            case "renamed":
                file.rename(folder / "a" / "99.png")
            case "rewritten":
                Image.new("L", (9, 9)).save(file)
        assert self.digest(folder) != digest

    def test_a_test_folder_is_listed_and_not_the_training_folder(self, tmp_path: Path) -> None:
        folder, test = write_pictures(tmp_path / "pictures"), write_pictures(tmp_path / "test", 6)
        digest = self.digest(folder, test_path=str(test))
        (folder / "a" / "00.png").unlink()
        assert self.digest(folder, test_path=str(test)) == digest
        (test / "a" / "00.png").unlink()
        assert self.digest(folder, test_path=str(test)) != digest

    @pytest.mark.parametrize("suffix", [".npy", ".npz"])
    def test_rows_in_another_order_have_another_digest(self, suffix: str, tmp_path: Path) -> None:
        images = pictures(10, (8, 8, 1))
        path = tmp_path / f"images{suffix}"

        def written(rows: np.ndarray) -> str:
            if suffix == ".npy":
                np.save(path, rows)
            else:
                np.savez(path, images=rows)
            return self.digest(path)

        assert written(images) == written(images)
        assert len({written(images), written(images[::-1]), written(images[1:])}) == 3

    def test_test_images_of_a_file_of_their_own_are_listed_unread(self, tmp_path: Path) -> None:
        np.save(tmp_path / "images.npy", pictures(10, (8, 8, 1)))
        np.savez(tmp_path / "both.npz", train=pictures(10, (8, 8, 1)), test=np.array([None] * 4), allow_pickle=True)
        assert self.digest(tmp_path / "both.npz") != self.digest(tmp_path / "images.npy")
        (tmp_path / "test.npy").write_bytes(b"damaged")
        digest = self.digest(tmp_path / "images.npy", test_path=str(tmp_path / "test.npy"))
        (tmp_path / "test.npy").write_bytes(b"damaged too")
        assert self.digest(tmp_path / "images.npy", test_path=str(tmp_path / "test.npy")) != digest
