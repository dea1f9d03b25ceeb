"""Hands and eyes for a walk: a real napari on a real X display, mouse and keys by xdotool."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

WINDOW = Path(__file__).with_name("walk_window.py")
PATIENCE_SECONDS = 120.0
TOOLS = ("xdotool", "import", "openbox")
Point = tuple[int, int]


def need_tools() -> None:
    """Refuse to begin where a tool is missing."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing or not os.environ.get("DISPLAY"):
        raise SystemExit(
            f"got a display {os.environ.get('DISPLAY')!r} and no {', '.join(missing) or '-'}; "
            "expected an X display, xdotool, ImageMagick and openbox; install them, and run under "
            "xvfb-run -a -s '-screen 0 1600x1000x24'"
        )


@contextlib.contextmanager
def window_manager() -> Iterator[None]:
    """openbox, so that windows have frames and dialogs the keyboard."""
    running = subprocess.Popen(["openbox"], stderr=subprocess.DEVNULL)
    time.sleep(1.0)
    try:
        yield
    finally:
        running.terminate()
        running.wait(10)


class Napari:
    """One napari process, from its start to its end. ``home``: its home folder and settings."""

    def __init__(self, home: Path, *arguments: str) -> None:
        self.socket = home / "walk.socket"
        self.socket.unlink(missing_ok=True)
        self.log = home / "napari.log"
        own = {"HOME": str(home), "NAPARI_CONFIG": str(home / "settings.yaml")}
        inherited = {k: v for k, v in os.environ.items() if k != "QT_QPA_PLATFORM"}
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(WINDOW), str(self.socket), *arguments],
                env={**inherited, **own},
                cwd=home,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.until("viewer is not None and window.isVisible()", "the window")
        time.sleep(2.0)

    # --- eyes -----------------------------------------------------------------------------------

    def ask(self, expression: str) -> Any:
        """The value of an expression inside the window's process (see ``walk_window.py``)."""
        with socket.socket(socket.AF_UNIX) as line:
            line.settimeout(PATIENCE_SECONDS)
            line.connect(str(self.socket))
            line.sendall(expression.encode())
            line.shutdown(socket.SHUT_WR)
            found = json.loads(line.makefile().read())
        if "problem" in found:
            raise LookupError(f"{expression}\n{found['problem']}")
        return found["value"]

    def until(self, expression: str, what: str, seconds: float = PATIENCE_SECONDS) -> None:
        """Wait until an expression is true."""
        end = time.monotonic() + seconds
        problem = ""
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise SystemExit(f"napari ended; its last words are in {self.log}")
            try:
                if self.ask(expression):
                    return
            except (OSError, LookupError, ValueError) as error:
                problem = str(error)
            time.sleep(0.1)
        raise TimeoutError(f"{what} did not come in {seconds:.0f} s. {problem}")

    def shot(self, path: Path, part: str | None = None) -> None:
        """The screen, or the rectangle that ``part`` (an expression) gives."""
        crop = []
        if part is not None:
            left, top, width, height = self.ask(part)
            crop = ["-crop", f"{width}x{height}+{left}+{top}", "+repage"]
        command = ["import", "-silent", "-window", "root", *crop, str(path)]
        subprocess.run(command, check=True)

    # --- hands ----------------------------------------------------------------------------------

    def move(self, to: str | Point) -> Point:
        """The pointer to a point, or to where an expression says."""
        x, y = self.ask(to) if isinstance(to, str) else to
        hand("mousemove", x, y)
        time.sleep(0.12)
        return x, y

    def click(self, at: str | Point, times: int = 1, button: int = 1) -> None:
        """Press and let go."""
        self.move(at)
        hand("click", "--repeat", times, "--delay", 90, button)
        time.sleep(0.35)

    def drag(self, points: list[Point], pause: float = 0.02) -> None:
        """Press at the first point, go through the others, let go at the last."""
        hand("mousemove", *points[0])
        time.sleep(0.15)
        hand("mousedown", 1)
        for point in points[1:]:
            hand("mousemove", *point)
            time.sleep(pause)
        time.sleep(0.1)
        hand("mouseup", 1)
        time.sleep(0.2)

    def type(self, words: str) -> None:
        """Type words on the keyboard."""
        hand("type", "--delay", 12, words)
        time.sleep(0.2)

    def key(self, *names: str) -> None:
        """Press keys, one after the other."""
        for name in names:
            hand("key", name)
            time.sleep(0.3)

    def menu(self, *titles: str) -> None:
        """Walk through the menus; the last entry is pressed."""
        self.click(f"in_menu_bar({titles[0]!r})")
        for title in titles[1:]:
            time.sleep(0.3)
            self.click(f"in_menu({title!r})")

    def choose(self, combo: str, words: str) -> None:
        """Open a combo box and press an entry."""
        self.click(f"middle({combo})")
        time.sleep(0.3)
        self.click(f"in_combo({combo}, {words!r})")

    def kill(self) -> None:
        """As a crash ends it: at once, with no word."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)


def hand(*words: object) -> None:
    """One xdotool command."""
    subprocess.run(["xdotool", *map(str, words)], check=True)


def between(begin: Point, end: Point, steps: int) -> list[Point]:
    """Points on the way, both ends included."""
    parts = [k / steps for k in range(steps + 1)]
    (x, y), (u, v) = begin, end
    return [(round(x + (u - x) * p), round(y + (v - y) * p)) for p in parts]
