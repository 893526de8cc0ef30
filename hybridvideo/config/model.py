"""Settings of models; a hybrid is data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from hybridvideo.errors import UserError


@dataclass(frozen=True)
class InputConfig:
    """What the stem sees of a clip."""

    mode: Literal["rgb", "difference", "both", "two_stream", "correlation", "correlation_stream"] = "rgb"
    """rgb: the frames. difference: signed temporal differences. both: the two as six channels. two_stream: each
    through a stem of its own, features concatenated. Differences of T frames are T - 1 images.
    correlation: the frames, and maps of motion (models/parts/motion_maps.py) from how well the surroundings of each
    pixel match frames nearby, as further channels of the stem. correlation_stream: the maps through small convolutions
    of their own, added to the stem's features; costs less with large stems and frames, and works with any stem."""
    gain: float = 2.0
    """Factor on the differences of normalised frames."""
    limit: float = 1.0
    """Differences are clipped to [-limit, limit] after that."""
    radius: int = 3
    """Correlation: largest offset in rows and columns; (2 * radius + 1)**2 are compared."""
    lags: tuple[int, ...] = (1,)
    """Correlation: frames ahead, or if negative back, of the frames that are compared; four maps for each."""
    box: int = 7
    """Correlation: side of the box over which products are averaged, odd."""
    scales: tuple[int, ...] = (1, 2)
    """Correlation: pixels of a side that are averaged into one first, four maps for each; multiples of the smallest.
    Offsets and box are in units of it, so large ones see fast motion and coarse texture."""
    stride: int = 1
    """Correlation: pixels from one position of the maps to the next; those of a scale above it are repeated."""
    normalise: bool = True
    """Correlation: compare deviations from the local mean in local standard deviations, not grey values."""


@dataclass(frozen=True)
class StemConfig:
    """The per-frame CNN, or the embedding of patches."""

    name: str = "small"
    """small, patch, coatnet (two convolutions, the first of stride 2), timm/NAME, torchvision/NAME, or backbone/NAME:
    the CNN before the patch embedding of a ViT of timm, such as vit_small_r26_s32_224."""
    widths: tuple[int, ...] = (24, 48, 96)
    """small: channels of its stride-2 convolutions. coatnet: of its two convolutions. patch: one
    number, the channels of the grid."""
    repeat: int = 1
    """small: convolutions of each width, of which the first has stride 2."""
    norm: Literal["layer", "batch"] = "layer"
    """small: layer normalises each position by itself; batch: convolutions without bias, then BatchNorm."""
    norm_eps: float = 1e-5
    """coatnet: added to the variance in its BatchNorm."""
    activation: Literal["gelu", "gelu_tanh", "relu", "silu", "hard_swish"] = "gelu"
    """small, coatnet: between the convolutions."""
    patch: tuple[int, int, int] = (1, 16, 16)
    """patch: frames, rows, columns; 2 or more frames make tubelets."""
    stride: int = 32
    """timm, torchvision, backbone: pixels per feature, a power of two."""
    weights: str | None = None
    """timm, torchvision, backbone: a state-dict file (safetensors or pth), or `hub` to download; null: random."""
    padding: Literal["own", "same"] = "own"
    """same: TensorFlow's padding, for weights that were trained with it."""
    mean: tuple[float, float, float] | None = None
    """Normalisation of the weights; default: as recorded by timm or torchvision."""
    std: tuple[float, float, float] | None = None
    """As `mean`."""
    frozen: bool = False
    """Not trained, with BatchNorm in evaluation mode; its outputs may be cached."""
    batchnorm: Literal["train", "eval"] = "train"
    """eval: BatchNorm keeps its statistics while the stem is trained."""


@dataclass(frozen=True)
class GateConfig:
    """How a block joins its two branches: gate * convolution + (1 - gate) * attention."""

    kind: Literal["fixed", "static", "conv", "both"] = "both"
    """fixed: `value`. static: learned. conv: from the pooled convolution. both: from the pooled two."""
    value: float = 0.5
    """fixed: the gate, 0 to 1. Others: the gate at the start of training, between the two."""
    per: Literal["clip", "frame"] = "clip"
    """conv and both: pooled over the clip, or over each frame."""
    channels: Literal["each", "all"] = "each"
    """A gate for each channel, or one for all."""

    def __post_init__(self) -> None:
        if self.kind != "fixed" and self.value in (0, 1):
            raise UserError(f"gate.value is {self.value}; give a number between 0 and 1, or set gate.kind to fixed")


