"""torch.compile takes every family as one graph, forward and in training, and gives the same logits."""

from __future__ import annotations

import pytest
import torch

from tests.models.small import everything, small

FAMILIES = (
    "hybrid_tiny",
    "conformer_tiny",
    "coatnet_base",
    "maxvit_base",
    "video_swin_tiny",
    "timesformer_base",
    "videomae_base",
    "uniformer_small",
    "slow_r50",
    "r3d_18",
)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_model_is_one_graph(name: str, training: bool) -> None:
    torch._dynamo.reset()
    model, x = small(name).train(training), torch.randn(2, 3, 4, 64, 64)
    torch.manual_seed(0)
    with torch.set_grad_enabled(training):
        expected = everything(model(x))
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.manual_seed(0)
    with torch.set_grad_enabled(training):
        assert torch.allclose(everything(compiled(x)), expected, atol=1e-4)
