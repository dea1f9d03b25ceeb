"""``napari FILE -w napari-attnseg`` as a person types it: a process of its own, a real window."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytestmark = [pytest.mark.gui, pytest.mark.slow]
SAMPLE = Path(__file__).resolve().parents[2] / "sample_data" / "ct_phantom.nii.gz"
PATIENCE_SECONDS = 120


def titles() -> list[str]:
    """Names of the windows on the display."""
    found = subprocess.run(
        ["xwininfo", "-root", "-tree"], capture_output=True, text=True, check=False
    )
    return [line for line in found.stdout.splitlines() if "napari" in line]


@pytest.mark.skipif(
    not (shutil.which("import") and shutil.which("xwininfo")),
    reason="needs ImageMagick and x11-utils to look at the screen",
)
def test_a_scan_on_the_command_line_opens_with_the_dock(tmp_path: Path) -> None:
    environment = {**os.environ, "NAPARI_CONFIG": str(tmp_path / "settings.yaml")}
    (tmp_path / "settings.yaml").write_text(
        "plugins:\n  extension2reader:\n    '*.nii.gz': napari-attnseg\n"
    )
    napari = Path(sys.executable).with_name("napari")
    command = [str(napari), str(SAMPLE), "-w", "napari-attnseg"]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    shot = tmp_path / "screen.png"
    try:
        end = time.monotonic() + PATIENCE_SECONDS
        bright = 0.0
        while time.monotonic() < end and bright < 0.01:
            assert process.poll() is None, (tmp_path / "log").read_text()
            time.sleep(1.0)
            subprocess.run(["import", "-window", "root", str(shot)], check=True)
            pixels = np.asarray(Image.open(shot).convert("RGB")).astype(int)
            grey = (np.ptp(pixels, axis=2) < 3) & (pixels.mean(2) > 120)
            bright = float(grey[200:800, 500:1000].mean())  # the scan's tissue in the middle
        time.sleep(3.0)
        subprocess.run(["import", "-window", "root", str(shot)], check=True)
        assert bright >= 0.01, "the scan is on the canvas"
        assert titles()
        assert "Error" not in (tmp_path / "log").read_text()
    finally:
        process.terminate()
        process.wait(20)
