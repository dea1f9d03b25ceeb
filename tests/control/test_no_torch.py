"""What the window imports never pulls in torch: it lives in the engine's process alone."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

import napari_attnseg

ROOT = Path(napari_attnseg.__file__).parent


def modules(*folders: str) -> list[str]:
    """Import names of all modules in these subpackages."""
    files = [f for folder in folders for f in sorted((ROOT / folder).glob("*.py"))]
    return [f"napari_attnseg.{f.parent.name}.{f.stem}" for f in files if f.stem != "__init__"]


def imported(names: list[str]) -> set[str]:
    """Top-level packages that a fresh interpreter loads for these modules."""
    code = f"import {', '.join(names)}"
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", code], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    return {line.rsplit("|", 1)[1].strip().split(".")[0] for line in lines}


def test_the_probe_sees_what_is_imported() -> None:
    assert "torch" in imported(["napari_attnseg.engine.session"])


def test_control_needs_neither_torch_nor_a_window() -> None:
    names = modules("control")
    assert len(names) >= 7
    loaded = imported([*names, "napari_attnseg.engine.host", "napari_attnseg.engine.desk"])
    assert "psygnal" in loaded
    assert not loaded & {"torch", "monai", "napari", "qtpy", "PyQt6", "PySide6"}


@pytest.mark.gui
@pytest.mark.skipif(importlib.util.find_spec("napari") is None, reason="needs napari")
def test_docks_and_viewer_need_no_torch() -> None:
    loaded = imported(modules("viewer", "widgets"))
    assert "napari" in loaded
    assert not loaded & {"torch", "monai"}
