"""What is told of a reduced precision: on the terminal, and on the model card."""

from collections.abc import Iterator

from model.bundle.manifest import Manifest
from model.bundle.precision import Precision
from training.words import count

# A ratio above this is no gain that another run would find again.
FASTER = 0.95


def lines(precision: Precision) -> Iterator[str]:
    """What export says at its end, a line each."""
    effect, protocol, speed = precision.negative_elbo_difference, precision.protocol, precision.speed
    yield (
        f"{precision.kind} against float32, on {count(protocol.images, 'validation image')}: -ELBO {effect.value:+.3f} "
        f"nats an image (95% interval {effect.low:+.3f} to {effect.high:+.3f})"
    )
    yield f"time over float32 on {_where(precision)}: " + ", ".join(
        f"{timing.graph} {timing.ratio:.2f} at batch {timing.batch}" for timing in speed.timings
    )
    slow = [f"{timing.graph} at batch {timing.batch}" for timing in speed.timings if timing.ratio > FASTER]
    if slow:
        advice = {
            "float16": "float16 is meant for GPUs: on this CPU serve float32",
            "int8": "where this CPU will serve, compare with float32 before you choose",
        }[precision.kind]
        yield f"warning: not faster here: {', '.join(slow)}; {advice}"


def section(manifest: Manifest) -> str | None:
    """The section "Precision" of the model card, Markdown; None where the graphs compute in float32."""
    precision = manifest.precision
    if precision is None:
        return None
    return "\n\n".join([f"## Precision: {precision.kind}", _what(precision), _cost(precision), _speed(precision)])


def remark(manifest: Manifest) -> str | None:
    """What must stand beside the measured metrics of a bundle whose graphs are not those that were measured."""
    if manifest.precision is None:
        return None
    return (
        "**These numbers are of the float32 weights of the run, and not of the graphs in this bundle, which compute in "
        f"{manifest.precision.kind}.** They were not measured again in {manifest.precision.kind}, and are not to be "
        "quoted as if they had been; what is known of the difference is in the section on precision."
    )


def _what(precision: Precision) -> str:
    if precision.calibration is None:
        how = "Weights and arithmetic are float16, but for what comes after the last weights."
    else:
        how = (
            "Weights are int8 (symmetric, a scale for each output channel, 7 bits of the 8, so that no CPU saturates) "
            "and what goes into a quantized layer is uint8 (static ranges). The layers that give or take a latent, a "
            "last convolution, and all functions between the layers are float32. The ranges are those of "
            f"{count(precision.calibration.images, 'training image')} drawn by seed {precision.calibration.seed}, of "
            "the latents that these become, and of draws from the prior."
        )
    return f"{how} Inputs and outputs are float32."


def _cost(precision: Precision) -> str:
    effect, protocol, parity = precision.negative_elbo_difference, precision.protocol, precision.parity
    binarization = "not binarized" if protocol.binarization == "none" else f"{protocol.binarization} binarization"
    rows = ["| deviation from PyTorch in float32 | largest | mean |", "|---|---:|---:|"]
    for what, deviation in (
        ("mean, of max(1, its size)", parity.mean),
        ("log_variance, of max(1, its size)", parity.log_variance),
        ("pixel, on [0, 1]", parity.pixel),
    ):
        rows.append(f"| {what} | {deviation.largest:.2g} | {deviation.mean:.2g} |")
    return (
        f"-ELBO changes by {effect.value:+.3f} nats per image (95% interval {effect.low:+.3f} to {effect.high:+.3f}; "
        f"more is worse): measured on {count(protocol.images, 'image')} of the validation split of {protocol.dataset}, "
        f"{binarization}, one latent an image, seed {protocol.seed}. The float32 graphs and these ran in ONNX Runtime "
        "on the same pictures with the same noise; the interval is of the paired differences, by Student's t over "
        "images. Validation images chose the weights; test images were not used.\n\n" + "\n".join(rows) + "\n\n"
        f"On {count(parity.images, 'validation image')}; pixels are those of decode(mean) and of as many draws from "
        "the prior."
    )


def _speed(precision: Precision) -> str:
    rows = ["| graph | batch | time over float32 |", "|---|---:|---:|"]
    rows += [f"| {timing.graph} | {timing.batch} | {timing.ratio:.2f} |" for timing in precision.speed.timings]
    return (
        f"Below 1 is faster; medians of turns on {_where(precision)}. Other machines give other ratios.\n\n"
        + "\n".join(rows)
    )


def _where(precision: Precision) -> str:
    speed = precision.speed
    return f"{speed.processor} ({speed.library}, {count(speed.threads, 'thread')})"
