"""What a table, on a terminal or in a card, says of the bounds, of annealing and of the gaps of inference: the same in
both."""

from typing import NamedTuple

from model.bundle.measurements import Annealing, Estimate, InferenceGaps, Metrics, Protocol
from training.gaps import converged
from training.words import count

_NATS = "nats per image"
_FROM = {"prior": "the prior", "posterior": "the encoder's posterior"}


class Row(NamedTuple):
    """Cells of a table."""

    what: str
    value: str
    interval: str
    unit: str


class Part(NamedTuple):
    """What was measured beside the rest."""

    title: str
    protocol: str
    rows: list[Row]
    remarks: list[str]


def parts_of(metrics: Metrics) -> list[Part]:
    """Those that were measured."""
    found = []
    if len(metrics.bounds) > 1:
        found.append(_curve(metrics))
    if metrics.annealing is not None:
        found.append(_annealing(metrics.annealing))
    if metrics.gaps is not None:
        found.append(_gaps(metrics.gaps))
    return found


def _curve(metrics: Metrics) -> Part:
    rows = [_row(f"-L_{bound.importance_samples}", bound.negative) for bound in metrics.bounds]
    samples = metrics.protocol.importance_samples or metrics.bounds[-1].importance_samples
    how = f"The same images, and the same {count(samples, 'importance sample')} of each, in groups of k"
    return Part("The bound L_k as k grows", f"{how}.", rows, [])


def _annealing(found: Annealing) -> Part:
    protocol, size = found.protocol, found.effective_sample_size
    k = protocol.importance_samples
    rows = [
        _row("-log p(x) by annealing", found.negative_log_likelihood),
        *(
            []
            if found.bits_per_dim is None
            else [_row("the same in bits", found.bits_per_dim, "bits per dimension", 4)]
        ),
        _row(f"annealing less L_{k}", found.difference, signed=True),
        _row("gap of both bounds, simulated images", found.gap),
        Row("effective sample size, mean", f"{size.mean:.1f}", f"smallest {size.minimum:.1f}", f"of {protocol.chains}"),
        Row("acceptance rate, mean", f"{found.acceptance_rate:.2f}", "", "of the moves"),
    ]
    how = (
        f"{_images(protocol)}; {count(protocol.chains, 'chain')} an image from {_FROM[protocol.initial]}, "
        f"{count(protocol.temperatures, 'temperature')}, {count(protocol.leapfrog_steps, 'leapfrog step')} a move; "
        f"{count(protocol.simulated_images, 'simulated image')}"
    )
    remarks = []
    if found.difference.value < 0:
        remarks.append(
            f"Both are lower bounds, and L_{k} is the tighter one here: annealing needs more temperatures to be worth "
            "its time."
        )
    if protocol.simulated_initial != protocol.initial:
        how += f", their chains from {_FROM[protocol.simulated_initial]}"
        remarks.append(
            "The gap is of chains from the prior, which a flow does not shorten: it says more than annealing from the "
            "posterior is off by, as a rule, and is no bound of that."
        )
    return Part("Annealed importance sampling", f"{how}.", rows, remarks)


def _gaps(found: InferenceGaps) -> Part:
    protocol = found.protocol
    k = protocol.importance_samples
    reference = {
        "annealing": "annealing",
        "bound": f"L_{k} from the encoder's posterior",
        "optimized-bound": f"L_{k} from the best posterior of the family",
    }[protocol.reference]
    rows = [
        _row("total gap: log p(x) - ELBO", found.total),
        _row("approximation gap: best of the family", found.approximation),
        _row("amortization gap: the rest", found.amortization),
    ]
    if found.diagonal is not None:
        rows.append(_row("approximation gap: best diagonal Gaussian", found.diagonal))
    if found.gain is not None:
        rows.append(_row("what the family saves of that", found.gain, signed=True))
    rows.append(_row("gained in the second half of the steps", found.last_half, signed=True))
    how = (
        f"{_images(protocol)}; log p(x) is {reference}, the tightest bound at hand; {count(protocol.steps, 'step')} of "
        f"Adam an image, {count(protocol.latents, 'latent')} a step"
    )
    remarks = []
    if not converged(found):
        remarks.append(
            f"The posteriors still gained {found.last_half.value:.2f} nats in the second half of the steps: the "
            "approximation gap is too large by what more steps would gain (--gap-steps)."
        )
    return Part("Gaps of inference", f"{how}.", rows, remarks)


def _images(protocol: Protocol) -> str:
    return f"{count(protocol.images, 'image')} of the {protocol.split} split, seed {protocol.seed}"


def _row(what: str, found: Estimate, unit: str = _NATS, digits: int = 2, *, signed: bool = False) -> Row:
    form = f"{'+' if signed else ''}.{digits}f"
    return Row(what, format(found.value, form), f"{found.low:{form}} to {found.high:{form}}", unit)
