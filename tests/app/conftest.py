"""A tiny bundle, written once, and a client of a server that has it."""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TypeVar

import pytest

from tests.support.tiny import write_tiny_bundle

T = TypeVar("T")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


@pytest.fixture(scope="session")
def overflowing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "overflowing", decoder="overflowing")


@pytest.fixture(scope="session")
def color(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "color", name="color", channels=3, height=8, width=12)


@pytest.fixture
def run() -> Callable[[Coroutine[object, object, T]], T]:
    """Run one coroutine on a fresh event loop, within a bounded time."""

    def run(coroutine: Coroutine[object, object, T]) -> T:
        async def bounded() -> T:
            async with asyncio.timeout(60):
                return await coroutine

        return asyncio.run(bounded())

    return run
