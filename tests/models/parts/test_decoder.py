"""The encoder and decoder of 2017: who sees whom, and that every layer is what it says."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hybridvideo.models.initialisation import initialise
from hybridvideo.models.parts.decoder import (
    DecoderLayer,
    EncoderLayer,
    LabelDecoder,
    MaskedAttention,
    QueryDecoder,
    grid_waves,
    waves,
)

DIM, HEADS = 16, 4


def layers(count: int = 2) -> list[DecoderLayer]:
    torch.manual_seed(0)
    return [DecoderLayer(DIM, HEADS, 2.0, 0.1) for _ in range(count)]


def label_decoder() -> LabelDecoder:
    decoder = LabelDecoder(layers(), 5, DIM)
    initialise(decoder)
    return decoder.eval()


def copied(ours: MaskedAttention, theirs: nn.MultiheadAttention) -> None:
    with torch.no_grad():
        projections = (ours.query, ours.key, ours.value)
        theirs.in_proj_weight.copy_(torch.cat([part.weight for part in projections]))
        theirs.in_proj_bias.copy_(torch.cat([part.bias for part in projections]))
        theirs.out_proj.load_state_dict(ours.proj.state_dict())


@torch.no_grad()
def test_a_decoder_layer_is_that_of_2017() -> None:
    (ours,) = layers(1)
    for parameter in ours.parameters():
        nn.init.normal_(parameter, std=0.3)
    theirs = nn.TransformerDecoderLayer(DIM, HEADS, 2 * DIM, batch_first=True).eval()
    copied(ours.attention, theirs.self_attn)
    copied(ours.cross, theirs.multihead_attn)
    for name, part in {
        "linear1": ours.mlp.fc1,
        "linear2": ours.mlp.fc2,
        "norm1": ours.after_attention.norm,
        "norm2": ours.after_cross.norm,
        "norm3": ours.after_mlp.norm,
    }.items():
        theirs.get_submodule(name).load_state_dict(part.state_dict())
    x, memory, mask = torch.randn(2, 3, DIM), torch.randn(2, 7, DIM), torch.rand(2, 7) > 0.3
    expected = theirs(
        x,
        memory,
        tgt_mask=nn.Transformer.generate_square_subsequent_mask(3),
        memory_key_padding_mask=torch.zeros(2, 7).masked_fill(~mask, -torch.inf),
        tgt_is_causal=True,
    )
    assert torch.allclose(ours.eval()(x, memory, mask, causal=True), expected, atol=1e-5)


@torch.no_grad()
def test_no_place_of_a_sequence_sees_what_comes_after_it() -> None:
    decoder, memory = label_decoder(), torch.randn(1, 6, DIM)
    labels = torch.tensor([[1, 2, 3, 4]])
    before = decoder(memory, None, labels)
    for place in range(4):
        other = labels.clone()
        other[:, place] = 0
        changed = (decoder(memory, None, other) - before).abs().amax(2)[0] > 1e-6
        assert changed.tolist() == [at > place for at in range(5)]


@torch.no_grad()
def test_tokens_behind_the_mask_change_nothing() -> None:
    memory, mask = torch.randn(2, 6, DIM), torch.arange(6) < torch.tensor([[4], [6]])
    encoder = EncoderLayer(DIM, HEADS, 2.0, 0.1).eval()
    decoder = QueryDecoder(layers(), 3, DIM).eval()
    initialise(decoder)

    def read(memory: Tensor, mask: Tensor | None) -> Tensor:
        return decoder(encoder(memory, mask), mask)

    noisy = torch.where(mask[..., None], memory, 100 * torch.randn(2, 6, DIM))
    assert torch.allclose(read(noisy, mask), read(memory, mask), atol=1e-6)
    assert torch.allclose(read(memory, mask)[0], read(memory[:1, :4], None)[0], atol=1e-5)
    assert not torch.allclose(read(memory, None)[0], read(memory, mask)[0], atol=1e-3)


@torch.no_grad()
def test_of_a_single_vector_every_question_reads_the_same() -> None:
    """Why such a memory is refused: a softmax over one key is 1."""
    cross = MaskedAttention(DIM, HEADS)
    for memory, constant in ((torch.randn(1, 1, DIM), True), (torch.randn(1, 2, DIM), False)):
        answers = cross(10 * torch.randn(1, 8, DIM), memory)
        assert torch.allclose(answers, answers[:, :1].expand_as(answers), atol=1e-5) is constant


@torch.no_grad()
def test_dropout_acts_in_training_alone() -> None:
    (layer,) = layers(1)
    x, memory = torch.randn(1, 3, DIM), torch.randn(1, 4, DIM)
    assert not torch.equal(layer.train()(x, memory, None, False), layer(x, memory, None, False))
    assert torch.equal(layer.eval()(x, memory, None, False), layer(x, memory, None, False))


def test_waves_tell_places_apart_and_do_not_move_when_more_follow() -> None:
    table = waves(torch.arange(512), 15)
    assert torch.cdist(table, table).fill_diagonal_(1).min() > 0.1
    short, long = (grid_waves(torch.zeros(1, frames, 3, 4, 24), time=True) for frames in (4, 9))
    assert torch.equal(long[:4], short)
    flat = short.flatten(0, 2)
    assert torch.cdist(flat, flat).fill_diagonal_(1).min() > 0.1


def test_in_the_control_all_frames_have_the_same_waves() -> None:
    timeless = grid_waves(torch.zeros(1, 4, 3, 4, 24), time=False)
    assert torch.equal(timeless, timeless[:1].expand_as(timeless)) and timeless.std() > 0.1