@dataclass(frozen=True)
class FormConfig:
    """Where the published forms of mbconv, coat and maxvit blocks differ; the defaults are those of the papers."""

    expand: Literal["out", "in"] = "out"
    """Whether hidden channels, and those of coat's attention, follow the channels after or before the block."""
    shrink: Literal["conv", "pool"] = "conv"
    """mbconv of stride 2: the depthwise convolution has the stride, or an average before it."""
    pool: Literal["mean", "max"] = "mean"
    """Of the shortcut of a block of stride 2, and before coat's attention: over 2x2, or the maximum over 3x3."""
    activation: Literal["gelu", "gelu_tanh", "relu", "silu", "hard_swish"] = "gelu"
    """Of mbconv."""
    activate_first: bool = False
    """Activation after the first norm of mbconv too."""
    squeeze: float = 0.0625
    """Squeeze-and-excitation: its channels per hidden channel; 0: none."""
    squeeze_activation: Literal["silu", "relu"] = "silu"
    """Of squeeze-and-excitation."""
    squeeze_first: bool = False
    """Squeeze-and-excitation before the norm of the depthwise convolution, not after it."""
    padding: Literal["own", "same"] = "own"
    """same: TensorFlow's padding, for weights that were trained with it."""
    batch_eps: float = 1e-5
    """Added to the variance in BatchNorm."""


@dataclass(frozen=True)
class ChoiceConfig:
    """How a block learns to choose between convolution and attention for a clip."""

    training: Literal["gumbel", "straight_through"] = "gumbel"
    """Gradient of the decision: that of its probabilities. gumbel: with noise on the scores, so that both are tried."""
    temperature: float = 1.0
    """Of the probabilities; lower is closer to the decision itself."""
    cost: float = 0.01
    """Added to the loss of a clip for each share of the dearer path that its decision would spend."""


