"""`hybridvideo doctor`: what this installation can do, and for each fault the command that fixes it.

Every check is one small function that returns a `Finding` and never raises: a broken torch is a finding, not a crash.
Decoders are native code that may take the process down with them, so each is tried in a separate process.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module, metadata, util
from pathlib import Path
from typing import Literal

from hybridvideo.errors import EnvironmentFault
from hybridvideo.report.environment import cpu_cores, cpu_name, package_version
from hybridvideo.text import shown

State = Literal["ok", "optional", "fault"]
LONGEST_PROBE = 60.0
"""Seconds that a decoder may take over eight frames."""
NO_ANSWER = "no answer"
DISK_WANTED = 5.0
"""GB free in the current folder below which a training run may not fit."""
REINSTALL_TORCH = "pip install --force-reinstall torch torchvision"


@dataclass(frozen=True)
class Finding:
    """What a check found. `optional`: absent, and only some users need it. `fix`: a command or advice on one line."""

    name: str
    state: State
    detail: str
    fix: str = ""


def first_line(fault: BaseException | str, longest: int = 160) -> str:
    """Return the first line that is not empty, cut to `longest`."""
    lines = [line.strip() for line in str(fault).splitlines() if line.strip()]
    message = lines[0] if lines else type(fault).__name__
    return message if len(message) <= longest else message[: longest - 1] + "…"


# ---- Python and packages ---------------------------------------------------------------------------------------------


def python() -> Finding:
    return Finding("Python", "ok", f"{platform.python_version()} at {sys.prefix}")


def torch_works() -> Finding:
    try:
        import torch

        torch.ones(2, 2) @ torch.ones(2, 2)
    except Exception as fault:
        return Finding("torch", "fault", first_line(fault), REINSTALL_TORCH)
    return Finding("torch", "ok", torch.__version__)


def torchvision_matches() -> Finding:
    """Check that torchvision's compiled operators load with this torch: only if one was built for the other."""
    try:
        import torch
        import torchvision

        torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    except Exception as fault:
        mismatch = f"torchvision {package_version('torchvision')} with torch {package_version('torch')}"
        return Finding("torchvision", "fault", f"{first_line(fault)} ({mismatch})", REINSTALL_TORCH)
    wanted, found = made_for("torchvision"), torch.__version__.partition("+")[0]
    if wanted and wanted != found:
        message = f"{torchvision.__version__} was built for torch {wanted}, but torch is {found}"
        return Finding("torchvision", "fault", message, REINSTALL_TORCH)
    return Finding("torchvision", "ok", f"{torchvision.__version__}, matches torch")


def made_for(package: str) -> str:
    """Return the one torch version that a package's metadata requires, or an empty string."""
    try:
        asked = metadata.requires(package) or []
    except metadata.PackageNotFoundError:
        return ""
    pinned = [one.partition("==")[2].partition(";")[0].strip(" )") for one in asked if one.startswith("torch==")]
    return pinned[0] if pinned else ""


def package(name: str) -> Finding:
    """Check a package that the jobs import."""
    try:
        import_module(name)
    except Exception as fault:
        return Finding(name, "fault", first_line(fault), f"pip install --upgrade {name}")
    return Finding(name, "ok", package_version(name))


def accelerate() -> Finding:
    return package("accelerate")


def timm() -> Finding:
    return package("timm")


# ---- decoders --------------------------------------------------------------------------------------------------------

FRAMES = 8
MAKE_VIDEO = """
import sys, av, numpy
with av.open(sys.argv[1], "w") as target:
    codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
    stream = target.add_stream(codec, rate=8)
    stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
    for shade in range(8):
        frame = av.VideoFrame.from_ndarray(numpy.full((64, 64, 3), 30 * shade, numpy.uint8), format="rgb24")
        target.mux(stream.encode(frame))
    target.mux(stream.encode())
"""
# Each reads the video named by its argument and prints how many frames came back.
DECODERS = {
    "av": "import sys, av\nwith av.open(sys.argv[1]) as video: print(sum(1 for _ in video.decode(video=0)))",
    "decord": "import sys, decord\nprint(len(decord.VideoReader(sys.argv[1]).get_batch(range(8)).asnumpy()))",
    "torchcodec": "import sys\nfrom torchcodec.decoders import VideoDecoder\nprint(len(VideoDecoder(sys.argv[1])[:]))",
}


