"""Where the host waits for the device within a training step, without a look into the loop that takes it.

A step begins with the first forward pass of a model in training and ends with the optimizer's step; torch's global
hooks report both. In between torch itself warns of every synchronisation on a GPU, and on any device those operations
are counted that read a tensor's value on the host, for which a GPU would have to finish its work. (On a CPU a step ends
before the optimizer's, which keeps its step count in a tensor there and reads it.)
"""

from __future__ import annotations

import json
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode

READING = {"aten._local_scalar_dense.default", "aten.nonzero.default", "aten.equal.default", "aten.is_nonzero.default"}
WARNING = "called a synchronizing CUDA operation"


class Readings(TorchDispatchMode):
    """Counts operations that give the host a value, by the line that asked."""

    def __init__(self, on_cuda: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.on_cuda, self.places = on_cuda, Counter[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if str(func) in READING and args[0].is_cuda == self.on_cuda:
            self.places[asking_line()] += 1
        return func(*args, **(kwargs or {}))


def asking_line() -> str:
    """The innermost line outside torch and this file."""
    frames = [frame for frame in traceback.extract_stack() if "/torch/" not in frame.filename]
    frame = next((frame for frame in reversed(frames) if frame.filename != __file__), None)
    if frame is None:
        return "a thread of torch"
    return f"{'/'.join(Path(frame.filename).parts[-3:])}:{frame.lineno}"


class Watch:
    """What is counted, and whether a step is under way."""

    def __init__(self) -> None:
        self.steps, self.open = 0, ExitStack()
        self.under_way = False
        self.readings = Readings(torch.cuda.is_available())

    def begin(self, module: nn.Module, inputs: Any) -> None:
        """The first forward pass of a step."""
        from hybridvideo.models.contract import VideoModel

        if self.under_way or not isinstance(module, VideoModel) or not (module.training and torch.is_grad_enabled()):
            return
        self.under_way = True
        self.open.enter_context(self.readings)
        if torch.cuda.is_available():
            torch.cuda.set_sync_debug_mode("warn")

    def end(self, *arguments: Any) -> None:
        """The optimizer's step is done, or on a CPU about to begin."""
        if self.under_way:
            if torch.cuda.is_available():
                torch.cuda.set_sync_debug_mode("default")
            self.open.close()
            self.under_way = False
            self.steps += 1


@contextmanager
def watched(path: str) -> Iterator[None]:
    """Write what the steps of the block waited for to a JSON file."""
    watch, warned = Watch(), Counter[str]()

    def show(message: Any, *details: Any, **named: Any) -> None:
        if WARNING in str(message):
            warned[asking_line()] += 1

    with warnings.catch_warnings():
        warnings.filterwarnings("always", message=f".*{WARNING}")
        warnings.showwarning = show
        at_end = register_optimizer_step_post_hook if torch.cuda.is_available() else register_optimizer_step_pre_hook
        hooks = register_module_forward_pre_hook(watch.begin), at_end(watch.end)
        try:
            yield
        finally:
            watch.end()
            for hook in hooks:
                hook.remove()
            found = {"steps": watch.steps, "read": dict(watch.readings.places), "waited": dict(warned)}
            Path(path).write_text(json.dumps(found))
