"""Train for an objective of your own: python own_objective.py FOLDER EPOCHS

The arrow of time: half of the clips of a batch are played backwards, and the model learns which. No labels are needed.
"""

import sys
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hybridvideo as hv
from hybridvideo.config.data import ClipConfig, FrameConfig, Normalisation
from hybridvideo.config.jobs import Reading
from hybridvideo.config.training import OptimConfig
from hybridvideo.engine.training.feeds import ListFeeds
from hybridvideo.engine.training.loop import default_accelerator, fit
from hybridvideo.engine.training.objective import Batch, Best, Figures, Gather, Loss, Objective, Place, model_input
from hybridvideo.engine.training.phases import Phase
from hybridvideo.engine.training.run import Plan


class ArrowOfTime(Objective):
    """Is a clip played forwards (0) or backwards (1)?"""

    best = Best("val_accuracy")

    def __init__(self, normalisation: Normalisation) -> None:
        self.normalisation = normalisation

    def examples(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return clips (B, C, T, H, W), every second one reversed, and which of them are (B,)."""
        clips = model_input(self.normalisation, batch)
        reversed_B = torch.arange(len(clips), device=clips.device) % 2
        return torch.where(reversed_B.view(-1, 1, 1, 1, 1) == 1, clips.flip(2), clips), reversed_B

    def loss(self, trainee: nn.Module, batch: Batch, place: Place) -> Loss:
        clips, reversed_B = self.examples(batch)
        losses_B = F.cross_entropy(trainee(clips).float(), reversed_B, reduction="none")
        return Loss((losses_B * batch["ok"]).sum())  # a clip that could not be read has no part in it

    def validate(self, model: nn.Module, batches: Iterator[Batch], gather: Gather) -> Figures:
        right = total = 0
        for batch in batches:
            clips, reversed_B = self.examples(batch)
            right += int(((model(clips).argmax(1) == reversed_B) & batch["ok"]).sum())
            total += sum(batch["counts"])
        parts = gather((right, total))  # of all processes
        return {"val_accuracy": sum(part[0] for part in parts) / max(1, sum(part[1] for part in parts))}


clip, frame, batch_size = ClipConfig(frames=8, stride=1), FrameConfig(32, 32), 8
model = hv.create_model("hybrid_micro", 2, num_frames=clip.frames, image_size=frame.height)
plan = Plan((Phase(int(sys.argv[2]), clip, frame, batch_size),), OptimConfig(lr=1e-3))
accelerator = default_accelerator(model, plan)
train, val = (
    hv.dataset(sys.argv[1], frames=clip.frames, size=frame.height, stride=clip.stride, train=train, labelled=False)
    for train in (True, False)
)
feeds = ListFeeds(accelerator, lambda phase: train.clips, val.clips, seed=0, batch_size=batch_size, reading=Reading())
fitted = fit(model, plan, ArrowOfTime(model.normalisation), feeds, accelerator=accelerator)
for line in fitted.epochs:
    print(f"epoch {line['epoch']}: loss {line['train_loss']:.3f}, forwards or backwards {line['val_accuracy']:.3f}")
