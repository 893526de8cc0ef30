"""A small data set of real encoded videos, rendered on the spot: eight motions of textured objects.

An object has a place across the frame, a place down the frame, an angle and a size. Each of the four is a
phase on a circle: what leaves the frame on one side enters on the other, and what has come near fades into one
far away. A clip starts each of them anywhere with equal chance; its class turns one, the others drift a little.
So at every frame, whatever the class, place, angle and size are uniform and independent: no frame tells the
class. A second object does the same half a circle on, so that one of the two always shows the motion whole. A
motion and its reverse are the same rendered frames, background, noise and all, in the other order: no unordered
set of frames tells one from the other. Only motion is left, and the background moves too, its own way.

Shapes: T frames, H rows, W columns, C = 3 colours (RGB).
"""

from __future__ import annotations

import itertools
import json
import math
import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np
from av.video.stream import VideoStream
from numpy.typing import NDArray

from hybridvideo.documents import read_json
from hybridvideo.errors import UserError

CLASSES: tuple[str, ...] = ("left", "right", "up", "down", "clockwise", "anticlockwise", "approach", "recede")
SPLITS = ("train", "val", "test")
Progress = Callable[[int, int], None]  # (videos done, videos in all)
GENERATOR = 1
"""Raised when the same arguments begin to give other videos."""

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]
Place = dict[str, float]  # the value of each of PHASES


@dataclass(frozen=True)
class Motion:
    """A class whose phase grows, the reverse of it, and how fast: turns of the phase's circle a second."""

    forward: str
    backward: str
    phase: str
    rate: tuple[float, float]


# The rate says how far a phase goes: a frame's width or height, a full turn, or SIZE_RANGE.
MOTIONS = (
    Motion("right", "left", "across", (0.55, 0.95)),
    Motion("down", "up", "down", (0.55, 0.95)),
    Motion("clockwise", "anticlockwise", "angle", (0.50, 0.80)),
    Motion("approach", "recede", "size", (0.75, 1.05)),
)
PHASES = ("across", "down", "angle", "size")
DRIFT = 0.04
"""Largest rate, in turns per second and either way, at which the other phases move."""
SIZE_RANGE = (0.4, 1.0)
"""Diameter of an object as a share of the frame's short side."""
FADE = 0.10
"""Share of the size circle over which the near object fades into the far one."""
GROUND_SPEED = (0.05, 0.2)
"""How far the background glides, in short sides of the frame per second."""
GROUND_CONTRAST, OBJECT_CONTRAST = (20.0, 60.0), (150.0, 250.0)
"""Distance between the two colours of a texture, in grey levels of 255."""


@dataclass(frozen=True)
class Encoding:
    """How a video is written: a codec in a container, and the share of the videos that are written so."""

    codec: str
    extension: str
    share: float
    pixel_format: str
    options: dict[str, str]


ENCODINGS = (
    Encoding("libx264", "mp4", 0.3, "yuv420p", {"preset": "ultrafast", "bf": "2", "b-adapt": "0", "crf": "23"}),
    Encoding("mpeg4", "avi", 0.25, "yuv420p", {"qmin": "3", "qmax": "4"}),
    Encoding("mjpeg", "mov", 0.25, "yuvj420p", {"qmin": "3", "qmax": "4"}),
    Encoding("libvpx-vp9", "webm", 0.1, "yuv420p", {"deadline": "realtime", "cpu-used": "8", "crf": "26", "b": "0"}),
    Encoding("libx265", "mkv", 0.1, "yuv420p", {"preset": "ultrafast", "crf": "21"}),
)
OBJECT_TEXELS = 128  # side of an object's texture
X265_PARAMETERS = "log-level=none:pools=none:frame-threads=1:wpp=0"
SIZES = ((80, 80), (96, 80), (80, 96), (96, 96), (128, 96))  # width, height
RATES = (12, 15, 20)  # frames per second
SECONDS = (1.0, 1.2)


# ---------------------------------------------------------------------------------------- textures and shapes


def _upsampled(grid: Floats, height: int, width: int) -> Floats:
    """Bilinear enlargement of (h, w) to (H, W), corners on corners."""
    rows = np.linspace(0, grid.shape[0] - 1, height, dtype=np.float32)
    columns = np.linspace(0, grid.shape[1] - 1, width, dtype=np.float32)
    top = np.minimum(rows.astype(int), grid.shape[0] - 2)
    left = np.minimum(columns.astype(int), grid.shape[1] - 2)
    tall = grid[top] + (grid[top + 1] - grid[top]) * (rows - top).astype(np.float32)[:, None]
    wide = tall[:, left] + (tall[:, left + 1] - tall[:, left]) * (columns - left).astype(np.float32)
    return np.asarray(wide, np.float32)


