"""VideoMAE, fine-tuned and pretrained: by its authors, by Hugging Face, and this project's own pretraining.

Their keys have no bias, queries and values have one each; here the three are one layer with a bias of zero for keys,
which never matters (`videomae.TokenBlock`): the way back leaves it out. Hugging Face splits the three;
in its files the biases are called `q_bias` and `v_bias`, in the memory of transformers 5 `query.bias`, `value.bias`.

A classifier takes the encoder of pretrained weights without its last norm, as the authors' fine-tuning does: the norm
of a classifier comes after the mean and starts fresh.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hybridvideo.errors import UserError
from hybridvideo.models.published.videomae import VIDEOMAES, VideoMAEConfig, sinusoids
from hybridvideo.models.published.videomae_pretraining import PRETRAINING, VideoMAEPretrainingConfig
from hybridvideo.models.variants import Variant
from hybridvideo.weights.layouts.layout import Architecture, Layout, Renames, State, numbers_of

PARTS = ("attention_norm", "attention.proj", "mlp_norm", "mlp.fc1", "mlp.fc2")  # of a block, as called here


class Style(NamedTuple):
    """Names of the same tensors in one code base. A block's names follow the prefix of the block."""

    name: str
    parts: tuple[str, ...]  # in the order of PARTS
    weights: tuple[str, ...]  # of queries, keys and values, or of all in one
    biases: tuple[str, ...]  # of queries and values; none if the bias is already joined
    patch: str
    blocks: str
    decoder_blocks: str
    last_norm: str
    head: str
    narrow: str = "encoder_to_decoder."
    pixels: str = "decoder.head."
    pretrained: str = ""  # prefix of the encoder's names in pretrained weights

    @property
    def qkv(self) -> str:
        """Return the names of a block, once queries, keys and values are one layer."""
        return "qkv" if self.biases else "attention.qkv"

    @property
    def marker(self) -> str:
        """Return a tensor that a block has in this style alone."""
        return self.biases[0] if self.biases else "attention.qkv.bias"


