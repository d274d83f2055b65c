"""A whole bundle in a few kilobytes: real graphs, no torch, and answers that depend on every input.

mean = A x, log_variance = -|B x|, image = sigmoid(W z)        x in [0, 1]^(C H W), z in R^D
log_likelihood = sum x W z - softplus(W z)                     where it scores
parameters = A x, latent = mean + sigma noise + parameters     where its posterior is to be no Gaussian
"""

import io
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from model.bundle.golden import layout
from model.bundle.latents import gaussian_draws
from model.bundle.manifest import (
    CARD,
    DECODER,
    ENCODER,
    GOLDEN,
    LIKELIHOOD,
    MANIFEST,
    POSTERIOR,
    SCORES,
    ImageSpec,
    LatentSpec,
    LikelihoodSpec,
    Manifest,
    PosteriorSpec,
    ScoredImages,
    graph_signatures,
)
from model.bundle.pixels import to_network
from model.bundle.runtime import RuntimeOptions
from model.bundle.scores import score_images, scores_file
from model.bundle.store import open_bundle, write_manifest

Floats = NDArray[np.float32]
Shape = list[int | str]
Decoder = Literal["sigmoid", "overflowing", "slow"]

OPSET, IR_VERSION = 18, 10


def write_tiny_bundle(
    folder: Path,
    *,
    name: str = "tiny",
    height: int = 8,
    width: int = 8,
    channels: Literal[1, 3] = 1,
    latent_dim: int = 2,
    version: str = "1",
    fit: Literal["contain", "cover", "stretch"] = "contain",
    decoder: Decoder = "sigmoid",
    flow: bool = False,
    scores: bool = False,
) -> Path:
    """Write a valid bundle into `folder`, which is made where it is missing; the folder.

    flow: its posterior has a graph of its own. scores: it has a likelihood graph, and scores of images.
    decoder: "overflowing" gives NaN for a latent with a coordinate beyond about 100, and what "sigmoid" gives below;
    "slow" gives the same as "sigmoid" some tens of milliseconds later.
    """
    folder.mkdir(parents=True, exist_ok=True)
    image = ImageSpec(height=height, width=width, channels=channels, fit=fit)
    latent = LatentSpec(dim=latent_dim)
    posterior = PosteriorSpec(family="planar", parameters=latent_dim) if flow else PosteriorSpec()
    weights = tiny_weights(image, latent)
    (folder / ENCODER).write_bytes(encoder_graph(image, latent, weights, flow=flow).SerializeToString())
    if flow:
        (folder / POSTERIOR).write_bytes(posterior_graph(latent).SerializeToString())
    if scores:
        (folder / LIKELIHOOD).write_bytes(likelihood_graph(image, latent, weights).SerializeToString())
    (folder / DECODER).write_bytes(decoder_graph(image, latent, weights, decoder).SerializeToString())
    (folder / CARD).write_text(f"# {name}\n\nA random linear map for tests.\n", encoding="utf-8")
    manifest = Manifest(
        name=name,
        version=version,
        created=datetime(2025, 1, 1, tzinfo=UTC),
        image=image,
        latent=latent,
        posterior=posterior,
        likelihood=LikelihoodSpec(family="bernoulli", binarization="dynamic"),
        graphs=graph_signatures(image, latent, posterior, scores=scores),
    )
    (folder / GOLDEN).write_bytes(golden_sample(manifest, weights))
    write_manifest(folder, manifest)
    if scores:
        images = np.random.default_rng(2).integers(0, 256, (20, height, width, channels)).astype(np.uint8)
        scored = score_images(open_bundle(folder, RuntimeOptions(threads=1)), images, 16, seed=0)
        (folder / SCORES).write_bytes(scores_file(scored))
        spec = ScoredImages(images=20, samples=16, seed=0)
        write_manifest(folder, manifest.model_copy(update={"scores": spec}))
    return folder


def rewrite(folder: Path, change: Callable[[dict[str, Any]], None] | None = None) -> None:
    """Hash the files anew after one was changed; `change` may edit the manifest's JSON before it is validated."""
    path = folder / MANIFEST
    raw = json.loads(path.read_text(encoding="utf-8"))
    if change is not None:
        change(raw)
    write_manifest(folder, Manifest.model_validate_json(json.dumps(raw)))


