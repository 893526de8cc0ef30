"""The decoder as a head of hybrids: padding, the memory, the control, sequences of labels."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hybridvideo.errors import UserError
from hybridvideo.models import create_model
from hybridvideo.models.encoder_decoder import EncoderDecoder

PER_FRAME = ({"block": "conv", "depth": 1},)


def model(classes: int = 3, **changes: Any) -> EncoderDecoder:
    torch.manual_seed(0)
    small = {"frames": 6, "height": 32, "width": 32, "stem": {"widths": [8, 16]}, "stages": PER_FRAME}
    sized = {"memory_dim": 32, "decoder_heads": 4, "encoder_depth": 1, "queries": 4}
    built = create_model("encoder_decoder_tiny", classes, **{**small, **sized, **changes})
    assert isinstance(built, EncoderDecoder)
    torch.nn.init.normal_(built.head.classifier.weight)
    return built.eval()


CLIPS = torch.randn(2, 3, 6, 32, 32, generator=torch.Generator().manual_seed(1))
LENGTHS = torch.tensor([4, 6])


@pytest.mark.parametrize("changes", [{}, {"encoder_depth": 0}, {"memory": "vectors"}, {"time": False}])
@torch.no_grad()
def test_padded_frames_change_nothing(changes: dict[str, Any]) -> None:
    padded = model(**changes)
    logits = padded(CLIPS, LENGTHS)
    noisy = CLIPS.clone()
    noisy[0, :, 4:] = 50
    assert torch.allclose(padded(noisy, LENGTHS), logits, atol=1e-5)
    assert torch.allclose(padded(CLIPS[:1, :, :4]), logits[:1], atol=1e-5)
    assert torch.allclose(padded(CLIPS)[1:], logits[1:], atol=1e-5)
    assert not torch.allclose(padded(CLIPS)[:1], logits[:1], atol=1e-3)


@pytest.mark.parametrize("mode", ["difference", "both", "two_stream"])
@torch.no_grad()
def test_nor_do_they_where_neighbours_are_seen_together(mode: str) -> None:
    """Paths in time before the memory see the last true frame again and again, whatever the padding holds."""
    padded = model(input={"mode": mode}, stages=[{"block": "conv3d", "depth": 2}, {"block": "mlp", "time_stride": 2}])
    noisy = CLIPS.clone()
    noisy[0, :, 4:] = 50
    assert torch.equal(padded(noisy, LENGTHS), padded(CLIPS, LENGTHS))


@pytest.mark.parametrize("lengths", [[1], [0, 6], [3, 7], [1.0, 2.0]])
def test_lengths_that_do_not_fit_are_refused_in_one_line(lengths: list[float]) -> None:
    with pytest.raises(UserError, match="give 2 whole numbers from 1 to 6"):
        model()(CLIPS, torch.tensor(lengths))


def test_a_memory_of_a_single_vector_is_refused_in_one_line() -> None:
    with pytest.raises(UserError, match="memory vectors of one frame is one vector"):
        model(memory="vectors", frames=1)
    with pytest.raises(UserError, match="a memory of one vector"):
        model(memory="vectors")(CLIPS[:, :, :1])
    with pytest.raises(UserError, match="a memory of one vector"):
        model(time=False)(torch.randn(1, 3, 6, 4, 4))
    assert model(memory="vectors", time=False)(CLIPS[:, :, :1]).shape == (2, 3)  # of positions: the grid of each frame


@torch.no_grad()
def test_the_order_of_frames_matters_except_to_the_control() -> None:
    backwards = CLIPS.flip(2)
    for memory in ("grid", "vectors"):
        assert not torch.allclose(model(memory=memory)(CLIPS), model(memory=memory)(backwards), atol=1e-3)
        control = model(memory=memory, time=False)
        assert torch.allclose(control(CLIPS), control(backwards), atol=1e-5)


@torch.no_grad()
def test_the_control_is_the_mean_over_what_it_says_of_each_frame() -> None:
    control = model(time=False)
    single = torch.stack([control(CLIPS[:, :, t : t + 1]) for t in range(6)])
    assert torch.allclose(control(CLIPS), single.mean(0), atol=1e-5)


@torch.no_grad()
def test_without_the_encoder_positions_do_not_see_each_other_before_they_are_read() -> None:
    for depth in (0, 2):
        whole = model(encoder_depth=depth)
        grid = whole.forward_features(CLIPS[:1])
        tokens = whole.encode(whole.remember(grid, None)).tokens_RNC
        grid[:, 0, 0, 0] += 1
        changed = (whole.encode(whole.remember(grid, None)).tokens_RNC - tokens).abs().amax(2) > 1e-6
        assert changed.sum() == (1 if depth == 0 else tokens.shape[1])


def test_encoder_and_decoder_are_groups_of_their_own_before_the_head() -> None:
    assert [name for name, _ in model().layer_groups()][-3:] == ["encoder", "decoder", "head"]


# --- sequences --------------------------------------------------------------------------------------------------------

END = 3  # after classes 0, 1, 2: the channel that is bright


def bright(colours: Tensor) -> Tensor:
    """Clips in which a colour is bright for two frames, then the next."""
    clips = 0.1 * torch.randn(len(colours), 3, 2 * colours.shape[1], 16, 16)
    for i, sequence in enumerate(colours.tolist()):
        for step, colour in enumerate(sequence):
            clips[i, colour, 2 * step : 2 * step + 2] += 1.5
    return clips


def sequences(count: int) -> tuple[Tensor, Tensor]:
    """Clips of three colours, and their labels with the end."""
    colours = torch.stack([torch.randperm(3) for _ in range(count)])
    return bright(colours), F.pad(colours, (0, 1), value=END)


@pytest.fixture(scope="module")
def trained() -> EncoderDecoder:
    """A model that learned to name the colours of a clip in their order."""
    changes = {"labels": "sequence", "memory": "vectors", "dropout": 0.0, "decoder_depth": 1, "height": 16, "width": 16}
    learner = model(END + 1, **changes).train()
    learner.init_classifier(learner.head.classifier)
    optimizer = torch.optim.AdamW(learner.parameters(), lr=3e-3)
    for _ in range(80):
        clips, labels = sequences(16)
        loss = F.cross_entropy(learner.sequence_logits(clips, labels).flatten(0, 1), labels.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return learner.eval()


def test_a_trained_model_names_what_happens_in_its_order(trained: EncoderDecoder) -> None:
    clips, labels = sequences(32)
    found, scores = trained.decode(clips, END, longest=6)
    assert (found == labels).all(1).float().mean() > 0.9 and (scores > -1.5).float().mean() > 0.9
    assert (trained(clips).argmax(1) == labels[:, 0]).float().mean() > 0.9  # a plain call: the first label


def test_a_wider_beam_scores_as_high_and_one_beam_is_greedy(trained: EncoderDecoder) -> None:
    clips = torch.randn(8, 3, 6, 16, 16)  # not what it learned, so that it is in doubt
    scores = [trained.decode(clips, END, longest=5, beams=beams)[1] for beams in (1, 2, 4)]
    assert (scores[1] >= scores[0] - 1e-5).all() and (scores[2] >= scores[1] - 1e-5).all()
    greedy, memory = torch.zeros(8, 0, dtype=torch.long), trained.memory_of(clips, None)
    for _ in range(5):
        following = trained.logits_after(memory, greedy)[:, -1].argmax(1)
        ended = (greedy == END).any(1)
        greedy = torch.cat([greedy, torch.where(ended, END, following)[:, None]], 1)
    found, _ = trained.decode(clips, END, longest=5)
    assert torch.equal(found, greedy[:, : found.shape[1]])


@torch.no_grad()
def test_padding_changes_no_sequence(trained: EncoderDecoder) -> None:
    clips, _ = sequences(2)
    padded = torch.cat([clips, torch.randn(2, 3, 3, 16, 16)], 2)
    for beams in (1, 3):
        alone, padding = (
            trained.decode(clips, END, 6, beams),
            trained.decode(padded, END, 6, beams, torch.tensor([6, 6])),
        )
        assert torch.equal(alone[0], padding[0]) and torch.allclose(alone[1], padding[1], atol=1e-4)


def test_a_new_classifier_has_labels_of_its_own(trained: EncoderDecoder) -> None:
    other = model(END + 1, labels="sequence")
    other.reset_classifier(9)
    assert other.decode(CLIPS, end=8, longest=3)[0].shape[0] == 2


def test_what_is_no_sequence_is_refused_in_one_line(trained: EncoderDecoder) -> None:
    with pytest.raises(UserError, match="learned queries, no sequence"):
        model().decode(CLIPS, end=0)
    with pytest.raises(UserError, match="end is 4; give a class from 0 to 3"):
        trained.decode(CLIPS, end=4)
