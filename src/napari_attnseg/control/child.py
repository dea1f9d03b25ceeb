"""The engine in a supervised child process: it may die, the window may not."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import IO, Literal

from napari_attnseg.control.bakeoff import BakeOff
from napari_attnseg.control.client import BaseClient
from napari_attnseg.control.frames import read_frame, write_frame
from napari_attnseg.control.kinds import LONG, NEWEST_WINS, SILENT, place
from napari_attnseg.control.messages import (
    Cancel,
    EngineLost,
    Event,
    Failed,
    Finished,
    Note,
    Request,
    Stopping,
    Train,
    decode,
    encode,
)

SOFT_CANCEL_SECONDS = {"live": 0.8, "training": 4.0}
"""How long a cancelled step may still run before its process is ended. Training breathes several
times per batch; where that is slow, waiting is better than losing what was learnt."""
SAVING_SECONDS = 10.0
"""How long cancelled work that is already closing (training saves) may take."""
HOST = (sys.executable, "-m", "napari_attnseg.engine.host")
NICE = {"live": 0, "training": 10}


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
    how = "ended unexpectedly" if code is None else f"ended with code {code}"  # not known yet
    return how + (f": {last.strip()}" if last else "")


class _Process:
    """One life of the engine: the process, its reader thread and the tail of its stderr."""

    def __init__(self, command: Sequence[str]) -> None:
        self.popen = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
        self.tail: deque[str] = deque(maxlen=200)
        self.wanted = True
        self.pending: dict[int, Request] = {}
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

    def expect(self, request: Request) -> None:
        """Remember what was asked; a newer question of a newest-wins class replaces older ones."""
        if isinstance(request, SILENT):
            return
        if isinstance(request, NEWEST_WINS):
            here = place(request)
            for number in [n for n, r in self.pending.items() if place(r) == here]:
                del self.pending[number]
        self.pending[request.id] = request

    def settle(self, event: Event) -> bool:
        """Whether this event ends its request (light requests end with their one answer)."""
        request = self.pending.get(event.id)
        ends = isinstance(event, (Finished, Failed))
        if not ends and (isinstance(request, LONG) or isinstance(event, (Note, Stopping))):
            return False
        return self.pending.pop(event.id, None) is not None

    def end(self, grace: float = 0.0, sure: bool = True) -> None:
        """Close the pipe and wait ``grace`` seconds; if ``sure``, terminate, then kill.

        Otherwise the process is left to save: without its pipe it ends by itself in seconds.
        """
        self.wanted = False
        with contextlib.suppress(OSError):
            self.frames_in.close()
        steps = [(lambda: None, grace), (self.popen.terminate, 0.5), (self.popen.kill, 2.0)]
        for act, seconds in steps if sure else steps[:1]:
            act()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.popen.wait(seconds)
                return
        if not sure:
            threading.Thread(target=self.popen.wait, daemon=True).start()

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
        command: Sequence[str] = HOST,
    ) -> None:
        super().__init__()
        self.lane = lane
        self._command = [*command, "--nice", str(NICE[lane]), *(["--warm"] if warm else [])]
        self.generation = 0
        self._dispatch = dispatch or (lambda call: call())
        self._lock = threading.RLock()
        self._process: _Process | None = None
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
                self._process = _Process(self._command)
                threading.Thread(target=self._read, args=(self._process,), daemon=True).start()

    def send(self, request: Request) -> int:
        """Send a request to the engine, starting one when none is alive."""
        request = self._numbered(request)
        with self._lock:
            if not (isinstance(request, SILENT) and self._process is None):
                self._write(request)
        return request.id

    def cancel(self, request_id: int, now: bool = True) -> None:
        """Ask softly; work that does not react in time is ended with its process.

        ``now=False``: it never is, so that the process keeps the model and what is cached.
        """
        with self._lock:
            if self._process is None or request_id not in self._process.pending:
                return
            if request_id not in self._timers:
                if now:
                    self._arm(request_id, SOFT_CANCEL_SECONDS[self.lane])
                self._write(Cancel(self.new_id(), request_id))

    def close(self) -> None:
        """End the process. Running training saves itself, without the caller waiting for it."""
        with self._lock:
            self._closed = True
            process, self._process = self._process, None
            for number in list(self._timers):
                self._disarm(number)
            self._callbacks.clear()
        if process is None:
            return
        saving = any(isinstance(r, (Train, BakeOff)) for r in process.pending.values())
        process.end(grace=0.3, sure=not saving)

    def _write(self, request: Request) -> None:
        for _ in range(2):  # a process that died unnoticed breaks the pipe once
            self.start()
            if self._process is None:
                return
            try:
                write_frame(self._process.frames_in, encode(request))
            except (OSError, ValueError):
                self._process = None
            else:
                self._process.expect(request)
                return

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
            process = self._process
            if process is None or process.pending.pop(request_id, None) is None:
                return
            process.wanted, self._process = False, None
        process.end()
        self._deliver(Finished(request_id, "cancelled", summary={"engine": "restarted"}))
        with self._lock:
            for request in process.pending.values():
                self._write(request)
            if self._timers or not process.pending:
                self.start()

    def _read(self, process: _Process) -> None:
        while (payload := read_frame(process.frames_out)) is not None:
            event = decode(payload)
            try:
                if isinstance(event, Event):
                    self._receive(process, event)
            except Exception:  # a listener's error must not stop the reading
                sys.excepthook(*sys.exc_info())
        self._ended(process)

    def _receive(self, process: _Process, event: Event) -> None:
        with self._lock:
            if not process.wanted:
                return
            if isinstance(event, Stopping) and self._disarm(event.id):
                self._arm(event.id, SAVING_SECONDS)
            if process.settle(event):
                self._disarm(event.id)
        self._deliver(event)

    def _ended(self, process: _Process) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.popen.wait(2.0)
        with self._lock:
            if not process.wanted or self._closed:
                return
            process.wanted = False
            if self._process is process:
                self._process = None
            cancelled = [n for n in list(self._timers) if n in process.pending]
            for number in cancelled:
                self._disarm(number)
        for number in cancelled:
            self._deliver(Finished(number, "cancelled"))
        lost = tuple(n for n in process.pending if n not in cancelled)
        cause = explain_exit(process.popen.returncode, process.stderr())
        self._deliver(EngineLost(0, cause, lost))

    def _deliver(self, event: Event) -> None:
        if not self._closed:
            self._dispatch(lambda: self._tell(event))
