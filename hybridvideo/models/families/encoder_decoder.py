"""A CNN's features as the memory of a Transformer, read by learned queries.

`encoder_decoder`: encoder and decoder, as in DETR (Carion et al. 2020): every position of every frame sees all others
before the queries read them. `decoder`: the queries read what the CNN left, as image captioning began (Xu et al. 2015;
the Transformer's decoder, Vaswani et al. 2017): cheaper, and all that relates frames is in the stages and the queries.
"""

from __future__ import annotations

from dataclasses import replace

from hybridvideo.config.model import HeadConfig, InputConfig, StageConfig, StemConfig
from hybridvideo.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from hybridvideo.models.hybrid import HybridVariant

# From scratch, on a few thousand clips: convolution in space and time first, then the Transformer on a 7x7 grid.
encoder_decoder_tiny = EncoderDecoderConfig(
    frames=8,
    height=112,
    width=112,
    input=InputConfig("correlation"),
    stem=StemConfig(widths=(32, 64, 128), norm="batch", activation="relu"),
    stages=(
        StageConfig("conv3d", 2, mlp_ratio=2.0, position="conv"),
        StageConfig("conv", 2, mlp_ratio=2.0, position="conv", merge=True, dim=192),
    ),
    memory_dim=192,
    encoder_depth=2,
    decoder_depth=2,
    decoder_heads=6,
    queries=8,
    head=HeadConfig(norm="none"),
)

# For Kinetics-400, from image weights of the ResNet: width, heads and depths of DETR, whose 2048 hidden channels too.
encoder_decoder_base = EncoderDecoderConfig(
    frames=16,
    height=224,
    width=224,
    stem=StemConfig("timm/resnet50", stride=32),
    memory_dim=256,
    encoder_depth=6,
    decoder_depth=6,
    decoder_heads=8,
    mlp_ratio=8.0,
    queries=16,
    head=HeadConfig(norm="none", dropout=0.3),
)

# Where the frames are few or the memory is small: attention only from queries to frames, at a cost that grows with T.
decoder_tiny = replace(encoder_decoder_tiny, encoder_depth=0)
decoder_base = replace(encoder_decoder_base, encoder_depth=0)

ENCODER_DECODERS: dict[str, HybridVariant] = {
    "encoder_decoder_tiny": HybridVariant(encoder_decoder_tiny, EncoderDecoder),
    "encoder_decoder_base": HybridVariant(encoder_decoder_base, EncoderDecoder),
    "decoder_tiny": HybridVariant(decoder_tiny, EncoderDecoder),
    "decoder_base": HybridVariant(decoder_base, EncoderDecoder),
}