@dataclass(frozen=True)
class StageConfig:
    """`depth` blocks of one kind on the grid.

    A stage may change the grid before its blocks, in this order: `merge` or `dim`, `time_stride`, `pool`, `tokens`.
    """

    block: str = "window3d"
    """Kind of block: conv3d, divided, parallel or another of those in docs/models.md."""
    depth: int = 2
    """Blocks of the stage."""
    heads: int = 4
    """Of attention."""

    # What changes the grid before the blocks, or in the first of them.
    merge: bool = False
    """Merge 2x2 positions into one before the stage, with twice the channels unless `dim` is given."""
    dim: int | None = None
    """Channels of the stage; null: as many as before, or twice as many after `merge`."""
    time_stride: int = 1
    """Frames averaged into one before the stage."""
    pool: Literal["none", "space"] = "none"
    """space: each frame becomes one vector before the stage, by averaging."""
    tokens: int = 0
    """Learned tokens that replace the positions of each frame before the stage; 0: none."""
    up: str | None = None
    """Before the stage, enlarge the grid to that of an earlier one, `stem` or `stage1`, and add a projection of it."""
    stride: int = 1
    """2: the first block halves rows and columns itself (kinds with convolution or attention that can shrink)."""

    # Of blocks of every kind that has such a part.
    mlp_ratio: float = 4.0
    """Hidden channels of the MLP (of mbconv: of the expansion) per channel; 0: no MLP."""
    kernel: tuple[int, int, int] | None = None
    """Of the block's convolution: frames, rows, columns, each odd; null: the kind's own."""
    activation: Literal["gelu", "gelu_tanh", "quick_gelu", "relu", "silu", "hard_swish"] = "gelu"
    """Of the MLP, and of convolutions that have one. quick_gelu: x * sigmoid(1.702 x), of OpenAI's CLIP."""
    norm: Literal["layer", "batch"] = "layer"
    """Of attention and MLP."""
    norm_place: Literal["pre", "post"] = "pre"
    """Norm before each branch, or after each sum as in the Transformer of 2017."""
    norm_eps: float = 1e-5
    """Added to the variance in the norms of attention and MLP."""
    dropout: float = 0.0
    """In MLPs and after attention."""
    layer_scale: float | None = None
    """Start of a learned factor per channel on every branch; null: no factor."""
    position: Literal["none", "conv"] = "none"
    """conv: a depthwise 3x3x3 convolution of the features, before each block."""
    relative: Literal["none", "table", "mlp"] = "none"
    """Relative position in attention: a table of the offset, or an MLP of it. window3d always has one of the two."""
    temporal: Literal["none", "attention", "conv"] = "none"
    """A path in time after each block: attention of each position through the frames, or a depthwise convolution."""

    # Of kinds made of others.
    attention: str = "spatial"
    """Kinds that contain attention: which kind, such as divided or joint; bottleneck also none."""
    convolution: str = "conv"
    """Kinds that contain a convolution next to attention: which kind, such as conv3d."""
    gate: GateConfig = field(default_factory=GateConfig)
    """parallel: how its branches are joined."""
    choice: ChoiceConfig = field(default_factory=ChoiceConfig)
    """choice: how the decision is learned."""

    # Of single kinds.
    window: tuple[int, int, int] = (8, 7, 7)
    """window3d, sparse, maxvit: frames, rows, columns; window3d shifts every second block by half a window."""
    random_keys: int = 64
    """sparse: positions anywhere in the clip that each window sees apart from its own."""
    features: int = 0
    """linear: random features of each head that approximate softmax (FAVOR+); 0: elu + 1, which is cheaper."""
    radius: int = 3
    """correlation: largest offset in rows and columns of the positions that are compared."""
    lags: tuple[int, ...] = (1,)
    """correlation: frames ahead, or if negative back, of the frames that are compared."""
    form: FormConfig = field(default_factory=FormConfig)
    """mbconv, coat, maxvit: their published forms."""
    key_dim: int | None = None
    """levit: channels of each head's queries and keys; null: so that all values have `dim` channels."""
    value_ratio: float = 2.0
    """levit: channels of values per channel of keys; in a block that shrinks the grid it is 4."""
    inner_dim: int | None = None
    """mobilevit: channels of its Transformer; null: `dim`."""
    inner_depth: int = 2
    """mobilevit: blocks of its Transformer."""
    weigh: Literal["channel", "spatial"] = "channel"
    """can: whether channels or positions are weighed; spatial by attention, with `heads`."""


@dataclass(frozen=True)
class HeadConfig:
    """From the grid to the classes."""

    pool: tuple[Literal["mean", "max", "min", "std", "frame_max"], ...] = ("mean",)
    """Statistics over time and space, concatenated; frame_max: maximum over each frame, averaged over time."""
    power: float = 1.0
    """Pooled features are raised to this power, their sign kept; 0.5 tames a few large ones."""
    norm: Literal["layer", "batch", "none"] = "layer"
    """Of the pooled features. batch: each channel by its spread over the batch; trains faster from scratch."""
    norm_eps: float = 1e-5
    """Added to the variance in the norm."""
    hidden: int = 0
    """Width of a hidden layer; 0: none."""
    activation: Literal["gelu", "tanh"] = "gelu"
    """After the hidden layer."""
    dropout: float = 0.0
    """Before the classifier."""

    def __post_init__(self) -> None:
        if not self.pool:
            raise UserError("head.pool is empty; give one or more of mean, max, min, std, frame_max")
        if not self.power > 0:
            raise UserError(f"head.power is {self.power}; give a number above 0")


