"""Install the system libraries that Qt, OpenGL and a virtual display need, where they miss.

Debian and Ubuntu as root: missing packages are installed. Otherwise one line says what to run.
Other systems: nothing is done.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

PACKAGES = (
    "xvfb",
    "xauth",
    "libegl1",
    "libgl1",
    "libgl1-mesa-dri",
    "libopengl0",
    "libfontconfig1",
    "libglib2.0-0",
    "libdbus-1-3",
    "libxkbcommon-x11-0",
    "libxcb-cursor0",
    "libxcb-icccm4",
    "libxcb-keysyms1",
    "libxcb-shape0",
    "fonts-dejavu-core",
    "x11-utils",
)
RENAMED = {"libglib2.0-0": "libglib2.0-0t64"}
"""Names that newer releases gave to the same library."""


def installed(package: str) -> bool:
    """Whether dpkg knows the package (or its renamed twin) as installed."""
    names = [package, *filter(None, [RENAMED.get(package)])]
    for name in names:
        status = subprocess.run(
            ["dpkg-query", "-W", "-f=${Status}", name], capture_output=True, text=True, check=False
        )
        if status.stdout.startswith("install ok"):
            return True
    return False


def install(missing: list[str]) -> int:
    """Install as root; one retry with a fresh package list."""
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    command = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing]
    subprocess.run(["apt-get", "update", "-qq"], env=env, check=False)
    print("installing system packages:", *missing, flush=True)
    return subprocess.run(command, env=env, stdout=subprocess.DEVNULL, check=False).returncode


def main() -> int:
    """Return 0 when the window can open, else say in one line what to run."""
    if sys.platform != "linux" or not shutil.which("dpkg-query"):
        return 0
    missing = [package for package in PACKAGES if not installed(package)]
    if not missing:
        return 0
    if os.geteuid() == 0:
        return install(missing)
    if os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        print("optional system packages are absent:", *missing)
        return 0
    print("No display and missing libraries. Run: sudo apt-get install -y", *missing)
    return 1


if __name__ == "__main__":
    sys.exit(main())
