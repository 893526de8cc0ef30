"""Clips in which every frame is noise, and a shape is only in the motion: its noise moves one way, all else another.

Each pixel of each frame is drawn independently of the others of that frame, whatever the class, so no single frame
tells the shapes apart. Neither does a pixel of the difference of two frames: what moves, moves everywhere, by at least
a grain, and differences have the same distribution inside the shape and outside it. Only how frames match shows it.

As a test of sight: people name the shape at once (SpookyBench, 2026), video-language models do not.

T frames, H rows, W columns, C = 3 colours (RGB).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hybridvideo.data.synthetic.encode import Bytes
from hybridvideo.data.synthetic.scenes import SPLITS
from hybridvideo.data.synthetic.textures import Floats

Inside = Callable[[Floats, Floats], np.ndarray]  # of columns and rows in radii of the shape

SHAPES: dict[str, Inside] = {
    "disc": lambda u, v: u**2 + v**2 < 0.85,
    "square": lambda u, v: np.maximum(np.abs(u), np.abs(v)) < 0.8,
    "triangle": lambda u, v: (v < 0.8) & (2 * np.abs(u) < v + 1.1),
    "cross": lambda u, v: (np.minimum(np.abs(u), np.abs(v)) < 0.35) & (np.maximum(np.abs(u), np.abs(v)) < 1),
    "ring": lambda u, v: np.abs(np.hypot(u, v) - 0.75) < 0.25,
    "bars": lambda u, v: (np.abs(u) < 0.9) & (np.abs(np.abs(v) - 0.65) < 0.3),
}
RADIUS = (0.28, 0.42)
"""Of a shape, as a share of the frame's side."""
FARTHEST = 2
"""Grains that noise moves in a frame, at most, along each axis."""
CONTRAST = 40.0
"""Standard deviation of the noise, in grey levels of 255."""


def render_noise(
    label: str, *, seed: int, split: str, number: int, frames: int = 8, side: int = 48, grain: int = 1
) -> Bytes:
    """Return the frames (T, H, W, C) of one clip, determined by the arguments alone.

    Args:
        label: one of SHAPES.
        split: one of SPLITS.
        side: rows and columns of a frame, a multiple of `grain`.
        grain: side of a piece of noise in pixels; motion is in whole grains.
    """
    rng = np.random.default_rng([seed, SPLITS.index(split), list(SHAPES).index(label), number])
    cells = side // grain
    inside = _mask(rng, SHAPES[label], cells)
    ground, figure = _two_velocities(rng)
    noise = rng.standard_normal((2, cells, cells), dtype=np.float32) * CONTRAST + 128
    out = np.empty((frames, cells, cells), np.float32)
    for t in range(frames):
        here, there = (np.roll(noise[i], (t * v[0], t * v[1]), (0, 1)) for i, v in enumerate((ground, figure)))
        out[t] = np.where(inside, there, here)
    grey = np.clip(out, 0, 255).astype(np.uint8).repeat(grain, 1).repeat(grain, 2)
    return np.repeat(grey[..., None], 3, -1)


def _mask(rng: np.random.Generator, shape: Inside, cells: int) -> np.ndarray:
    """Cells inside a shape of random size at a random place: (H, W)."""
    radius = rng.uniform(*RADIUS) * cells
    x, y = rng.uniform(radius, cells - radius, 2)
    v, u = np.mgrid[0:cells, 0:cells].astype(np.float32) + np.float32(0.5)
    return shape((u - np.float32(x)) / np.float32(radius), (v - np.float32(y)) / np.float32(radius))


def _two_velocities(rng: np.random.Generator) -> list[tuple[int, int]]:
    """Rows and columns a frame, two different ones, neither of them still."""
    steps = range(-FARTHEST, FARTHEST + 1)
    moving = [(down, right) for down in steps for right in steps if (down, right) != (0, 0)]
    return [moving[i] for i in rng.choice(len(moving), 2, replace=False)]