@dataclass(frozen=True)
class AdapterConfig:
    """Small trained parts in a network of images that is otherwise frozen, the head apart."""

    kind: Literal["none", "st", "aim", "zeroi2v"] = "none"
    """st: a bottleneck with a depthwise convolution through time before each attention. aim: each attention a second
    time, through time, and bottlenecks. zeroi2v: some heads attend to other frames, and linear adapters, which merge
    into the weights for inference."""
    dim: int | None = None
    """Channels inside an adapter; null: a quarter of the block's."""
    kernel: tuple[int, int, int] = (3, 1, 1)
    """st: of its convolution: frames, rows, columns, each odd."""
    heads: int = 1
    """zeroi2v: heads that attend to the frame before, and as many to the frame after."""
    merged: bool = False
    """zeroi2v: the linear adapters are in the weights, as after `merge()`; only the head can be trained on."""


@dataclass(frozen=True)
class HybridConfig:
    """A hybrid is data: stem, list of stages, head."""

    frames: int = 16
    """Frames of the standard input."""
    height: int = 224
    """Frame height of the standard input."""
    width: int = 224
    """Frame width; other sizes work too, position tables are then interpolated."""
    input: InputConfig = field(default_factory=InputConfig)
    """What the stem sees of a clip."""
    stem: StemConfig = field(default_factory=StemConfig)
    """The per-frame CNN, or the embedding of patches."""
    dim: int | None = None
    """Width of the grid after the stem; null: the stem's own."""
    position: Literal["none", "absolute", "sinusoidal"] = "none"
    """Added to the grid. absolute: learned tables of time and of space. sinusoidal: fixed waves of the place."""
    class_token: bool = False
    """A learned token joins the positions of each frame, after `position`; the head reads it in their place."""
    registers: int = 0
    """Learned tokens that join the positions of each frame too and that the head does not read, as in DINOv2's ViTs."""
    first_norm: Literal["layer", "batch", "none"] = "none"
    """Of what the first stage takes, its tokens included; layer: as in the ViTs of CLIP."""
    stages: tuple[StageConfig, ...] = ()
    """Blocks on the grid, one kind after another."""
    norm: Literal["layer", "batch", "none"] = "layer"
    """Of the last grid, before the head."""
    norm_eps: float = 1e-5
    """Added to the variance in that norm and in `first_norm`."""
    scales: Literal["last", "fpn", "route"] = "last"
    """What the head reads. last: the last grid. fpn: the three coarsest resolutions of stem and stages, joined from
    coarse to fine and averaged. route: the same, weighted by what the input is like."""
    scales_dim: int | None = None
    """fpn and route: channels of their grid; null: those of the last stage."""
    drop_path: float = 0.0
    """Stochastic depth of the last block, growing linearly from 0."""
    head: HeadConfig = field(default_factory=HeadConfig)
    """From the grid to the classes."""
    init: Literal["xavier", "normal"] = "xavier"
    """Of matrices. xavier: uniform, by their size, queries, keys and values each by itself. normal: truncated, with a
    standard deviation of 0.02, as in the first ViT. Convolutions start after Kaiming, biases at zero."""
    precision: Literal["one", "parts"] = "one"
    """parts: in a run of bf16 or fp16, convolutions compute in fp16 and attention in bf16; one: both as the run."""
    inflation: Literal["mean", "centre"] = "mean"
    """How weights of images start kernels over time: spread evenly over the frames, or at the middle frame alone."""
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    """Other than none: all but the adapters, the table of absolute time and the head is frozen."""
    time: bool = True
    """False removes every path between frames: the control that cannot see motion."""


@dataclass(frozen=True)
class ModelConfig:
    """A model by name, with changes to its named variant (`hybridvideo models` lists the names)."""

    name: str = "hybrid_micro"
    """One of `hybridvideo models`."""
    changes: dict[str, Any] = field(default_factory=dict)
    """Changed settings of the variant, such as `drop_path`; `train --help hybrid` and `train --help stages` list those
    of hybrids."""
    weights: str | dict[str, str] | None = None
    """Start from these weights: a run or checkpoint folder, a file of weights in any layout known here, a folder of
    Hugging Face, `torchvision:NAME`, `timm:NAME` or `hf:OWNER/REPO`. Towers take one source for each tower:
    `{conv: SOURCE, attention: SOURCE}`."""
    head: Literal["strict", "replace", "drop"] = "strict"
    """With `weights` of another label set: replace starts a new head."""
