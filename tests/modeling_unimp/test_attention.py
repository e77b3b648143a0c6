"""Mask M, gates, and that pictures reach exactly the tokens they should."""

import pytest
import torch

from unimp import UniMPForConditionalGeneration
from unimp.modeling_unimp.attention_unimp import visibility

from .tiny import IMAGE, ITEM, open_gates, pictures, prompt, single, text_config, tiny_model

TOKENS = torch.tensor([[10, IMAGE, 11, 12, IMAGE, 13]])


@pytest.mark.parametrize(
    ("scope", "visible"),
    [
        ("last", [set(), {1}, {1}, {1}, {2}, {2}]),
        ("all", [set(), {1}, {1}, {1}, {1, 2}, {1, 2}]),
    ],
)
def test_visibility_table_of_mask_m(scope, visible):
    mask = visibility((TOKENS == IMAGE).cumsum(-1), 2, scope)[0]
    assert [{n + 1 for n in range(2) if row[n]} for row in mask] == visible


def _changed(before, after):
    return ((before - after).abs().amax(-1)[0] > 1e-5).tolist()


@pytest.mark.parametrize(
    ("scope", "picture", "seen_by"),
    [("last", 0, [1, 2, 3]), ("last", 1, [4, 5]), ("all", 0, [1, 2, 3, 4, 5]), ("all", 1, [4, 5])],
)
def test_a_picture_reaches_the_tokens_that_see_it_and_later_ones(scope, picture, seen_by):
    model = tiny_model(visual_scope=scope)
    first_block = []
    model.model.cross_attention[0].register_forward_hook(lambda module, args, output: first_block.append(output))
    before = pictures(2)
    after = before.clone()
    after[picture] = pictures(1, seed=9)[0]
    states = [model.model(input_ids=TOKENS, pixel_values=images).last_hidden_state for images in (before, after)]
    assert _changed(*first_block) == [token in seen_by for token in range(6)]
    # Beyond the first block, self-attention carries a picture to all later tokens, and to no earlier one.
    assert _changed(*states) == [token >= seen_by[0] for token in range(6)]


def test_a_token_that_sees_no_picture_passes_a_block_unchanged():
    model = tiny_model()
    seen = []
    block = model.model.cross_attention[0]
    block.register_forward_hook(lambda module, args, output: seen.append((args[0], output)))
    model(input_ids=TOKENS, pixel_values=pictures(2))
    before, after = seen[0]
    assert torch.equal(before[:, 0], after[:, 0])
    assert not torch.isclose(before[:, 1:], after[:, 1:]).all(-1).any()


@pytest.mark.parametrize(
    ("every", "runs"),
    [
        (1, [0, "layer", 1, "layer", 2, "layer", 3, "layer", 4, "layer"]),
        (2, [0, "layer", "layer", 1, "layer", "layer", 2, "layer"]),
        (3, [0, "layer", "layer", "layer", 1, "layer", "layer"]),
        (9, [0, "layer", "layer", "layer", "layer", "layer"]),
    ],
)
def test_cross_attention_before_every_nth_layer(every, runs):
    model = tiny_model(text_config=text_config(num_hidden_layers=5), cross_attention_every=every)
    seen = []
    for number, block in enumerate(model.model.cross_attention):
        block.register_forward_hook(lambda *args, number=number: seen.append(number))
    for layer in model.model.language_model.layers:
        layer.register_forward_hook(lambda *args: seen.append("layer"))
    model(input_ids=TOKENS, pixel_values=pictures(2))
    assert seen == runs


@pytest.mark.parametrize("scope", ["last", "all"])
def test_changing_a_picture_changes_the_answer(decoder, scope):
    model = tiny_model(decoder, gates=False, visual_scope=scope)
    inputs = {"input_ids": TOKENS}

    def difference():
        logits = [model(**inputs, pixel_values=pictures(2, seed)).logits[:, -1] for seed in (3, 9)]
        return (logits[0] - logits[1]).abs().max().item()

    assert difference() == 0  # gates closed
    open_gates(model)
    assert difference() > 1e-3


def held_out_samples_of_a_batch_do_not_depend_on_each_other(decoder):
    """Different numbers of pictures, none among them, padding, a shared picture: as one by one."""
    for scope in ("last", "all"):
        model = tiny_model(decoder, visual_scope=scope)
        batch = prompt(40, 41)
        logits = model(**batch).logits
        for row in range(3):
            alone = single(batch, row)
            expected = model(**alone).logits[0]
            torch.testing.assert_close(logits[row, -len(expected) :], expected, rtol=1e-4, atol=1e-4)


def test_a_missing_picture_is_like_none():
    """An `<image>` without a picture (-1) sees nothing, beside samples that have theirs."""
    model = tiny_model()
    batch = prompt(40)
    batch["image_index"] = torch.tensor([[0, -1], [1, -1], [-1, -1]])
    with_last_missing = model(**batch).logits[0, -1]
    inputs = {key: value[:1] for key, value in batch.items() if key != "pixel_values"}
    other = model(**inputs, pixel_values=torch.cat([batch["pixel_values"][:1], pictures(1, seed=8)])).logits[0, -1]
    torch.testing.assert_close(with_last_missing, other)


def test_pictures_in_order_of_appearance_by_default():
    model = tiny_model()
    batch = prompt(40)
    shared = model(**batch).logits
    repeated = {**batch, "pixel_values": batch["pixel_values"][[0, 1, 1]], "image_index": None}
    torch.testing.assert_close(model(**repeated).logits, shared)


def test_too_many_or_too_few_pictures_for_the_default_order_are_refused():
    model = tiny_model()
    for number in (1, 3):
        with pytest.raises(ValueError, match=f"`image_index`.*{number} pictures.*2 <image>"):
            model(input_ids=TOKENS, pixel_values=pictures(number))


def test_image_features_instead_of_pixel_values():
    model = tiny_model()
    batch = prompt(40)
    expected = model(**batch).logits
    features = model.get_image_features(batch.pop("pixel_values"))
    assert features.shape[0] == 2
    assert features.shape[2] == model.config.vision_hidden_size
    torch.testing.assert_close(model(**batch, image_features=features).logits, expected)
    features = features.clone()
    features[0] += 1
    assert not torch.allclose(model(**batch, image_features=features).logits[0], expected[0])


def test_a_picture_given_several_times_is_encoded_once():
    model = tiny_model()
    encoded = []
    model.model.vision_encoder.register_forward_pre_hook(
        lambda module, args, kwargs: encoded.append(len(kwargs["pixel_values"])), with_kwargs=True
    )
    model.model.resampler.register_forward_pre_hook(lambda module, args: encoded.append(len(args[0])))
    model(**prompt(40))  # three `<image>` tokens with pictures, two distinct ones
    assert encoded == [2, 2]


def test_without_cross_attention_pictures_are_known_through_the_item_codes_alone(tmp_path):
    model = tiny_model(cross_attention_every=0)
    assert model.model.resampler is None
    assert len(model.model.cross_attention) == len(model.model.key_values) == 0
    inputs = prompt()
    other = {**inputs, "pixel_values": pictures(2, seed=9)}
    with torch.no_grad():
        states = [model.model(**batch).last_hidden_state for batch in (inputs, other)]
    assert torch.equal(*states)
    scores = model.score_items(**prompt(ITEM))
    model.model.item_content.image_embeddings += 1.0
    assert not torch.allclose(model.score_items(**prompt(ITEM)), scores)
    model.save_pretrained(tmp_path)
    loaded = UniMPForConditionalGeneration.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(loaded.score_items(**prompt(ITEM)), model.score_items(**prompt(ITEM)))
