"""Fixtures of the engine's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from napari_attnseg.engine.service import Engine


@pytest.fixture
def engine() -> Iterator[Engine]:
    """An engine in this process, closed after the test."""
    made = Engine()
    yield made
    made.close()
