"""A hybrid whose head is a Transformer of encoder and decoder: its grid is a memory that queries or labels read.

    clip -> stem -> stages -> memory -> [encoder] -> decoder, by queries or by labels -> classes

The memory is the grid, or a vector for each frame; never a single vector, from which cross-attention reads the same
whatever is asked. Sources: see `parts.decoder`.

    B batch   T H W grid   C channels   N = T * H * W tokens of the memory   Q queries   L labels of a sequence
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from hybridvideo.config.model import HybridConfig
from hybridvideo.errors import UserError
from hybridvideo.models.checks import check_clip
from hybridvideo.models.hybrid import Hybrid
from hybridvideo.models.initialisation import INITIALISERS, initialise
from hybridvideo.models.parts.decoder import DecoderLayer, EncoderLayer, LabelDecoder, QueryDecoder, grid_waves
from hybridvideo.models.parts.heads import PoolHead
from hybridvideo.models.parts.inputs import OF_DIFFERENCES
from hybridvideo.models.parts.linear import Linear
from hybridvideo.models.sequences import search
from hybridvideo.models.staged import parameters


@dataclass(frozen=True)
class EncoderDecoderConfig(HybridConfig):
    """A hybrid with an encoder and a decoder after its stages; `head` pools what the decoder returns."""

    memory: Literal["grid", "vectors"] = "grid"
    """What is read: every position of every frame, or one vector for each frame."""
    memory_dim: int = 256
    """Channels of memory, encoder and decoder."""
    encoder_depth: int = 2
    """Layers of self-attention over the memory; 0: it is read as the stages left it."""
    decoder_depth: int = 2
    """Layers of the decoder."""
    decoder_heads: int = 8
    """Of encoder and decoder."""
    mlp_ratio: float = 4.0
    """Hidden channels of their MLPs per channel."""
    dropout: float = 0.1
    """After attention and in MLPs."""
    labels: Literal["queries", "sequence"] = "queries"
    """queries: learned ones, read at once. sequence: one label after another, each knowing those before it."""
    queries: int = 8
    """How many of them, if there are learned ones."""


class Memory(NamedTuple):
    """What the decoder reads: R = B rows, or in the control B * T, one for each frame."""

    tokens_RNC: Tensor
    mask_RN: Tensor | None
    """Which of them may be read; null: all."""
    true_BT: Tensor | None
    """In the control: which frames are no padding; null: all."""
    clips: int

    def repeated(self, times: int) -> Memory:
        """Each clip several times, one after another."""
        tokens = self.tokens_RNC.unflatten(0, (self.clips, -1)).repeat_interleave(times, 0).flatten(0, 1)
        mask, true = (
            None if mask is None else mask.repeat_interleave(times, 0) for mask in (self.mask_RN, self.true_BT)
        )
        return Memory(tokens, mask, true, self.clips * times)


class EncoderDecoder(Hybrid):
    """The network of an `EncoderDecoderConfig`.

    `model(x, frames_B)` takes clips whose last frames are padding. With `labels: sequence` the logits of a plain call
    are those of the first label; `sequence_logits` trains and `decode` finds all of them.

    In the control (`time=False`) each frame is a memory of its own, the grid of its positions, and what the decoder
    reads from the frames is averaged.
    """

    config: EncoderDecoderConfig
    undecayed = (*Hybrid.undecayed, "queries_QC", "begin_C", "labels.weight")

    def __init__(self, config: EncoderDecoderConfig, num_classes: int) -> None:
        check(config)
        super().__init__(config, num_classes)
        dim, heads = config.memory_dim, config.decoder_heads
        settings = (dim, heads, config.mlp_ratio, config.dropout)
        self.to_memory = Linear(self.grid_dim, dim)
        self.encoder = nn.ModuleList(EncoderLayer(*settings) for _ in range(config.encoder_depth))
        layers = [DecoderLayer(*settings) for _ in range(config.decoder_depth)]
        self.decoder: QueryDecoder | LabelDecoder
        if config.labels == "queries":
            self.decoder = QueryDecoder(layers, config.queries, dim)
        else:
            self.decoder = LabelDecoder(layers, num_classes, dim)
        self.head = PoolHead(dim, num_classes, config.head)
        self.num_features = self.head.num_features
        for part in (self.to_memory, self.encoder, self.decoder, self.head):
            initialise(part, INITIALISERS[config.init])
        self.init_classifier(self.head.classifier)

    def head_parts(self) -> list[nn.Module]:
        return [self.norm, self.to_memory, self.encoder, self.decoder, self.head]

    def forward(self, x_BCTHW: Tensor, frames_B: Tensor | None = None) -> Tensor:
        """Return logits (B, K).

        Args:
            x_BCTHW: clips.
            frames_B: how many frames of each clip are true, from 1; what follows them is padding and changes nothing.

        Raises:
            UserError: `frames_B` does not fit the clips.
        """
        return self.forward_head(self.true_features(x_BCTHW, frames_B), frames_B=frames_B)

    def true_features(self, x_BCTHW: Tensor, frames_B: Tensor | None) -> Tensor:
        """Return the last grid (B, T, H, W, C) of clips whose last frames are padding."""
        x_BCTHW = without_padding(x_BCTHW, frames_B)
        if frames_B is None:
            return self.forward_features(x_BCTHW)
        check_clip(x_BCTHW, self.input_shape, self.least_side)
        return self.forward_stages(self.run_block(self.forward_stem, x_BCTHW, frames_B))

    def forward_stem(self, x_BCTHW: Tensor, frames_B: Tensor | None = None) -> Tensor:
        grid: Tensor = self.stem(self.input(x_BCTHW, frames_B))
        return grid

    def forward_head(self, grid_BTHWC: Tensor, pre_logits: bool = False, frames_B: Tensor | None = None) -> Tensor:
        memory = self.remember(grid_BTHWC, frames_B)
        del grid_BTHWC  # its memory is free as soon as the first layer has read it
        return self.head(self.read(self.encode(memory))[:, :, None], pre_logits)

    def remember(self, grid_BTHWC: Tensor, frames_B: Tensor | None) -> Memory:
        """Make tokens of a grid. Raises UserError for a grid of a single one."""
        time = self.config.time
        if self.config.memory == "vectors" and time:
            grid_BTHWC = grid_BTHWC.mean((2, 3), keepdim=True)
        B, T, H, W, _ = grid_BTHWC.shape
        if (T if time else 1) * H * W == 1:
            raise UserError(
                f"a memory of one vector ({T} frames of {H}x{W} positions, memory {self.config.memory}): attention to "
                "it is the same for every question; give more frames, larger ones, or a stem of a smaller stride"
            )
        x = self.to_memory(grid_BTHWC)
        x = (x + grid_waves(x, time).to(x.dtype)).flatten(2, 3)
        true_BT = None if frames_B is None else first_of(T, self.frames_left(frames_B).to(x.device))
        if not time:
            return Memory(x.flatten(0, 1), None, true_BT, B)
        mask_BN = None if true_BT is None else true_BT.repeat_interleave(H * W, 1)
        return Memory(x.flatten(1, 2), mask_BN, None, B)

    def frames_left(self, frames_B: Tensor) -> Tensor:
        """How many frames of the grid come from so many of the clip."""
        if self.input.config.mode in OF_DIFFERENCES:
            frames_B = (frames_B - 1).clamp(min=1)
        for stage in self.config.stages:
            frames_B = -(-frames_B // stage.time_stride)
        return frames_B

    def encode(self, memory: Memory) -> Memory:
        """The memory after the encoder."""
        x = memory.tokens_RNC
        for layer in self.encoder:
            x = self.run_block(layer, x, memory.mask_RN)
        return memory._replace(tokens_RNC=x)

    def read(self, memory: Memory, *labels_RL: Tensor) -> Tensor:
        """What the decoder reads from the memory, (B, 1 or T, Q or L + 1, C); T in the control."""
        out: Tensor = self.run_block(self.decoder, memory.tokens_RNC, memory.mask_RN, *labels_RL)
        out = out.unflatten(0, (memory.clips, -1))
        if memory.true_BT is None:
            return out
        share_BT = memory.true_BT / memory.true_BT.sum(1, keepdim=True)
        return (out * share_BT[..., None, None].to(out.dtype)).sum(1, keepdim=True)

    # --- sequences of labels ------------------------------------------------------------------------------------------

    def sequence_logits(self, x_BCTHW: Tensor, labels_BL: Tensor, frames_B: Tensor | None = None) -> Tensor:
        """Return the logits of each label of a sequence, given those before it: (B, L, K), for cross-entropy.

        Args:
            x_BCTHW: clips.
            labels_BL: the true sequences; the last label of each is predicted but not read.
            frames_B: as for a call.

        Raises:
            UserError: the model was not made for sequences (setting `labels`).
        """
        return self.logits_after(self.memory_of(x_BCTHW, frames_B), labels_BL[:, :-1])

    def memory_of(self, x_BCTHW: Tensor, frames_B: Tensor | None) -> Memory:
        """The memory that a sequence is read from. Raises UserError for a model of learned queries."""
        if self.config.labels != "sequence":
            raise UserError("this model has learned queries, no sequence of labels; build it with labels: sequence")
        return self.encode(self.remember(self.true_features(x_BCTHW, frames_B), frames_B))

    def logits_after(self, memory: Memory, labels_BL: Tensor) -> Tensor:
        """Logits (B, L + 1, K) of the first label, and of what follows each given one."""
        B, L = labels_BL.shape
        rows_RL = labels_BL.repeat_interleave(memory.tokens_RNC.shape[0] // B, 0)
        features_BLC = self.read(memory, rows_RL).mean(1)
        logits: Tensor = self.head(features_BLC.flatten(0, 1)[:, None, None, None])
        return logits.unflatten(0, (B, L + 1))

    @torch.no_grad()
    def decode(
        self, x_BCTHW: Tensor, end: int, longest: int = 16, beams: int = 1, frames_B: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Find a likely sequence of labels for each clip: greedily with one beam, else by beam search.

        Args:
            x_BCTHW: clips; call `eval()` before.
            end: the class that ends a sequence.
            longest: labels of a sequence at most.
            beams: sequences that are followed for each clip; a wider search never returns a lower score.
            frames_B: as for a call.

        Returns:
            Labels (B, L), filled with `end` after its first place, and the log-probability of each sequence (B,).

        Raises:
            UserError: the model was not made for sequences, or a number is out of its range.
        """
        if not 0 <= end < self.num_classes:
            raise UserError(f"end is {end}; give a class from 0 to {self.num_classes - 1}")
        memory = self.memory_of(x_BCTHW, frames_B)

        def next_scores(labels_BWL: Tensor) -> Tensor:
            W = labels_BWL.shape[1]
            logits_RLK = self.logits_after(memory.repeated(W), labels_BWL.flatten(0, 1).to(x_BCTHW.device))
            return logits_RLK[:, -1].log_softmax(-1).unflatten(0, (-1, W))

        return search(next_scores, x_BCTHW.shape[0], end, longest, beams)

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the classifier, and the table of labels that a sequence reads."""
        super().reset_classifier(num_classes)
        if isinstance(self.decoder, LabelDecoder):
            old = self.decoder.labels
            with torch.inference_mode(False):
                self.decoder.labels = nn.Embedding(num_classes, old.embedding_dim).to(
                    old.weight.device, old.weight.dtype
                )

    def layer_groups(self) -> list[tuple[str, list[nn.Parameter]]]:
        """The hybrid's, with the encoder and the decoder before the head."""
        *groups, _ = super().layer_groups()
        groups.append(("encoder", parameters([self.norm, self.to_memory, self.encoder])))
        return [*groups, ("decoder", parameters([self.decoder])), ("head", parameters([self.head]))]

    def _only_head_is_trained(self) -> bool:
        return False  # encoder and decoder are


