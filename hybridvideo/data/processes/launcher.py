"""Clean processes: a server imports what workers need once, and forks a worker on request.

    this process  -- start: pipe and mark -->  server  -- fork -->  worker
                  -- end: process numbers -->          -- kill, wait, exit codes

Nothing of the calling program is imported or copied: not its main module, so that a script needs no guard, and not the
locks of its threads (BLAS, trackers, CUDA). It may be a notebook, a fork or a daemon, and ask from any of its threads.
A fork gets its own server. The server ends with the process that started it, and its workers with the server.
"""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from multiprocessing import spawn
from multiprocessing.connection import Connection
from multiprocessing.util import Finalize
from typing import NoReturn

from hybridvideo.data.processes import transport, worker
from hybridvideo.errors import EnvironmentFault
from hybridvideo.signals import STOPPING, send_when_parent_ends

PRELOAD = ("hybridvideo.data.dataset", "hybridvideo.data.views", "hybridvideo.data.decode.pyav")
ANSWER_SECONDS = 300  # for an answer from the server; the first one comes after torch is imported
KILL_SECONDS = 5.0  # that a killed process may take to end; one that waits for a lost disk never does
POLL_SECONDS = 0.002

ADVICE = "see its output above, or use 0 workers to decode in the main process"


# ---- the process that asks


class Launcher:
    """Starts and ends workers through a server, which starts at the first request; for any thread."""

    def __init__(self) -> None:
        self.reset()
        os.register_at_fork(after_in_child=self.reset)

    def reset(self) -> None:
        """Forget the server. In a fork it is the parent's, and the lock may be held forever."""
        self._lock = threading.Lock()
        self._server: tuple[Connection, int] | None = None

    def start(self, *descriptors: int) -> int:
        """Start a process that runs `worker.serve` on these open files; return its number.

        Raises EnvironmentFault if no process can be started.
        """
        why = ""
        with self._lock:
            for _ in range(2):  # a killed server is replaced
                try:
                    channel = self._channel()
                    channel.send(("start", len(descriptors)))
                    transport.send_descriptors(channel, descriptors)
                    return int(channel.recv())
                except (OSError, EOFError) as error:
                    why = str(error) or "it ended"
                    self._close()
        raise EnvironmentFault(f"worker processes cannot be started by {spawn.get_executable()!r} ({why}); {ADVICE}")

    def end(self, processes: Sequence[int], patience: float = 0.0) -> list[int | None]:
        """Kill those alive `patience` seconds from now; return the exit codes, None for unknown ones."""
        with self._lock:
            with contextlib.suppress(OSError, EOFError):
                if self._server is not None:
                    channel = self._channel()
                    channel.send(("end", list(processes), patience))
                    return list(channel.recv())
            self._close()  # they ended with their server
        return [None] * len(processes)

    def _channel(self) -> Connection:
        if self._server is None:
            self._server = _server()
            Finalize(self, self._close, exitpriority=0)  # after the workers, which end at 10
        return self._server[0]

    def _close(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server[0].close()
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(server[1], signal.SIGKILL)
                os.waitpid(server[1], 0)


def _server() -> tuple[Connection, int]:
    """Start a server; return the channel to it and its process number."""
    here, there = multiprocessing.Pipe()
    transport.limit_waiting(here, ANSWER_SECONDS)
    code = f"from hybridvideo.data.processes import launcher; launcher.serve({there.fileno()})"
    flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    with there:
        process = subprocess.Popen(
            [spawn.get_executable(), *flags, "-c", f"import sys; sys.path[:] = {sys.path!r}; {code}"],
            cwd=_folder(),
            stdin=subprocess.DEVNULL,
            pass_fds=[there.fileno()],
            start_new_session=True,
        )
    process.returncode = 0  # it is waited for by its number; a fork has nothing to wait for
    return here, process.pid


def _folder() -> str | None:
    """Where a server starts: here, or at the root if this folder has been removed, since no library loads there."""
    try:
        os.getcwd()
    except OSError:
        return "/"
    return None


# ---- the server


def serve(descriptor: int) -> NoReturn:
    """Serve until the process that started this server has gone."""
    for number in STOPPING:  # these are sent to complete process groups
        signal.signal(number, signal.SIG_IGN)
    for module in PRELOAD:
        importlib.import_module(module)
    with Connection(descriptor) as channel, contextlib.suppress(EOFError, OSError):
        while True:
            what, *request = channel.recv()
            channel.send(_started(channel, *request) if what == "start" else _ended(*request))
    os._exit(0)  # at once, without the interpreter's cleanup: its workers end with it


def _started(channel: Connection, count: int) -> int:
    descriptors: list[int] = []
    transport.receive_descriptors(channel, count, descriptors)
    server = os.getpid()
    process = os.fork()
    if not process:
        channel.close()
        _work(server, *descriptors)
    for descriptor in descriptors:
        os.close(descriptor)
    return process


def _work(server: int, *descriptors: int) -> NoReturn:
    """Live as a worker; never returns."""
    code = 1
    try:
        _end_with(server)
        worker.serve(*descriptors)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _end_with(server: int) -> None:
    """Have the kernel kill this process when the server ends, even if a decoder hangs and holds Python's lock.

    On systems other than Linux a worker ends when it next looks at its pipe.
    """
    send_when_parent_ends(signal.SIGKILL)
    if os.getppid() != server:
        os._exit(1)  # it ended before this


def _ended(processes: Sequence[int], patience: float) -> list[int | None]:
    limit = time.monotonic() + patience
    codes = {process: _code(process, limit) for process in processes}
    living = [process for process, code in codes.items() if code is None and _is_child(process)]
    for process in living:
        os.kill(process, signal.SIGKILL)
    limit = time.monotonic() + KILL_SECONDS
    codes |= {process: _code(process, limit) for process in living}
    return list(codes.values())


def _code(process: int, limit: float) -> int | None:
    """The exit code, negative for a signal; None if it has not ended when the clock shows `limit`."""
    with contextlib.suppress(ChildProcessError):  # it belonged to an earlier server and ended with it
        while True:
            ended, status = os.waitpid(process, os.WNOHANG)
            if ended:
                return os.waitstatus_to_exitcode(status)
            if time.monotonic() >= limit:
                return None
            time.sleep(POLL_SECONDS)
    return None


def _is_child(process: int) -> bool:
    try:
        return os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
    except ChildProcessError:
        return False


LAUNCHER = Launcher()
