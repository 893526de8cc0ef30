"""Scenes in which two objects move as a class does, and their frames.

T frames, H rows, W columns, C = 3 colours (RGB).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hybridvideo.data.synthetic.encode import ENCODINGS, Bytes, Encoding
from hybridvideo.data.synthetic.textures import OBJECT_TEXELS, Floats, Outline, ground_texture, object_texture

CLASSES: tuple[str, ...] = ("left", "right", "up", "down", "clockwise", "anticlockwise", "approach", "recede")
SPLITS = ("train", "val", "test")
Place = dict[str, float]  # the value of each of PHASES


@dataclass(frozen=True)
class Motion:
    """A class whose phase grows, its reverse, and how fast: turns of the phase's circle per second."""

    forward: str
    backward: str
    phase: str
    rate: tuple[float, float]


# A turn is a frame's width or height, a full rotation, or SIZE_RANGE.
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
SIZES = ((80, 80), (96, 80), (80, 96), (96, 96), (128, 96))  # width, height
RATES = (12, 15, 20)  # frames per second
SECONDS = (1.0, 1.2)


# ---- scenes


@dataclass(frozen=True)
class Scene:
    """What is drawn once for a clip, before its direction is known."""

    width: int
    height: int
    rate: int
    encoding: Encoding
    phases: dict[str, NDArray[np.float64]]  # for each of PHASES, its value at each frame, in turns
    noise: float  # standard deviation, in grey levels of 255


def draw_scene(rng: np.random.Generator, motion: Motion) -> Scene:
    width, height = SIZES[rng.integers(len(SIZES))]
    rate = RATES[rng.integers(len(RATES))]
    times = np.arange(round(rate * rng.uniform(*SECONDS))) / rate
    encoding = ENCODINGS[rng.choice(len(ENCODINGS), p=[encoding.share for encoding in ENCODINGS])]
    phases = {}
    for name in PHASES:
        start, drift, turn = rng.random(), rng.uniform(-DRIFT, DRIFT), rng.uniform(*motion.rate)
        phases[name] = start + times * (turn if name == motion.phase else drift)
    return Scene(width, height, rate, encoding, phases, noise=float(rng.uniform(2, 6)))


# ---- frames


def _background(rng: np.random.Generator, scene: Scene) -> Floats:
    """A texture that glides past at a random velocity: (T, H, W, C)."""
    frames, height, width = len(scene.phases["size"]), scene.height, scene.width
    direction, speed = rng.uniform(0, 2 * math.pi), rng.uniform(*GROUND_SPEED) * min(height, width)
    times = np.arange(frames) / scene.rate
    x, y = times * speed * math.cos(direction), times * speed * math.sin(direction)
    x, y = x - x.min(), y - y.min()
    canvas = ground_texture(rng, height + int(y.max()) + 2, width + int(x.max()) + 2)
    out = np.empty((frames, height, width, 3), np.float32)
    for t in range(frames):
        row, column = int(y[t]), int(x[t])
        down, right = np.float32(y[t] - row), np.float32(x[t] - column)
        patch = canvas[row : row + height + 1, column : column + width + 1]
        patch = patch[:-1] + (patch[1:] - patch[:-1]) * down
        out[t] = patch[:, :-1] + (patch[:, 1:] - patch[:, :-1]) * right
    return out


def _paint(frame: Floats, texture: Floats, outline: Outline, place: Place, radius: float, cover: float) -> None:
    """Draw the object on `frame` (H, W, C), in place: `radius` in pixels, `cover` its opacity, 0 to 1."""
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
    """Draw the object at its size; at the seam of the size circle the near one fades into the far one."""
    far, near = SIZE_RANGE
    phase, short = place["size"] % 1.0, min(frame.shape[:2])
    cover = min(1.0, phase / FADE)
    radius = short / 2 * far * (near / far) ** phase
    if cover < 1:
        _paint(frame, texture, outline, place, radius * near / far, 1 - cover)
    _paint(frame, texture, outline, place, radius, cover)


def _render(rng: np.random.Generator, scene: Scene) -> Bytes:
    """Return all frames of a scene, (T, H, W, C) uint8, in the order of the motion's forward class."""
    frames = _background(rng, scene)
    for ahead in (0.0, 0.5):
        outline, texture = Outline.draw(rng), object_texture(rng)
        for t in range(len(frames)):
            place = {name: float(scene.phases[name][t]) + ahead for name in PHASES}
            _paint_object(frames[t], texture, outline, place)
    gain = rng.uniform(0.97, 1.03, (len(frames), 1, 1, 1)).astype(np.float32)
    noise = rng.standard_normal((*frames.shape[:3], 1), dtype=np.float32) * np.float32(scene.noise)
    return np.clip(frames * gain + noise, 0, 255).astype(np.uint8)


def render_clip(label: str, *, seed: int, split: str, number: int) -> tuple[Bytes, int, Encoding]:
    """Render one video.

    Returns its frames (T, H, W, C) uint8, its frames per second and its encoding; all three are determined by the
    arguments alone. The reverse class's clip of the same seed, split and number has the same frames, last one first.
    """
    motion = next(motion for motion in MOTIONS if label in (motion.forward, motion.backward))
    rng = np.random.default_rng([seed, SPLITS.index(split), MOTIONS.index(motion), number])
    scene = draw_scene(rng, motion)
    frames = _render(rng, scene)
    return (frames if label == motion.forward else frames[::-1]), scene.rate, scene.encoding
