"""Run as a program: predictions in children whose address space is really limited.

Prints JSON lines: one of the prediction that steps down to smaller row blocks, then a list of
attempts for each of several limits. Children are forked after a first small prediction, so
that libraries are loaded and a limit counts what the work itself takes.
"""

from __future__ import annotations

import json
import os
import re
import resource
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lively import lively_model

from napari_attnseg.engine.session import Session
from napari_attnseg.errors import DeviceError

MIB = 1 << 20
SIDE = 768
BIG_BLOCK = 512 * MIB
"""More than the whole attention of SIDE / 8 squared positions (324 MiB, twice)."""


def limit_to(extra: int) -> None:
    """At most ``extra`` bytes of address space more than now."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    wanted = pages * os.sysconf("SC_PAGE_SIZE") + extra
    resource.setrlimit(resource.RLIMIT_AS, (wanted, wanted))


def in_child(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Fork, work there, and give its result; an end without one is told as such."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            found = work()
        except BaseException as error:
            found = {"raised": type(error).__name__, "text": str(error)}
        os.write(writer, json.dumps(found).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as answer:
        text = answer.read()
    _, status = os.waitpid(child, 0)
    return json.loads(text) if text else {"raised": f"ended with status {status}"}


def make_session(image: np.ndarray, tile: int | None = None) -> Session:
    session = Session(lively_model(), "cpu", cache_bytes=MIB, tile=tile)
    session.set_image(image[:64, :64])
    session.predict()
    return session


def smaller_blocks(image: np.ndarray, extra: int) -> dict[str, Any]:
    session = make_session(image)
    session.set_image(image)
    expected = session.predict()
    session.set_image(image[:64, :64])
    session.model.attention.block_bytes = BIG_BLOCK
    session.set_image(image)
    limit_to(extra)
    got = session.predict()
    return {
        "notes": session.notes,
        "block": session.model.attention.block_bytes,
        "difference": float(np.abs(got.logits - expected.logits).max()),
        "labels": int((got.labels != expected.labels).sum()),
        "again": int((session.predict().labels != got.labels).sum()),
    }


def attempt(image: np.ndarray, extra: int, tile: int | None) -> dict[str, Any]:
    session = make_session(image, tile)
    session.set_image(image)
    limit_to(extra)
    try:
        return {"tile": tile, "area": int((session.predict().labels > 0).sum())}
    except DeviceError as error:
        return {"tile": tile, "sentence": str(error)}


def follow_the_advice(image: np.ndarray, extra: int) -> list[dict[str, Any]]:
    """Whole slices first; then, each time anew, the tile that the error names."""
    tile: int | None = None
    found: list[dict[str, Any]] = []
    while True:
        found.append(in_child(partial(attempt, image, extra, tile)))
        named = re.search(r"--tile (\d+)", found[-1].get("sentence", ""))
        if named is None:
            return found
        tile = int(named[1])


def main() -> None:
    torch.set_num_threads(1)
    image = np.random.default_rng(0).random((SIDE, SIDE), dtype=np.float32)
    make_session(image)
    print(json.dumps(in_child(lambda: smaller_blocks(image, 200 * MIB))))
    for extra in range(1, 50, 6):
        print(json.dumps(follow_the_advice(image, extra * MIB)))


if __name__ == "__main__":
    main()
