"""train -> measure -> draw -> export -> serve, each through the command line, then over a port: what a client gets is
what PyTorch computes."""

import io
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from model.bundle.latents import interpolate, posterior_noise, prior_latents
from model.bundle.pixels import from_network, to_network, to_uint8
from model.bundle.runtime import Posterior
from model.bundle.scores import observed
from model.bundle.store import open_bundle
from tests.support.server import ROOT, environment, serving
from training.data.load import load_test, load_training
from training.run import RunFolder
from training.trained import TorchModel, load_best

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]
NPY = {"content-type": "application/x-npy", "accept": "application/x-npy"}
TOLERANCE = 1e-4

# Small networks, few passes: what is tested is that the parts fit, not that the model is good.
SMOKE = ["smoke", "optimization.epochs=2", "evaluation.images=20", "evaluation.importance_samples=10"]
FLOW = [*SMOKE, "model.posterior.kind=sylvester-orthogonal", "model.posterior.bottleneck=4", "model.posterior.steps=2"]
FOLDER = [
    "folder",
    "name=photos",
    "image.height=28",
    "image.width=20",
    "model.latent_dim=6",
    "model.network.channels=8",
    "model.network.max_channels=16",
    "model.network.hidden=32",
    "optimization.epochs=2",
    "optimization.batch_size=16",
    "optimization.warmup_steps=2",
    "optimization.ema_decay=0.5",
    "evaluation.importance_samples=10",
]


def write_photos(folder: Path) -> list[Path]:
    """Color pictures of many sizes, with grey, transparent and turned ones among them, in folders by kind."""
    random = np.random.default_rng(0)
    files = []
    for number in range(60):
        height, width = random.integers(9, 70, 2)
        corners = random.integers(0, 256, (2, 2, 3), dtype=np.uint8)
        picture = Image.fromarray(corners).resize((int(width), int(height)), Image.Resampling.BICUBIC)
        if number % 10 == 3:
            picture = picture.convert("L")
        if number % 10 == 6:
            picture.putalpha(int(random.integers(256)))
        kind, suffix = ("cats", "png") if number % 2 == 0 else ("dogs", "jpg")
        (folder / kind).mkdir(parents=True, exist_ok=True)
        files.append(folder / kind / f"{number:02}.{suffix}")
        exif = Image.Exif()
        if number % 10 == 5:
            exif[0x0112] = 6  # the camera was held upright
        picture.save(files[-1], exif=exif)
    return files


@dataclass(frozen=True)
class Served:
    """A model that was trained and is served now, and the run it came from."""

    run: RunFolder
    bundle: Path
    url: str
    files: list[Path]

    @property
    def torch(self) -> TorchModel:
        return load_best(self.run)[0]

    def images(self) -> Bytes:
        """All images of all splits, as training and evaluation saw them."""
        config = self.run.config()
        parts = [*load_training(config.data, config.image, seed=config.seed)]
        parts.append(load_test(config.data, config.image, seed=config.seed))
        return np.concatenate([np.asarray(part.images) for part in parts])


