"""The engine process: ``python -m napari_attnseg.engine.host``.

Frames (4-byte little-endian length, then one JSON message) come on standard input and go out on
standard output. Both descriptors are taken over before any library is imported: what a library
prints goes to standard error, so that it can never break a frame.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import IO

from napari_attnseg.breath import interrupt
from napari_attnseg.control.frames import read_frame, write_frame
from napari_attnseg.control.messages import Cancel, Event, Request, decode, encode

PARENT_GRACE_SECONDS = 4.0
"""After the parent's death running work may save itself this long; then the process ends."""


def take_over_streams() -> tuple[IO[bytes], IO[bytes]]:
    """Keep stdin and stdout for frames; point descriptor 0 at nothing and 1 at stderr."""
    frames_in, frames_out = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    if sys.platform == "win32":
        import msvcrt

        msvcrt.setmode(frames_in, os.O_BINARY)
        msvcrt.setmode(frames_out, os.O_BINARY)
    sys.stdout = sys.stderr
    return os.fdopen(frames_in, "rb"), os.fdopen(frames_out, "wb", buffering=0)


def lower_priority(nice: int) -> None:
    """Be nice to the window: training runs at a lower priority than live work."""
    if nice <= 0:
        return
    import psutil

    with contextlib.suppress(psutil.Error, OSError):
        windows = getattr(psutil, "BELOW_NORMAL_PRIORITY_CLASS", None)
        psutil.Process().nice(windows if windows is not None else nice)
    leave_a_processor()


def leave_a_processor() -> None:
    """Before torch comes: one processor stays free for the window and live work.

    With as many threads as processors every parallel step waits for the one that was pushed
    aside: a training beside other work ran more than ten times slower.
    """
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (usable or 1) - 1)))


def read_requests(stream: IO[bytes], inbox: queue.SimpleQueue[Request | None]) -> None:
    """Reader thread: frames to the inbox; at the parent's death end the process in time."""
    while (payload := read_frame(stream)) is not None:
        message = decode(payload)
        if isinstance(message, Cancel):
            interrupt(message.target)  # heard within a slice, too
        if isinstance(message, Request):
            inbox.put(message)
    inbox.put(None)
    time.sleep(PARENT_GRACE_SECONDS)
    os._exit(3)


def emitter(stream: IO[bytes]) -> Callable[[Event], None]:
    """Send events; a parent that is gone is noticed by the reader thread, not here."""

    def emit(event: Event) -> None:
        with contextlib.suppress(OSError):
            write_frame(stream, encode(event))

    return emit


def serve(inbox: queue.SimpleQueue[Request | None], emit: Callable[[Event], None]) -> None:
    """Serve until the inbox says that the parent is gone."""
    from napari_attnseg.engine.desk import Desk
    from napari_attnseg.engine.service import Engine

    desk = Desk(Engine(), emit)
    while True:
        try:
            request = inbox.get(block=not desk.busy)
        except queue.Empty:
            desk.step()
            continue
        if request is None:
            desk.close()
            return
        desk.submit(request)


def main(argv: list[str] | None = None) -> None:
    """Run the engine process until its parent closes the pipe or dies."""
    parser = argparse.ArgumentParser(prog="napari_attnseg.engine.host")
    parser.add_argument("--nice", type=int, default=0)
    parser.add_argument("--warm", action="store_true", help="import torch before it is asked for")
    options = parser.parse_args(argv)
    frames_in, frames_out = take_over_streams()
    faulthandler.enable()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C belongs to the parent
    lower_priority(options.nice)
    inbox: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
    threading.Thread(target=read_requests, args=(frames_in, inbox), daemon=True).start()
    if options.warm:
        import napari_attnseg.engine.session  # noqa: F401
    serve(inbox, emitter(frames_out))
    sys.stderr.flush()
    os._exit(0)  # skip the slow tear-down of torch


if __name__ == "__main__":
    main()
