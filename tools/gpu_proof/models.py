"""Every model on the device against the CPU: logits and gradients of the same weights and clips, in three precisions.

Errors are counted against what tells two clips apart: the spread of the CPU's logits between them. An error of 1 would
make the two indistinguishable, however large the logits.

    fp32         1e-3. In fp32 the CPU itself is 1e-6 to 3e-5 off its results in fp64, s3d 2e-4. TF32 is off.
    bf16, fp16   three times the CPU's own error in bf16, and an eighth of that, since how much rounding a network
                 magnifies is its own property (3 % to 30 % in bf16 here); 10 % and 2 % are always allowed
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpu_proof.finding import Check, Context, Figures, Finding, judged
from gpu_proof.internals import packages_of

CLASSES, CLIPS = 16, 2
SIZES = {"hybrid_micro": (8, 32)}  # the size that it is meant for
STANDARD_SIZE = (4, 64)  # frames, side
PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
MOST_ERROR = {"fp32": 1e-3, "bf16": 0.1, "fp16": 0.02}
AS_ON_CPU = 3.0  # times the CPU's own error
MOST_TURN = {"fp32": 1e-6, "bf16": 0.05, "fp16": 0.01}  # 1 - cosine of all gradients, against the CPU's in fp32
LOSS_SCALE = 1024.0  # keeps fp16's gradients above the smallest number; halved while they exceed the largest


@dataclass(frozen=True)
class Subject:
    """A model and what it is called with; `inputs` are on the CPU."""

    model: nn.Module
    inputs: tuple[Tensor, ...]
    loss: Callable[[Tensor], Tensor]

    def on(self, device: torch.device) -> Subject:
        """A copy elsewhere."""
        model = copy.deepcopy(self.model).to(device)
        return Subject(model, tuple(each.to(device) for each in self.inputs), self.loss)

    def __call__(self) -> Tensor:
        """Logits, without what a classifier returns beside them in training; or what else the model returns."""
        from hybridvideo.engine.training.classification import logits_of

        return logits_of(self.model(*self.inputs))


def checks(names: list[str], pretraining: list[str]) -> list[Check]:
    """One for each model."""
    question = "logits and gradients equal the CPU's in fp32, bf16 and fp16; a training step is finite"
    made = [
        Check(f"models/{name}", question, partial(against_cpu, partial(classifier, name)), needs=packages_of(name))
        for name in names
    ]
    return made + [
        Check(f"models/pretraining of {name}", question, partial(against_cpu, partial(autoencoder, name)))
        for name in pretraining
    ]


def against_cpu(make: Callable[[torch.device], Subject], context: Context) -> Finding:
    """One model, in all precisions."""
    with exact_products():
        there = make(context.device)
        here = there.on(torch.device("cpu"))
        expected, gradients = logits_and_gradients(here, "fp32")
        signal = rms(expected - expected.mean(0))
        bounds = bounds_on_cpu(here, expected, gradients, signal)
        there, expected, gradients = there.on(context.device), expected.to(context.device), gradients.to(context.device)
        figures: Figures = {"signal": signal, "parameters": sum(p.numel() for p in there.model.parameters())}
        missed = [] if signal > 0 else ["two clips have the same logits"]
        errors = []
        for name in PRECISIONS if context.cuda else ("fp32", "bf16"):  # nothing computes in fp16 on a CPU
            measured = compare(there, expected, gradients, signal, name)
            figures[name] = {**measured, "allowed": list(bounds[name])}
            missed += faults(name, measured, bounds[name])
            errors.append(f"{name} {measured['error']:.1e}")
        figures["training step"] = finite = training_step(there)
        missed += [] if finite else ["a training step in bf16 is not finite"]
    return judged(not missed, "; ".join(missed) or f"error of logits: {', '.join(errors)}", **figures)


def bounds_on_cpu(here: Subject, expected: Tensor, gradients: Tensor, signal: float) -> dict[str, tuple[float, float]]:
    """Largest error of logits and turn of gradients in each precision.

    The CPU computes in bf16 only: many have no fp16 that is worth waiting for. fp16 has three more digits, so that its
    errors are an eighth.
    """
    logits, own = logits_and_gradients(here, "bf16")
    error = rms(logits - expected) / signal if signal else 0.0
    allowed = AS_ON_CPU * error, AS_ON_CPU * turn(own, gradients)
    return {
        "fp32": (MOST_ERROR["fp32"], MOST_TURN["fp32"]),
        "bf16": (max(MOST_ERROR["bf16"], allowed[0]), max(MOST_TURN["bf16"], allowed[1])),
        "fp16": (max(MOST_ERROR["fp16"], allowed[0] / 8), max(MOST_TURN["fp16"], allowed[1] / 8)),
    }


def compare(there: Subject, expected: Tensor, gradients: Tensor, signal: float, precision: str) -> dict[str, float]:
    """Error of the logits in units of the signal, and how the gradients differ from the CPU's."""
    logits, own = logits_and_gradients(there, precision)
    with torch.no_grad(), autocast(expected.device, precision):
        plain = there()  # without gradients other kernels and caches are used
    return {
        "error": rms(plain.float() - expected) / signal if signal else math.inf,
        "error with gradients": rms(logits - expected) / signal if signal else math.inf,
        "turn of gradients": turn(own, gradients),
        "length of gradients": (own.norm() / gradients.norm()).item(),
    }