def _cloud(rng: np.random.Generator, height: int, width: int, cells: int) -> Floats:
    """Smooth noise in [0, 1] of about `cells` cells across, finer noise upon it."""
    total = np.zeros((height, width), np.float32)
    for octave in range(2):
        count = cells * 2**octave + 1
        total += _upsampled(rng.random((count, count), dtype=np.float32), height, width) / 2**octave
    return np.asarray((total - total.min()) / (np.ptp(total) + 1e-6), np.float32)


def _stripes(rng: np.random.Generator, height: int, width: int, cells: int) -> Floats:
    """Waves of a random direction in [0, 1]."""
    direction = rng.uniform(0, 2 * math.pi)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    wave = x * (math.cos(direction) / width) + y * (math.sin(direction) / height)
    return np.asarray(0.5 + 0.5 * np.sin(2 * math.pi * cells * wave + rng.uniform(0, 6)), np.float32)


def _checks(rng: np.random.Generator, height: int, width: int, cells: int) -> Floats:
    """Two families of waves, multiplied."""
    one, other = (_stripes(rng, height, width, cells) - 0.5 for _ in range(2))
    return np.asarray(0.5 + 2 * one * other, np.float32)


def _painted(rng: np.random.Generator, pattern: Floats, contrast: float, shade: float) -> Floats:
    """A pattern between two random colours, `contrast` apart, clouded by up to `shade`: (H, W, C) in 0..255."""
    middle = rng.uniform(70, 185, 3)
    towards = rng.normal(size=3)
    span = towards / np.linalg.norm(towards) * contrast
    cloud = _cloud(rng, pattern.shape[0], pattern.shape[1], 3)[..., None] - np.float32(0.5)
    colours = middle + (pattern[..., None] - np.float32(0.5)) * span + cloud * rng.uniform(-shade, shade, 3)
    return np.asarray(np.clip(colours, 0, 255), np.float32)


def _ground_texture(rng: np.random.Generator, height: int, width: int) -> Floats:
    """What glides past behind: any pattern, faint."""
    pattern = GROUND_PATTERNS[rng.integers(len(GROUND_PATTERNS))](rng, height, width, int(rng.integers(3, 9)))
    return _painted(rng, pattern, rng.uniform(*GROUND_CONTRAST), shade=60)


def _object_texture(rng: np.random.Generator) -> Floats:
    """Bold stripes, one to three, so that an object shows how it is turned."""
    pattern = _stripes(rng, OBJECT_TEXELS, OBJECT_TEXELS, int(rng.integers(1, 4)))
    return _painted(rng, pattern, rng.uniform(*OBJECT_CONTRAST), shade=60)


GROUND_PATTERNS = (_cloud, _stripes, _checks)


@dataclass(frozen=True)
class Outline:
    """A closed outline by its radius over the angle: a polygon rounded by `round`, stretched and rippled."""

    corners: int
    round: float
    stretch: float
    ripple: float
    ripple_phase: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Outline:
        """A random one."""
        corners = int(rng.integers(3, 6))
        ends = ((0, 1), (0.5, 0.9), (0, 0.12), (0, 2 * math.pi))
        round, stretch, ripple, ripple_phase = (float(rng.uniform(*end)) for end in ends)
        return cls(corners, round, stretch, ripple, ripple_phase)

    def excess(self, u: Floats, v: Floats) -> Floats:
        """How far (u, v) lies outside the outline, in radii; negative inside."""
        angle = np.arctan2(v / self.stretch, u)
        sector = 2 * math.pi / self.corners
        polygon = math.cos(sector / 2) / np.cos(np.mod(angle, sector) - sector / 2)
        radius = self.round * 0.85 + (1 - self.round) * polygon
        radius = radius * (1 + self.ripple * np.sin(2 * angle + self.ripple_phase)) / (1 + self.ripple)
        return np.asarray(np.hypot(u, v / self.stretch) - radius, np.float32)


# -------------------------------------------------------------------------------------------------- rendering


@dataclass(frozen=True)
class Scene:
    """What is drawn once for a clip, before it is known which way the clip will run."""

    width: int
    height: int
    rate: int
    encoding: Encoding
    phases: dict[str, NDArray[np.float64]]  # for each of PHASES, its value at each frame, in turns
    noise: float  # standard deviation, in grey levels of 255


def _draw_scene(rng: np.random.Generator, motion: Motion) -> Scene:
    width, height = SIZES[rng.integers(len(SIZES))]
    rate = RATES[rng.integers(len(RATES))]
    times = np.arange(round(rate * rng.uniform(*SECONDS))) / rate
    encoding = ENCODINGS[rng.choice(len(ENCODINGS), p=[encoding.share for encoding in ENCODINGS])]
    phases = {}
    for name in PHASES:
        start, drift, turn = rng.random(), rng.uniform(-DRIFT, DRIFT), rng.uniform(*motion.rate)
        phases[name] = start + times * (turn if name == motion.phase else drift)
    return Scene(width, height, rate, encoding, phases, noise=float(rng.uniform(2, 6)))


