"""Convolution within each frame, then attention through time alone: on the grid, or on one vector for each frame.

The plain form of a video hybrid (CNN-Transformer action recognition; Neimark et al. 2021, *Video Transformer Network*).
Attention costs O(T^2) for vectors and O(N T^2) for a grid of N positions. Frames are told apart by `position` alone:
without one, and with heads like these, which pool over frames, their order does not matter.
"""

from __future__ import annotations

from dataclasses import replace

from hybridvideo.config.model import HeadConfig, HybridConfig, InputConfig, StageConfig, StemConfig
from hybridvideo.models.hybrid import HybridVariant

# Small data, from scratch. Each position of the grid sees itself through time.
serial_temporal_tiny = HybridConfig(
    frames=8,
    height=112,
    width=112,
    input=InputConfig("correlation"),
    stem=StemConfig(widths=(32, 64, 128), norm="batch", activation="relu"),
    position="absolute",
    stages=(StageConfig("temporal", depth=4, heads=4),),
    drop_path=0.1,
    head=HeadConfig(("mean", "max"), norm="batch"),
)

# Kinetics-400 from an image ResNet-50, where what matters is how a place changes: less than half of a TimeSformer.
serial_temporal_base = HybridConfig(
    frames=16,
    height=224,
    width=224,
    stem=StemConfig("timm/resnet50", stride=32),
    dim=512,
    position="absolute",
    stages=(StageConfig("temporal", depth=6, heads=8),),
    drop_path=0.2,
    head=HeadConfig(dropout=0.3),
)

# The cheapest attention there is: for long clips, and where the scene tells more than where things are.
serial_temporal_vectors_tiny = replace(
    serial_temporal_tiny,
    stem=StemConfig(widths=(32, 64, 128, 256), norm="batch", activation="relu"),
    stages=(StageConfig("temporal", depth=4, heads=4, pool="space"),),
)

# The same for Kinetics-400; features of frames can be computed once, and attention trained on them (stem.frozen).
serial_temporal_vectors_base = replace(
    serial_temporal_base, stages=(StageConfig("temporal", depth=6, heads=8, pool="space"),)
)

SERIAL_TEMPORALS: dict[str, HybridVariant] = {
    "serial_temporal_tiny": HybridVariant(serial_temporal_tiny),
    "serial_temporal_base": HybridVariant(serial_temporal_base),
    "serial_temporal_vectors_tiny": HybridVariant(serial_temporal_vectors_tiny),
    "serial_temporal_vectors_base": HybridVariant(serial_temporal_vectors_base),
}