def attempt(code: str, video: Path, longest: float = LONGEST_PROBE) -> tuple[bool, str]:
    """Run Python code on a video in a separate process; return whether it succeeded, and its output or fault."""
    command = [sys.executable, "-c", code, str(video)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=longest, check=False)
    except subprocess.TimeoutExpired:
        return False, f"{NO_ANSWER} within {longest:.0f} s"
    if done.returncode < 0:
        return False, f"the process was killed by signal {-done.returncode}"
    return done.returncode == 0, (done.stdout if done.returncode == 0 else done.stderr).strip()


def decode(name: str) -> tuple[bool, str]:
    """Return whether a decoder returns the eight frames of a small video, and what it printed."""
    with tempfile.TemporaryDirectory() as folder:
        video = Path(folder) / "eight.mp4"
        made, message = attempt(MAKE_VIDEO, video)
        if not made:
            return False, "no video to try it on, because PyAV cannot write one" if name != "av" else message
        worked, message = attempt(DECODERS[name], video)
    if worked and message != str(FRAMES):
        return False, f"read {message} of {FRAMES} frames"
    return worked, message


def last_line(message: str) -> str:
    """Return the last line of a traceback."""
    return first_line(message.splitlines()[-1] if message else "ended without output")


def remedy(message: str, package: str) -> str:
    """What to do about a decoder that failed; one that did not answer may only have had a busy machine."""
    again = (
        "if the machine was busy, run `hybridvideo doctor` again; otherwise " if message.startswith(NO_ANSWER) else ""
    )
    return f"{again}pip install --force-reinstall {package}"


def pyav() -> Finding:
    worked, message = decode("av")
    if not worked:
        return Finding("PyAV", "fault", last_line(message), remedy(message, "av"))
    import av

    return Finding("PyAV", "ok", f"{av.__version__} with FFmpeg {av.ffmpeg_version_info}; read {FRAMES} frames")


def decord() -> Finding:
    if util.find_spec("decord") is None:
        return Finding("decord", "optional", "not installed", "pip install 'hybridvideo[decord]'")
    worked, message = decode("decord")
    if not worked:
        return Finding("decord", "optional", last_line(message), remedy(message, "decord"))
    return Finding("decord", "ok", f"{package_version('decord')}; read {FRAMES} frames")


def torchcodec() -> Finding:
    """Check torchcodec: some releases import without FFmpeg's shared libraries and fail at the first decoder."""
    if util.find_spec("torchcodec") is None:
        return Finding("torchcodec", "optional", "not installed", "pip install 'hybridvideo[torchcodec]'")
    worked, message = decode("torchcodec")
    version = package_version("torchcodec")
    if worked:
        return Finding("torchcodec", "ok", f"{version}, matches torch; read {FRAMES} frames")
    if "libtorchcodec" not in message and "libav" not in message:
        return Finding("torchcodec", "optional", last_line(message), remedy(message, "torchcodec"))
    if not ffmpeg_libraries():
        return Finding("torchcodec", "optional", f"{version}: FFmpeg's shared libraries are missing", install_ffmpeg())
    detail = f"{version} does not load with torch {package_version('torch')} or this FFmpeg"
    return Finding("torchcodec", "optional", detail, "pip install --force-reinstall torch torchvision torchcodec")


def ffmpeg_libraries() -> bool:
    """Return whether FFmpeg's shared libraries are where the loader searches."""
    from ctypes.util import find_library

    return find_library("avcodec") is not None or any(Path(sys.prefix, "lib").glob("libavcodec.*"))


def install_ffmpeg() -> str:
    """Return the command that installs FFmpeg with its libraries on this system."""
    if sys.platform == "darwin":
        return "brew install ffmpeg"
    managers = {"apt-get": "sudo apt-get install ffmpeg", "dnf": "sudo dnf install ffmpeg-free"}
    found = (command for manager, command in managers.items() if shutil.which(manager))
    return next(found, "conda install -c conda-forge ffmpeg")


