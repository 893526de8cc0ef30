"""Reading a file of weights without running anything it contains.

A .pth file is a pickle, and a pickle is a program. It is read by torch's restricted reader, which accepts tensors
and plain containers only. Old checkpoints also hold the arguments, settings and counters of the run that wrote them:
their classes are listed here by name, and each is replaced by a stand-in that keeps nothing (`Inert`) or by a plain
dict. No class or function named in a file is ever imported, and a name that is not on the list is refused.

`read_state_dict(path)` returns the tensors, unwrapped from whatever the file wraps them in.
"""

from __future__ import annotations

import re
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from hybridvideo.errors import UserError

KINDS = ".safetensors, .pth, .pt, .pyth, .bin, .ckpt"
# Keys under which training programs save the weights; the first one present is taken.
WRAPPERS = (
    "model",
    "state_dict",
    "model_state",
    "model_state_dict",
    "module",
    "net",
    "network",
    "model_ema",
    "state_dict_ema",
    "ema_state_dict",
    "ema",
)
LARGEST_RATIO = 8  # bytes unpacked over bytes of the file; torch never compresses


class Inert:
    """Stand-in for an object of a class that a checkpoint mentions: accepts anything, keeps nothing."""

    def __new__(cls, *_arguments: object) -> Inert:
        return object.__new__(cls)

    def __setstate__(self, _state: object) -> None:
        """Drop the saved state, which would otherwise become attributes."""


def plain_dict(*_arguments: object) -> OrderedDict[Any, Any]:
    """Stand-in for the constructor of `defaultdict`; its factory is dropped."""
    return OrderedDict()


DICTS = (
    "yacs.config.CfgNode",
    "fvcore.common.config.CfgNode",
    "iopath.common.config.CfgNode",
    "detectron2.config.config.CfgNode",
    "slowfast.config.CfgNode",
    "easydict.EasyDict",
    "addict.addict.Dict",
    "mmcv.utils.config.ConfigDict",
    "mmengine.config.config.ConfigDict",
    "pytorch_lightning.utilities.parsing.AttributeDict",
    "lightning_fabric.utilities.data.AttributeDict",
    "timesformer.config.CfgNode",
)
OBJECTS = (
    "argparse.Namespace",
    "types.SimpleNamespace",
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
    *(f"numpy.{core}.numeric._frombuffer" for core in ("core", "_core")),
    "numpy.dtype",
    "numpy.ndarray",
    *(f"numpy.{kind}" for kind in ("float16", "float32", "float64", "int32", "int64", "bool_", "str_")),
    *(
        f"pathlib{module}.{name}"
        for module in ("", "._local")
        for name in ("Path", "PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")
    ),
    *(f"datetime.{name}" for name in ("date", "datetime", "time", "timedelta", "timezone")),
    "uuid.UUID",
    "mmengine.logging.history_buffer.HistoryBuffer",
    "mmcv.runner.log_buffer.LogBuffer",
    "deepspeed.runtime.fp16.loss_scaler.LossScaler",
    "deepspeed.runtime.fp16.loss_scaler.DynamicLossScaler",
    "deepspeed.runtime.zero.config.ZeroStageEnum",
    "torch.torch_version.TorchVersion",
    *(f"builtins.{name}" for name in ("list", "dict", "tuple", "int", "float", "str", "bool", "slice", "range")),
)
# (stand-in, name in the file), as torch.serialization.safe_globals takes them
STAND_INS: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    *((OrderedDict, name) for name in DICTS),
    *((Inert, name) for name in OBJECTS),
    (plain_dict, "collections.defaultdict"),
]


@dataclass(frozen=True)
class StateFile:
    """The tensors of a file, with notes: which of several sets was taken, what was left out."""

    tensors: dict[str, Tensor]
    notes: tuple[str, ...] = ()


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Return the tensors of a file by name; see `open_state_file`."""
    return open_state_file(path).tensors


def open_state_file(path: str | Path) -> StateFile:
    """Read the tensors of a .safetensors file or of a pickled one (.pth, .pt, .pyth, .bin, .ckpt) without running it.

    Whatever a training program wraps around the weights ({"model": ...}, {"state_dict": ...}) is removed.

    Raises:
        UserError: no such file, no weights, damaged, or with objects in it that are not on the list.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no weights file {path}; give a path to a file of weights ({KINDS})")
    try:
        with warnings.catch_warnings():
            # About pickle protocols and storages of old files: nothing a user can act on.
            warnings.simplefilter("ignore")
            content = load_file(path) if is_safetensors(path) else read_pickle(path)
    except UserError:
        raise
    except Exception as error:  # a foreign file: the libraries raise whatever they like
        raise UserError(f"{path} cannot be read as weights: {reason(path, error)}") from error
    return unwrapped(content, str(path))


