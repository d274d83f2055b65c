"""Compiled steps: the same loss, gradient and noise as uncompiled ones, whatever is trained; and runs of them."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
import torch._inductor.config as inductor
from torch import Generator, Tensor
from torch._dynamo.exc import TorchDynamoException

from model.vae import VAE
from tests.support.digits import assert_same_weights, digits_config, run_digits
from training.compiled import check_compiler, compiled, compiling
from training.config import RunConfig
from training.errors import CompilationFailed, ConfigError
from training.loop import build_trainee
from training.objective import training_loss
from training.objectives.choice import minimized
from training.objectives.loss import Loss
from training.run import read_log

# PyTorch, of itself: when it imports its compiler, and when that looks at what a tensor has.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning"),
]

CPU = torch.device("cpu")
MLP = {"network": {"kind": "mlp", "hidden": [6]}}
TRAINED: dict[str, dict[str, Any]] = {
    "elbo": {},
    "free-bits": {"objective": {"kind": "elbo", "free_bits": 0.1}},
    "iwae": {"objective": {"kind": "iwae", "samples": 3}},
    "iwae-stl": {"objective": {"kind": "iwae", "samples": 3, "gradient": "stl"}},
    "iwae-dreg": {"objective": {"kind": "iwae", "samples": 3, "gradient": "dreg"}},
    "iwae-some": {"objective": {"kind": "iwae", "samples": 6, "gradient": "dreg", "gradient_samples": 2}},
    "beta-tc": {"objective": {"kind": "beta-tc", "beta": 2.0}},
    "autoencoder": {"objective": {"kind": "autoencoder"}},
    "full": {"model": MLP | {"posterior": {"kind": "full"}}},
    "planar": {"model": MLP | {"posterior": {"kind": "planar", "steps": 2}}},
    "radial": {"model": MLP | {"posterior": {"kind": "radial", "steps": 2}}},
    "iaf": {"model": MLP | {"posterior": {"kind": "iaf", "steps": 2}}},
    "sylvester": {"model": MLP | {"posterior": {"kind": "sylvester-householder", "steps": 2}}},
    "vamp": {"model": MLP | {"prior": {"kind": "vamp", "components": 4}}},
    "gaussian": {"model": MLP | {"likelihood": {"family": "gaussian"}}, "data": {"binarization": "none"}},
    "logistic": {"model": MLP | {"likelihood": {"family": "discretized-logistic"}}, "data": {"binarization": "none"}},
}


@pytest.fixture(autouse=True)
def _fresh() -> Any:
    """What was compiled for one test is nothing to the next, which counts."""
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch.compiler.reset()


@pytest.fixture
def captured_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that the compiler does but to write C++, which takes most of its time and knows nothing of VAEs."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))


@pytest.fixture
def trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run does not look whether it can compile."""
    monkeypatch.setattr("training.train.check_compiler", lambda _: None)


def both(
    config: RunConfig, steps: int = 1, rows: slice | None = None, *, autocast: bool = False
) -> list[list[tuple[dict[str, Tensor], dict[str, Tensor]]]]:
    """Of uncompiled and compiled steps, each: the objective and its parts, and the gradients."""
    images = torch.rand(20, *config.image.shape, generator=Generator().manual_seed(0))
    results = []
    for function in (training_loss, in_compiling(compiled(training_loss))):
        trainee = build_trainee(config, CPU, pseudo_inputs=images[:1].permute(0, 2, 3, 1).double().numpy())
        found = []
        for step in range(steps):
            objective = minimized(config.objective, step, total_steps=steps, steps_per_epoch=1, images=500)
            loss = function(
                trainee.model,
                images,
                config.data.binarization,
                trainee.generator,
                autocast=autocast,
                objective=objective,
                rows=rows,
            )
            trainee.model.zero_grad()
            torch.autograd.backward(loss.objective)
            gradients = {name: p.grad.clone() for name, p in trainee.model.named_parameters() if p.grad is not None}
            found.append(({"objective": loss.objective.detach(), **loss.parts}, gradients))
        results.append(found)
    assert graphs() >= 1
    return results


