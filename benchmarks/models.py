"""Bundles to measure with: real networks of two sizes, exported as trained ones are, with random weights.

What a server does does not depend on what the weights say, and a benchmark that needs no training runs anywhere.
"""

import hashlib
import io
import json
import shutil
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from model.bundle.files import write_bytes_atomically, write_text_atomically
from model.bundle.manifest import (
    CARD,
    DECODER,
    ENCODER,
    GOLDEN,
    MANIFEST,
    ImageSpec,
    LatentSpec,
    LikelihoodSpec,
    Manifest,
    graph_signatures,
)
from model.bundle.pixels import to_network
from model.bundle.store import open_bundle, publish, staging_folder, write_manifest
from model.likelihoods import BernoulliSettings
from model.networks.mlp import MLPSettings
from model.vae import VAE, Architecture
from training.graphs import decoder_graph, encoder_graph

Size = Literal["small", "large"]
VERSION = "1"
GOLDEN_IMAGES = 8
_CONTRAST = 10


def make_bundle(size: Size, destination: Path, name: str = "") -> Path:
    """The bundle "small" (1 x 28 x 28, 32 latents) or "large" (3 x 64 x 64, 128 latents); one that is there is kept."""
    if (destination / "manifest.json").exists():
        return destination
    torch.manual_seed(0)
    vae, image = _small() if size == "small" else _large()
    latent = LatentSpec(dim=vae.latent_dim)
    manifest = Manifest(
        name=name or size,
        version=VERSION,
        created=datetime(2025, 1, 1, tzinfo=UTC),
        image=image,
        latent=latent,
        likelihood=LikelihoodSpec(family="bernoulli", binarization="none"),
        graphs=graph_signatures(image, latent),
    )
    with staging_folder(destination) as staging:
        write_bytes_atomically(staging / ENCODER, encoder_graph(vae, manifest.graphs.encoder))
        write_bytes_atomically(staging / DECODER, decoder_graph(vae, manifest.graphs.decoder))
        write_bytes_atomically(staging / GOLDEN, _golden(vae, image))
        write_text_atomically(staging / CARD, f"# {name or size}\n\nRandom weights, for benchmarks.\n")
        _write_lean_manifest(staging, manifest)
        open_bundle(staging)
        publish(staging, destination, replace=True)
    return destination


def fingerprint() -> str:
    """Changes with this file, so that a bundle of another recipe is not taken for one of this."""
    return hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:8]


def _small() -> tuple[VAE, ImageSpec]:
    """Two strided convolutions and a linear layer, and about the same backwards."""
    encoder = nn.Sequential(
        nn.Conv2d(1, 32, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 64, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64 * 7 * 7, 2 * 32),
    )
    decoder = nn.Sequential(
        nn.Linear(32, 32 * 7 * 7),
        nn.ReLU(),
        nn.Unflatten(1, (32, 7, 7)),
        nn.ConvTranspose2d(32, 16, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.ConvTranspose2d(16, 1, 4, stride=2, padding=1),
    )
    return _assemble(encoder, decoder, 32, (1, 28, 28)), ImageSpec(height=28, width=28, channels=1)


def _large() -> tuple[VAE, ImageSpec]:
    """Four strided convolutions and a linear layer, and their mirror image."""
    channels = (3, 32, 64, 128, 128)
    down: list[nn.Module] = []
    up: list[nn.Module] = [nn.Linear(128, 128 * 4 * 4), nn.ReLU(), nn.Unflatten(1, (128, 4, 4))]
    for i, (first, second) in enumerate(pairwise(channels)):
        down += [nn.Conv2d(first, second, 3, stride=2, padding=1), nn.ReLU()]
        up += [nn.ConvTranspose2d(channels[4 - i], channels[3 - i], 4, stride=2, padding=1), nn.ReLU()]
    encoder = nn.Sequential(*down, nn.Flatten(), nn.Linear(128 * 4 * 4, 2 * 128))
    return _assemble(encoder, nn.Sequential(*up[:-1]), 128, (3, 64, 64)), ImageSpec(height=64, width=64, channels=3)


def _assemble(encoder: nn.Module, decoder: nn.Module, dim: int, shape: tuple[int, int, int]) -> VAE:
    """A VAE around networks that no setting describes."""
    vae = VAE(
        Architecture(
            latent_dim=dim,
            network=MLPSettings(kind="mlp"),
            likelihood=BernoulliSettings(family="bernoulli"),
        ),
        shape,
    )
    # Fresh layers say nearly the same of every picture, and a wrong answer could pass for a right one.
    with torch.no_grad():
        for network in (encoder, decoder):
            list(network.parameters())[-2].mul_(_CONTRAST)
    vae.encoder, vae.decoder = encoder, decoder
    return vae.eval()


def _golden(vae: VAE, image: ImageSpec) -> bytes:
    images = smooth_images(GOLDEN_IMAGES, image)
    with torch.inference_mode():
        posterior = vae.posterior(torch.from_numpy(to_network(images)))
        reconstruction = vae.mean_image(posterior.mean)
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        images=images,
        mean=posterior.mean.numpy(),
        log_variance=posterior.log_variance.numpy(),
        reconstruction=reconstruction.numpy(),
    )
    return buffer.getvalue()


def smooth_images(count: int, spec: ImageSpec) -> NDArray[np.uint8]:
    """Soft blobs on black, (N, H, W, C): like pictures they are smooth, and much of them is background."""
    generator = np.random.default_rng(0)
    y, x = np.mgrid[0 : 1 : spec.height * 1j, 0 : 1 : spec.width * 1j]
    centers = generator.uniform(0.2, 0.8, (count, spec.channels, 4, 2))
    widths = generator.uniform(0.05, 0.15, (count, spec.channels, 4))
    images = np.zeros((count, spec.height, spec.width, spec.channels))
    for index in np.ndindex(count, spec.channels, 4):
        distance = (y - centers[index][0]) ** 2 + (x - centers[index][1]) ** 2
        images[index[0], :, :, index[1]] += np.exp(-distance / (2 * widths[index] ** 2))
    levels: NDArray[np.uint8] = np.where(images < 0.05, 0, np.clip(images * 255, 0, 255)).astype(np.uint8)
    return levels


def rename_bundle(source: Path, destination: Path, name: str) -> Path:
    """A copy of a bundle under another name."""
    shutil.copytree(source, destination)
    raw = json.loads((destination / MANIFEST).read_text(encoding="utf-8"))
    (destination / MANIFEST).write_text(json.dumps(raw | {"name": name}), encoding="utf-8")
    return destination


def _write_lean_manifest(folder: Path, manifest: Manifest) -> None:
    """Without what is as it is by default: earlier commits refuse what they do not know, and are measured too."""
    complete = write_manifest(folder, manifest)
    lean = {"schema_version": complete.schema_version} | complete.model_dump(mode="json", exclude_defaults=True)
    (folder / MANIFEST).write_text(json.dumps(lean, indent=2) + "\n", encoding="utf-8")
