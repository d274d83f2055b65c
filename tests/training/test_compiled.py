"""Compiled steps: the same loss, gradient and noise as uncompiled ones, whatever is trained; and runs of them."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._inductor.config as inductor
from torch import Generator, Tensor
from torch._dynamo.exc import FailOnRecompileLimitHit

from model.vae import VAE
from tests.support.digits import digits_config, run_digits
from training.compiled import compiled
from training.config import RunConfig
from training.errors import ConfigError
from training.loop import build_trainee
from training.objective import training_loss
from training.objectives.choice import minimized
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


def both(
    config: RunConfig, steps: int = 1, rows: slice | None = None
) -> list[list[tuple[dict[str, Tensor], dict[str, Tensor]]]]:
    """Of uncompiled and compiled steps, each: the objective and its parts, and the gradients."""
    images = torch.rand(20, *config.image.shape, generator=Generator().manual_seed(0))
    results = []
    for function in (training_loss, compiled(training_loss)):
        trainee = build_trainee(config, CPU, pseudo_inputs=images[:1].permute(0, 2, 3, 1).double().numpy())
        found = []
        for step in range(steps):
            objective = minimized(config.objective, step, total_steps=steps, steps_per_epoch=1, images=500)
            loss = function(
                trainee.model,
                images,
                config.data.binarization,
                trainee.generator,
                autocast=False,
                objective=objective,
                rows=rows,
            )
            trainee.model.zero_grad()
            torch.autograd.backward(loss.objective)
            gradients = {name: p.grad.clone() for name, p in trainee.model.named_parameters() if p.grad is not None}
            found.append(({"objective": loss.objective.detach(), **loss.parts}, gradients))
        results.append(found)
    return results


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
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 3


@pytest.mark.usefixtures("captured_only")
def test_what_would_be_compiled_at_every_step_is_an_error() -> None:
    """And no uncompiled run: PyTorch's default is a warning, and to go on without."""

    def loss(model: VAE, size: list[int]) -> Any:
        return torch.zeros(1) + len(size) * torch.ones(len(size))

    function = compiled(loss)
    with pytest.raises(FailOnRecompileLimitHit):
        [function(None, [*range(size)]) for size in range(40)]  # type: ignore[arg-type]


@pytest.mark.usefixtures("compiler")
def test_a_run_that_is_compiled_learns_as_the_other_does(tmp_path: Path) -> None:
    """C++ and all."""
    plain, *_ = run_digits(tmp_path / "plain")
    fused, complete, printed = run_digits(tmp_path / "fused", digits_config(optimization={"compile": True}))
    assert complete
    assert "compiling: " in printed
    expected = [line["negative_elbo"] for line in read_log(plain.log_file)]
    assert [line["negative_elbo"] for line in read_log(fused.log_file)] == pytest.approx(expected, rel=1e-4)
    assert fused.last.read_bytes() != plain.last.read_bytes()  # rounded elsewhere: it was compiled


def test_without_a_compiler_nothing_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    expected = r"cannot compile for cpu here \(InvalidCxxCompiler.*\). It takes a C\+\+ compiler"
    with inductor.patch({"cpp.cxx": (None, "no-such-compiler")}), pytest.raises(ConfigError, match=expected):
        run_digits(tmp_path / "run", digits_config(optimization={"compile": True}))
    assert not (tmp_path / "run").exists()