def tiny_weights(image: ImageSpec, latent: LatentSpec) -> dict[str, Floats]:
    """A, B (P, D) and W (D, P) for P = C H W pixels."""
    pixels = image.height * image.width * image.channels
    generator = np.random.default_rng(0)
    shapes = {"A": (pixels, latent.dim), "B": (pixels, latent.dim), "W": (latent.dim, pixels)}
    return {
        key: (generator.standard_normal(shape) / np.sqrt(shape[0])).astype(np.float32) for key, shape in shapes.items()
    }


def tiny_encode(weights: dict[str, Floats], images: Floats) -> tuple[Floats, Floats]:
    """(N, C, H, W) -> mean and log_variance (N, D), computed in NumPy."""
    flat = images.reshape(len(images), -1)
    return flat @ weights["A"], -np.abs(flat @ weights["B"])


def tiny_decode(weights: dict[str, Floats], latents: Floats, image: ImageSpec) -> Floats:
    """(N, D) -> (N, C, H, W), computed in NumPy."""
    logits = (latents @ weights["W"]).astype(np.float32)
    return np.asarray(1 / (1 + np.exp(-logits)), np.float32).reshape(-1, *image.shape)


def tiny_log_likelihood(weights: dict[str, Floats], latents: Floats, images: Floats) -> Floats:
    """(N, D) and (N, C, H, W) -> log p(x|z) (N,), computed in NumPy."""
    logits = latents.astype(np.float64) @ weights["W"]
    return np.asarray((images.reshape(len(images), -1) * logits - np.logaddexp(0, logits)).sum(axis=1), np.float32)


def golden_sample(manifest: Manifest, weights: dict[str, Floats]) -> bytes:
    """golden.npz with three random images."""
    image, random = manifest.image, np.random.default_rng(1)
    images = random.integers(0, 256, (3, image.height, image.width, image.channels)).astype(np.uint8)
    mean, log_variance = tiny_encode(weights, to_network(images))
    noise = random.standard_normal(mean.shape).astype(np.float32)
    base, log_density = gaussian_draws(mean, log_variance, noise)
    decoded = mean if manifest.posterior.is_diagonal else base + mean
    arrays: dict[str, Any] = {"images": images, "mean": mean, "log_variance": log_variance, "parameters": mean}
    arrays |= {"noise": noise, "latent": decoded, "log_density": log_density}
    arrays["reconstruction"] = tiny_decode(weights, decoded, image)
    arrays["log_likelihood"] = tiny_log_likelihood(weights, decoded, to_network(images))
    buffer = io.BytesIO()
    np.savez(buffer, **{name: arrays[name] for name in layout(manifest)})
    return buffer.getvalue()


def encoder_graph(
    image: ImageSpec, latent: LatentSpec, weights: dict[str, Floats], *, flow: bool = False
) -> onnx.ModelProto:
    """image -> mean, log_variance, and of a flow parameters."""
    nodes = [
        helper.make_node("Flatten", ["image"], ["x"], axis=1),
        helper.make_node("MatMul", ["x", "A"], ["mean"]),
        helper.make_node("MatMul", ["x", "B"], ["Bx"]),
        helper.make_node("Abs", ["Bx"], ["size"]),
        helper.make_node("Neg", ["size"], ["log_variance"]),
    ]
    point: Shape = ["N", latent.dim]
    outputs = {"mean": point, "log_variance": point}
    if flow:
        nodes.append(helper.make_node("Identity", ["mean"], ["parameters"]))
        outputs["parameters"] = point
    return make_model(
        nodes,
        inputs={"image": ["N", *image.shape]},
        outputs=outputs,
        constants={"A": weights["A"], "B": weights["B"]},
    )


