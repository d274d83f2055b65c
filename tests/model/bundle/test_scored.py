"""Scores of files: those of the images in them, each by its own number, in a table that is there whole or not."""

import csv
from pathlib import Path

import numpy as np
import pytest

from model.bundle import offline
from model.bundle.drawing import encode_picture
from model.bundle.errors import OfflineError, OutputError
from model.bundle.runtime import Bundle, RuntimeOptions
from model.bundle.scored import COLUMNS, check_scoring, save_scores, score_pictures
from model.bundle.scores import Scores, percentile, score_images
from model.bundle.store import open_bundle
from tests.support.tiny import rewrite, write_tiny_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny", scores=True)
    return open_bundle(folder, RuntimeOptions(threads=1))


def images(count: int) -> np.ndarray:
    return np.random.default_rng(4).integers(0, 256, (count, 8, 8, 1)).astype(np.uint8)


def folder_of(tmp_path: Path, pictures: np.ndarray) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, picture in enumerate(pictures):
        (folder / f"{number:03}.png").write_bytes(encode_picture(picture, "png"))
    return folder


def scored(bundle: Bundle, source: Path, table: Path) -> list[dict[str, str]]:
    pictures = offline.fitted_pictures(bundle.manifest.image, offline.read_sources([source]))
    save_scores(bundle, table, score_pictures(bundle, pictures, 16, seed=3))
    with table.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_table_has_the_scores_of_the_images(bundle: Bundle, tmp_path: Path) -> None:
    pictures = images(70)  # more than are worked off at a time
    rows = scored(bundle, folder_of(tmp_path, pictures), tmp_path / "scores.csv")
    wanted = score_images(bundle, pictures, 16, seed=3)
    assert tuple(rows[0]) == COLUMNS
    assert [row["name"] for row in rows] == [f"{number:03}.png" for number in range(70)]
    for name, values in wanted._asdict().items():
        np.testing.assert_allclose([float(row[name]) for row in rows], values, rtol=1e-5, err_msg=name)
    assert [row["reliable"] == "true" for row in rows] == wanted.reliable.tolist()
    assert bundle.validation_scores is not None
    ranks = [float(row["percentile"]) for row in rows]
    np.testing.assert_allclose(ranks, percentile(wanted.elbo, bundle.validation_scores))


def test_what_a_bundle_does_not_have_is_an_empty_cell(tmp_path: Path) -> None:
    folder = write_tiny_bundle(tmp_path / "tiny", scores=True)
    rewrite(folder, lambda raw: raw["likelihood"].update(binarization="none"))
    grey = open_bundle(folder, RuntimeOptions(threads=1))
    (row,) = scored(grey, folder_of(tmp_path, images(1)), tmp_path / "scores.csv")
    assert row["log_likelihood"] == row["effective_sample_size"] == row["reliable"] == row["bits_per_dim"] == ""
    assert float(row["elbo"]) == pytest.approx(-(float(row["kl"]) + float(row["distortion"])), rel=1e-4)


def test_a_nat_of_millions_is_told(bundle: Bundle, tmp_path: Path) -> None:
    many = np.array([-3_037_189.25])
    save_scores(bundle, tmp_path / "scores.csv", iter([(["a"], Scores(many, many, many, many, -many))]))
    with (tmp_path / "scores.csv").open(encoding="utf-8", newline="") as file:
        (row,) = csv.DictReader(file)
    assert float(row["elbo"]) == float(row["log_likelihood"]) == -float(row["distortion"]) == many[0]


def test_no_pictures_leave_no_table(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(OfflineError, match="no pictures to score"):
        save_scores(bundle, tmp_path / "scores.csv", iter(()))
    assert not (tmp_path / "scores.csv").exists()


def test_what_cannot_be_is_said_before_any_work(bundle: Bundle, tmp_path: Path) -> None:
    check_scoring(bundle, tmp_path / "scores.csv")
    with pytest.raises(OutputError, match=r"write to a \.csv file"):
        check_scoring(bundle, tmp_path / "scores.npz")
    with pytest.raises(OutputError, match="no such folder"):
        check_scoring(bundle, tmp_path / "nowhere" / "scores.csv")
    plain = open_bundle(write_tiny_bundle(tmp_path / "plain", name="plain"), RuntimeOptions(threads=1))
    with pytest.raises(OfflineError, match="plain/1 cannot score: its bundle has no likelihood graph"):
        check_scoring(plain, tmp_path / "scores.csv")
