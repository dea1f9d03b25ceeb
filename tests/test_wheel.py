"""The built wheel, installed into a clean environment, brings samples and checkpoints."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

FIND = """
from napari_attnseg.cards import read_card, shipped_checkpoints
import napari_attnseg, pathlib
found = shipped_checkpoints()
assert {"nuclei_smooth_unet", "ct_organs_smooth_unet"} <= set(found), found
for path in found.values():
    assert "site-packages" in str(path), path
    assert read_card(path).class_names[0] == "background"
    assert path.stat().st_size <= 3_000_000
samples = pathlib.Path(napari_attnseg.__file__).parent / "sample_data"
assert (samples / "ct_phantom.nii.gz").is_file()
assert (samples / "ct_phantom_labels.nii.gz").is_file()
print("found", len(found))
"""


def test_wheel_in_a_clean_environment(tmp_path: Path) -> None:
    pytest.importorskip("hatchling", reason="builds the wheel without the network")
    pip = [sys.executable, "-m", "pip"]
    if subprocess.run([*pip, "--version"], capture_output=True, check=False).returncode:
        pytest.skip("pip is absent from this environment")
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", str(tmp_path)]
    subprocess.run([*build, str(ROOT)], check=True)
    wheel = next(tmp_path.glob("*.whl"))
    venv.create(tmp_path / "env", with_pip=False)
    python = tmp_path / "env" / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    site = subprocess.run(
        [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    subprocess.run([*pip, "install", "-q", "--no-deps", "--target", site, str(wheel)], check=True)
    # cards need nothing but the standard library, so a bare environment can read them
    out = subprocess.run(
        [str(python), "-I", "-c", FIND], capture_output=True, text=True, check=False
    )
    assert out.returncode == 0, out.stderr
    assert out.stdout.startswith("found")
