"""What was measured, as tables for a terminal, and what is to be said of it."""

from rich.table import Table

from model.bundle.measurements import Estimate, Metrics
from training.doubt import doubt
from training.parts import parts_of
from training.reconstruction import Reconstruction, pixel


def tables(metrics: Metrics) -> list[Table]:
    """All that was measured: what every evaluation measures, and the parts that were asked for."""
    found = [summary(metrics)]
    for part in parts_of(metrics):
        table = Table(title=f"{part.title}\n{part.protocol}")
        for column in ("metric", "value", "95% interval", "unit"):
            table.add_column(column, justify="right" if column in ("value", "95% interval") else "left")
        for row in part.rows:
            table.add_row(*row)
        found.append(table)
    return found


def remarks(measured: Metrics | Reconstruction) -> list[str]:
    """What the tables do not say by themselves, a line each."""
    if isinstance(measured, Reconstruction):
        return ["A plain autoencoder has no rate, no ELBO and no likelihood."]
    found = [remark for part in parts_of(measured) for remark in part.remarks]
    warning = doubt(measured)
    if warning is not None:
        found.append(warning)
    if measured.negative_log_likelihood is None:
        found.append("Grey or colour values under a Bernoulli: -ELBO is what was minimized, and bounds no likelihood.")
    return found


def summary(metrics: Metrics) -> Table:
    """The metrics as a table for a terminal."""
    protocol = metrics.protocol
    title = f"{protocol.dataset}, {protocol.split} split, {protocol.images:,} images"
    table = Table(title=f"{title}, binarization {protocol.binarization}")
    table.add_column("metric")
    table.add_column("value", justify="right")
    table.add_column("95% interval", justify="right")
    table.add_column("unit")
    rows: list[tuple[str, Estimate | None, str]] = [
        ("rate", metrics.rate, "nats/image"),
        ("distortion", metrics.distortion, "nats/image"),
        ("-ELBO", metrics.negative_elbo, "nats/image"),
        (f"-L_{protocol.importance_samples}", metrics.negative_log_likelihood, "nats/image"),
        ("bits/dim", metrics.bits_per_dim, "bits"),
        ("reconstruction error", metrics.reconstruction_error, f"squared, per {pixel(protocol)}"),
    ]
    for name, estimate, unit in rows:
        if estimate is not None:
            digits = 2 if unit == "nats/image" else 4
            table.add_row(
                name, f"{estimate.value:.{digits}f}", f"{estimate.low:.{digits}f} .. {estimate.high:.{digits}f}", unit
            )
    if metrics.effective_sample_size is not None:
        size = metrics.effective_sample_size
        table.add_row(
            "effective sample size",
            f"{size.mean:.1f}",
            f"smallest {size.minimum:.1f}",
            f"of {protocol.importance_samples}",
        )
    table.add_row("active units", str(metrics.active_units), "", _of_dimensions(metrics))
    return table


def _of_dimensions(metrics: Metrics) -> str:
    return f"of {len(metrics.kl_per_dimension)}" if metrics.kl_per_dimension else "latent dimensions"
