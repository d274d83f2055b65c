"""Learning rates, averages and optimizer groups against their definitions written out."""

import math

import pytest
import torch
from torch import Generator, Tensor, nn
from torch.optim.swa_utils import AveragedModel

from training.config import OptimizationConfig
from training.optimization import build_average, build_optimizer, learning_rate, warmup


class TestLearningRate:
    CONFIG = OptimizationConfig(epochs=1, learning_rate=0.01, final_learning_rate=0.001, warmup_steps=10)

    def test_warms_up_in_a_line_and_falls_in_a_cosine(self) -> None:
        rates = [learning_rate(self.CONFIG, step, 110) for step in range(111)]
        assert rates[:10] == pytest.approx([0.001 * (step + 1) for step in range(10)])
        assert max(rates) == pytest.approx(0.01)
        falling = [0.001 + 0.0045 * (1 + math.cos(math.pi * step / 100)) for step in range(101)]
        assert rates[10:] == pytest.approx(falling)
        assert rates[-1] == pytest.approx(0.001)

    def test_is_never_zero_before_the_end(self) -> None:
        config = OptimizationConfig(epochs=1, warmup_steps=0)
        assert all(learning_rate(config, step, 50) > 0 for step in range(50))

    @pytest.mark.parametrize("total", [1, 9, 10, 11, 55, 99])
    def test_the_warm_up_is_at_most_a_tenth_of_the_run(self, total: int) -> None:
        rates = [learning_rate(self.CONFIG, step, total) for step in range(total)]
        steps = total // 10
        assert warmup(self.CONFIG, total) == steps
        assert rates[:steps] == pytest.approx([0.01 * (step + 1) / steps for step in range(steps)])
        assert rates[steps] == pytest.approx(0.01)
        assert rates[steps:] == sorted(rates[steps:], reverse=True)

    @pytest.mark.parametrize("total", [100, 101, 5000])
    def test_a_longer_run_warms_up_as_it_was_told(self, total: int) -> None:
        assert warmup(self.CONFIG, total) == 10

    def test_stays_at_the_end_after_the_end(self) -> None:
        assert learning_rate(self.CONFIG, 10**6, 110) == pytest.approx(0.001)


def averaged_weight(average: AveragedModel) -> Tensor:
    """The weight of an averaged linear layer."""
    return average.module.get_parameter("weight").detach()


class TestAverage:
    @pytest.mark.parametrize("decay", [0.0, 0.5, 0.999])
    def test_is_the_recursion_written_out(self, decay: float) -> None:
        """Update u (from 0) keeps min(decay, (1 + u) / (10 + u)) of the past; the first is a copy."""
        random = Generator().manual_seed(0)
        model = nn.Linear(3, 2)
        average = build_average(model, OptimizationConfig(epochs=1, ema_decay=decay))
        expected = None
        for update in range(40):
            with torch.no_grad():
                model.weight.copy_(torch.randn(2, 3, generator=random))
            kept = min(decay, (1 + update) / (10 + update))
            now = model.weight.detach().clone()
            expected = now if expected is None else kept * expected + (1 - kept) * now
            average.update_parameters(model)
            torch.testing.assert_close(averaged_weight(average), expected)

    def test_the_count_of_updates_is_never_read_from_the_device(self) -> None:
        """The device "meta" has nothing to read: waiting for an accelerator at every step would show as an error."""
        model = nn.Linear(3, 2)
        average = build_average(model, OptimizationConfig(epochs=1, ema_decay=0.999))
        for _ in range(5):
            average.update_parameters(model)
        assert average.n_averaged.device.type == "cpu"
        assert average.multi_avg_fn is not None
        old, new = torch.zeros(4), torch.ones(4)
        average.multi_avg_fn((old,), (new,), torch.empty((), dtype=torch.long, device="meta"))
        torch.testing.assert_close(old, torch.full((4,), 1 - 6 / 15))

    def test_without_decay_it_is_the_model(self) -> None:
        model = nn.Linear(3, 2)
        average = build_average(model, OptimizationConfig(epochs=1, ema_decay=0))
        for value in (1.0, 2.0, 3.0):
            nn.init.constant_(model.weight, value)
            average.update_parameters(model)
        assert torch.equal(averaged_weight(average), model.weight)

    def test_is_a_copy(self) -> None:
        model = nn.Linear(3, 2)
        average = build_average(model, OptimizationConfig(epochs=1))
        average.update_parameters(model)
        before = averaged_weight(average).clone()
        nn.init.constant_(model.weight, 5.0)
        assert torch.equal(averaged_weight(average), before)


class TestOptimizer:
    def test_only_matrices_and_filters_decay(self) -> None:
        model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.GroupNorm(8, 8), nn.Flatten(), nn.Linear(8, 2))
        optimizer = build_optimizer(model, OptimizationConfig(epochs=1, weight_decay=0.1, learning_rate=1.0))
        before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)  # so that decay alone moves anything
        optimizer.step()
        for name, parameter in model.named_parameters():
            kept = 0.9 if name in ("0.weight", "3.weight") else 1.0
            torch.testing.assert_close(parameter.detach(), kept * before[name])

    def test_has_every_parameter_once(self) -> None:
        model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.GroupNorm(8, 8), nn.Linear(8, 2))
        groups = build_optimizer(model, OptimizationConfig(epochs=1)).param_groups
        held = [id(parameter) for group in groups for parameter in group["params"]]
        assert sorted(held) == sorted(id(parameter) for parameter in model.parameters())

    def test_the_first_step_is_as_long_as_the_learning_rate(self) -> None:
        """Adam's bias correction: m / sqrt(v) is the sign of the gradient."""
        parameter = nn.Parameter(torch.zeros(3))
        module = nn.ParameterList([parameter])
        optimizer = build_optimizer(module, OptimizationConfig(epochs=1, learning_rate=0.01))
        parameter.grad = torch.tensor([5.0, -0.1, 300.0])
        optimizer.step()
        torch.testing.assert_close(parameter.detach(), torch.tensor([-0.01, 0.01, -0.01]))
