"""Memory that really ends: nothing is injected, the system refuses the allocations."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits address space by RLIMIT_AS")
PROGRAM = Path(__file__).with_name("short_of_memory.py")


ONLY_WHAT_IS_USED = {
    "OMP_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": "65536",  # what is freed goes back, as with large images
}


@pytest.fixture(scope="module")
def found() -> list[Any]:
    """What ``short_of_memory.py`` reports."""
    done = subprocess.run(
        [sys.executable, str(PROGRAM)],
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
        env=os.environ | ONLY_WHAT_IS_USED,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_smaller_row_blocks_give_the_same_answer(found: list[Any]) -> None:
    report = found[0]
    assert "raised" not in report, report
    assert report["notes"] == [
        "memory ran out on cpu: attention runs in smaller row blocks (4 MiB, same answer)"
    ]
    assert report["block"] == 4 << 20
    assert report["difference"] <= 1e-6
    assert report["labels"] == report["again"] == 0


def test_wherever_memory_ends_there_is_an_answer_or_a_sentence(found: list[Any]) -> None:
    """Never a library's own words, and the tile that the sentence names leads to an answer."""
    ways = found[1:]
    attempts = [a for way in ways for a in way]
    assert not [a for a in attempts if "raised" in a]
    for text in (a["sentence"] for a in attempts if "sentence" in a):
        assert text.startswith("got a slice of 768 x 768 pixels, but memory ran out on cpu")
        assert ("--tile" in text) == ("changes the answer of a global attention" in text)
    assert [a["tile"] for a in ways[-1]] == [None]  # with enough, nothing is cut
    rescued = [way for way in ways if len(way) > 1 and way[-1].get("area", 0) > 0]
    assert rescued
    assert all(way[0]["tile"] is None and way[-1]["tile"] for way in rescued)
