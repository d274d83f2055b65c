"""What was measured, as a table for a terminal."""

from rich.table import Table

from model.bundle.measurements import Estimate, Metrics
from training.reconstruction import pixel


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
