"""The engine in a supervised child process: it may die, the window may not."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable
from typing import IO, Literal

from napari_attnseg.control.client import BaseClient
from napari_attnseg.control.messages import (
    AttentionRow,
    Cancel,
    EngineLost,
    Event,
    Failed,
    Fingerprint,
    Finished,
    Note,
    Predict,
    Request,
    Retune,
    SetPreview,
    Stopping,
    Train,
    decode,
    encode,
    read_frame,
    write_frame,
)

SOFT_CANCEL_SECONDS = 0.8
"""How long a cancelled step may still run before its process is ended."""
SAVING_SECONDS = 10.0
"""How long cancelled work that is already closing (training saves) may take."""
NICE = {"live": 0, "training": 10}
_REPLACED = (Retune, AttentionRow, Fingerprint)
_ENDS = (Finished, Failed)


def explain_exit(code: int | None, stderr: str = "") -> str:
    """One sentence for the way a process ended."""
    if code is not None and code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        why = {
            "SIGKILL": "killed from outside (SIGKILL), most often because memory ran out",
            "SIGSEGV": "crashed inside a native library (segmentation fault)",
            "SIGABRT": "aborted inside a native library",
            "SIGTERM": "ended from outside (SIGTERM)",
            "SIGBUS": "crashed while reading or writing its scratch files (disk full?)",
        }.get(name, f"ended by {name}")
        return why
    last = next((line for line in reversed(stderr.splitlines()) if line.strip()), "")
    return f"ended with code {code}" + (f": {last.strip()}" if last else "")


class _Process:
    """One life of the engine: the process, its reader thread and the tail of its stderr."""

    def __init__(self, nice: int, warm: bool) -> None:
        command = [sys.executable, "-m", "napari_attnseg.engine.host", "--nice", str(nice)]
        self.popen = subprocess.Popen(
            command + (["--warm"] if warm else []),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
        self.tail: deque[str] = deque(maxlen=200)
        self.wanted = True
        self._drain = threading.Thread(target=self._read_stderr, daemon=True)
        self._drain.start()

    @property
    def frames_in(self) -> IO[bytes]:
        assert self.popen.stdin is not None
        return self.popen.stdin

    @property
    def frames_out(self) -> IO[bytes]:
        assert self.popen.stdout is not None
        return self.popen.stdout

    def stderr(self) -> str:
        """The last lines that the process wrote to standard error."""
        self._drain.join(0.2)
        return "".join(self.tail)

    def end(self, grace: float = 0.0) -> None:
        """Close the pipe, wait ``grace`` seconds, then terminate, then kill."""
        self.wanted = False
        with contextlib.suppress(OSError):
            self.frames_in.close()
        for act, seconds in ((None, grace), (self.popen.terminate, 0.5), (self.popen.kill, 2.0)):
            if act is not None:
                act()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.popen.wait(seconds)
                return

    def _read_stderr(self) -> None:
        assert self.popen.stderr is not None
        for line in self.popen.stderr:
            self.tail.append(line.decode(errors="replace"))


class ChildClient(BaseClient):
    """The engine in a child process of this lane; it starts at the first request.

    ``dispatch`` is called with a function for every event; a window passes one that runs it in
    its main thread (the default runs it in the reader thread). After a death ``EngineLost`` is
    told once and the next request starts a new process.
    """

    def __init__(
        self,
        lane: Literal["live", "training"] = "live",
        dispatch: Callable[[Callable[[], None]], None] | None = None,
        warm: bool = True,
    ) -> None:
        super().__init__()
        self.lane = lane
        self.generation = 0
        self._dispatch = dispatch or (lambda call: call())
        self._warm = warm
        self._lock = threading.RLock()
        self._process: _Process | None = None
        self._pending: dict[int, Request] = {}
        self._timers: dict[int, threading.Timer] = {}
        self._closed = False

    @property
    def pid(self) -> int | None:
        """Process number of the living engine, or ``None``."""
        with self._lock:
            return self._process.popen.pid if self._process else None

    def start(self) -> None:
        """Start the process now, so that the first answer comes sooner."""
        with self._lock:
            if self._process is None and not self._closed:
                self.generation += 1
                self._process = _Process(NICE[self.lane], self._warm)
                threading.Thread(target=self._read, args=(self._process,), daemon=True).start()

    def send(self, request: Request) -> int:
        """Send a request to the engine, starting one when none is alive."""
        request = self._numbered(request)
        with self._lock:
            if isinstance(request, _REPLACED):
                self._forget(lambda r: type(r) is type(request))
            if not isinstance(request, (Cancel, SetPreview)):
                self._pending[request.id] = request
            self._write(request)
        return request.id

    def cancel(self, request_id: int) -> None:
        """Ask softly; work that does not react in time is ended with its process."""
        with self._lock:
            if request_id not in self._pending or self._process is None:
                return
            if request_id not in self._timers:
                self._arm(request_id, SOFT_CANCEL_SECONDS)
            self._write(Cancel(self.new_id(), request_id))

    def close(self) -> None:
        """End the process: softly, then surely (at most about three seconds)."""
        with self._lock:
            self._closed = True
            process, self._process = self._process, None
            for timer in self._timers.values():
                timer.cancel()
            self._timers.clear()
            self._pending.clear()
            self._callbacks.clear()
        if process:
            process.end(grace=1.0)

    def _write(self, request: Request) -> None:
        for _ in range(2):  # a process that died unnoticed breaks the pipe once
            self.start()
            if self._process is None:
                return
            try:
                write_frame(self._process.frames_in, encode(request))
                return
            except (OSError, ValueError):
                self._process = None

    def _forget(self, which: Callable[[Request], bool]) -> None:
        for number in [n for n, r in self._pending.items() if which(r)]:
            del self._pending[number]

    def _arm(self, request_id: int, seconds: float) -> None:
        timer = threading.Timer(seconds, self._enforce, (request_id,))
        timer.daemon = True
        self._timers[request_id] = timer
        timer.start()

    def _disarm(self, request_id: int) -> bool:
        timer = self._timers.pop(request_id, None)
        if timer:
            timer.cancel()
        return timer is not None

    def _enforce(self, request_id: int) -> None:
        """The soft cancel was not heard: end the process, start another, repeat what waits."""
        with self._lock:
            self._timers.pop(request_id, None)
            if request_id not in self._pending or self._process is None:
                return
            del self._pending[request_id]
            process, self._process = self._process, None
            process.wanted = False
        process.end()
        self._deliver(Finished(request_id, "cancelled", summary={"engine": "restarted"}))
        with self._lock:
            self.start()
            for request in tuple(self._pending.values()):
                self._write(request)

    def _read(self, process: _Process) -> None:
        while (payload := read_frame(process.frames_out)) is not None:
            event = decode(payload)
            if isinstance(event, Event):
                self._receive(event)
        self._ended(process)

    def _receive(self, event: Event) -> None:
        with self._lock:
            if isinstance(event, Stopping) and self._disarm(event.id):
                self._arm(event.id, SAVING_SECONDS)
            if isinstance(event, _ENDS) or not isinstance(event, (Note, Stopping)):
                self._settle(event)
        self._deliver(event)

    def _settle(self, event: Event) -> None:
        request = self._pending.get(event.id)
        if isinstance(event, _ENDS) or not isinstance(request, (Predict, Train)):
            self._pending.pop(event.id, None)
            self._disarm(event.id)

    def _ended(self, process: _Process) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.popen.wait(2.0)
        with self._lock:
            if not process.wanted or self._closed:
                return
            if self._process is process:
                self._process = None
            cancelled = [n for n in self._timers if self._disarm(n)] if self._timers else []
            self._pending.clear()
        for number in cancelled:
            self._deliver(Finished(number, "cancelled"))
        self._deliver(EngineLost(0, explain_exit(process.popen.returncode, process.stderr())))

    def _deliver(self, event: Event) -> None:
        self._dispatch(lambda: self._tell(event))
