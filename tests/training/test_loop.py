"""The loop: what a step does, what stops it, and what it leaves behind when it stops."""

import math
import re
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from model.vae import VAE
from tests.support.digits import STEPS, STEPS_PER_EPOCH, digits_config, restored, run_digits, weights
from training.checkpoint import Trainee, save_checkpoint
from training.config import RunConfig
from training.data.load import load_training
from training.errors import ConfigError, DataError, NonFiniteLoss
from training.feed import Feed
from training.loop import Loop, Plan, build_trainee
from training.objective import training_loss
from training.objectives.loss import Loss
from training.optimization import learning_rate
from training.run import RunFolder, read_log


def lines(run: RunFolder, split: str) -> list[dict[str, Any]]:
    """The metrics log of one split."""
    return [line for line in read_log(run.log_file) if line["split"] == split]


class TestPlan:
    @pytest.mark.parametrize(("images", "steps"), [(125, 1), (249, 1), (250, 2), (755, 6)])
    def test_counts_whole_batches(self, images: int, steps: int) -> None:
        assert Plan.of(digits_config(), images) == Plan(steps, 3 * steps)

    def test_fewer_images_than_a_batch_are_refused_before_there_is_a_run(self, tmp_path: Path) -> None:
        config = digits_config(optimization={"batch_size": 756})
        with pytest.raises(DataError, match="1 training image is fewer"):
            Plan.of(digits_config(), 1)
        with pytest.raises(DataError, match="755 training images are fewer than a batch of 756"):
            run_digits(tmp_path / "run", config)
        assert not (tmp_path / "run").exists()


class TestStart:
    def test_a_fully_connected_decoder_starts_at_the_mean_of_the_training_images(self, tmp_path: Path) -> None:
        config = digits_config(
            model={"network": {"kind": "mlp", "hidden": [6]}}, optimization={"epochs": 1, "learning_rate": 1e-9}
        )
        run, *_ = run_digits(tmp_path / "run", config)
        training, validation = load_training(config.data, config.image, seed=config.seed)
        mean = training.images.astype(float).mean(axis=0)[..., 0] / 255
        assert not (mean == validation.images.astype(float).mean(axis=0)[..., 0] / 255).all()
        trainee = restored(run.last, config)
        for model in (trainee.model, cast(VAE, trainee.average.module)):
            decoded = model.mean_image(torch.zeros(1, 3))[0, 0].detach().double()
            torch.testing.assert_close(decoded, torch.from_numpy(mean).clamp(1e-3, 1 - 1e-3), atol=1e-5, rtol=0)

    def test_weights_are_a_function_of_the_seed(self) -> None:
        first, again, other = (
            weights(build_trainee(digits_config(seed=seed), torch.device("cpu"))) for seed in (1, 1, 2)
        )
        assert all(torch.equal(first[name], again[name]) for name in first)
        assert not all(torch.equal(first[name], other[name]) for name in first)


