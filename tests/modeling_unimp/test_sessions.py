"""A session answers as if its whole prompt were read anew, however it came about, and reads no more than is new."""

from itertools import chain, pairwise

import pytest
import torch

from .test_decoding import make
from .tiny import END, FIRST_ITEM, IMAGE, ITEM, pictures, prompt, tiny_model

# A prompt longer than the sliding window of the tests' decoders: pictures 0, 1, 0 again, one that is missing, 2, and
# two items outside the catalogue, the second of which has the last picture.
FIRST_NEW, SECOND_NEW = "first new", "second new"
PROMPT = [
    *(11, 12, END, FIRST_ITEM + 1, IMAGE, 13, 14, END, FIRST_ITEM + 3, IMAGE, 15, 16, END),
    *(FIRST_ITEM, END, FIRST_NEW, 17, END, FIRST_ITEM + 1, IMAGE, 18, END, FIRST_ITEM + 2, IMAGE, 19, END),
    *(SECOND_NEW, IMAGE, 21, 22, END, FIRST_ITEM + 4, 23, END, FIRST_ITEM + 5, END, ITEM),
]
SHOWN = [0, 1, 0, -1, 2]
CUTS = {
    "chunks": [3, 13, 15, 22, 26, 31, len(PROMPT)],
    "anywhere": [1, 5, 10, 24, 28, len(PROMPT)],
}


def stretch(model, start, end):
    """Arguments of `forward` for a part of `PROMPT` alone: its own pictures and its own items, counted from 0."""
    tokens = PROMPT[start:end]
    new = [token for token in (FIRST_NEW, SECOND_NEW) if token in tokens]
    first = model.config.vocab_size
    levels = range(model.config.code_levels)
    # A never-seen item is as many tokens as its code has; the tests' others are one token, whatever it means.
    ids = [
        [first + new.index(token) * len(levels) + level for level in levels] if token in new else [token]
        for token in tokens
    ]
    ids = torch.tensor([list(chain.from_iterable(ids))])
    before = PROMPT[:start].count(IMAGE)
    shown = SHOWN[before : before + tokens.count(IMAGE)]
    own = sorted({number for number in shown if number >= 0})
    place = torch.arange(length(model, start), length(model, end))
    behaviors = torch.stack([place % 5, place % 7], dim=-1)[None]
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "behavior_ids": behaviors}
    if own:
        index = [own.index(number) if number >= 0 else -1 for number in shown]
        inputs |= {"pixel_values": pictures(3)[own], "image_index": torch.tensor([index])}
    if new:
        texts = {FIRST_NEW: [9, 8, 7, -1], SECOND_NEW: [6, 5, -1, -1]}
        inputs["new_item_text_ids"] = torch.tensor([texts[token] for token in new])
        with_picture = [own.index(2) if token == SECOND_NEW and 2 in own else -1 for token in new]
        inputs["new_item_image_index"] = torch.tensor(with_picture)
    return inputs


def length(model, end):
    """Tokens of the first `end` entries of `PROMPT`."""
    new = sum(token in (FIRST_NEW, SECOND_NEW) for token in PROMPT[:end])
    return end + new * (model.config.code_levels - 1)


def check(session, model, end):
    """The session stands where reading the whole prompt up to `end` leads, and answers the same."""
    whole = stretch(model, 0, end)
    state = model.read_prompt(**whole)
    assert session.num_tokens == length(model, end) == state.past_key_values.get_seq_length()
    torch.testing.assert_close(session.state.hidden_states, state.hidden_states, rtol=1e-5, atol=1e-5)
    number = model.config.num_items
    expected = model.rank_items(top_k=number, beam_width=number, **whole)
    exclude = expected[1][:, :2]
    for _ in range(2):  # answering changes nothing
        scores, items = session.rank(top_k=number, beam_width=number)
        assert torch.equal(items, expected[1])
        torch.testing.assert_close(scores, expected[0], rtol=1e-5, atol=1e-5)
        assert torch.equal(session.rank(top_k=number - 2, beam_width=number, exclude=exclude)[1], items[:, 2:])


@pytest.mark.parametrize("cuts", CUTS)
@pytest.mark.parametrize("levels", [1, 3], ids=["atomic", "semantic"])
@pytest.mark.parametrize("scope", ["last", "all"])
def test_reading_in_parts_equals_reading_at_once(decoder, scope, levels, cuts):
    model = make(levels, decoder, visual_scope=scope)
    ends = CUTS[cuts]
    session = model.start_session(**stretch(model, 0, ends[0]))
    for start, end in pairwise(ends):
        session.read(**stretch(model, start, end))
        check(session, model, end)


@pytest.mark.parametrize("levels", [1, 3], ids=["atomic", "semantic"])
@pytest.mark.parametrize("scope", ["last", "all"])
def test_what_is_forgotten_leaves_no_trace(decoder, scope, levels):
    model = make(levels, decoder, visual_scope=scope)
    session = model.start_session(**stretch(model, 0, 31))
    other = prompt(ITEM)
    other = {"input_ids": other["input_ids"][:1], "pixel_values": other["pixel_values"] * 3}
    for start, end in ((13, 22), (22, 29), (5, 18), (0, 8), (8, len(PROMPT)), (31, 31), (22, 26)):
        session.read(keep=length(model, min(start, end)), **other)
        if start < end:
            session.read(keep=length(model, start), **stretch(model, start, end))
            check(session, model, end)


