"""The bulk jobs as functions answer a wrong value in one line."""

from __future__ import annotations

from typing import Any

import pytest

import hybridvideo as hv
from hybridvideo.errors import UserError


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"device": "gpu"}, "device is 'gpu'; give cpu, mps, cuda or cuda:NUMBER"),
        ({"device": "auto"}, "device is 'auto'; give cpu, mps, cuda or cuda:NUMBER"),
        ({"precision": "fp8"}, "precision is 'fp8'; give one of fp32, bf16, fp16"),
    ],
)
def test_a_device_or_precision_that_does_not_exist_is_refused(changes: dict[str, Any], message: str) -> None:
    model = hv.create_model("hybrid_micro", num_classes=2)
    with pytest.raises(UserError, match=message):
        list(hv.classify(model, ["absent.mp4"], workers=0, **changes))
