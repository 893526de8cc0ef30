"""Hybrids as data, one file per family. A new family is a file of configs and a line in FAMILIES."""

from __future__ import annotations

from collections.abc import Callable

from hybridvideo.models.contract import VideoModel
from hybridvideo.models.families.botnet import BOTNETS
from hybridvideo.models.families.can import CANS
from hybridvideo.models.families.choice import CHOICES
from hybridvideo.models.families.coatnet import COATNETS
from hybridvideo.models.families.conformer import CONFORMERS
from hybridvideo.models.families.conformer_time import CONFORMERS_IN_TIME
from hybridvideo.models.families.conv_vit import CONV_VITS
from hybridvideo.models.families.encoder_decoder import ENCODER_DECODERS
from hybridvideo.models.families.hvt import HVTS
from hybridvideo.models.families.hybrid import HYBRIDS
from hybridvideo.models.families.levit import LEVITS
from hybridvideo.models.families.maxvit import MAXVITS
from hybridvideo.models.families.mobilevit import MOBILEVITS
from hybridvideo.models.families.multiscale import MULTISCALES
from hybridvideo.models.families.parallel import PARALLELS
from hybridvideo.models.families.serial import SERIALS
from hybridvideo.models.families.serial_temporal import SERIAL_TEMPORALS
from hybridvideo.models.families.towers import TOWERS
from hybridvideo.models.families.vit import VITS

# name -> builder(num_classes, **changes), of all families
FAMILIES: dict[str, Callable[..., VideoModel]] = {
    **CONFORMERS,
    **HYBRIDS,
    **SERIAL_TEMPORALS,
    **SERIALS,
    **ENCODER_DECODERS,
    **PARALLELS,
    **CHOICES,
    **CANS,
    **CONFORMERS_IN_TIME,
    **COATNETS,
    **MAXVITS,
    **LEVITS,
    **BOTNETS,
    **MOBILEVITS,
    **HVTS,
    **TOWERS,
    **CONV_VITS,
    **VITS,
    **MULTISCALES,
}