def decoder_graph(
    image: ImageSpec, latent: LatentSpec, weights: dict[str, Floats], decoder: Decoder = "sigmoid"
) -> onnx.ModelProto:
    """latent -> image."""
    constants: dict[str, NDArray[Any]] = {"W": weights["W"], "shape": np.array([0, *image.shape], np.int64)}
    nodes = []
    source = "latent"
    if decoder == "overflowing":
        # exp(z) - exp(z) is 0 while exp is finite, and NaN beyond.
        nodes += [
            helper.make_node("Exp", [source], ["e"]),
            helper.make_node("Sub", ["e", "e"], ["zero"]),
            helper.make_node("Add", [source, "zero"], ["checked"]),
        ]
        source = "checked"
    if decoder == "slow":
        # A loop of multiplications by the identity: time without weights, and nothing an optimizer may fold.
        nodes.append(_slow_identity(source, "late", latent.dim))
        constants |= {"rounds": np.array(20_000, np.int64), "go": np.array(True), "eye": np.eye(latent.dim, dtype="f")}
        source = "late"
    nodes += [
        helper.make_node("MatMul", [source, "W"], ["logits"]),
        helper.make_node("Sigmoid", ["logits"], ["flat"]),
        helper.make_node("Reshape", ["flat", "shape"], ["image"]),
    ]
    return make_model(
        nodes, inputs={"latent": ["N", latent.dim]}, outputs={"image": ["N", *image.shape]}, constants=constants
    )


def posterior_graph(latent: LatentSpec) -> onnx.ModelProto:
    """mean, log_variance, parameters, noise -> latent, log_density."""
    constants: dict[str, NDArray[Any]] = {
        "half": np.array(0.5, "f"),
        "log_2_pi": np.array(np.log(2 * np.pi), "f"),
        "last": np.array([1], np.int64),
    }
    nodes = [
        helper.make_node("Mul", ["half", "log_variance"], ["log_scale"]),
        helper.make_node("Exp", ["log_scale"], ["scale"]),
        helper.make_node("Mul", ["scale", "noise"], ["shift"]),
        helper.make_node("Sum", ["mean", "shift", "parameters"], ["latent"]),
        helper.make_node("Mul", ["noise", "noise"], ["squared"]),
        helper.make_node("Sum", ["squared", "log_2_pi", "log_variance"], ["terms"]),
        helper.make_node("ReduceSum", ["terms", "last"], ["total"], keepdims=0),
        helper.make_node("Mul", ["total", "half"], ["halved"]),
        helper.make_node("Neg", ["halved"], ["log_density"]),
    ]
    point: Shape = ["N", latent.dim]
    names = ("mean", "log_variance", "parameters", "noise")
    return make_model(
        nodes,
        inputs=dict.fromkeys(names, point),
        outputs={"latent": point, "log_density": ["N"]},
        constants=constants,
    )


def likelihood_graph(image: ImageSpec, latent: LatentSpec, weights: dict[str, Floats]) -> onnx.ModelProto:
    """latent, image -> log_likelihood."""
    nodes = [
        helper.make_node("MatMul", ["latent", "W"], ["logits"]),
        helper.make_node("Flatten", ["image"], ["x"], axis=1),
        helper.make_node("Mul", ["x", "logits"], ["on"]),
        helper.make_node("Softplus", ["logits"], ["cost"]),
        helper.make_node("Sub", ["on", "cost"], ["terms"]),
        helper.make_node("ReduceSum", ["terms", "last"], ["log_likelihood"], keepdims=0),
    ]
    return make_model(
        nodes,
        inputs={"latent": ["N", latent.dim], "image": ["N", *image.shape]},
        outputs={"log_likelihood": ["N"]},
        constants={"W": weights["W"], "last": np.array([1], np.int64)},
    )


def make_model(
    nodes: list[onnx.NodeProto],
    *,
    inputs: dict[str, Shape],
    outputs: dict[str, Shape],
    constants: dict[str, NDArray[Any]],
) -> onnx.ModelProto:
    """A model of float32 inputs and outputs."""
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)


def _slow_identity(source: str, result: str, dim: int) -> onnx.NodeProto:
    shape: Shape = ["N", dim]
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["condition"], ["on"]),
            helper.make_node("MatMul", ["state", "eye"], ["next"]),
        ],
        "round",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("condition", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, shape),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, shape),
        ],
    )
    return helper.make_node("Loop", ["rounds", "go", source], [result], body=body)