def in_compiling(function: Callable[..., Loss]) -> Callable[..., Loss]:
    """As the loop calls it."""

    def called(*arguments: Any, **options: Any) -> Loss:
        with compiling():
            return function(*arguments, **options)

    return called


def graphs() -> int:
    """That were compiled in this test."""
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])


def test_who_does_not_compile_does_not_wait_for_the_compiler() -> None:
    """To import it takes as long as to import the rest of PyTorch."""
    code = "import sys, training.train; sys.exit('torch._dynamo' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.usefixtures("captured_only")
@pytest.mark.parametrize("trained", TRAINED)
def test_a_compiled_step_is_an_uncompiled_one(trained: str) -> None:
    changes = dict(TRAINED[trained])
    document = {"latent_dim": 3, "likelihood": {"family": "bernoulli"}}
    changes["model"] = document | changes.get("model", MLP)
    ((plain, plain_gradients),), ((fused, fused_gradients),) = both(digits_config(**changes))
    torch.testing.assert_close(fused, plain, rtol=1e-5, atol=1e-5)
    assert plain_gradients
    torch.testing.assert_close(fused_gradients, plain_gradients, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("captured_only")
def test_so_is_that_of_a_process_with_its_share_of_the_batch() -> None:
    ((plain, plain_gradients),), ((fused, fused_gradients),) = both(digits_config(), rows=slice(5, 15))
    torch.testing.assert_close(fused, plain, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(fused_gradients, plain_gradients, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("captured_only")
@pytest.mark.parametrize(
    "schedule", [{"kind": "warmup", "over_epochs": 20}, {"kind": "cyclical", "cycles": 2, "rising": 0.9}]
)
def test_a_beta_that_moves_is_not_compiled_for_each_of_its_values(schedule: dict[str, Any]) -> None:
    config = digits_config(objective={"kind": "elbo", "schedule": schedule})
    plain, fused = both(config, steps=25)
    objectives = [step["objective"].item() for step, _ in fused]
    assert objectives == pytest.approx([step["objective"].item() for step, _ in plain], rel=1e-5)
    assert len(set(objectives)) > 15
    assert graphs() <= 3


@pytest.mark.usefixtures("captured_only")
def test_in_bfloat16_too() -> None:
    """Convolutions and all; where a copy to bfloat16 is rounded may differ."""
    ((plain, plain_gradients),), ((fused, fused_gradients),) = both(digits_config(), autocast=True)
    torch.testing.assert_close(fused, plain, rtol=1e-2, atol=1e-2)
    for name, gradient in plain_gradients.items():
        assert (fused_gradients[name] - gradient).norm() <= 0.05 * gradient.norm() + 1e-3, name


@pytest.mark.usefixtures("captured_only")
def test_what_would_be_compiled_at_every_step_is_an_error() -> None:
    """And no uncompiled run: PyTorch's default is a warning, and to go on without. Others keep theirs."""

    def loss(model: VAE, size: list[int]) -> Any:
        return torch.zeros(1) + len(size) * torch.ones(len(size))

    function: Any = compiled(loss)
    with pytest.raises(
        CompilationFailed, match=r"^optimization.compile: PyTorch failed to compile a step \(.*\); start"
    ):
        [in_compiling(function)(None, [*range(size)]) for size in range(40)]
    torch.compiler.reset()
    [function(None, [*range(size)]) for size in range(40)]


@pytest.mark.usefixtures("captured_only", "trusted")
def test_a_process_may_train_many_models(tmp_path: Path) -> None:
    """PyTorch compiles a function for so many models only, eight unless it is told otherwise."""
    for latents in range(1, 5):
        torch._dynamo.utils.counters.clear()
        config = digits_config(model={**MLP, "latent_dim": latents}, optimization={"compile": True, "epochs": 1})
        with torch._dynamo.config.patch(recompile_limit=2):
            assert run_digits(tmp_path / str(latents), config)[1]
        assert graphs() >= 1


@pytest.mark.usefixtures("compiler")
def test_a_run_that_is_compiled_learns_as_the_other_does(tmp_path: Path) -> None:
    """C++ and all."""
    plain, *_ = run_digits(tmp_path / "plain")
    fused, complete, printed = run_digits(tmp_path / "fused", digits_config(optimization={"compile": True}))
    assert complete
    assert "compiling: " in printed
    expected = [line["negative_elbo"] for line in read_log(plain.log_file)]
    assert [line["negative_elbo"] for line in read_log(fused.log_file)] == pytest.approx(expected, rel=1e-4)
    assert graphs() >= 1


@pytest.mark.usefixtures("compiler")
def test_without_a_compiler_nothing_begins(tmp_path: Path) -> None:
    """Though there may be code in PyTorch's cache that one has compiled."""
    check_compiler(CPU)
    expected = r"cannot compile for cpu here \(InvalidCxxCompiler.*\). It takes g\+\+, or what CXX names"
    with inductor.patch({"cpp.cxx": (None, "no-such-compiler")}), pytest.raises(ConfigError, match=expected):
        run_digits(tmp_path / "run", digits_config(optimization={"compile": True}))
    assert not (tmp_path / "run").exists()


def test_where_pytorch_is_told_to_compile_nothing_nothing_begins(tmp_path: Path) -> None:
    with torch._dynamo.config.patch(disable=True), pytest.raises(ConfigError, match="told to compile nothing"):
        run_digits(tmp_path / "run", digits_config(optimization={"compile": True}))
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize("broken_off", ["loss", "update"])
def test_what_ctrl_c_breaks_off_while_it_is_compiled_is_an_interruption(
    broken_off: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The signal goes to the C++ compiler too, which dies of it. Resumed, the run is one that was left alone."""
    config = digits_config(optimization={"compile": True})
    calls = 0

    def interrupted() -> NoReturn:
        os.kill(os.getpid(), signal.SIGINT)
        raise TorchDynamoException("C++ compile error")

    def loss_dies(loss: Callable[..., Loss]) -> Callable[..., Loss]:
        def called(*arguments: Any, **options: Any) -> Loss:
            nonlocal calls
            calls += 1
            result = loss(*arguments, **options)  # which draws noise
            if calls == 2:
                interrupted()
            return result

        return called

    def update_dies(_: Callable[..., Tensor], *, whole: bool) -> Callable[..., Tensor]:
        assert whole
        return lambda *_: interrupted()

    def as_it_is(function: Callable[..., Any], **_: bool) -> Callable[..., Any]:
        return function

    monkeypatch.setattr("training.step.compiled", as_it_is)
    monkeypatch.setattr("training.update.compiled", as_it_is)
    reference, *_ = run_digits(tmp_path / "reference", config)
    with monkeypatch.context() as patch:
        if broken_off == "loss":
            patch.setattr("training.step.compiled", loss_dies)
        else:
            patch.setattr("training.update.compiled", update_dies)
        run, complete, printed = run_digits(tmp_path / "run", config)
    assert not complete
    assert "interrupted after step 1; a checkpoint is written" in printed
    run, complete, _ = run_digits(tmp_path / "run", config, resume=True)
    assert complete
    assert_same_weights(run, reference)


@pytest.mark.usefixtures("trusted")
def test_a_step_that_cannot_be_compiled_ends_the_run_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*arguments: Any, **options: Any) -> Loss:
        raise TorchDynamoException("backend='inductor' raised:\nCppCompileError: no Python.h")

    monkeypatch.setattr("training.step.compiled", lambda _: fails)
    with pytest.raises(CompilationFailed, match=r"compile a step \(CppCompileError: no Python.h\); start another"):
        run_digits(tmp_path / "run", digits_config(optimization={"compile": True}))