class TestStep:
    def test_every_epoch_sees_each_image_at_most_once_in_an_order_of_its_own(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: list[Tensor] = []
        original = Loop._order

        def watched(self: Loop, step: int) -> Tensor:
            order = original(self, step)
            seen.append(order)
            return order

        monkeypatch.setattr(Loop, "_order", watched)
        run_digits(tmp_path / "run")
        for order in seen:
            assert torch.equal(order.sort().values, torch.arange(755))
        first, second, third, _ = seen
        assert not torch.equal(first, second)
        assert not torch.equal(second, third)

    def test_follows_the_learning_rate_schedule(self, finished: RunFolder) -> None:
        config = finished.config()
        logged = [line["learning_rate"] for line in lines(finished, "train")]
        expected = [learning_rate(config.optimization, step - 1, STEPS) for step in range(2, STEPS + 1, 2)]
        assert logged == pytest.approx(expected)

    @pytest.mark.parametrize("clip", [None, 12.0, 0.5])
    def test_the_gradient_is_never_longer_than_the_clip(
        self, clip: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        norms: list[float] = []
        original = torch.optim.AdamW.step

        def watched(self: torch.optim.AdamW, closure: None = None) -> None:
            gradients = [p.grad.flatten() for group in self.param_groups for p in group["params"]]
            norms.append(torch.cat(gradients).double().norm().item())
            original(self, closure)

        monkeypatch.setattr(torch.optim.AdamW, "step", watched)
        config = digits_config(optimization={"gradient_clip": clip, "epochs": 1}, schedule={"log_every": 1})
        run, _, _ = run_digits(tmp_path / "run", config)
        logged = [line["gradient_norm"] for line in lines(run, "train")]  # as it was before clipping
        expected = logged if clip is None else [min(norm, clip) for norm in logged]
        assert norms == pytest.approx(expected, rel=1e-4)
        assert clip is None or max(logged) > clip

    def test_the_average_is_the_recursion_over_the_weights_of_every_step(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        history: list[dict[str, Tensor]] = []
        original = Loop._step

        def watched(self: Loop, order: Tensor) -> None:
            original(self, order)
            history.append(weights(self.trainee))

        monkeypatch.setattr(Loop, "_step", watched)
        run, _, _ = run_digits(tmp_path / "run")
        average = history[0]
        for update, now in enumerate(history[1:], start=1):
            kept = min(0.9, (1 + update) / (10 + update))
            average = {name: kept * average[name] + (1 - kept) * now[name] for name in now}
        final = restored(run.last)
        torch.testing.assert_close(dict(final.average.module.state_dict()), average)
        assert all(torch.equal(tensor, history[-1][name]) for name, tensor in weights(final).items())

    def test_without_clipping_or_averaging_it_is_adam_written_out(self, tmp_path: Path) -> None:
        """The first epoch by hand: same weights, same order, same noise, the update of Kingma and Ba (2015)."""
        optimization = {"gradient_clip": None, "ema_decay": 0.0, "weight_decay": 0.0, "epochs": 1}
        config = digits_config(optimization=optimization, model={"network": {"kind": "mlp", "hidden": [16]}})
        run, _, _ = run_digits(tmp_path / "run", config)
        torch.testing.assert_close(by_hand(config), weights(restored(run.last, config)), rtol=1e-4, atol=1e-5)


def by_hand(config: RunConfig) -> dict[str, Tensor]:
    """One epoch of Adam in a few lines that share only the loss with the loop."""
    training, _ = load_training(config.data, config.image, seed=config.seed)
    feed = Feed(training, torch.device("cpu"))
    trainee = build_trainee(config, torch.device("cpu"), mean_image=training.mean_image())
    parameters = list(trainee.model.parameters())
    first, second = ([torch.zeros_like(parameter) for parameter in parameters] for _ in range(2))
    order = torch.randperm(755, generator=torch.Generator().manual_seed(config.seed * 1_000_003))
    for step in range(STEPS_PER_EPOCH):
        images = feed.batch(order[125 * step : 125 * (step + 1)])
        loss = training_loss(trainee.model, images, "dynamic", trainee.generator, autocast=False)
        rate = learning_rate(config.optimization, step, STEPS_PER_EPOCH)
        gradients = torch.autograd.grad(loss.objective, parameters)
        with torch.no_grad():
            for parameter, gradient, m, v in zip(parameters, gradients, first, second, strict=True):
                m.mul_(0.9).add_(0.1 * gradient)
                v.mul_(0.999).add_(0.001 * gradient.square())
                corrected = v / (1 - 0.999 ** (step + 1))
                parameter.sub_(rate * m / (1 - 0.9 ** (step + 1)) / (corrected.sqrt() + 1e-8))
    return weights(trainee)


class TestLog:
    def test_train_lines_are_means_over_the_steps_since_the_last(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        losses: list[float] = []

        def watched(*arguments: Any, **options: Any) -> Loss:
            loss = training_loss(*arguments, **options)
            losses.append(loss.objective.item())
            return loss

        monkeypatch.setattr("training.step.training_loss", watched)
        run, _, _ = run_digits(tmp_path / "run", digits_config(schedule={"log_every": 3}))
        logged = [line["negative_elbo"] for line in lines(run, "train")]
        assert logged == pytest.approx([sum(losses[i : i + 3]) / 3 for i in range(0, STEPS, 3)])
        assert [line["objective"] for line in lines(run, "train")] == logged

    def test_the_speed_is_that_of_training_without_validation(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        clock = 0.0

        def seconds(function: Any, taken: float) -> Any:
            def slow(*arguments: Any, **options: Any) -> Any:
                nonlocal clock
                clock += taken
                return function(*arguments, **options)

            return slow

        monkeypatch.setattr("training.loop.time.perf_counter", lambda: clock)
        monkeypatch.setattr("training.step.training_loss", seconds(training_loss, 0.5))
        monkeypatch.setattr(Loop, "_validate", seconds(Loop._validate, 1000.0))
        run, _, _ = run_digits(tmp_path / "run", digits_config(schedule={"log_every": 4}))
        assert [line["images_per_second"] for line in lines(run, "train")] == pytest.approx([250.0] * 4)

    def test_an_epoch_of_few_steps_is_a_line(self, tmp_path: Path) -> None:
        run, _, _ = run_digits(tmp_path / "run", digits_config(schedule={"log_every": 50}))
        assert [line["step"] for line in lines(run, "train")] == [6, 12, 18]

    def test_minus_elbo_is_rate_plus_distortion_everywhere(self, finished: RunFolder) -> None:
        log = read_log(finished.log_file)
        assert {line["split"] for line in log} == {"train", "validation"}
        for line in log:
            assert line["negative_elbo"] == pytest.approx(line["rate"] + line["distortion"], rel=1e-5)

    def test_weights_are_in_the_objective_and_not_in_the_report(self, tmp_path: Path, finished: RunFolder) -> None:
        config = digits_config(objective={"kind": "elbo", "beta": 4.0}, schedule={"log_every": 1})
        run, _, printed = run_digits(tmp_path / "run", config)
        for line in lines(run, "train"):
            assert line["objective"] == pytest.approx(4 * line["rate"] + line["distortion"], rel=1e-5)
            assert line["negative_elbo"] == pytest.approx(line["rate"] + line["distortion"], rel=1e-5)
        for line in lines(run, "validation"):
            assert (
                line["criterion"] == line["negative_elbo"] == pytest.approx(line["rate"] + line["distortion"], rel=1e-5)
            )
        assert lines(run, "validation")[-1]["rate"] < lines(finished, "validation")[-1]["rate"]
        assert "objective: minimizes distortion + 4 rate" in printed

    def test_beta_follows_its_schedule(self, tmp_path: Path) -> None:
        objective = {"kind": "elbo", "beta": 2.0, "schedule": {"kind": "warmup", "over_epochs": 2}}
        run, _, _ = run_digits(tmp_path / "run", digits_config(objective=objective, schedule={"log_every": 1}))
        betas = [(line["objective"] - line["distortion"]) / line["rate"] for line in lines(run, "train")]
        assert betas == pytest.approx([min(2.0, 2 * step / 12) for step in range(STEPS)], rel=1e-2, abs=1e-3)

    def test_an_autoencoder_has_no_rate_and_no_elbo(self, tmp_path: Path) -> None:
        run, _, printed = run_digits(tmp_path / "run", digits_config(objective={"kind": "autoencoder"}))
        assert all(not {"rate", "negative_elbo"} & line.keys() for line in read_log(run.log_file))
        assert all(line["objective"] == line["distortion"] for line in lines(run, "train"))
        (best, *_) = sorted(lines(run, "validation"), key=lambda line: float(line["distortion"]))
        assert restored(run.best).progress.best_step == best["step"]
        assert f"validation distortion at the mean {best['distortion']:.2f} nats" in printed
        assert "-ELBO" not in printed

    def test_it_learns(self, finished: RunFolder) -> None:
        curve = [line["negative_elbo"] for line in lines(finished, "validation")]
        assert curve[-1] < curve[0]


class TestLast:
    @pytest.mark.parametrize(
        ("schedule", "steps"),
        [
            ({"validate_every": 1, "checkpoint_every": 4}, [4, 6, 8, 12, 16, 18]),
            ({"validate_every": 2, "checkpoint_every": 1000}, [12, 18]),
            ({"validate_every": 2, "checkpoint_every": 7}, [7, 12, 14, 18]),
        ],
    )
    def test_is_written_at_validations_and_at_its_own_interval(
        self, schedule: dict[str, int], steps: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        saved: list[int] = []

        def watched(path: Path, trainee: Trainee) -> None:
            if path.name == "last.safetensors":
                saved.append(trainee.progress.step)
            save_checkpoint(path, trainee)

        monkeypatch.setattr("training.loop.save_checkpoint", watched)
        run_digits(tmp_path / "run", digits_config(schedule=schedule))
        assert saved == steps


class TestBest:
    def test_is_the_checkpoint_with_the_lowest_validation(self, finished: RunFolder) -> None:
        progress = restored(finished.best).progress
        best = min(lines(finished, "validation"), key=lambda line: float(line["negative_elbo"]))
        assert progress.step == progress.best_step == best["step"]
        assert progress.best_negative_elbo == best["negative_elbo"]

    def test_an_importance_weighted_bound_is_judged_by_itself(self, tmp_path: Path) -> None:
        """And the ELBO is reported beside it, from the same latents."""
        config = digits_config(objective={"kind": "iwae", "samples": 4})
        run, _, printed = run_digits(tmp_path / "run", config)
        validations = lines(run, "validation")
        best = min(validations, key=lambda line: float(line["criterion"]))
        assert restored(run.best).progress.best_negative_elbo == best["criterion"]
        for line in read_log(run.log_file):
            assert line["negative_elbo"] == pytest.approx(line["rate"] + line["distortion"], rel=1e-5)
            assert line["criterion" if line["split"] == "validation" else "objective"] < line["negative_elbo"]
        assert f"validation -L_4 {best['criterion']:.2f} nats  (-ELBO {best['negative_elbo']:.2f} nats = " in printed

    def test_stays_the_best_while_validation_gets_worse(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        validations = iter([50.0, 40.0, 45.0])
        patch_validation(monkeypatch, validations)
        run, _, _ = run_digits(tmp_path / "run")
        assert restored(run.best).progress.step == 2 * STEPS_PER_EPOCH
        assert restored(run.last).progress.best_step == 2 * STEPS_PER_EPOCH
        assert restored(run.last).progress.validations_without_improvement == 1

    def test_validation_does_not_disturb_training(self, tmp_path: Path, finished: RunFolder) -> None:
        """It draws from a generator of its own: validating less often leads to the same weights."""
        run, _, _ = run_digits(tmp_path / "run", digits_config(schedule={"validate_every": 3}))
        assert len(lines(run, "validation")) == 1
        ours, theirs = weights(restored(run.last)), weights(restored(finished.last))
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)

    def test_the_last_epoch_is_validated_whatever_the_interval(self, tmp_path: Path) -> None:
        run, _, _ = run_digits(tmp_path / "run", digits_config(schedule={"validate_every": 2}))
        assert [line["step"] for line in lines(run, "validation")] == [12, 18]


class TestEarlyStopping:
    def test_stops_after_so_many_validations_without_improvement(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        patch_validation(monkeypatch, iter([50.0, 40.0, 41.0, 40.0, 39.0]))
        config = digits_config(optimization={"epochs": 10, "early_stopping": 2})
        run, complete, _ = run_digits(tmp_path / "run", config)
        assert complete
        progress = restored(run.last, config).progress
        assert progress.step == 4 * STEPS_PER_EPOCH  # equal is no improvement
        assert progress.finished
        assert restored(run.best, config).progress.step == 2 * STEPS_PER_EPOCH

    def test_an_improvement_starts_the_count_anew(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        patch_validation(monkeypatch, iter([50.0, 51.0, 49.0, 50.0, 48.0]))
        config = digits_config(optimization={"epochs": 5, "early_stopping": 2})
        run, _, _ = run_digits(tmp_path / "run", config)
        assert restored(run.last, config).progress.step == 5 * STEPS_PER_EPOCH

    def test_a_stopped_run_stays_stopped(self, tmp_path: Path) -> None:
        """Weights that do not move do not improve."""
        config = digits_config(optimization={"epochs": 10, "early_stopping": 1, "learning_rate": 1e-30})
        run, complete, _ = run_digits(tmp_path / "run", config)
        assert complete
        assert restored(run.last, config).progress.step == 2 * STEPS_PER_EPOCH
        _, complete, _ = run_digits(tmp_path / "run", config, resume=True)
        assert complete
        assert restored(run.last, config).progress.step == 2 * STEPS_PER_EPOCH


def patch_validation(monkeypatch: pytest.MonkeyPatch, values: Any) -> None:
    """Let the validations come out as told."""

    def told(*_: object, **__: object) -> dict[str, float]:
        value = float(next(values))
        return {"criterion": value, "negative_elbo": value, "distortion": value, "rate": 0.0}

    monkeypatch.setattr("training.loop.validation_loss", told)


class TestNonFinite:
    @pytest.mark.parametrize("bad", [math.nan, math.inf])
    @pytest.mark.parametrize("step", [1, 9, 10, 12, 18])
    def test_the_step_is_named_and_the_last_good_checkpoint_stays(
        self, step: int, bad: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls = 0

        def spoiled(*arguments: Any, **options: Any) -> Loss:
            nonlocal calls
            calls += 1
            loss = training_loss(*arguments, **options)
            return loss._replace(objective=loss.objective * bad) if calls == step else loss

        with monkeypatch.context() as patch:
            patch.setattr("training.step.training_loss", spoiled)
            with pytest.raises(NonFiniteLoss, match=rf"^step {step}: .* is NaN or infinite\."):
                run_digits(tmp_path / "run")
        run = RunFolder(tmp_path / "run")
        checkpoints = [saved for saved in (4, 6, 8, 12, 16) if saved < step]
        assert run.last.exists() == bool(checkpoints)
        assert all(math.isfinite(line["negative_elbo"]) for line in read_log(run.log_file))
        if checkpoints:
            good = restored(run.last)
            assert good.progress.step == checkpoints[-1]
            assert all(tensor.isfinite().all() for tensor in weights(good).values())
            run_digits(run.folder, resume=True)  # and from there it goes on

    def test_a_monstrous_learning_rate_does_it_by_itself(self, tmp_path: Path) -> None:
        config = digits_config(optimization={"learning_rate": 1e15, "warmup_steps": 0, "gradient_clip": None})
        with pytest.raises(NonFiniteLoss) as caught:
            run_digits(tmp_path / "run", config)
        assert re.match(r"step \d+: ", str(caught.value))
        assert "lower optimization.learning_rate" in str(caught.value)

    def test_the_advice_can_be_followed(self, tmp_path: Path) -> None:
        """Resumed, the same happens at the same step; with another setting it is another run, which --run names."""
        config = digits_config(optimization={"learning_rate": 1e15, "warmup_steps": 0, "gradient_clip": None})
        messages = []
        for resume in (False, True):
            with pytest.raises(NonFiniteLoss) as caught:
                run_digits(tmp_path / "run", config, resume=resume)
            messages.append(str(caught.value))
        assert messages[0] == messages[1]
        assert "--resume would lead here again: start another run (--run FOLDER)" in messages[0]
        with pytest.raises(ConfigError, match="start another with --run"):
            run_digits(tmp_path / "run", resume=True)
        _, complete, _ = run_digits(tmp_path / "another")
        assert complete

    def test_a_validation_counts_too(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        patch_validation(monkeypatch, iter([50.0, math.nan]))
        with pytest.raises(NonFiniteLoss, match=r"^step 12: the validation -ELBO is NaN or infinite"):
            run_digits(tmp_path / "run")
        run = RunFolder(tmp_path / "run")
        assert restored(run.best).progress.step == 6
        assert restored(run.last).progress.step == 8
