"""Settings that all jobs share."""

from __future__ import annotations

from typing import Literal

Precision = Literal["fp32", "bf16", "fp16"]  # of a forward pass; the lower ones by autocast
