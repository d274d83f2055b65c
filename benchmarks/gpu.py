"""How fast a bundle is on a GPU, beside PyTorch with the same weights: `python -m benchmarks.gpu`.

Four ways from an array in host memory to the answer in host memory, which is what a server needs, taken in turns:

- plain: the bundle, with ONNX Runtime moving inputs and outputs for each call.
- bound: the bundle with I/O binding, as it is served on CUDA.
- eager: PyTorch, with a copy to the device and back.
- compiled: the same through torch.compile, anew for each batch size; on CUDA with its graphs ("reduce-overhead").

All compute in float32, TF32 off. Beside the images a second stands what share that is of what the device was just seen
to do (`device`): floating-point operations against a large matrix product, and bytes, if each layer read its input and
its weights and wrote its output once, against a large copy. No table of cards is needed.

The weights are those of a run (--run), or untrained ones of a ready-made configuration: speed does not depend on them.
With --device cpu it runs anywhere; this is how its tests run it.
"""

import argparse
import io
import json
import platform
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.device import Device, Limits, Work, flops_of, measure_limits, take_turns, traffic_of
from model.bundle.errors import BundleError
from model.bundle.manifest import CARD, DECODER, ENCODER, GOLDEN, LatentSpec, LikelihoodSpec, Manifest, graph_signatures
from model.bundle.onnx_runtime import onnx_runtime
from model.bundle.pixels import to_network
from model.bundle.runtime import Bundle, RuntimeOptions
from model.bundle.store import open_bundle, write_manifest
from model.likelihoods import Gaussian
from model.vae import VAE
from training.config import RunConfig, load
from training.errors import TrainingError
from training.graphs import decoder_graph, encoder_graph
from training.run import RunFolder
from training.trained import TorchModel, load_best

BATCHES = (1, 4, 16, 64, 256, 1024, 4096)
ROUNDS = 9
SECONDS = 0.1  # of each way in each round
# Two libraries and two orders of float32 sums, as far apart as the golden sample may be.
TOLERANCE = 1e-3

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Line:
    """One graph at one batch size; a way that could not run has no entry.

    - images_per_second: of each way, from the median time of a call.
    - ratio: of each way's speed to eager's, the median over rounds.
    - flops_share, bandwidth_share: of the limits, in [0, 1], at the speed of "bound".
    """

    graph: Literal["encode", "decode"]
    batch: int
    images_per_second: dict[str, float]
    ratio: dict[str, float]
    flops_share: float
    bandwidth_share: float


class _Encode(nn.Module):
    """Images (N, C, H, W) -> mean, log_variance (N, D): what encoder.onnx computes."""

    def __init__(self, vae: VAE) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        posterior = self.vae.posterior(images)
        return posterior.mean, posterior.log_variance


class _Decode(nn.Module):
    """Latents (N, D) -> mean images (N, C, H, W): what decoder.onnx computes."""

    def __init__(self, vae: VAE) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, latents: Tensor) -> tuple[Tensor]:
        return (self.vae.mean_image(latents),)


def write_bundle(vae: VAE, config: RunConfig, folder: Path) -> None:
    """A bundle of these weights, without the data that an export would compare them on."""
    image, latent = config.image, LatentSpec(dim=vae.latent_dim)
    specs = graph_signatures(image, latent)
    (folder / ENCODER).write_bytes(encoder_graph(vae, specs.encoder))
    (folder / DECODER).write_bytes(decoder_graph(vae, specs.decoder))
    shape = (2, image.height, image.width, image.channels)
    images = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    model = TorchModel(vae)
    mean, log_variance, _ = model.encode(to_network(images))
    golden = io.BytesIO()
    np.savez(golden, images=images, mean=mean, log_variance=log_variance, reconstruction=model.decode(mean))
    (folder / GOLDEN).write_bytes(golden.getvalue())
    (folder / CARD).write_text(f"# {config.name}\n\nOnly its speed means anything.\n", encoding="utf-8")
    scale = float(vae.likelihood.scale()) if isinstance(vae.likelihood, Gaussian) else None
    likelihood = LikelihoodSpec(
        family=config.model.likelihood.family, scale=scale, binarization=config.data.binarization
    )
    manifest = Manifest(
        name=config.name,
        version="1",
        created=datetime.now(UTC),
        image=image,
        latent=latent,
        likelihood=likelihood,
        graphs=specs,
    )
    write_manifest(folder, manifest)


def measure(
    vae: VAE, bundles: dict[str, Bundle], device: Device, limits: Limits, *, batch: int, rounds: int, budget: float
) -> Iterator[Line]:
    """A line for each graph. `bundles` are "plain" and "bound", of the same weights as `vae`, which is on `device`."""
    for graph, module, shape in (("encode", _Encode(vae), vae.shape), ("decode", _Decode(vae), (vae.latent_dim,))):
        rows = np.random.default_rng(batch).random((batch, *shape), np.float32)
        ways: dict[str, Work] = {}
        for name, bundle in bundles.items():
            ways[name] = _of_bundle(bundle, graph, rows)
        ways["eager"] = _of_torch(module, rows, device)
        compiled = _compiled(module, rows, device)
        if compiled is not None:
            ways["compiled"] = compiled
        _check_agreement({name: work() for name, work in ways.items()})
        times = take_turns(ways, device, rounds=rounds, budget=budget)
        one = torch.from_numpy(rows[:1]).to(device)
        speed = {name: batch / statistics.median(each) for name, each in times.items()}
        pairs = {name: zip(times["eager"], each, strict=True) for name, each in times.items()}
        whole = torch.from_numpy(rows).to(device)
        yield Line(
            graph="encode" if graph == "encode" else "decode",
            batch=batch,
            images_per_second=speed,
            ratio={name: statistics.median(eager / own for eager, own in each) for name, each in pairs.items()},
            flops_share=flops_of(module, one) * speed["bound"] / limits.flops,
            bandwidth_share=traffic_of(module, whole) / batch * speed["bound"] / limits.bandwidth,
        )


