"""Workers work from wherever they are asked for: any kind of main module, forks, daemons, threads."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from hybridvideo.data.processes.launcher import LAUNCHER
from hybridvideo.data.processes.workers import each
from hybridvideo.errors import EnvironmentFault, UserError

ROOT = str(Path(__file__).parents[3])
TASKS = ["/a/x", "/b/y", "/c/z"]
DECODES = """
import os
with open("began", "a") as file: _ = file.write("x")

from hybridvideo.data.processes.workers import each
print(*each(os.path.basename, ["/a/x", "/b/y", "/c/z"], workers=2), flush=True)
"""


def python(arguments: list[str], folder: Path, given: str = "") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": ROOT}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, input=given, text=True, capture_output=True)


def script(folder: Path) -> subprocess.CompletedProcess[str]:
    (folder / "main.py").write_text(DECODES)
    return python(["-W", "error", "main.py"], folder)


MAINS: dict[str, Callable[[Path], subprocess.CompletedProcess[str]]] = {
    "a script without a guard": script,
    "a here-document": lambda folder: python(["-"], folder, DECODES),
    "typed in, as in a notebook": lambda folder: python(["-i", "-q"], folder, DECODES),
}


@pytest.mark.parametrize("main", MAINS)
def test_no_main_module_needs_a_guard_or_runs_twice(main: str, tmp_path: Path) -> None:
    done = MAINS[main](tmp_path)
    assert (done.returncode, done.stdout) == (0, "x y z\n"), done.stderr
    assert (tmp_path / "began").read_text() == "x"
    assert "Error" not in done.stderr and "Warning" not in done.stderr, done.stderr


def in_a_child(folder: Path) -> None:
    (folder / "found").write_text(" ".join(each(os.path.basename, TASKS, workers=2)))  # type: ignore[arg-type]


FORKS = """
import multiprocessing, os, pathlib
from tests.data.processes.test_launcher import TASKS, in_a_child
from hybridvideo.data.processes.workers import Workers, _Each

def child():
    process = multiprocessing.get_context("fork").Process(target=in_a_child, args=(pathlib.Path(),), daemon=True)
    process.start()
    process.join()
    assert process.exitcode == 0, process.exitcode
    print(pathlib.Path("found").read_text(), flush=True)

pool = Workers(_Each(os.path.basename), 1)
print(*pool.run([["/a/x"]]), flush=True)
child()
if not os.fork():
    print(*pool.run([["/b/y"]]), flush=True)
    pool.close()
    os._exit(0)
os.wait()
print(*pool.run([["/c/z"]]), flush=True)
"""


def test_forks_and_daemons_have_workers_of_their_own_and_leave_the_parents_alone(tmp_path: Path) -> None:
    done = python(["-c", FORKS], tmp_path)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert done.stdout.splitlines() == ["x", "x y z", "y", "z"]


def test_any_thread_has_workers() -> None:
    found: list[list[object]] = []
    threads = [
        threading.Thread(target=lambda: found.append(list(each(os.path.basename, TASKS, workers=1)))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [["x", "y", "z"]] * 3


def working_folder(task: int) -> str:
    return os.getcwd()


def test_workers_are_where_the_main_process_is_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    list(each(working_folder, [1], workers=1))  # the server has started
    monkeypatch.chdir(tmp_path)
    assert list(each(working_folder, [1], workers=1)) == [str(tmp_path)]


class _OfMain:
    """As if it were of the main module, of which workers know nothing."""

    def __call__(self, task: int) -> int:
        return task


def test_what_only_the_main_module_has_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_OfMain, "__module__", "__main__")
    monkeypatch.setattr(sys.modules["__main__"], "_OfMain", _OfMain, raising=False)
    with pytest.raises(UserError, match=r"_OfMain.*module of its own, or use workers=0") as caught:
        list(each(_OfMain(), [1]))
    assert "\n" not in str(caught.value)


def server() -> psutil.Process:
    list(each(os.getpgid, [0], workers=1))
    (found,) = [child for child in psutil.Process().children() if "launcher" in " ".join(child.cmdline())]
    return found


def test_a_server_that_is_killed_is_replaced() -> None:
    first = server()
    first.kill()
    assert list(each(os.path.basename, TASKS, workers=1)) == ["x", "y", "z"]
    assert server() != first


def slow_name(task: str) -> str:
    if task == "/c/z":
        threading.Event().wait(0.5)
    return os.path.basename(task)


def test_a_server_that_is_killed_in_the_middle_costs_no_item() -> None:
    results: Iterator[object] = each(slow_name, TASKS * 3, workers=2)
    found = [next(results)]
    server().kill()
    assert [*found, *results] == ["x", "y", "z"] * 3


def test_workers_and_server_are_deaf_to_what_a_whole_group_is_sent() -> None:
    results = each(slow_name, TASKS * 3, workers=2)
    found = [next(results)]
    for process in psutil.Process().children(recursive=True):
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
            process.send_signal(number)
    assert [*found, *results] == ["x", "y", "z"] * 3


def test_no_python_to_start_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    server().kill()
    monkeypatch.setattr("multiprocessing.spawn.get_executable", lambda: "/nowhere/python")
    said = r"cannot be started by '/nowhere/python' \(.*No such file.*0 workers"
    with pytest.raises(EnvironmentFault, match=said) as caught:
        list(each(os.path.basename, TASKS, workers=1))
    assert "\n" not in str(caught.value)


def test_a_process_that_is_not_the_servers_own_is_not_killed() -> None:
    server()
    assert LAUNCHER.end([os.getpid()]) == [None]


SCRIPT = """
import threading, time
from hybridvideo.data.processes.workers import each
from tests.data.processes.test_workers import behave
results = each(behave, ["hang"], workers=2, deadline=600)
threading.Thread(target=list, args=(results,), daemon=True).start()
print("ready", flush=True)
time.sleep(600)
"""


def test_a_worker_that_hangs_and_one_that_waits_end_when_the_main_process_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "main.py"
    script.write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": ROOT}
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True, env=environment) as main:
        assert main.stdout is not None and main.stdout.readline() == "ready\n"
        family = psutil.Process(main.pid).children(recursive=True)
        limit = time.monotonic() + 20
        while len(family) < 3 and time.monotonic() < limit:  # the server, two workers
            time.sleep(0.05)
            family = psutil.Process(main.pid).children(recursive=True)
        try:
            assert len(family) == 3
        finally:
            main.kill()
    _, alive = psutil.wait_procs(family, timeout=20)
    assert not alive
