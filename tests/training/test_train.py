"""What a run refuses before it begins, and what it remarks on."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from tests.support.digits import digits_config, run_digits
from tests.support.runs import pictures
from training.config import RunConfig, load
from training.data.load import load_training
from training.errors import ConfigError, DataError
from training.run import RunFolder
from training.train import train

TOML = """
name = "tiny"
device = "cpu"
threads = 1
[image]
height = 8
width = 8
channels = 1
[model]
latent_dim = 2
[model.network]
kind = "mlp"
hidden = [4]
[model.likelihood]
family = "gaussian"
[data]
source = "arrays"
path = "images.npz"
[optimization]
epochs = 1
batch_size = 5
"""


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration, in the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.toml").write_text(TOML, encoding="utf-8")
    return tmp_path / "tiny.toml"


def run(config: RunConfig, folder: str = "run", **options: Any) -> str:
    """Train; what was printed."""
    printed = io.StringIO()
    console = Console(file=printed, width=80)
    assert train(config, Path(folder), **{"data_dir": None, "resume": False, "console": console, **options})
    return printed.getvalue()


class TestShares:
    def write(self, *splits: str) -> None:
        np.savez("images.npz", **dict.fromkeys(splits, pictures(20, (8, 8, 1))))  # type: ignore[arg-type]  # its own options

    @pytest.mark.parametrize(
        ("splits", "share", "idle"),
        [
            (["train"], "test", False),
            (["train"], "validation", False),
            (["train", "test"], "test", True),
            (["train", "test"], "validation", False),
            (["train", "valid"], "validation", True),
            (["train", "valid"], "test", False),
        ],
    )
    def test_of_data_that_are_divided_are_refused_where_they_were_asked_for(
        self, splits: list[str], share: str, idle: bool, tiny: Path
    ) -> None:
        self.write(*splits)
        # 0.25 or the default: asked for is asked for.
        for value in ("0.25", "0.1" if share == "test" else "0.05"):
            config = load(tiny, [f"data.{share}_fraction={value}"])
            if not idle:
                run(config, f"run{value}")
                continue
            with pytest.raises(ConfigError, match=rf"data\.{share}_fraction = {value} is without effect"):
                run(config)
            assert not Path("run").exists()
        run(load(tiny), "without")

    def test_a_run_goes_on_whatever_its_configuration_spells_out(self, tiny: Path) -> None:
        """config.json has every field: none of them was asked for."""
        self.write("train", "test")
        config = load(tiny)
        run(config)
        run(RunConfig.model_validate(config.model_dump()), resume=True)

    def test_a_test_folder_of_its_own_leaves_nothing_to_hold_out(self, tiny: Path) -> None:
        for folder in ("training", "test"):
            Path(folder).mkdir()
            for number, picture in enumerate(pictures(20, (8, 8, 1))):
                Image.fromarray(picture[..., 0]).save(Path(folder) / f"{number}.png")
        changes = ["data.source=pictures", "data.path=training", "data.test_path=test"]
        with pytest.raises(ConfigError, match=r"data\.test_fraction"):
            run(load(tiny, [*changes, "data.test_fraction=0.1"]))
        run(load(tiny, changes))

    def test_the_ready_made_configuration_of_a_folder_takes_a_test_folder(self, tiny: Path) -> None:
        from training import configs

        assert "test_fraction" not in load(configs.find("folder")).data.model_fields_set


class TestRemarks:
    def test_files_that_are_no_pictures_are_counted(self, tiny: Path) -> None:
        Path("in").mkdir()
        for number, picture in enumerate(pictures(20, (8, 8, 1))):
            Image.fromarray(picture[..., 0]).save(f"in/{number}.png")
        changes = ["data.source=pictures", "data.path=in"]
        assert "not looked at" not in run(load(tiny, changes), "clean")
        for name in ("a.jfif", "b.PPM", "c.tga", "d", ".hidden"):
            Path("in", name).write_bytes(b"x")
        said = run(load(tiny, changes))
        assert "4 files of the data are not looked at: their names do not end in .bmp, .gif, .jpeg" in said
        for name in ("b.PPM", "c.tga", "d"):
            Path("in", name).unlink()
        said = run(load(tiny, changes), "one")
        assert "1 file of the data is not looked at: its name does not end in .bmp, .gif, .jpeg" in said

    def test_a_model_that_could_not_be_measured_is_remarked_on(self, tiny: Path) -> None:
        np.savez("images.npz", train=pictures(10, (8, 8, 1)))
        config = load(tiny, ["data.validation_fraction=0.2"])
        assert "there is one test image" in run(config, "one")
        config = load(tiny, ["data.validation_fraction=0.2", "data.test_fraction=0.2"])
        assert "test image" not in run(config, "two")

    @pytest.mark.parametrize(
        ("family", "binarization", "warned"),
        [("bernoulli", "none", True), ("bernoulli", "dynamic", False), ("gaussian", "none", False)],
    )
    def test_grey_values_under_a_bernoulli_are_remarked_on(
        self, family: str, binarization: str, warned: bool, tmp_path: Path
    ) -> None:
        config = digits_config(
            model={"likelihood": {"family": family}},
            data={"binarization": binarization},
            optimization={"epochs": 1},
        )
        _, _, said = run_digits(tmp_path / "run", config)
        assert ("bounds no likelihood" in said) == warned


class TestUnreadablePictures:
    """Of every split, found before there is a run folder: afterwards nothing could be changed about them."""

    @pytest.fixture
    def folder(self, tiny: Path) -> RunConfig:
        Path("in").mkdir()
        for number, picture in enumerate(pictures(30, (8, 8, 1))):
            Image.fromarray(picture[..., 0]).save(f"in/{number:02}.png")
        return load(tiny, ["data.source=pictures", "data.path=in", "data.validation_fraction=0.2"])

    def test_of_any_split_are_found_before_training(self, folder: RunConfig) -> None:
        for path in sorted(Path("in").iterdir()):
            whole = path.read_bytes()
            path.write_bytes(whole[:40])
            with pytest.raises(DataError, match=rf"1 of 30 pictures cannot be used.*\n  {path.name}: "):
                run(folder)
            path.write_bytes(whole)
        assert not Path("run").exists()
        run(folder)
        assert RunFolder(Path("run")).provenance().test_images_decoded

    def test_are_all_named_at_once(self, folder: RunConfig) -> None:
        bad = [f"{number:02}.png" for number in range(0, 30, 2)]
        for name in bad:
            Path("in", name).write_bytes(b"no picture")
        with pytest.raises(DataError) as caught:
            run(folder)
        headline, *lines = str(caught.value).splitlines()
        assert headline == "in: 15 of 30 pictures cannot be used: repair them, or remove them before a run begins"
        assert [line.strip().partition(":")[0] for line in lines] == bad

    def test_are_not_looked_for_again_where_they_were(self, folder: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
        run(folder)
        calls: list[object] = []
        monkeypatch.setattr("training.train.check_test", lambda *arguments, **options: calls.append(arguments))
        run(folder, resume=True)
        assert not calls
        file = RunFolder(Path("run")).provenance_file  # as an earlier version would have written it
        document = json.loads(file.read_text())
        del document["test_images_decoded"]
        file.write_text(json.dumps(document))
        run(folder, resume=True)
        assert len(calls) == 1


class TestDataFolder:
    def test_one_that_is_not_there_is_made_and_not_replaced(self, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("training.data.load.MEMORY_LIMIT", 10)
        np.savez("images.npz", train=pictures(20, (8, 8, 1)))
        config = load(tiny)
        load_training(config.data, config.image, seed=0, data_dir=Path("new/folder"))
        assert len(list(Path("new/folder/cache").iterdir())) == 2
        assert not Path("data").exists()

    def test_a_file_is_none(self, tiny: Path) -> None:
        with pytest.raises(DataError, match=r"^tiny\.toml: not a folder; name one with --data-dir"):
            run(load(tiny), data_dir=Path("tiny.toml"))
