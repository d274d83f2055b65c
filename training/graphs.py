"""From a VAE in PyTorch to ONNX graphs as bytes, with the signatures of the manifest.

Through PyTorch's dynamo exporter. The graphs hold their weights, take any batch size and no randomness, and say nothing
of the machine they were made on: the exporter notes source lines, with their paths, beside every node, and these are
removed. The same weights and library versions give the same bytes.
"""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import onnx
import torch
from torch import Tensor, nn

from model.bundle.manifest import GraphSpec
from model.posteriors import DiagonalGaussian
from model.vae import VAE
from training.errors import ExportError

# ONNX Runtime 1.22, the oldest that serves, knows it; PyTorch's own default at the time of writing.
OPSET = 20
# A protobuf message ends at 2 GiB; what is larger would need external data, which a bundle may not have.
LARGEST_GRAPH = (1 << 31) - (1 << 20)
# With a batch of one the exporter could take the batch axis for a constant.
_EXAMPLE_BATCH = 2
_REMARKS = ("doc_string", "metadata_props")


class _Message(Protocol):
    """What is used of a protobuf message, whose own classes come without types."""

    def ListFields(self) -> Sequence[tuple[Any, Any]]: ...

    def ClearField(self, name: str) -> None: ...


class _Part(nn.Module):
    def __init__(self, vae: VAE) -> None:
        super().__init__()
        self.vae = vae


class _Encoder(_Part):
    """Images ``(N, C, H, W)`` -> mean and softly bounded log_variance ``(N, D)``, and what else tells q(z|x)
    ``(N, E)``."""

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        base, parameters = self.vae.family.split(self.vae.encoder(image))
        return (*base, self.vae.family.settled(parameters, in_a_graph=True)) if self.vae.family.extra else tuple(base)


class _Posterior(_Part):
    """What the encoder gives and noise ``(N, D)`` -> latents ``(N, D)``, log q(z|x) ``(N,)``."""

    def forward(self, mean: Tensor, log_variance: Tensor, parameters: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        base = DiagonalGaussian(mean, log_variance)
        latent, log_density = self.vae.family.of_settled(base, parameters).draw(noise)
        return latent, log_density


class _Decoder(_Part):
    """Latents ``(N, D)`` -> mean images ``(N, C, H, W)`` in [0, 1]."""

    def forward(self, latent: Tensor) -> Tensor:
        return self.vae.mean_image(latent)


class _Likelihood(_Part):
    """Latents ``(N, D)`` and images ``(N, C, H, W)`` -> log p(x|z) ``(N,)`` nats."""

    def forward(self, latent: Tensor, image: Tensor) -> Tensor:
        return self.vae.likelihood.log_prob(self.vae.decode(latent), image)


def encoder_graph(vae: VAE, spec: GraphSpec) -> bytes:
    """encoder.onnx of a float32 model on the CPU.

    Raises:
        ExportError: the weights need more than the 2 GiB that a self-contained graph may have, or the exporter fails.
    """
    _check_size(vae.encoder, spec)
    return _graph(_Encoder(vae), spec)


def decoder_graph(vae: VAE, spec: GraphSpec) -> bytes:
    """decoder.onnx of a float32 model on the CPU; raises as ``encoder_graph`` does."""
    _check_size(vae.decoder, spec)
    return _graph(_Decoder(vae), spec)


def posterior_graph(vae: VAE, spec: GraphSpec) -> bytes:
    """posterior.onnx of a float32 model on the CPU; raises as ``encoder_graph`` does."""
    _check_size(vae.family, spec)
    return _graph(_Posterior(vae), spec)


def likelihood_graph(vae: VAE, spec: GraphSpec) -> bytes:
    """likelihood.onnx of a float32 model on the CPU; raises as ``encoder_graph`` does."""
    _check_size(vae.decoder, spec)
    return _graph(_Likelihood(vae), spec)


def _check_size(network: nn.Module, spec: GraphSpec) -> None:
    size = sum(parameter.numel() * parameter.element_size() for parameter in network.parameters())
    if size > LARGEST_GRAPH:
        raise ExportError(
            f"{spec.file}: {size / 2**30:.1f} GiB of weights, and a graph on its own holds less than 2 GiB"
        )


def _graph(module: nn.Module, spec: GraphSpec) -> bytes:
    examples = tuple(torch.zeros(_EXAMPLE_BATCH, *map(int, tensor.shape[1:])) for tensor in spec.inputs)
    rows = torch.export.Dim("N")
    try:
        with _quietly():
            program = torch.onnx.export(
                module.eval(),
                examples,
                dynamo=True,
                input_names=[tensor.name for tensor in spec.inputs],
                output_names=[tensor.name for tensor in spec.outputs],
                dynamic_shapes=tuple({0: rows} for _ in examples),
                opset_version=OPSET,
                external_data=False,
                verbose=False,
            )
        if program is None:
            raise ExportError(f"{spec.file}: PyTorch's exporter made no graph")
        return serialized(program.model_proto)
    except (torch.onnx.OnnxExporterError, onnx.checker.ValidationError) as error:
        raise ExportError(f"{spec.file}: PyTorch's exporter cannot make this graph") from error


def serialized(graph: onnx.ModelProto) -> bytes:
    """A graph as the bytes that a bundle holds: checked, without remarks, and the same for the same graph.

    Raises:
        onnx.checker.ValidationError: it is no valid graph.
    """
    graph.graph.ClearField("value_info")  # shapes between the nodes: ONNX Runtime infers them
    _remove_remarks(graph)
    onnx.checker.check_model(graph, full_check=True)
    return bytes(graph.SerializeToString(deterministic=True))


def _remove_remarks(message: _Message) -> None:
    """Clear every doc_string and metadata_props in a message and in all it contains."""
    for field, value in message.ListFields():
        if field.name in _REMARKS:
            message.ClearField(field.name)
        elif field.message_type is not None:
            for item in value if isinstance(value, Sequence) else [value]:
                _remove_remarks(item)


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep three remarks of the exporter's own making off the terminal, and nothing else."""
    log = logging.getLogger("torch.onnx._internal.exporter._registration")
    log.addFilter(_is_news)
    try:
        with warnings.catch_warnings():
            # PyTorch 2.13 copies a tree specification of a class that it has itself deprecated.
            warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning)
            # Of one name for the first axis of several inputs, which is what was asked for.
            warnings.filterwarnings("ignore", r"# The axis name: N will not be used", UserWarning)
            yield
    finally:
        log.removeFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    # It lists operators of torchvision that it goes without; we have no use for torchvision.
    return not record.getMessage().startswith("torchvision is not installed")
