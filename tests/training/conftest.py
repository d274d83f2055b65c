"""What every test of training shares."""

from collections.abc import Iterator

import pytest
import torch

from tests.support.digits import run_digits
from tests.support.programs import lack
from training.chains import ChainSettings
from training.compiled import check_compiler
from training.errors import ConfigError
from training.run import RunFolder


@pytest.fixture(scope="module")
def few_tuning_moves() -> Iterator[None]:
    """Annealing whose numbers nobody looks at is not to take its time to find step sizes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("model.ais._TUNING_MOVES", 4)
        patch.setattr("model.ais._FIRST_MOVES", 2)
        yield


@pytest.fixture
def few_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Posteriors whose draws nobody looks at are drawn after few."""
    monkeypatch.setattr("training.figures.posteriors.ChainSettings", lambda: ChainSettings(warmup=4, iterations=20))


@pytest.fixture
def compiler() -> None:
    """What `optimization.compile` compiles with, or no test."""
    try:
        check_compiler(torch.device("cpu"))
    except ConfigError as error:
        lack(str(error))


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A complete, uninterrupted run, to be read only."""
    before = torch.get_num_threads()
    run, complete, _ = run_digits(tmp_path_factory.mktemp("finished") / "run")
    torch.set_num_threads(before)
    assert complete
    return run