AUTHORS = Style(
    name="VideoMAE",
    parts=("norm1", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2"),
    weights=("attn.qkv.weight",),
    biases=("attn.q_bias", "attn.v_bias"),
    patch="patch_embed.proj.",
    blocks="blocks.{i}.",
    decoder_blocks="decoder.blocks.{i}.",
    last_norm="encoder.norm.",
    head="head.",
    pretrained="encoder.",
)
ATTENTION = "attention.attention."
HUGGING_FACE = Style(
    name="VideoMAE (Hugging Face)",
    parts=("layernorm_before", "attention.output.dense", "layernorm_after", "intermediate.dense", "output.dense"),
    weights=(f"{ATTENTION}query.weight", f"{ATTENTION}key.weight", f"{ATTENTION}value.weight"),
    biases=(f"{ATTENTION}q_bias", f"{ATTENTION}v_bias"),
    patch="videomae.embeddings.patch_embeddings.projection.",
    blocks="videomae.encoder.layer.{i}.",
    decoder_blocks="decoder.decoder_layers.{i}.",
    last_norm="videomae.layernorm.",
    head="classifier.",
)
IN_MEMORY = HUGGING_FACE._replace(
    name="VideoMAE (transformers 5)", biases=(f"{ATTENTION}query.bias", f"{ATTENTION}value.bias")
)
OURS = Style(
    name="VideoMAE (this project)",
    parts=PARTS,
    weights=("attention.qkv.weight",),
    biases=(),
    patch="patches.",
    blocks="blocks.{i}.",
    decoder_blocks="decoder.blocks.{i}.",
    last_norm="encoder.norm.",
    head="classifier.",
    narrow="narrow.",
    pixels="decoder.pixels.",
    pretrained="encoder.",
)


def rows(style: Style, theirs: str, ours: str) -> Renames:
    """Return a block's renames for these prefixes; the joined layer is called `qkv` on their side."""
    names = zip((*style.parts, style.qkv), (*PARTS, "attention.qkv"), strict=True)
    return tuple((f"{theirs}{their}.{{p}}", f"{ours}{our}.{{p}}") for their, our in names)


def joiner(style: Style, blocks: tuple[str, ...]) -> Callable[[State], State]:
    """Join queries, keys and values of each block."""

    def fix(state: State) -> State:
        state = without_positions(state)
        for start in starts(blocks, style.biases, state):
            query, value = (state.pop(start + name) for name in style.biases)
            state[f"{start}qkv.weight"] = torch.cat([state.pop(start + name) for name in style.weights])
            state[f"{start}qkv.bias"] = torch.cat([query, torch.zeros_like(query), value])
        return state

    return fix


def splitter(style: Style, blocks: tuple[str, ...]) -> Callable[[State], State]:
    """Undo the joining."""

    def unfix(state: State) -> State:
        state = dict(state)
        for start in starts(blocks, ("qkv.bias",) if style.biases else (), state):
            weights = state.pop(f"{start}qkv.weight").chunk(len(style.weights))
            query, _, value = state.pop(f"{start}qkv.bias").chunk(3)
            names = (*style.weights, *style.biases)
            for name, part in zip(names, (*weights, query, value), strict=True):
                state[start + name] = part.clone()
        return state

    return unfix


def starts(blocks: tuple[str, ...], names: tuple[str, ...], state: State) -> list[str]:
    """Return the prefixes of the blocks that have the first of these names."""
    return [block.format(i=i) for block in blocks for name in names[:1] for i in numbers_of(block + name, state)]


def without_positions(state: State) -> State:
    """Drop positions, which are computed here; UserError if a checkpoint has learned others."""
    state = dict(state)
    for name in ("pos_embed", "encoder.pos_embed"):
        if (table_1NC := state.pop(name, None)) is None:
            continue
        _, tokens, dim = table_1NC.shape
        if not torch.allclose(table_1NC[0].float().cpu(), sinusoids((1, 1, tokens), dim)[0, 0], atol=1e-3):
            raise UserError(
                f"{name} is a learned table; only VideoMAE with the published fixed positions can be loaded"
            )
    return state


def with_fresh_norm(state: State, own: Mapping[str, Tensor]) -> State:
    """Fill in the norm after the mean as a new model has it, since pretrained weights have none."""
    norm = own["norm.weight"]
    return {**state, "norm.weight": torch.ones_like(norm), "norm.bias": torch.zeros_like(norm)}


def architecture(style: Style, start: str = "") -> Callable[[State], Architecture]:
    """Infer the variant from the encoder's width and depth, and what differs. Frames and size cannot be inferred."""

    def read(state: State) -> Architecture:
        variants = {name: variant.config for name, variant in VIDEOMAES.items() if isinstance(variant, Variant)}
        return named(encoder_sizes(style, start, state), variants)

    return read


def pretraining_architecture(style: Style) -> Callable[[State], Architecture]:
    """Infer the same for `create_pretraining`, decoder included."""

    def read(state: State) -> Architecture:
        variants = {name: variant.config for name, variant in PRETRAINING.items()}
        sizes = encoder_sizes(style, style.pretrained, state)
        sizes["decoder_dim"] = dim = state["mask_token"].shape[-1]
        sizes["decoder_depth"] = len(numbers_of(f"{style.decoder_blocks}{style.parts[3]}.weight", state))
        sizes["decoder_heads"] = {c.decoder_dim: c.decoder_heads for c in variants.values()}.get(dim, max(1, dim // 64))
        return named(sizes, variants)

    return read


def encoder_sizes(style: Style, start: str, state: State) -> dict[str, Any]:
    """Infer fields of a config; heads are those published for the width, or have 64 channels each."""
    dim, _, *patch = state[f"{start}{style.patch}weight"].shape
    fc1 = f"{start}{style.blocks}{style.parts[3]}.weight"
    blocks = numbers_of(fc1, state)
    heads = {config.dim: config.heads for config in (variant.config for variant in PRETRAINING.values())}
    return {
        "patch": tuple(patch),
        "dim": dim,
        "depth": len(blocks),
        "heads": heads.get(dim, max(1, dim // 64)),
        "mlp_ratio": state[fc1.format(i=blocks[0])].shape[0] / dim,
    }


def named(
    sizes: dict[str, Any], variants: Mapping[str, VideoMAEConfig] | Mapping[str, VideoMAEPretrainingConfig]
) -> Architecture:
    """Return the variant of this width and depth, or the base, and what must change in it."""
    same = [name for name, config in variants.items() if (config.dim, config.depth) == (sizes["dim"], sizes["depth"])]
    name = same[0] if same else "videomae_base"
    old = asdict(variants[name])
    return Architecture(name, {key: value for key, value in sizes.items() if value != old[key]})


def of_video(style: Style) -> Callable[[Mapping[str, Tensor]], bool]:
    """Return whether patches are of frames too: BEiT and EVA are networks of images with the names of the authors."""
    kernel = f"{style.patch}weight"
    return lambda state: kernel not in state or state[kernel].ndim == 5


def fine_tuned(style: Style) -> Layout:
    """Return the layout of a classifier's weights."""
    return Layout(
        name=style.name,
        family="VideoMAE",
        signature=(style.blocks + style.marker, "fc_norm.weight"),
        renames=(
            (f"{style.patch}{{p}}", "patches.{p}"),
            *rows(style, style.blocks, "blocks.{i}."),
            ("fc_norm.{p}", "norm.{p}"),
            (f"{style.head}{{p}}", "classifier.{p}"),
        ),
        architecture=architecture(style),
        fix=joiner(style, (style.blocks,)),
        unfix=splitter(style, (style.blocks,)),
        accepts=of_video(style),
    )


def encoder_of(style: Style) -> Layout:
    """Return the layout of pretrained weights whose encoder goes into a classifier."""
    start, blocks = style.pretrained, style.pretrained + style.blocks
    return Layout(
        name=f"{style.name}, pretrained",
        family="VideoMAE",
        signature=(blocks + style.marker, "mask_token"),
        renames=((f"{start}{style.patch}{{p}}", "patches.{p}"), *rows(style, blocks, "blocks.{i}.")),
        architecture=architecture(style, start),
        computed=only_pretraining(style),
        fix=joiner(style, (blocks,)),
        unfix=splitter(style, (blocks,)),
        adapt=with_fresh_norm,
    )


def only_pretraining(style: Style) -> tuple[str, ...]:
    """Return what a classifier leaves out: the decoder, and the norm after the encoder."""
    blocks = [f"{style.decoder_blocks}{name}" for name in (*style.weights, *style.biases, style.marker)]
    blocks += [f"{style.decoder_blocks}{name}.{{p}}" for name in style.parts]
    rest = [f"{style.last_norm}{{p}}", "decoder.norm.{p}", f"{style.pixels}{{p}}", f"{style.narrow}{{p}}", "mask_token"]
    return (*blocks, *rest)


def pretrained(style: Style) -> Layout:
    """Return the layout of encoder and decoder, to pretrain further."""
    start, blocks = style.pretrained, style.pretrained + style.blocks
    return Layout(
        name=f"{style.name}, pretrained",
        family="VideoMAEPretraining",
        signature=(blocks + style.marker, "mask_token"),
        renames=(
            (f"{start}{style.patch}{{p}}", "encoder.patches.{p}"),
            *rows(style, blocks, "encoder.blocks.{i}."),
            (f"{style.last_norm}{{p}}", "encoder.norm.{p}"),
            (f"{style.narrow}{{p}}", "narrow.{p}"),
            *rows(style, style.decoder_blocks, "decoder.blocks.{i}."),
            (f"{style.pixels}{{p}}", "decoder.pixels.{p}"),
        ),
        architecture=pretraining_architecture(style),
        fix=joiner(style, (blocks, style.decoder_blocks)),
        unfix=splitter(style, (blocks, style.decoder_blocks)),
    )


FOREIGN = (AUTHORS, HUGGING_FACE, IN_MEMORY)
VIDEOMAE_LAYOUTS: tuple[Layout, ...] = (
    *(fine_tuned(style) for style in FOREIGN),
    *(encoder_of(style) for style in (*FOREIGN, OURS)),
    *(pretrained(style) for style in FOREIGN),
)
