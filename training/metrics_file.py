"""metrics.json of a run: what stays in it when the same weights are measured again, in whole or in part.

Each part (what every evaluation measures, annealing, gaps) stays where it says more than what was measured now: a quick
look must not cost the hours of a measurement. What was measured of other weights never stays.
"""

from pydantic import TypeAdapter, ValidationError

from model.bundle.files import write_text_atomically
from model.bundle.measurements import AnnealingProtocol, GapsProtocol, Metrics, Protocol
from training.reconstruction import Reconstruction
from training.run import RunFolder
from training.words import count

PARTS = ("annealing", "gaps")
"""Of `Metrics`, those that are measured when they are asked for."""

_MEASURED: TypeAdapter[Metrics | Reconstruction] = TypeAdapter(Metrics | Reconstruction)


def stored(run: RunFolder, step: int) -> Metrics | Reconstruction | None:
    """What metrics.json holds of the weights of this step; None where it holds nothing that could be used."""
    try:
        found = _MEASURED.validate_json(run.metrics_file.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
    return found if found.protocol.step == step else None


def merged(before: Metrics | Reconstruction | None, now: Metrics | Reconstruction) -> Metrics | Reconstruction:
    """Of each part what says more; what was measured now where neither does.

    Args:
        before: of the same weights, or nothing.
    """
    if before is None:
        return now
    whole = before if says_more(before.protocol, now.protocol) else now
    if not isinstance(whole, Metrics):
        return whole
    return whole.model_copy(update={part: _part(part, before, now) for part in PARTS})


def says_more(before: Protocol, now: Protocol) -> bool:
    """Whether what was measured before is of more images, or of more draws for each of them."""
    return before.images > now.images or _draws(before) > _draws(now)


def keeps(run: RunFolder, before: Metrics | Reconstruction | None, now: Metrics | Reconstruction) -> list[str]:
    """A line for each part that was measured now, and is not written."""
    if before is None:
        return []
    pairs = [(before, now), *((getattr(before, part, None), getattr(now, part, None)) for part in PARTS)]
    return [
        f"Not written: {run.metrics_file} keeps {_in_words(old.protocol)}."
        for old, new in pairs
        if old is not None and new is not None and says_more(old.protocol, new.protocol)
    ]


def write(run: RunFolder, measured: Metrics | Reconstruction) -> None:
    """Put this in the place of metrics.json, whole or not at all."""
    write_text_atomically(run.metrics_file, measured.model_dump_json(indent=2) + "\n")


def _part(name: str, before: Metrics | Reconstruction, now: Metrics | Reconstruction) -> object:
    old, new = getattr(before, name, None), getattr(now, name, None)
    if old is None or new is None:
        return new or old
    return old if says_more(old.protocol, new.protocol) else new


def _draws(protocol: Protocol) -> int:
    """What was spent on each image."""
    match protocol:
        case AnnealingProtocol():
            return protocol.chains * protocol.temperatures * protocol.leapfrog_steps
        case GapsProtocol():
            return protocol.steps * protocol.latents
        case _:
            return protocol.importance_samples or 0


def _in_words(protocol: Protocol) -> str:
    images = count(protocol.images, "image")
    match protocol:
        case AnnealingProtocol():
            chains = count(protocol.chains, "chain")
            return f"the annealing of {images} by {chains} of {count(protocol.temperatures, 'temperature')} each"
        case GapsProtocol():
            return f"the gaps of {images} after {count(protocol.steps, 'step')} each"
        case _:
            samples = protocol.importance_samples
            return f"what was measured on {images}" + (
                f" with {count(samples, 'importance sample')} each" if samples else ""
            )