def without_padding(x_BCTHW: Tensor, frames_B: Tensor | None) -> Tensor:
    """Replace the padding by the last true frame, so that nothing in it can reach the frames before it."""
    if frames_B is None:
        return x_BCTHW
    B, T = x_BCTHW.shape[0], x_BCTHW.shape[2]
    if (
        frames_B.shape != (B,)
        or frames_B.is_floating_point()
        or not 1 <= int(frames_B.min()) <= int(frames_B.max()) <= T
    ):
        raise UserError(
            f"frames_B is {frames_B.tolist()}; give {B} whole numbers from 1 to {T}, the true frames of each"
        )
    last_BT = torch.arange(T, device=x_BCTHW.device).expand(B, T).minimum(frames_B[:, None].to(x_BCTHW.device) - 1)
    return x_BCTHW.gather(2, last_BT[:, None, :, None, None].expand_as(x_BCTHW))


def first_of(frames: int, true_B: Tensor) -> Tensor:
    """(B, T): true for the first frames of each clip."""
    return torch.arange(frames, device=true_B.device) < true_B[:, None]


def check(config: EncoderDecoderConfig) -> None:
    """Raise UserError for a memory that is a single vector, or layers without an MLP."""
    if config.memory == "vectors" and config.frames == 1:
        raise UserError("memory vectors of one frame is one vector, which says the same to every question; give grid")
    if int(config.memory_dim * config.mlp_ratio) < 1:
        raise UserError(f"mlp_ratio is {config.mlp_ratio:g} with memory_dim {config.memory_dim}; give a larger one")
