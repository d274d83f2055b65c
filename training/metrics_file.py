"""metrics.json of a run: what stays in it when its weights are measured again."""

from pydantic import TypeAdapter, ValidationError

from model.bundle.measurements import Metrics, Protocol
from training.reconstruction import Reconstruction
from training.run import RunFolder

_MEASURED: TypeAdapter[Metrics | Reconstruction] = TypeAdapter(Metrics | Reconstruction)


def weightier(run: RunFolder, protocol: Protocol) -> Protocol | None:
    """The protocol of metrics.json where it is of the same weights and says more than this one: a quick look at a few
    images must not cost the hours of a measurement."""
    try:
        stored = _MEASURED.validate_json(run.metrics_file.read_bytes()).protocol
    except (FileNotFoundError, ValidationError):  # nothing, or nothing that could be used
        return None
    size, samples = protocol.images, protocol.importance_samples or 0
    more = stored.images > size or (stored.importance_samples or 0) > samples
    return stored if more and stored.step == protocol.step else None
