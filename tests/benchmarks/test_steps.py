"""Steps of all runs are taken in turns, they train, and a folder that is no run is refused."""

from functools import partial
from pathlib import Path

import pytest
import torch

from benchmarks import steps
from tests.support.runs import write_run
from training.loop import build_trainee


def test_each_run_has_a_line_and_the_first_is_the_unit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = write_run(tmp_path / "plain")
    flow = write_run(tmp_path / "flow", posterior={"kind": "planar", "steps": 2})
    steps.main([str(plain.folder), str(flow.folder), "--rounds", "2", "--steps", "1"])
    first, second = (line.split(" | ") for line in capsys.readouterr().out.splitlines()[2:])
    assert first[0] == "| plain"
    assert second[0] == "| flow"
    assert int(second[1].replace(",", "")) > int(first[1].replace(",", ""))
    assert first[3:] == ["1.00 (1.00, 1.00) |"]


def test_a_step_trains_and_every_round_but_the_first_counts(tmp_path: Path) -> None:
    config = write_run(tmp_path / "run").config()
    cost = steps.Cost("run", config, build_trainee(config, steps.CPU))
    before = [parameter.clone() for parameter in cost.trainee.model.parameters()]
    steps.measure([cost], rounds=3, steps=2)
    assert len(cost.milliseconds) == 3
    assert min(cost.milliseconds) > 0
    moved = [not torch.equal(one, other) for one, other in zip(before, cost.trainee.model.parameters(), strict=True)]
    assert all(moved)
    assert int(cost.trainee.average.n_averaged) == 4 * 2


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # PyTorch's own, of its compiler
def test_a_run_that_is_compiled_is_measured_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = write_run(tmp_path / "run").config()
    config = config.model_copy(update={"optimization": config.optimization.model_copy(update={"compile": True})})
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))  # needs no C++ compiler
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    steps.measure([steps.Cost("run", config, build_trainee(config, steps.CPU))], rounds=1, steps=1)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2, "the loss and the update"


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"benchmarks\.steps: "):
        steps.main([str(tmp_path)])
