"""The run folder: what a run is, and a log that survives its process."""

import errno
from pathlib import Path

import pytest
import torch

from app.settings import PRETRAINED
from tests.support.digits import digits_config
from training.errors import ConfigError
from training.run import MetricsLog, RunFolder, read_log


class TestLog:
    def test_keeps_every_line(self, tmp_path: Path) -> None:
        log = MetricsLog(tmp_path / "log", resume_at=None)
        log.write(step=1, split="train", rate=0.1)
        assert read_log(tmp_path / "log") == [{"step": 1, "split": "train", "rate": 0.1}]  # before it is closed
        log.write(step=2, split="train", rate=1 / 3)
        log.close()
        assert read_log(tmp_path / "log")[1]["rate"] == 1 / 3

    def test_a_new_run_starts_empty(self, tmp_path: Path) -> None:
        (tmp_path / "log").write_text('{"step": 7}\n', encoding="utf-8")
        MetricsLog(tmp_path / "log", resume_at=None).close()
        assert read_log(tmp_path / "log") == []

    @pytest.mark.parametrize("step", [0, 3, 4, 9])
    def test_what_came_after_the_checkpoint_is_cut_off(self, step: int, tmp_path: Path) -> None:
        (tmp_path / "log").write_text("".join(f'{{"step": {i}}}\n' for i in range(1, 7)), encoding="utf-8")
        log = MetricsLog(tmp_path / "log", resume_at=step)
        log.write(step=step + 1)
        log.close()
        assert [line["step"] for line in read_log(tmp_path / "log")] == [*range(1, min(step, 6) + 1), step + 1]

    @pytest.mark.parametrize("torn", ["{", '{"step": 3, "split": "tr', '{"step": 3', "\0\0\0", "\n", ""])
    def test_a_torn_last_line_is_left_out(self, torn: str, tmp_path: Path) -> None:
        (tmp_path / "log").write_text('{"step": 1}\n{"step": 2}\n' + torn, encoding="utf-8")
        assert [line["step"] for line in read_log(tmp_path / "log")] == [1, 2]
        log = MetricsLog(tmp_path / "log", resume_at=5)
        log.write(step=6)
        log.close()
        assert (tmp_path / "log").read_text(encoding="utf-8") == '{"step": 1}\n{"step": 2}\n{"step": 6}\n'

    def test_a_last_line_that_only_lacks_its_end_counts(self, tmp_path: Path) -> None:
        (tmp_path / "log").write_text('{"step": 1}\n{"step": 2}', encoding="utf-8")
        log = MetricsLog(tmp_path / "log", resume_at=2)
        log.write(step=3)
        log.close()
        assert [line["step"] for line in read_log(tmp_path / "log")] == [1, 2, 3]

    def test_no_log_has_no_lines(self, tmp_path: Path) -> None:
        assert read_log(tmp_path / "absent") == []


class TestFolder:
    def test_holds_the_whole_configuration_and_where_it_comes_from(self, finished: RunFolder) -> None:
        assert finished.config() == digits_config()
        provenance = finished.provenance()
        assert provenance.seed == 3
        assert provenance.threads == 1
        assert provenance.precision == "float32"
        assert provenance.libraries["torch"] == torch.__version__
        assert set(provenance.data) == {"name", "training", "validation", "listing"}

    def test_leaves_nothing_else(self, finished: RunFolder) -> None:
        assert sorted(file.name for file in finished.folder.iterdir()) == [
            "best.safetensors", "config.json", "last.safetensors", "metrics.jsonl", "run.json",
        ]  # fmt: skip

    def test_says_what_is_missing(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"there is no run \(this is a bundle, which was made of one; name its"):
            RunFolder(PRETRAINED).config()
        with pytest.raises(ConfigError, match=r"there is no run \(no config\.json\)"):
            RunFolder(tmp_path).config()
        with pytest.raises(ConfigError, match=r"there is no run \(no run\.json\)"):
            RunFolder(tmp_path).provenance()

    @pytest.mark.parametrize("content", ["", "{}", "[", '{"name": "x", "future": 1}'])
    def test_says_what_it_cannot_read(self, content: str, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text(content, encoding="utf-8")
        with pytest.raises(ConfigError, match=r"config\.json: not a config\.json of this version"):
            RunFolder(tmp_path).config()

    def test_one_trainer_at_a_time(self, tmp_path: Path) -> None:
        run = RunFolder(tmp_path / "run")
        with run.held(), pytest.raises(ConfigError, match="another process is training there"), run.held():
            pass
        with run.held():
            pass

    def test_a_file_system_without_locks_is_no_obstacle(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """And what might be another process's unfinished file is left alone."""

        def refuse(*_: object) -> None:
            raise OSError(errno.EBADF, "Bad file descriptor")

        monkeypatch.setattr("fcntl.flock", refuse)
        (tmp_path / ".last.safetensors.0123abcd.tmp").touch()
        with RunFolder(tmp_path).held():
            assert (tmp_path / ".last.safetensors.0123abcd.tmp").exists()

    def test_what_a_killed_write_left_is_cleared_and_nothing_else(self, tmp_path: Path) -> None:
        for name in (".last.safetensors.0123abcd.tmp", "last.safetensors", ".hidden", "notes.tmp"):
            (tmp_path / name).touch()
        with RunFolder(tmp_path).held():
            assert sorted(file.name for file in tmp_path.iterdir()) == [".hidden", "last.safetensors", "notes.tmp"]
