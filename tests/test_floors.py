"""What an import costs, and who may import whom (the contracts stand in pyproject.toml)."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = ("torch", "numpy", "napari", "qtpy", "PyQt6", "PySide6", "monai", "skimage")


def loaded_after(code: str) -> set[str]:
    """The heavy packages a fresh interpreter holds after running ``code``."""
    probe = (
        f"{code}\nimport sys, json; print(json.dumps([m for m in {HEAVY!r} if m in sys.modules]))"
    )
    out = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, check=True
    ).stdout
    return set(json.loads(out.splitlines()[-1]))


def test_importing_the_package_costs_nothing() -> None:
    assert loaded_after("import napari_attnseg") == set()


def test_the_probe_itself_sees_heavy_imports() -> None:
    assert "numpy" in loaded_after("import numpy")


@pytest.mark.parametrize(
    "module",
    [
        "cards",
        "settings",
        "geometry",
        "control.messages",
        "control.live",
        "control.training",
        "control.child",
        "cli",
    ],
)
def test_nothing_outside_the_engine_imports_torch(module: str) -> None:
    loaded = loaded_after(f"import napari_attnseg.{module}")
    assert not loaded & {"torch", "monai", "napari", "qtpy"}


def test_public_names_resolve_headless() -> None:
    import napari_attnseg

    for name in napari_attnseg.__all__:
        assert getattr(napari_attnseg, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        napari_attnseg.nonsense  # noqa: B018