@pytest.fixture(scope="module", params=[SMOKE, FLOW, FOLDER], ids=["digits", "flow", "photos"])
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    name, *changes = request.param
    home = tmp_path_factory.mktemp(name)
    files = []
    if name == "folder":
        files = write_photos(home / "pictures")
        changes += [f"data.path={home / 'pictures'}"]
    sets = [word for change in changes for word in ("--set", change)]
    command = [sys.executable, "-c", "import vae; vae.main()", "train"]
    done = subprocess.run(
        [*command, name, *sets, "--run", home / "run", "--publish", home],
        cwd=ROOT,
        env=environment() | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    run = RunFolder(home / "run")
    bundle = home / run.config().name
    with serving(bundle, drain_delay=0) as server:
        yield Served(run, bundle, server.url, files)
        server.signal()
        status, imported = server.ended()
        assert status == 0, server.log
        assert imported.split() == ["0", "0"], "the server imported torch or training"


def npy(array: NDArray[np.generic]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def numbers(answer: httpx.Response) -> Floats:
    """An .npy answer; uint8 levels become floats of the same values."""
    assert answer.status_code == 200, answer.text
    return np.asarray(np.load(io.BytesIO(answer.content)), np.float32)


def test_a_run_leaves_its_configuration_its_numbers_and_its_figures(served: Served) -> None:
    assert {file.name for file in served.run.folder.iterdir()} >= {"config.json", "run.json", "metrics.jsonl"}
    metrics = json.loads(served.run.metrics_file.read_text(encoding="utf-8"))
    assert metrics["protocol"]["split"] == "test"
    assert {file.stem for file in served.run.figures.glob("*.png")} == {
        "reconstructions",
        "samples",
        "traversals",
        "interpolations",
        "training_curves",
        "latents",
        "bounds",
    }
    described = httpx.get(f"{served.url}/models/{served.bundle.name}").json()
    assert described["metrics"] == metrics
    card = httpx.get(f"{served.url}/models/{served.bundle.name}/card").text
    assert f"{metrics['negative_elbo']['value']:.2f}" in card


def test_encode(served: Served) -> None:
    images = served.images()[:40]
    wanted = served.torch.encode(to_network(images))
    found = numbers(httpx.post(f"{served.url}/encode?output=posterior", content=npy(images), headers=NPY))
    np.testing.assert_allclose(found[:, 0], wanted.mean, rtol=TOLERANCE, atol=TOLERANCE)
    np.testing.assert_allclose(found[:, 1], wanted.log_variance, rtol=TOLERANCE, atol=TOLERANCE)
    assert np.std(wanted.mean, axis=0).max() > 100 * TOLERANCE, "an encoder that sees nothing would prove nothing"


def test_reconstruct(served: Served) -> None:
    """What stands for a picture: the mean, or what the flow makes of it."""
    images, model = served.images()[:10], served.torch
    wanted = model.decode(model.center(model.encode(to_network(images))))
    found = numbers(httpx.post(f"{served.url}/reconstruct?dtype=float32", content=npy(images), headers=NPY))
    np.testing.assert_allclose(to_network(found), wanted, atol=TOLERANCE)


def test_score(served: Served) -> None:
    """As PyTorch has it, for the same draws; the validation images lie where their percentiles say."""
    config, model, k = served.run.config(), served.torch, 16
    validation = load_training(config.data, config.image, seed=config.seed)[1].images
    answer = httpx.post(
        f"{served.url}/score?k={k}&seed=0", content=npy(validation), headers={"content-type": NPY["content-type"]}
    ).json()
    scores = answer["scores"]
    x = to_network(observed(np.asarray(validation), open_bundle(served.bundle).manifest.likelihood, seed=0))
    posterior = model.encode(x)
    repeated = Posterior(*(np.repeat(part, k, axis=0) for part in posterior))
    noise = posterior_noise(len(x), k, model.vae.latent_dim, seed=0).reshape(-1, model.vae.latent_dim)
    drawn = model.draw(repeated, noise)
    given = model.log_likelihood(drawn.latent, np.repeat(x, k, axis=0)).reshape(-1, k)
    np.testing.assert_allclose([entry["distortion"] for entry in scores], -given.mean(1), rtol=1e-3)
    ranks = np.array([entry["percentile"] for entry in scores])
    assert ranks.mean() == pytest.approx(50, abs=20)
    assert ranks.min() < 50 < ranks.max()


def test_decode(served: Served) -> None:
    latents = prior_latents(9, served.torch.vae.latent_dim, seed=5)
    wanted = served.torch.decode(latents)
    exact = numbers(httpx.post(f"{served.url}/decode?dtype=float32", content=npy(latents), headers=NPY))
    np.testing.assert_allclose(to_network(exact), wanted, atol=TOLERANCE)
    levels = numbers(httpx.post(f"{served.url}/decode", content=npy(latents), headers=NPY))
    assert np.abs(levels - to_uint8(from_network(wanted))).max() <= 1


def test_sample(served: Served) -> None:
    wanted = served.torch.decode(prior_latents(6, served.torch.vae.latent_dim, seed=11))
    found = numbers(httpx.get(f"{served.url}/sample?n=6&seed=11&dtype=float32&format=npy"))
    np.testing.assert_allclose(to_network(found), wanted, atol=TOLERANCE)


def test_interpolate(served: Served) -> None:
    ends = prior_latents(2, served.torch.vae.latent_dim, seed=1)
    body = {"points": [{"latent": end.tolist()} for end in ends], "steps": 5}
    query = "?dtype=float32&format=json"
    answer = httpx.post(f"{served.url}/interpolate{query}", json=body).json()
    walk = interpolate(ends, 5)
    np.testing.assert_allclose(answer["latents"], walk, atol=1e-6)
    pixels = np.array(answer["pixels"], np.float32)
    np.testing.assert_allclose(to_network(pixels), served.torch.decode(walk), atol=TOLERANCE)


def test_a_picture_file_is_served_as_it_was_trained_on(served: Served) -> None:
    """Uploads of all the files give the latents of all the images of the data set, whatever their size and mode."""
    if not served.files:  # the digits come as an array: their files are made here, of the model's own size
        image = served.images()[0]
        buffer = io.BytesIO()
        Image.fromarray(image[..., 0]).save(buffer, "png")
        contents, wanted = [buffer.getvalue()], served.torch.encode(to_network(image[None])).mean
    else:
        contents = [file.read_bytes() for file in served.files]
        wanted = served.torch.encode(to_network(served.images())).mean
    files = [("images", (f"{number}", data)) for number, data in enumerate(contents)]
    found = numbers(httpx.post(f"{served.url}/encode?format=npy", files=files, timeout=60))
    assert found.shape == wanted.shape
    # The data set is in an order of its own: each upload has its image, and no image is left over.
    distances = np.abs(found[:, None] - wanted[None]).max(-1)
    assert sorted(distances.argmin(1)) == list(range(len(wanted)))
    assert distances.min(1).max() < TOLERANCE * max(1, np.abs(wanted).max())
