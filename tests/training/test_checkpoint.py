"""A checkpoint gives back everything, holds nothing that executes, and is refused in one line when it is not whole."""

import json
import pickletools
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from model.vae import VAE
from tests.support.digits import STEPS, digits_config, restored
from training.checkpoint import FORMAT, Trainee, load_average, restore_checkpoint, save_checkpoint
from training.config import RunConfig
from training.errors import CheckpointError
from training.loop import build_trainee
from training.objective import training_loss
from training.run import RunFolder

GAUSSIAN = digits_config(
    model={"likelihood": {"family": "gaussian"}, "network": {"kind": "mlp", "hidden": [7]}},
    data={"binarization": "none"},
)


def content(path: Path) -> tuple[dict[str, str], dict[str, bytes]]:
    """Everything in a checkpoint; the order in the file is not part of it."""
    with safe_open(path, framework="pt") as file:
        return file.metadata(), {name: file.get_tensor(name).numpy().tobytes() for name in file.keys()}  # noqa: SIM118 (not a dict)


def trained(config: RunConfig, steps: int = 3) -> Trainee:
    """A trainee that has moved."""
    trainee = build_trainee(config, torch.device("cpu"))
    images = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    for _ in range(steps):
        trainee.optimizer.zero_grad()
        loss = training_loss(trainee.model, images, config.data.binarization, trainee.generator, autocast=False)
        torch.autograd.backward(loss.objective)
        trainee.optimizer.step()
        trainee.average.update_parameters(trainee.model)
        trainee.progress.step += 1
    trainee.progress.best_negative_elbo = 0.1 + 0.2  # has no short decimal form
    trainee.progress.best_step = 2
    return trainee


@pytest.mark.parametrize("config", [digits_config(), GAUSSIAN], ids=["bernoulli-conv", "gaussian-mlp"])
def test_what_is_restored_is_what_was_saved(config: RunConfig, tmp_path: Path) -> None:
    """Saved again, the restored trainee gives the same tensors and the same document, to the last bit."""
    trainee = trained(config)
    save_checkpoint(tmp_path / "first", trainee)
    other = trained(config, steps=1)
    restore_checkpoint(tmp_path / "first", other)
    save_checkpoint(tmp_path / "second", other)
    assert content(tmp_path / "first") == content(tmp_path / "second")
    assert other.progress == trainee.progress
    assert torch.equal(torch.randn(9, generator=other.generator), torch.randn(9, generator=trainee.generator))


def test_the_average_is_what_evaluation_loads(tmp_path: Path) -> None:
    config = digits_config()
    trainee = trained(config)
    save_checkpoint(tmp_path / "it", trainee)
    model = VAE(config.model, config.image.shape)
    assert load_average(tmp_path / "it", model) == 3
    average = trainee.average.module.state_dict()
    assert all(torch.equal(tensor, average[name]) for name, tensor in model.state_dict().items())
    assert any(not torch.equal(tensor, trainee.model.state_dict()[name]) for name, tensor in average.items())


def test_holds_tensors_and_json_and_nothing_that_executes(finished: RunFolder) -> None:
    data = finished.last.read_bytes()
    with safe_open(finished.last, framework="pt") as file:
        metadata = file.metadata()
        names = set(file.keys())
    assert set(metadata) == {"format", "state"}
    assert json.loads(metadata["state"])["progress"]["step"] == STEPS
    assert {name.partition(".")[0] for name in names} == {"model", "average", "optimizer", "generator"}
    length = int.from_bytes(data[:8], "little")
    json.loads(data[8 : 8 + length])  # a header of JSON, then raw numbers
    with pytest.raises(ValueError, match=r"opcode|pickle"):
        list(pickletools.genops(data))


class TestRefused:
    """Each with one line that names the file."""

    def refuses(self, path: Path, message: str, config: RunConfig | None = None) -> None:
        config = config or digits_config()
        trainee = build_trainee(config, torch.device("cpu"))
        for load in (lambda: restore_checkpoint(path, trainee), lambda: load_average(path, trainee.model)):
            with pytest.raises(CheckpointError) as caught:
                load()
            assert str(caught.value).startswith(f"{path}: ")
            assert "\n" not in str(caught.value)
            assert message in str(caught.value) or "do not fit this architecture" in str(caught.value)

    def test_missing(self, tmp_path: Path) -> None:
        self.refuses(tmp_path / "absent", "there is no checkpoint")

    @pytest.mark.parametrize("kept", [0, 4, 8, 500, 20_000, -1])
    def test_cut_short(self, kept: int, finished: RunFolder, tmp_path: Path) -> None:
        path = tmp_path / "cut"
        path.write_bytes(finished.last.read_bytes()[:kept])
        self.refuses(path, "damaged, or not a checkpoint")

    @pytest.mark.parametrize("content", [b"\x80\x04K\x01.", b"PK\x03\x04" * 50, b"\xff" * 100], ids=["p", "zip", "ff"])
    def test_something_else(self, content: bytes, tmp_path: Path) -> None:
        (tmp_path / "else").write_bytes(content)
        self.refuses(tmp_path / "else", "damaged, or not a checkpoint")

    def test_a_folder(self, tmp_path: Path) -> None:
        self.refuses(tmp_path, "damaged, or not a checkpoint")

    def test_other_safetensors(self, tmp_path: Path) -> None:
        save_file({"weight": torch.zeros(3)}, tmp_path / "weights")
        self.refuses(tmp_path / "weights", "not a checkpoint of this version")

    @pytest.mark.parametrize(
        "metadata",
        [
            {},
            {"state": "{"},
            {"state": "[]"},
            {"state": "{}"},
            {"state": '{"progress": {"step": 1, "stage": 2}}'},
            {"state": '{"progress": [1]}'},
        ],
    )
    def test_a_header_that_makes_no_sense(self, metadata: dict[str, str], finished: RunFolder, tmp_path: Path) -> None:
        save_file(load_file(finished.last), tmp_path / "odd", {"format": FORMAT, **metadata})
        self.refuses(tmp_path / "odd", "damaged")

    @pytest.mark.parametrize("prefix", ["model.", "average.", "optimizer.", "generator"])
    def test_without_a_part(self, prefix: str, finished: RunFolder, tmp_path: Path) -> None:
        with safe_open(finished.last, framework="pt") as file:
            metadata = file.metadata()
        kept = {name: tensor for name, tensor in load_file(finished.last).items() if not name.startswith(prefix)}
        save_file(kept, tmp_path / "part", metadata)
        with pytest.raises(CheckpointError, match="it does not belong to this configuration"):
            restored(tmp_path / "part")

    def test_of_another_architecture(self, finished: RunFolder) -> None:
        self.refuses(finished.last, "it does not belong to this configuration", digits_config(model={"latent_dim": 4}))


def test_a_failing_disk_keeps_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainee = trained(digits_config())
    path = tmp_path / "last"
    save_checkpoint(path, trainee)
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    trainee.progress.step += 1
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(OSError, match="No space left"):
            save_checkpoint(path, trainee)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["last"]