def is_safetensors(path: Path) -> bool:
    """Recognise the format by its first bytes: the length of a JSON header, and its brace."""
    with path.open("rb") as file:
        start = file.read(9)
    return path.suffix == ".safetensors" or (
        start[8:] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size
    )


def read_pickle(path: Path) -> Any:
    """Unpickle a file with stand-ins for the listed classes. Refuses an archive that unpacks to far more."""
    with path.open("rb") as file:
        zipped = file.read(4) == b"PK\3\4"
    if zipped:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
        if unpacked > LARGEST_RATIO * path.stat().st_size:
            raise UserError(f"{path} would unpack to {unpacked / 2**30:.1f} GiB, far more than its size; refused")
    with torch.serialization.safe_globals(STAND_INS):
        # Mapped, so that the optimizer's state next to the weights is never read.
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True if zipped else None)


def unwrapped(content: object, where: str, notes: tuple[str, ...] = ()) -> StateFile:
    """Return the tensors of a state dict, wherever a training program has put it."""
    if not isinstance(content, Mapping):
        raise UserError(f"{where} holds a {type(content).__name__}, not a state dict (name -> tensor)")
    within = [name for name in WRAPPERS if isinstance(content.get(name), Mapping) and content[name]]
    if within:
        others = "" if len(within) == 1 else f" (there are also {', '.join(within[1:])})"
        return unwrapped(content[within[0]], where, (*notes, f"took {within[0]}{others}"))
    tensors = {str(name): value.detach() for name, value in content.items() if isinstance(value, Tensor)}
    for name, tensor in tensors.items():
        if kind := unusual(tensor):
            raise UserError(f"{name} of {where} is {kind}; save it as a dense tensor of numbers")
    left = [str(name) for name in content if str(name) not in tensors]
    if not tensors:
        has = f"; it has {', '.join(map(repr, left[:5]))}" if left else ""
        raise UserError(f"{where} is not a state dict (name -> tensor){has}")
    return StateFile(
        tensors, (*notes, *([f"left out, since they are not tensors: {', '.join(left[:5])}"] if left else []))
    )


def unusual(tensor: Tensor) -> str | None:
    """Return what makes a tensor one that weights never are; None for a dense one of real numbers."""
    kinds = {
        "nested": tensor.is_nested,
        "sparse": tensor.layout != torch.strided,
        "quantised": tensor.is_quantized,
        "complex": tensor.is_complex(),
        "without numbers (on the device meta)": tensor.is_meta,
    }
    return next((kind for kind, found in kinds.items() if found), None)


def check_finite(tensors: Mapping[str, Tensor], where: str) -> None:
    """Raise UserError for the first tensor that holds NaN or infinity, as training that diverged leaves them."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.float().isfinite().all():
            raise UserError(f"{name} of {where} holds NaN or infinity; take an earlier checkpoint of that training")


def reason(path: Path, error: Exception) -> str:
    """Explain in one line why a file is refused, and what to do."""
    text = " ".join(str(error).split())
    named = re.search(r"GLOBAL ([\w.]+)|unrecognized function (\S+)|got <class '([\w.]+)'>", text)
    if isinstance(error, MemoryError) or "not enough memory" in text:
        return "it needs more memory than is available"
    if text.startswith("Weights only load failed") and named:
        name = next(group for group in named.groups() if group)
        return (
            f"it calls for {name}, which weights do not need, so it was refused and nothing in it was run; if you "
            "trust its author, save its state dict as .safetensors with the program that wrote it"
        )
    if kind := kind_of(path):
        return kind
    if "TorchScript" in text:
        return "it is a TorchScript archive, which holds code; save the state dict of the module as .safetensors"
    if "legacy .tar" in text:
        return "it is of a torch before 0.4; save it again with that program as .safetensors"
    return f"it is damaged or cut short ({text[:120] or type(error).__name__})"


def kind_of(path: Path) -> str | None:
    """Recognise a file that holds no weights by its first bytes; None for an unknown kind."""
    with path.open("rb") as file:
        start = file.read(512)
    if not start:
        return "it is empty"
    if not any(start):
        return "it is damaged or cut short (it begins with zeros)"
    if start.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer; `git lfs pull` brings the file"
    if start.lstrip()[:5].lower() in (b"<!doc", b"<html", b"<?xml"):
        return "it is a web page: the download failed; download it again"
    text = start.decode("utf-8", "replace").rstrip("\ufffd")  # the last character may be cut
    if text and "\ufffd" not in text and all(letter.isprintable() or letter.isspace() for letter in text):
        return f"it is text, not weights ({KINDS})"
    return None
