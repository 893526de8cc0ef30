"""Files of weights: read whatever wraps the tensors, run nothing, say in one line what is wrong."""

from __future__ import annotations

import argparse
import datetime
import os
import pickle
import sys
import zipfile
from collections import OrderedDict, defaultdict
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from hybridvideo.errors import UserError
from hybridvideo.models.state_files import STAND_INS, Inert, open_state_file, read_state_dict, unwrapped

WEIGHTS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)}


def saved(path: Path, content: object, **options: Any) -> Path:
    torch.save(content, path, **options)
    return path


def same(state: dict[str, Tensor]) -> bool:
    return state.keys() == WEIGHTS.keys() and all(torch.equal(state[key], WEIGHTS[key]) for key in WEIGHTS)


def refusal(path: Path) -> str:
    """The one line that a file is refused with."""
    with pytest.raises(UserError) as refused:
        read_state_dict(path)
    message = str(refused.value)
    assert message.startswith(str(path)) and "\n" not in message and len(message) < 500, message
    return message


@pytest.fixture
def foreign_class(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes a class of a package that is not installed, known while a test writes its files."""

    def make(full_name: str, base: type) -> Any:
        module, _, name = full_name.rpartition(".")
        made = type(name, (base,), {"__module__": module, "__qualname__": name})
        parts = module.split(".")
        for i in range(len(parts)):
            package = ModuleType(".".join(parts[: i + 1]))
            monkeypatch.setitem(sys.modules, package.__name__, package)
        setattr(package, name, made)
        return made

    return make


@pytest.mark.parametrize("name", ["w.pth", "w.pt", "w.pyth", "w.bin", "w.ckpt", "w.pth.tar", "w"])
def test_pickles_of_any_name_are_read(tmp_path: Path, name: str) -> None:
    assert same(read_state_dict(saved(tmp_path / name, WEIGHTS)))


def test_files_of_torch_before_1_6_are_read(tmp_path: Path) -> None:
    assert same(read_state_dict(saved(tmp_path / "old.pth", WEIGHTS, _use_new_zipfile_serialization=False)))


def test_safetensors_are_known_by_their_content(tmp_path: Path) -> None:
    for name in ("w.safetensors", "w.pth"):
        save_file(WEIGHTS, tmp_path / name)
        assert same(read_state_dict(tmp_path / name))


@pytest.mark.parametrize("wrapper", ["model", "module", "state_dict", "model_state", "model_ema", "ema"])
def test_what_training_programs_wrap_around_weights_is_taken_off(tmp_path: Path, wrapper: str) -> None:
    file = open_state_file(saved(tmp_path / "w.pth", {wrapper: OrderedDict(WEIGHTS), "epoch": 3}))
    assert same(file.tensors) and file.notes == (f"took {wrapper}",)
    assert same(read_state_dict(saved(tmp_path / "w.pth", {"state_dict": {wrapper: WEIGHTS}})))


def test_the_model_is_taken_before_its_moving_average_and_that_is_reported(tmp_path: Path) -> None:
    averaged = {key: value + 1 for key, value in WEIGHTS.items()}
    file = open_state_file(saved(tmp_path / "w.pth", {"model_ema": averaged, "model": WEIGHTS}))
    assert same(file.tensors) and file.notes == ("took model (there are also model_ema)",)


def test_parameters_and_values_that_are_not_tensors_are_distinguished(tmp_path: Path) -> None:
    mixed = {**{key: torch.nn.Parameter(value) for key, value in WEIGHTS.items()}, "version": 3}
    file = open_state_file(saved(tmp_path / "w.pth", mixed))
    assert same(file.tensors) and not file.tensors["a.bias"].requires_grad
    assert file.notes == ("left out, since they are not tensors: version",)


def test_settings_and_counters_of_the_run_that_wrote_a_file_are_harmless(tmp_path: Path, foreign_class: Any) -> None:
    node = foreign_class("yacs.config.CfgNode", dict)
    config = node({"MODEL": node({"DEPTH": 12})})
    config.__dict__["__immutable__"] = True
    history = foreign_class("mmengine.logging.history_buffer.HistoryBuffer", object)()
    history.values, history.longest = np.arange(3.0), 10
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    states: defaultdict[str, dict[str, int]] = defaultdict(dict)
    states["a"]["b"] = 1
    content = {
        "model": WEIGHTS,
        "optimizer": optimizer.state_dict(),
        "args": argparse.Namespace(lr=1e-3, out=Path("x")),
        "cfg": config,
        "best": np.float64(0.5),
        "rng": np.arange(4),
        "time": datetime.datetime(2020, 1, 1),
        "took": datetime.timedelta(1),
        "history": {"loss": history},
        "states": states,
        "flags": {1, 2},
        "bytes": b"\0",
    }
    assert same(read_state_dict(saved(tmp_path / "w.pth", content)))


def test_numpy_by_its_older_name_is_as_harmless(tmp_path: Path) -> None:
    new = pickle.dumps({"state_dict": {}, "x": np.float32(1)}, 2)
    assert b"numpy._core" in new
    content = {"model": WEIGHTS, "best": np.float64(0.5)}
    path = saved(tmp_path / "w.pth", content, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes().replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert same(read_state_dict(path))


def test_stand_ins_make_nothing_that_a_file_names() -> None:
    assert all(isinstance(pair, tuple) for pair in STAND_INS)  # never a class itself, under its own name
    assert {pair[0].__name__ for pair in STAND_INS if isinstance(pair, tuple)} == {"Inert", "OrderedDict", "plain_dict"}
    thing = Inert("anything", 1)
    thing.__setstate__({"a": 1})
    assert vars(thing) == {}


class Payload:
    """A pickle that makes a file when it is loaded."""

    def __init__(self, call: Any, *arguments: object) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> Any:
        return self.call, self.arguments


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("call", ["system", "eval", "exec", "open", "getattr", "mkdir", "import"])
def test_a_malicious_pickle_is_refused_by_name_and_never_run(tmp_path: Path, zipped: bool, call: str) -> None:
    marker = tmp_path / "marker"
    payload = {
        "system": Payload(os.system, f"touch {marker}"),
        "eval": Payload(eval, f"open({str(marker)!r}, 'w')"),
        "exec": Payload(exec, f"open({str(marker)!r}, 'w')"),
        "open": Payload(open, str(marker), "w"),
        "getattr": Payload(getattr, marker, "touch"),
        "mkdir": Payload(os.mkdir, str(marker)),
        "import": Payload(__import__, "antigravity"),
    }[call]
    content = {"model": WEIGHTS, "note": payload}
    path = saved(tmp_path / "w.pth", content, _use_new_zipfile_serialization=zipped)
    message = refusal(path)
    named = {"system": "posix.system", "mkdir": "posix.mkdir", "import": "__import__", "open": "io.open"}
    assert f"it calls for {named.get(call, call)}, " in message and ".safetensors" in message
    assert not marker.exists()
    pickle.loads(pickle.dumps(Payload(os.mkdir, str(marker))))  # such a payload does work where pickles are trusted
    assert marker.exists()


def test_a_class_that_is_on_no_list_is_refused_by_name(tmp_path: Path, foreign_class: Any) -> None:
    model = foreign_class("ultralytics.nn.tasks.DetectionModel", object)()
    assert "ultralytics.nn.tasks.DetectionModel" in refusal(saved(tmp_path / "w.pth", {"model": model}))


def test_a_whole_module_is_refused(tmp_path: Path) -> None:
    assert "torch.nn.modules.linear.Linear" in refusal(saved(tmp_path / "w.pth", torch.nn.Linear(2, 2)))


def test_damaged_files_are_reported_as_damaged(tmp_path: Path) -> None:
    whole = saved(tmp_path / "whole.pth", {key: torch.randn(300, 300) for key in "ab"}).read_bytes()
    save_file(WEIGHTS, tmp_path / "whole.safetensors")
    tensors = (tmp_path / "whole.safetensors").read_bytes()
    for name, content in [
        ("cut.pth", whole[: len(whole) // 2]),
        ("start.pth", whole[:64]),
        ("end.pth", whole[-len(whole) // 2 :]),
        ("noise.pth", bytes(range(256)) * 40),
        ("cut.safetensors", tensors[:-5]),
        ("header.safetensors", b"\xff" * 40),
        ("pickle.pth", pickle.dumps([1, 2])[:-1]),
        ("nulls.pth", bytes(10_000)),
    ]:
        (tmp_path / name).write_bytes(content)
        assert "cannot be read as weights: it is damaged or cut short" in refusal(tmp_path / name), name


def test_files_that_are_not_weights_are_called_what_they_are(tmp_path: Path) -> None:
    for name, content, message in [
        ("page.pth", b"<!DOCTYPE html><html>not found", "a web page: the download failed"),
        ("page2.safetensors", b"\n<html><body>Sign in", "a web page: the download failed"),
        ("lfs.bin", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n", "`git lfs pull`"),
        ("text.pth", b"these are no weights\n" * 9, "it is text, not weights"),
        ("empty.pth", b"", "it is empty"),
    ]:
        (tmp_path / name).write_bytes(content)
        assert message in refusal(tmp_path / name), name
    for path in (tmp_path / "none.pth", tmp_path):
        with pytest.raises(UserError, match="no weights file"):
            read_state_dict(path)


def test_what_is_not_a_state_dict_is_reported(tmp_path: Path) -> None:
    assert "holds a list, not a state dict" in refusal(saved(tmp_path / "w.pth", [torch.ones(1)]))
    assert "holds a Tensor, not a state dict" in refusal(saved(tmp_path / "w.pth", torch.ones(1)))
    assert "is not a state dict (name -> tensor); it has 'epoch'" in refusal(saved(tmp_path / "w.pth", {"epoch": 1}))
    assert "is not a state dict" in refusal(saved(tmp_path / "w.pth", {}))


def test_archives_with_code_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "script.pt", "w") as archive:
        archive.writestr("script/data.pkl", pickle.dumps({}, 2))
        archive.writestr("script/constants.pkl", pickle.dumps((), 2))  # what tells torch that it is one
        archive.writestr("script/version", "3\n")
    assert "TorchScript archive, which holds code" in refusal(tmp_path / "script.pt")


def test_an_archive_that_unpacks_to_far_more_than_its_size_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "w.pth", {"a": torch.zeros(2000, 2000)})
    with zipfile.ZipFile(path) as whole, zipfile.ZipFile(tmp_path / "b.pth", "w", zipfile.ZIP_DEFLATED) as small:
        for entry in whole.infolist():
            small.writestr(entry, whole.read(entry), zipfile.ZIP_DEFLATED)
    assert "would unpack to" in refusal(tmp_path / "b.pth")


def test_numbers_that_claim_more_memory_than_there_is_are_refused(tmp_path: Path) -> None:
    opcodes = b"\x80\x02c__builtin__\nbytearray\n\x8a\x08" + (2**60).to_bytes(8, "little") + b"\x85R."
    with zipfile.ZipFile(tmp_path / "w.pth", "w") as archive:
        archive.writestr("w/data.pkl", opcodes)
        archive.writestr("w/version", "3\n")
    assert "more memory than is available" in refusal(tmp_path / "w.pth")


@pytest.mark.filterwarnings("ignore:torch.quantize", "ignore:The PyTorch API of nested")
@pytest.mark.parametrize("kind", ["nested", "sparse", "quantised", "complex", "without numbers"])
def test_a_tensor_of_a_kind_that_weights_never_are_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    made = {
        "nested": lambda: torch.nested.nested_tensor([torch.ones(1), torch.ones(2)]),
        "sparse": lambda: torch.eye(2).to_sparse(),
        "quantised": lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8),
        "complex": lambda: torch.ones(2, dtype=torch.complex64),
        "without numbers": lambda: torch.ones(2, device="meta"),
    }
    with pytest.raises(UserError, match=f"b of the state dict is {kind}"):
        unwrapped({"a": torch.ones(1), "b": made[kind]()}, "the state dict")