def logits_and_gradients(subject: Subject, precision: str) -> tuple[Tensor, Tensor]:
    """In fp32, of a pass in that precision; the loss is scaled as a gradient scaler would."""
    scale = LOSS_SCALE if precision == "fp16" else 1.0
    while True:
        subject.model.zero_grad()
        with autocast(subject.inputs[0].device, precision):
            logits = subject()
        (subject.loss(logits.float()) * scale).backward()
        gradients = flat_gradients(subject.model) / scale
        if scale <= 1 or gradients.isfinite().all():
            return logits.detach().float(), gradients
        scale /= 2


def turn(one: Tensor, other: Tensor) -> float:
    """1 - cosine of the angle between two long vectors, from their difference: it is exact where they are close."""
    return (one / one.norm() - other / other.norm()).square().sum().item() / 2


def faults(precision: str, measured: dict[str, float], bounds: tuple[float, float]) -> list[str]:
    """What of it is beyond its bound; numbers that are not finite are beyond any."""
    most = {"error": bounds[0], "error with gradients": bounds[0], "turn of gradients": bounds[1]}
    return [
        f"{precision}: {name} {measured[name]:.1e} > {bound:.1e}"
        for name, bound in most.items()
        if not measured[name] <= bound
    ]


def training_step(there: Subject) -> bool:
    """Whether loss and gradients are finite in training mode, with dropout and batch statistics."""
    there.model.train().zero_grad()
    with autocast(there.inputs[0].device, "bf16"):
        loss = there.loss(there().float())
    loss.backward()
    there.model.eval()
    return bool(loss.isfinite()) and bool(flat_gradients(there.model).isfinite().all())


# --- what is compared -------------------------------------------------------------------------------------------------


def classifier(name: str, device: torch.device) -> Subject:
    """A registered model at a small size, with weights under which no layer is idle."""
    import hybridvideo as hv

    frames, side = size_of(name)
    torch.manual_seed(0)
    with torch.device(device):  # a GPU draws hundreds of millions of weights at once
        model: nn.Module = hv.create_model(name, CLASSES, num_frames=frames, image_size=side)
    labels = torch.arange(CLIPS)
    prepared = prepare(model, (clips(frames, side),), device)
    return Subject(prepared[0], prepared[1], lambda logits: F.cross_entropy(logits, labels.to(logits.device)))


def autoencoder(name: str, device: torch.device) -> Subject:
    """A masked autoencoder; its mask hides three of four tubelets."""
    from hybridvideo.models import create_pretraining

    frames, side = STANDARD_SIZE
    torch.manual_seed(0)
    with torch.device(device):
        model = create_pretraining(name, num_frames=frames, image_size=side)
    t, h, w = model.config.patch
    tokens = frames // t * (side // h) * (side // w)
    mask_BN = (torch.arange(tokens) % 4 != 0).expand(CLIPS, -1).contiguous()
    prepared = prepare(model, (clips(frames, side), mask_BN), device)
    return Subject(*prepared, lambda drawn: drawn.square().mean())


def size_of(name: str) -> tuple[int, int]:
    """Frames and side of a model's clips."""
    from fnmatch import fnmatch

    return next((size for pattern, size in SIZES.items() if fnmatch(name, pattern)), STANDARD_SIZE)


def clips(frames: int, side: int) -> Tensor:
    """Clips of large moving patches: noise alone would average out to the same features for all."""
    generator = torch.Generator().manual_seed(1)
    patches = torch.randn(CLIPS, 3, 2, 4, 4, generator=generator)
    noise = torch.randn(CLIPS, 3, frames, side, side, generator=generator)
    return F.interpolate(patches, (frames, side, side), mode="trilinear") + noise / 2


def prepare(model: nn.Module, inputs: tuple[Tensor, ...], device: torch.device) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """The model in evaluation, its zeros filled, with BatchNorm statistics that fit its weights."""
    model.to(device)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.02 if parameter.ndim > 1 else 0.1)
        for layer in model.modules():
            if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                layer.momentum = 1.0
        model.train()(*(each.to(device) for each in inputs))
        for layer in model.modules():
            if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.running_var is not None:
                layer.running_var.clamp_(min=float(layer.running_var.mean()) / 10)  # it may be almost 0 by chance
    return model.eval(), inputs


# --- arithmetic -------------------------------------------------------------------------------------------------------


@contextmanager
def exact_products() -> Iterator[None]:
    """Products and convolutions in fp32 without TF32, which has bf16's neighbours for fractions."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = False
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


def autocast(device: torch.device, precision: str) -> torch.autocast | nullcontext[None]:
    """The context that a precision is trained and evaluated in."""
    kind = PRECISIONS[precision]
    return nullcontext() if kind is None else torch.autocast(device.type, kind)


def flat_gradients(model: nn.Module) -> Tensor:
    """All gradients in one vector; zero for parameters that have none."""
    parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters() if p.requires_grad]
    return torch.cat([part.flatten() for part in parts]).float()


def rms(x: Tensor) -> float:
    """Root of the mean square."""
    return x.float().square().mean().sqrt().item()
