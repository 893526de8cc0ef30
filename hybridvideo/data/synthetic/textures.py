"""What the rendered videos are made of: noise, stripes and checks, and the outlines of objects.

H rows, W columns, C = 3 colours (RGB).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

GROUND_CONTRAST, OBJECT_CONTRAST = (20.0, 60.0), (150.0, 250.0)
"""Distance between the two colours of a texture, in grey levels of 255."""
OBJECT_TEXELS = 128  # side of an object's texture


# ---- textures


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
    """Smooth noise in [0, 1], about `cells` cells across, with finer noise on top."""
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


def ground_texture(rng: np.random.Generator, height: int, width: int) -> Floats:
    """Texture of the background: any pattern, faint."""
    pattern = GROUND_PATTERNS[rng.integers(len(GROUND_PATTERNS))](rng, height, width, int(rng.integers(3, 9)))
    return _painted(rng, pattern, rng.uniform(*GROUND_CONTRAST), shade=60)


def object_texture(rng: np.random.Generator) -> Floats:
    """Texture of an object: one to three bold stripes, which show its angle."""
    pattern = _stripes(rng, OBJECT_TEXELS, OBJECT_TEXELS, int(rng.integers(1, 4)))
    return _painted(rng, pattern, rng.uniform(*OBJECT_CONTRAST), shade=60)


GROUND_PATTERNS = (_cloud, _stripes, _checks)


# ---- outlines


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
