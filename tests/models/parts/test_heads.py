"""Pooling by definition, and what the settings of a head do."""

from __future__ import annotations

import pytest
import torch

from hybridvideo.config.model import HeadConfig
from hybridvideo.errors import UserError
from hybridvideo.models.parts.heads import POOLS, PoolHead

GRID = torch.randn(2, 3, 4, 5, 6)


def test_pools_are_what_their_names_say() -> None:
    flat = GRID.flatten(1, 3)
    for name, expected in [
        ("mean", flat.mean(1)),
        ("max", flat.max(1).values),
        ("min", flat.min(1).values),
        ("std", flat.std(1, correction=0)),
        ("frame_max", GRID.amax((2, 3)).mean(1)),
    ]:
        assert torch.allclose(POOLS[name](GRID.flatten(2, 3)), expected, atol=1e-5), name


def test_no_pool_depends_on_the_order_of_frames() -> None:
    for pool in POOLS.values():
        x = GRID.flatten(2, 3)
        assert torch.allclose(pool(x), pool(x.flip(1)), atol=1e-6)


def test_the_power_keeps_the_sign() -> None:
    head = PoolHead(6, 2, HeadConfig(("max", "min"), power=0.5))
    plain = PoolHead(6, 2, HeadConfig(("max", "min")))
    assert torch.allclose(head.pool(GRID), plain.pool(GRID).sign() * plain.pool(GRID).abs().sqrt(), atol=1e-3)


@pytest.mark.parametrize("norm", ["layer", "batch", "none"])
def test_every_norm_trains_and_evaluates(norm: str) -> None:
    head = PoolHead(6, 3, HeadConfig(norm=norm, hidden=4, dropout=0.5))  # type: ignore[arg-type]
    head(GRID).sum().backward()
    assert head.num_features == 4 and head.eval()(GRID[:1]).shape == (1, 3)


def test_a_head_without_pool_or_with_a_power_of_0_is_refused() -> None:
    with pytest.raises(UserError, match=r"head\.pool is empty"):
        HeadConfig(pool=())
    with pytest.raises(UserError, match=r"head\.power is 0"):
        HeadConfig(power=0)
