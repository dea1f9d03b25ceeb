"""``demo``: the main job on a shipped sample, in a window or in a virtual one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from napari_attnseg.cli._common import ensure_folder, say
from napari_attnseg.errors import InputError


def has_display() -> bool:
    """Whether a window can open here (macOS and Windows always can)."""
    if sys.platform != "linux":
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def demo(
    out: Annotated[Path, typer.Option(help="Folder for screenshots and the mask.")] = Path(
        "demo_output"
    ),
    headless: Annotated[
        bool, typer.Option(help="Take the screenshots and close, even with a display.")
    ] = False,
) -> None:
    """Open napari on a shipped sample, segmented, with the Tune dock open."""
    ensure_folder(out)
    if has_display():
        from napari_attnseg.demo import run_demo

        run_demo(out, interactive=not headless)
        return
    if not shutil.which("xvfb-run"):
        raise InputError(
            "no display and no virtual one; install it with: sudo apt-get install -y xvfb xauth"
        )
    say("no display: running in a virtual one")
    screen = ["xvfb-run", "-a", "-s", "-screen 0 1600x1000x24"]
    command = [sys.executable, "-m", "napari_attnseg", "demo", "--headless", "--out", str(out)]
    raise typer.Exit(subprocess.run([*screen, *command], check=False).returncode)