def _of_bundle(bundle: Bundle, graph: str, rows: Floats) -> Callable[[], tuple[Floats, ...]]:
    return lambda: tuple(bundle.run("encoder" if graph == "encode" else "decoder", rows))


def _of_torch(module: Callable[[Tensor], tuple[Tensor, ...]], rows: Floats, device: Device) -> Work:
    def work() -> tuple[Floats, ...]:
        with torch.inference_mode():
            return tuple(output.cpu().numpy() for output in module(torch.from_numpy(rows).to(device)))

    return work


def _compiled(module: nn.Module, rows: Floats, device: Device) -> Work | None:
    """None, with a remark, where torch.compile cannot work: it needs a C++ compiler, or Triton."""
    torch.compiler.reset()  # beyond a few shapes it would go on uncompiled
    mode = "reduce-overhead" if device == "cuda" else "default"
    work = _of_torch(torch.compile(module, dynamic=False, mode=mode), rows, device)
    try:
        work()
    except Exception as error:  # compilers fail in many ways, and each is told
        print(f"torch.compile is left out: {str(error).splitlines()[0]}", file=sys.stderr)
        return None
    return work


def _check_agreement(answers: dict[str, tuple[Floats, ...]]) -> None:
    for name, outputs in answers.items():
        for output, wanted in zip(outputs, answers["eager"], strict=True):
            if not np.allclose(output, wanted, rtol=TOLERANCE, atol=TOLERANCE):
                raise SystemExit(f"{name} computes something else than PyTorch: its times mean nothing")


def as_markdown(report: dict[str, Any]) -> str:
    """A report, as :func:`main` makes it, for people."""
    limits = report["limits"]
    text = (
        f"{report['device']}; {report['versions']}; {report['model']}. Images a second, host memory to host memory, "
        f"medians of {report['rounds']} rounds in turns; in brackets the ratio to eager. The device's own limits: "
        f"{limits['flops'] / 1e12:.2f} TFLOP/s, {limits['bandwidth'] / 1e9:.0f} GB/s.\n\n"
        "| graph | batch | plain | bound | eager | compiled | of its FLOP/s | of its bandwidth |\n"
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n"
    )
    for line in report["lines"]:
        cells = [
            f"{line['images_per_second'][name]:,.0f} ({line['ratio'][name]:.2f})"
            if name in line["images_per_second"]
            else "-"
            for name in ("plain", "bound", "eager", "compiled")
        ]
        shares = [f"{line[share]:.2%}" for share in ("flops_share", "bandwidth_share")]
        text += f"| {' | '.join([line['graph'], str(line['batch']), *cells, *shares])} |\n"
    return text


@contextmanager
def opened(vae: VAE, config: RunConfig, device: Device, threads: int) -> Iterator[dict[str, Bundle]]:
    """The bundle of these weights, called plainly and with I/O binding. Raises BundleError where CUDA cannot run it."""
    with tempfile.TemporaryDirectory() as folder:
        write_bundle(vae, config, Path(folder))
        yield {
            name: open_bundle(Path(folder), RuntimeOptions(device, threads, require_provider=True, binding=binding))
            for name, binding in (("plain", False), ("bound", True))
        }


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    device: Device = options.device
    if device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("PyTorch finds no CUDA device here; --device cpu shows that the benchmark works")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.set_num_threads(options.threads)
    try:
        if options.run is None:
            config = load(Path(__file__).parents[1] / "training" / "configs" / f"{options.config}.toml")
            torch.manual_seed(0)
            vae = VAE(config.model, config.image.shape).eval().requires_grad_(False)
        else:
            config, vae = RunFolder(options.run).config(), load_best(RunFolder(options.run))[0].vae
        with opened(vae, config, device, options.threads) as bundles:
            report = _report(vae.to(device), bundles, options)
    except (TrainingError, BundleError) as error:
        raise SystemExit(str(error)) from None
    print(as_markdown(report), end="")
    if options.json is not None:
        options.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def _report(vae: VAE, bundles: dict[str, Bundle], options: argparse.Namespace) -> dict[str, Any]:
    device: Device = options.device
    size = {"side": 8192, "megabytes": 1024} if device == "cuda" else {"side": 1024, "megabytes": 64}
    limits = measure_limits(device, **size)
    lines = []
    for batch in options.batches:
        for line in measure(vae, bundles, device, limits, batch=batch, rounds=options.rounds, budget=options.seconds):
            print(f"{line.graph} {batch}: {line.images_per_second['bound']:,.0f} a second", file=sys.stderr)
            lines.append(asdict(line))
    bundle = bundles["bound"]
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else f"CPU, {options.threads} threads",
        "versions": f"Python {platform.python_version()}, PyTorch {torch.__version__}, ONNX Runtime "
        f"{onnx_runtime().__version__}",
        "model": f"{bundle.name}, {'untrained' if options.run is None else 'trained'}, latent {vae.latent_dim}",
        "rounds": options.rounds,
        "limits": asdict(limits),
        "lines": lines,
    }


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--run", type=Path, help="a run folder, for its architecture and weights")
    parser.add_argument("--config", default="mnist", help="without --run: a ready-made configuration")
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of each way in each round")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="on the CPU")
    parser.add_argument("--json", type=Path, help="a file for the report")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