def _background(rng: np.random.Generator, scene: Scene) -> Floats:
    """A texture that glides past at a random velocity: (T, H, W, C)."""
    frames, height, width = len(scene.phases["size"]), scene.height, scene.width
    direction, speed = rng.uniform(0, 2 * math.pi), rng.uniform(*GROUND_SPEED) * min(height, width)
    times = np.arange(frames) / scene.rate
    x, y = times * speed * math.cos(direction), times * speed * math.sin(direction)
    x, y = x - x.min(), y - y.min()
    canvas = _ground_texture(rng, height + int(y.max()) + 2, width + int(x.max()) + 2)
    out = np.empty((frames, height, width, 3), np.float32)
    for t in range(frames):
        row, column = int(y[t]), int(x[t])
        down, right = np.float32(y[t] - row), np.float32(x[t] - column)
        patch = canvas[row : row + height + 1, column : column + width + 1]
        patch = patch[:-1] + (patch[1:] - patch[:-1]) * down
        out[t] = patch[:, :-1] + (patch[:, 1:] - patch[:, :-1]) * right
    return out


def _paint(frame: Floats, texture: Floats, outline: Outline, place: Place, radius: float, cover: float) -> None:
    """Lay the object over `frame` (H, W, C), in place: `radius` in pixels, `cover` its opacity, 0 to 1."""
    height, width = frame.shape[:2]
    dx = np.mod(np.arange(width) - place["across"] * width + width / 2, width) - width / 2
    dy = np.mod(np.arange(height) - place["down"] * height + height / 2, height) - height / 2
    rows, columns = np.flatnonzero(np.abs(dy) < radius * 1.1), np.flatnonzero(np.abs(dx) < radius * 1.1)
    x, y = (dx[columns] / radius).astype(np.float32)[None], (dy[rows] / radius).astype(np.float32)[:, None]
    cos, sin = math.cos(2 * math.pi * place["angle"]), math.sin(2 * math.pi * place["angle"])
    u, v = cos * x + sin * y, cos * y - sin * x
    alpha = np.clip(0.5 - outline.excess(u, v) * radius, 0, 1) * np.float32(cover)
    at = [np.clip((w + 1) * OBJECT_TEXELS / 2, 0, OBJECT_TEXELS - 1).astype(np.intp) for w in (v, u)]
    under = frame[np.ix_(rows, columns)]
    frame[np.ix_(rows, columns)] = under + (texture[at[0], at[1]] - under) * alpha[..., None]


def _paint_object(frame: Floats, texture: Floats, outline: Outline, place: Place) -> None:
    """The object at its size; at the seam of the size circle the near one fades into the far one."""
    far, near = SIZE_RANGE
    phase, short = place["size"] % 1.0, min(frame.shape[:2])
    cover = min(1.0, phase / FADE)
    radius = short / 2 * far * (near / far) ** phase
    if cover < 1:
        _paint(frame, texture, outline, place, radius * near / far, 1 - cover)
    _paint(frame, texture, outline, place, radius, cover)


def _render(rng: np.random.Generator, scene: Scene) -> Bytes:
    """All frames of a scene, (T, H, W, C) uint8, in the order of the motion's forward class."""
    frames = _background(rng, scene)
    for ahead in (0.0, 0.5):
        outline, texture = Outline.draw(rng), _object_texture(rng)
        for t in range(len(frames)):
            place = {name: float(scene.phases[name][t]) + ahead for name in PHASES}
            _paint_object(frames[t], texture, outline, place)
    gain = rng.uniform(0.97, 1.03, (len(frames), 1, 1, 1)).astype(np.float32)
    noise = rng.standard_normal((*frames.shape[:3], 1), dtype=np.float32) * np.float32(scene.noise)
    return np.clip(frames * gain + noise, 0, 255).astype(np.uint8)


def render_clip(label: str, *, seed: int, split: str, number: int) -> tuple[Bytes, int, Encoding]:
    """One video before it is encoded.

    Returns its frames (T, H, W, C) uint8, its frames per second and how it is to be encoded; all three follow
    from the arguments alone. The reverse class's clip of the same seed, split and number is the same frames,
    last one first.
    """
    motion = next(motion for motion in MOTIONS if label in (motion.forward, motion.backward))
    rng = np.random.default_rng([seed, SPLITS.index(split), MOTIONS.index(motion), number])
    scene = _draw_scene(rng, motion)
    frames = _render(rng, scene)
    return (frames if label == motion.forward else frames[::-1]), scene.rate, scene.encoding


