"""Videos for the checks, rendered once into the proof's folder."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from gpu_proof.finding import Context

FRAME_RATE = 30


def motions(context: Context) -> Path:
    """The demo's kind of videos, a few of each class: FOLDER/{train,val,test}/CLASS/*."""
    from hybridvideo.data.synthetic import render_dataset

    folder = context.folder / "motions"
    train = 2 if context.small else 8
    render_dataset(folder, train=train, val=1, test=1, seed=0, workers=min(8, os.cpu_count() or 1))
    return folder


def ordinary(context: Context) -> Path:
    """H.264 files of an ordinary size, 320 x 240 and 3 s at 30 frames a second, with moving patches and noise."""
    folder = context.folder / "ordinary"
    folder.mkdir(exist_ok=True)
    for number in range(4 if context.small else 16):
        path = folder / f"{number:02d}.mp4"
        if not path.exists():
            write(path, number, frames=20 if context.small else 90)
    return folder


def write(path: Path, seed: int, frames: int, width: int = 320, height: int = 240) -> None:
    """One file."""
    import av

    rng = np.random.default_rng(seed)
    patches = rng.integers(40, 200, (height // 40 + 1, width // 40 + 4, 3))
    ground = patches.repeat(40, 0).repeat(40, 1)
    aside = path.with_suffix(".part")
    with av.open(str(aside), "w", format="mp4") as container:
        stream = container.add_stream("libx264", FRAME_RATE, options={"preset": "ultrafast", "crf": "23"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for index in range(frames):
            picture = ground[:height, index : index + width] + rng.integers(-12, 12, (height, width, 1))
            frame = av.VideoFrame.from_ndarray(picture.clip(0, 255).astype(np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    aside.replace(path)
