"""The tables of README.md, made from the code: `python -m tests.support.tables` (make docs) writes them into it."""

import re
from collections.abc import Sequence
from pathlib import Path

import typer

from app import errors
from app.options import flag
from app.service import create_app
from app.settings import PREFIX, PRETRAINED, Settings
from model.bundle.measurements import Estimate
from model.bundle.store import verify_files
from training.doubt import doubt
from vae import cli

README = Path(__file__).resolve().parents[2] / "README.md"
SHORT = {
    "image/png": "PNG",
    "image/jpeg": "JPEG",
    "image/webp": "WebP",
    "image/gif": "GIF",
    "image/bmp": "BMP",
    "application/json": "JSON",
    "application/x-npy": "npy",
    "application/zip": "zip",
    "multipart/form-data": "multipart",
    "text/markdown": "Markdown",
    "text/plain": "text",
}


def settings_table() -> str:
    """Every field of Settings: option, variable, default, help."""
    rows = []
    for name, field in Settings.model_fields.items():
        default = "" if field.default in ((), None, "") else f"`{str(field.default).lower()}`"
        rows.append((f"`{flag(name)}`", f"`{PREFIX}{name.upper()}`", default, field.description or ""))
    return _table(("option", "variable", "default", "what"), rows)


def routes_table() -> str:
    """Every route of the OpenAPI document, with what it takes and gives."""
    rows = []
    for path, methods in create_app(Settings.model_construct()).site().openapi()["paths"].items():
        for method, route in methods.items():
            takes = _types(route.get("requestBody", {}).get("content", {}))
            query = ", ".join(f"`{each['name']}`" for each in route.get("parameters", ()) if each["in"] == "query")
            gives = _types(route["responses"]["200"].get("content", {}))
            rows.append((f"`{method.upper()} {path}`", route["summary"], takes, query, gives))
    return _table(("route", "what", "body", "query", "answer"), rows)


def errors_table() -> str:
    """Every error class: status, the end of its type URI, title, and when it is met."""
    reasons = dict(re.findall(r"[├└]── (\w+) +(?:\d{3} +)?(\S.*)$", errors.__doc__ or "", re.MULTILINE))
    rows = [
        (
            str(kind.status),
            f"`{kind.slug}`",
            kind.title,
            "" if (why := reasons.get(kind.__name__, "")).isdigit() else why,
        )
        for kind in sorted(errors.ERRORS, key=lambda kind: (kind.status, kind.slug))
    ]
    return _table(("status", "type", "title", "when"), rows)


def commands_table() -> str:
    """Every command of `vae`, with its help."""
    root = typer.main.get_command(cli)
    rows = []
    for name, command in vars(root)["commands"].items():
        for path, each in [(f"{name} {sub}", it) for sub, it in vars(command).get("commands", {}).items()] or [
            (name, command)
        ]:
            rows.append((f"`vae {path}`", " ".join((each.help or "").split())))
    return _table(("command", "what"), rows)


def results_table() -> str:
    """What the bundle that ships measured, from its manifest: protocol and numbers are of one file."""
    manifest = verify_files(PRETRAINED)
    metrics = manifest.metrics
    assert metrics is not None
    protocol, size = metrics.protocol, metrics.effective_sample_size
    assert size is not None
    k = protocol.importance_samples
    nats: list[tuple[str, Estimate | None]] = [
        (f"-L_{k}, the bound of -log p(x)", metrics.negative_log_likelihood),
        ("-ELBO = rate + distortion", metrics.negative_elbo),
        ("rate", metrics.rate),
        ("distortion", metrics.distortion),
    ]
    rows = [
        (what, f"{each.value:.2f}", f"{each.low:.2f} to {each.high:.2f}", "nats per image")
        for what, each in nats
        if each
    ]
    rows.append(("effective sample size, mean", f"{size.mean:.1f}", "", f"of {k} samples"))
    rows.append(("active units", str(metrics.active_units), "", f"of {manifest.latent.dim} dimensions"))
    head = (
        f"{protocol.images:,} {protocol.split} images of {protocol.dataset}, {protocol.binarization} binarization, "
        f"{k:,} importance samples an image, seed {protocol.seed}; intervals are 95% confidence intervals over images."
    )
    parts = [head, _table(("what", "value", "95% interval", "unit"), rows), doubt(metrics)]
    return "\n\n".join(part for part in parts if part is not None)


TABLES = {
    "results": results_table,
    "settings": settings_table,
    "routes": routes_table,
    "errors": errors_table,
    "commands": commands_table,
}


def written(name: str, text: str) -> str:
    """The table between the markers of that name in a Markdown text."""
    start, end = _markers(name)
    return text.partition(start)[2].partition(end)[0].strip()


def with_tables(text: str) -> str:
    """The text with every table made anew."""
    for name, make in TABLES.items():
        start, end = _markers(name)
        before, _, rest = text.partition(start)
        text = f"{before}{start}\n{make()}\n{end}{rest.partition(end)[2]}"
    return text


def _markers(name: str) -> tuple[str, str]:
    return f"<!-- {name}: made by `make docs` -->", f"<!-- end of {name} -->"


def _types(content: dict[str, object]) -> str:
    return ", ".join(SHORT.get(kind, kind) for kind in content)


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    cells = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in cells)


if __name__ == "__main__":
    README.write_text(with_tables(README.read_text(encoding="utf-8")), encoding="utf-8")