# --------------------------------------------------------------------------------------------------- encoding


def _encode(path: Path, frames: Bytes, rate: int, encoding: Encoding) -> None:
    """Write (T, H, W, C) uint8 to `path`: the whole file or none."""
    partial = path.with_name(f".{path.stem}.part{path.suffix}")
    options = dict(encoding.options)
    if encoding.codec == "libx265":
        options["x265-params"] = X265_PARAMETERS
    # bitexact: no random track identifiers and no encoder version, the same bytes each time.
    with av.open(str(partial), "w", options={"fflags": "+bitexact"}) as container:
        stream = cast(VideoStream, container.add_stream(encoding.codec, rate=Fraction(rate), options=options))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = encoding.pixel_format
        stream.codec_context.thread_count = 1
        for frame_HWC in frames:
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame_HWC), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    os.replace(partial, path)


# ----------------------------------------------------------------------------------------------- the data set


@dataclass(frozen=True)
class Arguments:
    """What a data set follows from; kept beside it as `dataset.json`."""

    train: int
    val: int
    test: int
    seed: int
    generator: int = GENERATOR


def _write_pair(folder: Path, split: str, motion: Motion, number: int, seed: int) -> None:
    """Render one scene and write its two videos, one per direction; those that are there stay."""
    frames, rate, encoding = render_clip(motion.forward, seed=seed, split=split, number=number)
    for label, ordered in ((motion.forward, frames), (motion.backward, frames[::-1])):
        path = folder / split / label / f"{number:04d}.{encoding.extension}"
        if not path.exists():
            _encode(path, ordered, rate, encoding)


def _write_pairs(folder: Path, jobs: list[tuple[str, Motion, int]], seed: int) -> int:
    """Do the jobs; gives how many videos there are of them."""
    for split, motion, number in jobs:
        _write_pair(folder, split, motion, number, seed)
    return 2 * len(jobs)


def _jobs(folder: Path, arguments: Arguments) -> Iterator[tuple[str, Motion, int]]:
    """Every (split, motion, number) of which a video is missing."""
    for split in SPLITS:
        present = {name: {path.stem for path in (folder / split / name).glob("[0-9]*")} for name in CLASSES}
        for number in range(getattr(arguments, split)):
            for motion in MOTIONS:
                if f"{number:04d}" not in present[motion.forward] & present[motion.backward]:
                    yield split, motion, number


def _is_complete(folder: Path, arguments: Arguments) -> bool:
    """Whether the folder holds this data set; refuses one that holds, or began to hold, another."""
    for name, complete in (("dataset.json", True), ("dataset.json.part", False)):
        if (folder / name).exists():
            if read_json(folder / name, "give an empty folder") != asdict(arguments):
                raise UserError(f"{folder} holds a data set of other arguments; give an empty folder")
            return complete
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder} is not empty and holds no rendered data set; give an empty folder")
    return False


def render_dataset(
    folder: Path, *, train: int, val: int, test: int, seed: int, workers: int, progress: Progress | None = None
) -> None:
    """Write `folder`/{train,val,test}/<class>/<number>.<extension>, so many videos per class.

    Each video follows from (seed, split, class, number) alone. A complete folder is left as it is, an
    interrupted one continued. `workers` processes render (0: this one); `progress(done, total)` is told of videos.
    Raises UserError where the folder holds anything else.
    """
    arguments = Arguments(train, val, test, seed)
    if _is_complete(folder, arguments):
        return
    for split, label in itertools.product(SPLITS, CLASSES):
        (folder / split / label).mkdir(parents=True, exist_ok=True)
    record = folder / "dataset.json.part"
    record.write_text(json.dumps(asdict(arguments)))
    total = len(CLASSES) * (train + val + test)
    jobs = list(_jobs(folder, arguments))
    done = total - 2 * len(jobs)
    for written in _write_all(folder, jobs, seed, workers):
        done += written
        if progress is not None:
            progress(done, total)
    os.replace(record, folder / "dataset.json")


def _write_all(folder: Path, jobs: list[tuple[str, Motion, int]], seed: int, workers: int) -> Iterator[int]:
    """Do the jobs, some at a time, here or in `workers` processes; yields how many videos were written."""
    portions = [jobs[i : i + 8] for i in range(0, len(jobs), 8)]
    if workers == 0:
        yield from (_write_pairs(folder, portion, seed) for portion in portions)
        return
    # spawn: a fork of a process in which torch has started threads can hang.
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = [pool.submit(_write_pairs, folder, portion, seed) for portion in portions]
        for future in as_completed(futures):
            yield future.result()
