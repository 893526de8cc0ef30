"""Hybrids as data, one file per family. A new family is a file of configs and a line in FAMILIES."""

from __future__ import annotations

from hybridvideo.models.families.encoder_decoder import ENCODER_DECODERS
from hybridvideo.models.families.hybrid import HYBRIDS
from hybridvideo.models.families.multiscale import MULTISCALES
from hybridvideo.models.hybrid import HybridVariant

# name -> builder(num_classes, **changes), of all families
FAMILIES: dict[str, HybridVariant] = {
    **HYBRIDS,
    **ENCODER_DECODERS,
    **MULTISCALES,
}
