"""Where figures go: one section per benchmark in RESULTS.md, replaced at every run."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

RESULTS = Path(__file__).with_name("RESULTS.md")


def device() -> str:
    """The machine in one line."""
    model = platform.processor() or platform.machine()
    for line in _lines("/proc/cpuinfo"):
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    python = platform.python_version()
    return f"{model}, {os.cpu_count()} CPUs, {platform.system()}, Python {python}"


def section(title: str) -> str:
    """What stands under ``## title``; empty where there is nothing."""
    old = RESULTS.read_text() if RESULTS.is_file() else ""
    found = _pattern(title).search(old)
    return found.group() if found else ""


def write_section(title: str, text: str) -> None:
    """Put ``text`` under ``## title``, in place of what stood there."""
    old = RESULTS.read_text() if RESULTS.is_file() else "# Results\n"
    made = f"## {title}\n\n{text.strip()}\n"
    pattern = _pattern(title)
    if pattern.search(old):
        new = pattern.sub(lambda _: made + "\n", old, count=1)
    else:
        new = old.rstrip() + "\n\n" + made
    RESULTS.write_text(new.rstrip() + "\n")


def _pattern(title: str) -> re.Pattern[str]:
    return re.compile(rf"^## {re.escape(title)}\n.*?(?=^## |\Z)", re.MULTILINE | re.DOTALL)


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