def fed(model):
    """What passes through the decoder and through the vision encoder from now on."""
    tokens, shown = [], []
    decoder, encoder = model.model.language_model, model.model.vision_encoder
    decoder.register_forward_pre_hook(
        lambda module, args, kwargs: tokens.append(kwargs["inputs_embeds"].shape[1]), with_kwargs=True
    )
    encoder.register_forward_pre_hook(
        lambda module, args, kwargs: shown.append(len(kwargs["pixel_values"])), with_kwargs=True
    )
    return tokens, shown


def test_only_what_is_new_is_read(model):
    tokens, shown = fed(model)
    session = model.start_session(**stretch(model, 0, 13))
    session.read(**stretch(model, 13, 20))
    session.read(keep=18, **stretch(model, 18, 22))
    session.rank(3)
    assert tokens == [13, 7, 4]
    assert shown == [2, 1, 1]


@pytest.mark.parametrize("scope", ["last", "all"])
def test_pictures_with_a_key_are_given_once(scope):
    model = tiny_model(visual_scope=scope)
    _, shown = fed(model)
    ids = [FIRST_ITEM, IMAGE, 11, END, FIRST_ITEM + 1, IMAGE, 12, END]
    tokens, pixels = torch.tensor([ids]), pictures(3)
    session = model.start_session(
        input_ids=tokens, pixel_values=pixels[:2], image_index=torch.tensor([[0, 1]]), image_keys=["a", 7]
    )
    assert set(session.pictures) == {"a", 7}
    assert shown == [2]
    # Both again, with a third between them, and the prompt's first four tokens alone before.
    longer = torch.tensor([[*ids[4:], FIRST_ITEM + 2, IMAGE, END, FIRST_ITEM, IMAGE, 13, END]])
    session.read(
        keep=4,
        input_ids=longer,
        pixel_values=pixels[2:],
        image_index=torch.tensor([[2, 0, 1]]),
        image_keys=["new", "a", 7],
    )
    assert shown == [2, 1]
    whole = torch.cat([tokens[:, :4], longer], dim=1)
    expected = model.score_items(input_ids=whole, pixel_values=pixels, image_index=torch.tensor([[0, 1, 2, 0]])).sort(
        descending=True
    )
    torch.testing.assert_close(session.rank(top_k=6)[0], expected[0], rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match=r"`image_keys` must name the 1 pictures given and then .* got \['b', 'c'\]"):
        session.read(input_ids=longer, pixel_values=pixels[2:], image_keys=["b", "c"])
    session.read(keep=1, input_ids=torch.tensor([[END]]))
    assert not session.pictures  # what the prompt no longer shows takes no memory


@pytest.mark.parametrize("scope", ["last", "all"])
def test_without_pictures_or_cross_attention(scope):
    for every in (0, 1):
        model = tiny_model(visual_scope=scope, cross_attention_every=every)
        tokens = torch.tensor([[11, FIRST_ITEM, IMAGE, 12, END, FIRST_ITEM + 1, IMAGE, 13, END]])
        session = model.start_session(input_ids=tokens[:, :5])
        session.read(input_ids=tokens[:, 5:])
        expected = model.score_items(input_ids=tokens).sort(descending=True)
        torch.testing.assert_close(session.rank(top_k=6)[0], expected[0], rtol=1e-5, atol=1e-5)
    shown = {"pixel_values": pictures(2), "image_index": torch.tensor([[0, 1]])}
    model = tiny_model(visual_scope=scope, cross_attention_every=0)
    session = model.start_session(input_ids=tokens, image_keys=["a", "b"], **shown)
    expected = model.score_items(input_ids=tokens, **shown).sort(descending=True)
    torch.testing.assert_close(session.rank(top_k=6)[0], expected[0], rtol=1e-5, atol=1e-5)


def test_what_is_no_prompt_of_one_person_is_refused(model):
    session = model.start_session(input_ids=torch.tensor([[11, 12, END]]))
    two = torch.tensor([[11, 12], [13, 14]])
    with pytest.raises(ValueError, match="`input_ids` must be one sample without padding, got 2 of 2 tokens"):
        session.read(input_ids=two)
    with pytest.raises(ValueError, match="`input_ids` must be one sample without padding, got 1 of 2 tokens"):
        session.read(input_ids=two[:1], attention_mask=torch.tensor([[0, 1]]))
    with pytest.raises(ValueError, match="`input_ids` must be one sample without padding, got 1 of 0 tokens"):
        session.read(input_ids=two[:1, :0])
    for keep in (-1, 4):
        with pytest.raises(ValueError, match=f"`keep` must be from 0 to the 3 tokens that were read, got {keep}"):
            session.read(keep=keep, input_ids=two[:1])
    expected = model.score_items(input_ids=torch.tensor([[11, 12, END]])).sort(descending=True)
    torch.testing.assert_close(session.rank(top_k=6)[0], expected[0], rtol=1e-5, atol=1e-5)


def test_when_reading_fails_nothing_counts_as_read(model):
    session = model.start_session(input_ids=torch.tensor([[11, 12, END]]))
    failing = model.model.language_model.layers[1].register_forward_pre_hook(lambda module, args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        session.read(input_ids=torch.tensor([[13]]))
    failing.remove()
    assert session.num_tokens == 0
    with pytest.raises(ValueError, match="The session has read no prompt"):
        session.rank()
    session.read(input_ids=torch.tensor([[11, 12, END]]))
    expected = model.score_items(input_ids=torch.tensor([[11, 12, END]])).sort(descending=True)
    torch.testing.assert_close(session.rank(top_k=6)[0], expected[0], rtol=1e-5, atol=1e-5)
