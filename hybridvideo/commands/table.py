"""COMMANDS: every command by its name, in the order in which `hybridvideo --help` lists them."""

from __future__ import annotations

from hybridvideo.commands.about import demo, doctor, models
from hybridvideo.commands.apply import extract, predict
from hybridvideo.commands.corpus import prepare, scan
from hybridvideo.commands.deploy import convert
from hybridvideo.commands.judge import bench, evaluate
from hybridvideo.commands.learn import train
from hybridvideo.commands.options import Command

COMMON_IN_TRAINING = (
    "config",
    "data.train",
    "data.val",
    "data.workers",
    "clip.frames",
    "clip.stride",
    "frame.height",
    "frame.width",
    "model.name",
    "model.weights",
    "optim.lr",
    "train.epochs",
    "train.batch_size",
    "train.precision",
    "out",
    "resume",
    "seed",
    "processes",
)

BULK = ("reading", "compute", "job")

COMMANDS: dict[str, Command] = {
    "demo": Command(demo),
    "doctor": Command(doctor),
    "models": Command(models, ("pattern",)),
    "scan": Command(scan, ("source",), flat=("decoding", "job")),
    "prepare": Command(prepare, ("source",), flat=("decoding",)),
    "train": Command(train, flat=("run",), config="run", common=COMMON_IN_TRAINING),
    "convert": Command(convert, ("source", "out")),
    "evaluate": Command(evaluate, ("run",), flat=("compute",)),
    "predict": Command(predict, ("run", "source"), flat=BULK),
    "extract": Command(extract, ("run", "source"), flat=BULK),
    "bench": Command(bench, ("subject", "source")),
}