def ffmpeg() -> Finding:
    """Check for the `ffmpeg` program; PyAV brings its own libraries, so only people need it."""
    program = shutil.which("ffmpeg")
    if program is None:
        return Finding("ffmpeg program", "optional", "not found; PyAV does not need it", install_ffmpeg())
    try:
        run = subprocess.run([program, "-version"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as fault:
        return Finding("ffmpeg program", "optional", first_line(fault), install_ffmpeg())
    return Finding("ffmpeg program", "ok", " ".join(run.stdout.split()[:3]) + f" at {program}")


# ---- devices and the machine -----------------------------------------------------------------------------------------


def cpu() -> Finding:
    named = f"{cpu_name()}, {cpu_cores()} {'core' if cpu_cores() == 1 else 'cores'}"
    try:
        import torch

        return Finding("cpu", "ok", named + bf16_support(torch.cpu.get_capabilities()))
    except Exception:  # the checks of torch say what is wrong with it
        return Finding("cpu", "ok", named)


def bf16_support(capabilities: Mapping[str, object]) -> str:
    """Describe an x86 CPU's support for bf16: matrix units (AMX), vector instructions, or none; empty for others."""
    if capabilities.get("architecture") != "x86_64":
        return ""
    kinds = {"amx_bf16": ", bf16 in AMX matrix units", "avx512_bf16": ", bf16 in AVX-512"}
    return next((words for key, words in kinds.items() if capabilities.get(key)), ", no bf16 instructions: use fp32")


def cuda() -> Finding:
    try:
        import torch

        if torch.cuda.is_available():
            return Finding("cuda", "ok", ", ".join(gpus()) + f"; CUDA {torch.version.cuda}")
        build = torch.version.cuda
    except Exception as fault:
        return Finding("cuda", "optional", f"not asked, torch is broken: {first_line(fault)}", REINSTALL_TORCH)
    if shutil.which("nvidia-smi") is None:
        return Finding("cuda", "optional", "no NVIDIA GPU here; jobs run on the CPU")
    if build is None:
        return Finding("cuda", "optional", "there is an NVIDIA driver, but torch is a CPU build", REINSTALL_TORCH)
    return Finding("cuda", "optional", f"torch (CUDA {build}) sees no GPU", "nvidia-smi  # queries the driver")


def gpus() -> Iterator[str]:
    """List each GPU with its memory."""
    import torch

    for index in range(torch.cuda.device_count()):
        memory = torch.cuda.get_device_properties(index).total_memory / 2**30
        yield f"{torch.cuda.get_device_name(index)} ({memory:.0f} GiB)"


def mps() -> Finding:
    if sys.platform != "darwin":
        return Finding("mps", "optional", "only on Apple computers")
    try:
        import torch

        found = torch.backends.mps.is_available()
    except Exception as fault:
        return Finding("mps", "optional", f"not asked, torch is broken: {first_line(fault)}", REINSTALL_TORCH)
    return Finding("mps", "ok" if found else "optional", "Apple GPU" if found else "no Apple GPU that torch can use")


def disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    if free < DISK_WANTED:
        return Finding("disk space", "optional", f"{free:.1f} GB free here", "give jobs --out FOLDER on another disk")
    return Finding("disk space", "ok", f"{free:.0f} GB free here")


def writing() -> Finding:
    """Check that run folders can be created here; the test file is removed at once."""
    try:
        with tempfile.TemporaryFile(dir=Path.cwd()):
            return Finding("current folder", "ok", f"{Path.cwd()}, can be written")
    except OSError as fault:
        detail = f"{Path.cwd()} cannot be written: {os.strerror(fault.errno or 0)}"
        return Finding("current folder", "optional", detail, "give jobs --out FOLDER, or go to a folder of your own")


# ---- all checks ------------------------------------------------------------------------------------------------------

CHECKS: tuple[Callable[[], Finding], ...] = (
    python,
    torch_works,
    torchvision_matches,
    accelerate,
    timm,
    pyav,
    decord,
    torchcodec,
    ffmpeg,
    cpu,
    cuda,
    mps,
    disk,
    writing,
)
SIGNS = {"ok": ("ok", "green"), "optional": ("optional", "yellow"), "fault": ("FAULT", "bold red")}


def run_doctor() -> int:
    """Print what each check found and how to fix it. Return 0 if videos can be read and models run, otherwise 4."""
    findings = [check() for check in CHECKS]
    show(findings)
    return EnvironmentFault.exit_code if any(finding.state == "fault" for finding in findings) else 0


def show(findings: list[Finding]) -> None:
    """Print a table, then the commands on separate lines, so that they can be copied."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    rows = Table(box=None, pad_edge=False)
    for column in ("", "what", "found"):
        rows.add_column(column)
    for finding in findings:
        words, style = SIGNS[finding.state]
        # Text, not str: rich would read the brackets of 'hybridvideo[decord]' as a style.
        rows.add_row(Text(words, style=style), Text(finding.name), Text(shown(finding.detail)))
    console.print(rows)
    faults = [finding for finding in findings if finding.state == "fault"]
    for title, state in (("To fix:", "fault"), ("If you want it:", "optional")):
        commands = [finding for finding in findings if finding.state == state and finding.fix]
        for line in [title, *(f"  {finding.name}: {finding.fix}" for finding in commands)] if commands else []:
            console.print(Text(shown(line)), soft_wrap=True)
    console.print(
        f"{len(faults)} {'fault' if len(faults) == 1 else 'faults'}."
        if faults
        else "Ready: videos can be read and models run."
    )
