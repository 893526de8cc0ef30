"""Every model on the device against the CPU: logits and gradients of the same weights and clips, in three precisions.

Errors are counted against what tells two clips apart: the spread of the CPU's logits between them. An error of 1 would
make the two indistinguishable, however large the logits.

    fp32         1e-3. In fp32 the CPU itself is 1e-6 to 3e-5 off its results in fp64, s3d 2e-4. TF32 is off.
    bf16, fp16   three times the CPU's own error in that precision, since how much rounding a network magnifies is its
                 own property (3 % to 30 % in bf16, an eighth of it in fp16); 10 % and 2 % are always allowed
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

CLASSES, CLIPS = 16, 2
SIZES = {"s3d": (16, 64), "hybrid_micro": (8, 32)}  # at the standard one they magnify rounding most
STANDARD_SIZE = (4, 64)  # frames, side
PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
MOST_ERROR = {"fp32": 1e-3, "bf16": 0.1, "fp16": 0.02}
AS_ON_CPU = 3.0  # times the CPU's own error
LEAST_COSINE = {"fp32": 1 - 1e-6, "bf16": 0.95, "fp16": 0.99}  # of all gradients, against the CPU's in fp32
LOSS_SCALE = 1024.0  # keeps fp16's gradients above the smallest number


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
        out: Tensor = self.model(*self.inputs)
        return out


def checks(names: list[str], pretraining: list[str]) -> list[Check]:
    """One for each model."""
    question = "logits and gradients equal the CPU's in fp32, bf16 and fp16; a training step is finite"
    made = [Check(f"models/{name}", question, partial(against_cpu, partial(classifier, name))) for name in names]
    return made + [
        Check(f"models/pretraining of {name}", question, partial(against_cpu, partial(autoencoder, name)))
        for name in pretraining
    ]


def against_cpu(make: Callable[[torch.device], Subject], context: Context) -> Finding:
    """One model, in all precisions."""
    with exact_products():
        there = make(context.device)
        here = there.on(torch.device("cpu"))
        expected = here()
        here.loss(expected).backward()
        expected = expected.detach()
        gradients = flat_gradients(here.model).to(context.device)
        signal = rms(expected - expected.mean(0))
        bounds = bounds_on_cpu(here, expected, signal)
        there = there.on(context.device)
        figures: Figures = {"signal": signal, "parameters": sum(p.numel() for p in there.model.parameters())}
        missed = [] if signal > 0 else ["two clips have the same logits"]
        for name in PRECISIONS:
            measured = compare(there, expected.to(context.device), gradients, signal, name)
            figures[name] = {**measured, "most error": bounds[name]}
            missed += faults(name, measured, bounds[name])
        figures["training step"] = finite = training_step(there)
        missed += [] if finite else ["a training step in bf16 is not finite"]
    worst = ", ".join(f"{name} {figures[name]['error']:.1e}" for name in PRECISIONS)  # type: ignore[index, call-overload]
    return judged(not missed, "; ".join(missed) or f"error of logits: {worst}", **figures)


def bounds_on_cpu(here: Subject, expected: Tensor, signal: float) -> dict[str, float]:
    """Largest error that is allowed in each precision."""
    bounds = dict(MOST_ERROR)
    for precision in ("bf16", "fp16"):
        with torch.no_grad(), autocast(expected.device, precision):
            own = rms(here().float() - expected)
        bounds[precision] = max(bounds[precision], AS_ON_CPU * own / signal if signal else 0.0)
    return bounds


def compare(there: Subject, expected: Tensor, gradients: Tensor, signal: float, precision: str) -> dict[str, float]:
    """Error of the logits in units of the signal, and the cosine between all gradients and the CPU's."""
    scale = LOSS_SCALE if precision == "fp16" else 1.0
    there.model.zero_grad()
    with autocast(expected.device, precision):
        logits = there()
    (there.loss(logits.float()) * scale).backward()
    own = flat_gradients(there.model) / scale
    with torch.no_grad(), autocast(expected.device, precision):
        plain = there()  # without gradients other kernels and caches are used
    return {
        "error": rms(logits.float() - expected) / signal if signal else math.inf,
        "error without gradients": rms(plain.float() - expected) / signal if signal else math.inf,
        "cosine of gradients": torch.cosine_similarity(own.double(), gradients.double(), 0).item(),
        "length of gradients": (own.norm() / gradients.norm()).item(),
    }


def faults(precision: str, measured: dict[str, float], most: float) -> list[str]:
    """What of it is beyond its bound; numbers that are not finite are beyond any."""
    least = LEAST_COSINE[precision]
    found = []
    for name in ("error", "error without gradients"):
        if not measured[name] <= most:
            found.append(f"{precision}: {name} {measured[name]:.1e} > {most:.1e}")
    if not measured["cosine of gradients"] >= least:
        found.append(f"{precision}: cosine of gradients {measured['cosine of gradients']:.6f} < {least:g}")
    return found


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
