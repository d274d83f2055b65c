"""The OpenAPI document: complete, deterministic, and the same under any settings."""

import json
import os
import subprocess
import sys
from typing import Any

from app import notes, probes
from app.negotiation import FORMATS
from app.operations import OPERATIONS
from app.routes import DOCUMENTED
from app.service import create_app
from app.settings import Settings


def document(**settings: object) -> dict[str, Any]:
    return create_app(Settings.model_validate(settings)).site().openapi()


def test_independent_of_settings_and_machine() -> None:
    printed = [
        subprocess.run(
            [sys.executable, "-m", "app.documentation"],
            capture_output=True,
            check=True,
            env=os.environ | {"VAE_PORT": "1"},
        ).stdout
        for _ in range(2)
    ]
    assert printed[0] == printed[1]
    assert json.loads(printed[0]) == document() == document(max_items=3, root_path="/x", api_keys=("k",))


def test_probes_are_the_same_for_routes_and_for_logs() -> None:
    assert set(probes.PROBES) == notes.PROBES


def test_every_operation_is_whole() -> None:
    paths = document()["paths"]
    assert {(operation.method, operation.path) for operation in DOCUMENTED} == set(OPERATIONS)
    for operation in DOCUMENTED:
        about = paths[operation.path][operation.method.lower()]
        assert about["summary"]
        assert set(about["responses"]["200"]["content"]) == set(operation.answers)
        assert set(about.get("requestBody", {}).get("content", {})) == set(operation.bodies)
        assert {parameter["name"] for parameter in about["parameters"]} == set(operation.query.model_fields)
        (formats,) = [parameter["schema"]["enum"] for parameter in about["parameters"] if parameter["name"] == "format"]
        assert {FORMATS[name] for name in formats} == set(operation.answers)
        assert all(parameter["description"] for parameter in about["parameters"])
        for status in ("401", "404", "406", "413", "415", "422", "500", "503", "504"):
            assert list(about["responses"][status]["content"]) == ["application/problem+json"]


def test_references_resolve() -> None:
    made = document()
    known = made["components"]["schemas"]

    def walk(node: object) -> None:
        if isinstance(node, dict):
            reference = node.get("$ref")
            assert reference is None or reference.removeprefix("#/components/schemas/") in known
            for value in node.values():
                walk(value)
        elif isinstance(node, list):
            for value in node:
                walk(value)

    walk(made)
