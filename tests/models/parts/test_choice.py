"""Choice: a clip costs what its path costs, evaluation computes that path alone, and training learns the decision."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from hybridvideo.config.model import ChoiceConfig, StageConfig
from hybridvideo.models import create_model
from hybridvideo.models.contract import Outputs, count_gmacs
from hybridvideo.models.hybrid import Hybrid
from hybridvideo.models.initialisation import initialise
from hybridvideo.models.parts.choice import Choice
from hybridvideo.models.parts.kinds import make_block
from hybridvideo.models.parts.place import Place
from hybridvideo.models.readings import listening, places_to_read

GRID = (3, 4, 5)
CONVOLUTION, ATTENTION = 0, 1


def choice(time: bool = True, **settings: Any) -> Choice:
    """One that decides by the mean of the first channel: attention if it is positive."""
    torch.manual_seed(0)
    stage = StageConfig("choice", heads=2, attention="joint", choice=ChoiceConfig(**settings))
    block: Any = make_block(Place(stage, 0, 8, 8, GRID, time=time))
    initialise(block)
    made = block.branches[0].inner
    assert isinstance(made, Choice)
    with torch.no_grad():
        for layer in (made.scores.first, made.scores.second):
            layer.weight.zero_()
        made.scores.first.weight[0, 0] = made.scores.second.weight[1, 0] = 10.0
        made.scores.first.bias[0] = 1.0
        made.scores.second.bias[0] = 10 * torch.nn.functional.gelu(torch.ones(())).item()
    return made.eval()


def clips(*signs: float) -> Tensor:
    """A clip for each sign: that of the mean of its first channel."""
    torch.manual_seed(1)
    x = torch.randn(len(signs), *GRID, 8)
    x[..., 0] = torch.tensor(signs)[:, None, None, None]
    return x


@torch.no_grad()
def test_in_evaluation_each_clip_takes_one_path_alone_with_the_same_result_in_any_company() -> None:
    made, x = choice(), clips(1, -1, -1, 1, -1)
    out = made(x)
    for i, path in enumerate((ATTENTION, CONVOLUTION, CONVOLUTION, ATTENTION, CONVOLUTION)):
        assert torch.allclose(out[i : i + 1], made.paths[path](x[i : i + 1]), atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("signs", [(1, 1), (-1, -1, -1), (1, -1, -1), (-1,), (1,)])
def test_a_batch_spends_the_multiply_adds_of_the_paths_that_its_clips_take(signs: tuple[int, ...]) -> None:
    made, x = choice(), clips(*signs)

    def spent(module: Any, *inputs: Tensor) -> int:
        with FlopCounterMode(display=False) as counter:
            module(*inputs)
        return counter.get_total_flops()

    prices = [spent(path, x[:1]) for path in made.paths]
    assert prices[ATTENTION] > 1.5 * prices[CONVOLUTION]
    decision = spent(made.scores, x[:, 0, 0, 0])
    assert spent(made, x) == decision + sum(prices[ATTENTION if sign > 0 else CONVOLUTION] for sign in signs)


@pytest.mark.parametrize("training", ["straight_through", "gumbel"])
def test_in_training_the_output_is_that_of_one_path_and_gradients_reach_the_decision(training: str) -> None:
    made, x = choice(training=training).train(), clips(1, -1)
    out = made(x)
    if training == "straight_through":
        assert torch.equal(out, made.eval()(x))
    for i in range(2):
        near = [torch.allclose(out[i : i + 1], path(x[i : i + 1]), atol=1e-6) for path in made.paths]
        assert sum(near) == 1
    out.square().sum().backward()
    assert made.scores.second.weight.grad is not None and made.scores.second.weight.grad.abs().sum() > 0


def test_gumbel_noise_tries_both_paths_of_a_clip_that_is_undecided() -> None:
    made, x = choice(training="gumbel").train(), clips(*[0.0] * 64)
    shares = read(made, x)["path"].mean(0)
    assert 0.2 < shares[ATTENTION] < 0.8
    assert read(made.eval(), x)["path"].mean(0).tolist() in ([1, 0], [0, 1])


def read(made: Choice, x: Tensor) -> dict[str, Tensor]:
    with listening(places_to_read(made)) as seen:
        made(x)
    return seen


@torch.no_grad()
def test_the_share_of_each_path_can_be_read() -> None:
    path_B2 = read(choice(), clips(1, -1, -1, -1))["path"]
    assert path_B2.tolist() == [[0, 1], [1, 0], [1, 0], [1, 0]]
    assert path_B2.mean(0).tolist() == [0.75, 0.25]


def test_the_cost_is_the_expected_share_of_the_dearer_path_and_lowers_it_when_trained() -> None:
    made, x = choice(cost=0.5, training="straight_through").train(), clips(1, -1)
    assert made.prices[ATTENTION] == 1 and made.prices[CONVOLUTION] < 0.7
    cost_B = read(made, x)["cost"]
    assert cost_B.shape == (2,) and cost_B[0] > cost_B[1]
    assert torch.allclose(cost_B, 0.5 * torch.tensor([1.0, made.prices[CONVOLUTION]]), atol=0.05)
    optimizer = torch.optim.SGD(made.scores.parameters(), 1.0)
    for _ in range(20):
        optimizer.zero_grad()
        cost_B = read(made, clips(0.05, -0.05))["cost"]
        cost_B.sum().backward()
        optimizer.step()
    assert read(made.eval(), clips(0.05, -0.05))["path"].tolist() == [[1, 0], [1, 0]]


@torch.no_grad()
def test_without_time_each_frame_decides_for_itself() -> None:
    made, x = choice(time=False), clips(1)
    x[0, 1, ..., 0] = -1.0
    assert read(made, x)["path"].tolist() == [[[0, 1], [1, 0], [0, 1]]]
    assert torch.allclose(made(x)[:, 1:2], made(x[:, 1:2]), atol=1e-6)


def network(cost: float) -> Hybrid:
    torch.manual_seed(0)
    stage = {"block": "choice", "depth": 2, "choice": {"cost": cost}}
    model = create_model("hybrid", 3, frames=4, height=16, width=16, stem={"widths": [16]}, stages=[stage])
    assert isinstance(model, Hybrid)
    return model


def test_a_network_returns_the_cost_of_its_choices_in_training_and_logits_alone_otherwise() -> None:
    x = torch.randn(2, 3, 4, 16, 16)
    model = network(0.2)
    for checkpointing in (False, True):
        model.set_grad_checkpointing(checkpointing)
        out = model.train()(x)
        assert isinstance(out, Outputs) and out.auxiliary["cost_paths"].shape == (2,)
        assert 0 < out.auxiliary["cost_paths"].max() <= 0.2
        (gradient,) = torch.autograd.grad(out.auxiliary["cost_paths"].sum(), [scores_of(model)])
        assert gradient.abs().sum() > 0
    assert isinstance(model.forward_rest(model.forward_frozen(x)), Outputs)
    assert isinstance(model.eval()(x), Tensor)


def scores_of(model: Hybrid) -> Tensor:
    parameters = dict(model.named_parameters())
    return parameters["stages.0.blocks.0.branches.0.inner.scores.second.weight"]


def test_gmacs_are_counted_for_the_dearer_path() -> None:
    model = network(0.2)
    choices = [module for module in model.modules() if isinstance(module, Choice)]
    counted = count_gmacs(model)
    for made in choices:
        made.prices = [1.0, 0.5]
    assert count_gmacs(model) != counted
    assert count_gmacs(network(0.2).to("meta")) == counted
