"""Pieces are as large as their budget says, all of them are measured, and a folder that is no run is refused."""

from itertools import pairwise
from pathlib import Path

import pytest

from benchmarks import pieces
from tests.support.runs import write_run
from training.memory import CACHE_BUDGET
from training.trained import load_best


def test_every_budget_has_a_line_and_that_which_is_taken_is_the_unit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write_run(tmp_path / "run")
    asked: list[tuple[int, int, int]] = []

    def measured(model: object, at_a_time: int, *, latents: int, chunk: int) -> float:
        asked.append((at_a_time, latents, chunk))
        return float(len(asked))

    monkeypatch.setattr(pieces, "latents_per_second", measured)
    pieces.main([str(run.folder), "--latents", "60", "--chunk", "20", "--rounds", "2"])
    lines = capsys.readouterr().out.splitlines()
    budgets = [line.split(" | ")[0].strip("| ") for line in lines[2:]]
    assert budgets == [f"{budget >> 20}" for budget in pieces.BUDGETS]
    assert len(asked) == 3 * len(pieces.BUDGETS)  # one to warm up
    assert {(latents, chunk) for _, latents, chunk in asked} == {(60, 20)}
    sizes = [at_a_time for at_a_time, _, _ in asked[: len(pieces.BUDGETS)]]
    assert all(larger == pytest.approx(4 * smaller, rel=0.01) for smaller, larger in pairwise(sizes))
    assert "| 1.00 (1.00, 1.00) |" in lines[2 + pieces.BUDGETS.index(CACHE_BUDGET)]


def test_importance_sampling_is_what_is_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_best(write_run(tmp_path / "run"))[0].vae
    seen: list[int] = []
    model.decoder.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[0])))
    assert pieces.latents_per_second(model, 7, latents=60, chunk=20) > 0
    assert max(seen) == 7
    assert sum(seen) == 60


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"benchmarks\.pieces: "):
        pieces.main([str(tmp_path)])
