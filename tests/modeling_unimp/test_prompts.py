"""Pictures as tokens of the sequence itself: which token shows what, and that it is the same however it is read."""

from itertools import chain, pairwise

import pytest
import torch

from unimp import UniMPConfig, UniMPForConditionalGeneration
from unimp.modeling_unimp.prompts_unimp import UniMPVisualPrompt, picture_tokens

from .test_decoding import check, make, references
from .tiny import ANSWER, END, FIRST_ITEM, IMAGE, ITEM, SAMPLES, left_pad, pictures, single, tiny_model

GREEDY = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
EACH = 2


def prompted(decoder="llama", each=EACH, **config):
    return tiny_model(decoder, cross_attention_every=0, visual_prompt_tokens=each, **config)


def widened(tokens, each=EACH):
    """The same prompt, each picture so many tokens."""
    return list(chain.from_iterable([token] * each if token == IMAGE else [token] for token in tokens))


def prompt(*ending):
    """Samples with two pictures, one and none, of different lengths; the first two have one in common."""
    batch = left_pad(*[[*widened(sample), *ending] for sample in SAMPLES])
    index = torch.tensor([[0, 0, 1, 1], [1, 1, -1, -1], [-1, -1, -1, -1]])
    return {**batch, "pixel_values": pictures(2), "image_index": index}


def alone(batch, row):
    """One sample without padding; which pictures its tokens show is left to be counted."""
    sample = single(batch, row)
    return sample | ({"pixel_values": sample["pixel_values"][::EACH]} if "pixel_values" in sample else {})


@torch.no_grad()
def test_the_mapping_network_is_vip5s():
    config = UniMPConfig(cross_attention_every=0, visual_prompt_tokens=3, vision_hidden_size=5)
    network = UniMPVisualPrompt(config, row_size=4)
    features = torch.randn(2, 7, 5)
    mean = features.mean(1)
    mean = (mean - mean.mean(-1, keepdim=True)) / (mean.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    hidden = torch.tanh(mean @ network.input_projection.weight.T + network.input_projection.bias)
    tokens = (hidden @ network.output_projection.weight.T + network.output_projection.bias).view(2, 3, 4)
    tokens = tokens - tokens.mean(-1, keepdim=True)
    tokens = tokens / (tokens.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(network(features), 0.02 * tokens)


def test_which_token_shows_what():
    states = torch.arange(1.0, 7.0).view(3, 2, 1)  # pictures 0, 1, 2 are the tokens 1 2, 3 4, 5 6
    is_image = torch.tensor([[0, 1, 1, 0, 1, 1, 0, 1, 1, 0], [1, 1, 0, 1, 1, 0, 0, 0, 0, 0]]).bool()
    index = torch.tensor([[2, 2, -1, -1, 0, 0], [1, 1, 1, 1, -1, -1]])
    shown = picture_tokens(states, index, is_image, is_image.cumsum(-1))[..., 0]
    assert shown.tolist() == [[0, 5, 6, 0, 0, 0, 0, 1, 2, 0], [3, 4, 0, 3, 4, 0, 0, 0, 0, 0]]
    shown = picture_tokens(states, index[:, :2], is_image, is_image.cumsum(-1))[..., 0]  # none that is not there
    assert shown.tolist() == [[0, 5, 6, 0, 0, 0, 0, 0, 0, 0], [3, 4, 0, 0, 0, 0, 0, 0, 0, 0]]


@torch.no_grad()
def test_pictures_enter_at_their_tokens_and_nowhere_else(decoder):
    model = prompted(decoder)
    entered = []
    model.model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: entered.append(kwargs["inputs_embeds"]), with_kwargs=True
    )
    inputs = prompt(ITEM)
    shown = inputs["input_ids"] == IMAGE
    model(**inputs)
    model(**inputs | {"image_index": torch.full_like(inputs["image_index"], -1)})
    difference = entered[0] - entered[1]
    assert not difference[~shown].any()
    tokens = model.model.visual_prompt(model.get_image_features(inputs["pixel_values"]))
    tokens = torch.cat([tokens[0], tokens[1], tokens[1]])
    torch.testing.assert_close(difference[shown], tokens * model.model.embedding_scale, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_changing_a_picture_changes_the_answer_of_those_who_see_it(decoder):
    model = prompted(decoder)
    before, inputs = model.score_items(**prompt(ITEM)), prompt(ITEM)
    inputs["pixel_values"][0] = pictures(1, seed=9)[0]
    changed = (model.score_items(**inputs) - before).abs().amax(-1) > 1e-4
    assert changed.tolist() == [True, False, False]


@torch.no_grad()
def test_pixels_features_and_tokens_of_pictures_are_the_same():
    model, inputs = prompted(), prompt(ITEM)
    expected = model(**inputs).logits
    features = model.get_image_features(inputs.pop("pixel_values"))
    torch.testing.assert_close(model(**inputs, image_features=features).logits, expected)
    torch.testing.assert_close(model(**inputs, image_latents=model.model.visual_prompt(features)).logits, expected)


def test_cached_equals_uncached_and_a_batch_one_by_one(decoder):
    model, inputs = prompted(decoder), prompt(ANSWER)
    answers = model.generate(**inputs, **GREEDY)
    assert torch.equal(answers, model.generate(**inputs, **GREEDY, use_cache=False))
    for row, answer in enumerate(answers[:, inputs["input_ids"].shape[1] :]):
        sample = alone(inputs, row)
        assert torch.equal(model.generate(**sample, **GREEDY)[0, sample["input_ids"].shape[1] :], answer)


@pytest.mark.parametrize("levels", [1, 3], ids=["atomic", "semantic"])
def test_an_item_ranks_as_when_it_is_read_behind_the_prompt(levels):
    model, inputs = make(levels, cross_attention_every=0, visual_prompt_tokens=EACH), prompt(ITEM)
    number = model.config.num_items
    ranked = model.rank_items(top_k=number, beam_width=number, **inputs)
    check(ranked, references(model, inputs), [range(number)] * len(SAMPLES), number)


@pytest.mark.parametrize("each", [1, 2, 3])
@pytest.mark.parametrize("cuts", [[3, 9, 14, 17], [4, 5, 6, 12, 13, 17]], ids=["chunks", "anywhere"])
def test_reading_in_parts_equals_reading_at_once(each, cuts):
    model = prompted(each=each)
    tokens = widened([11, FIRST_ITEM, END, FIRST_ITEM + 1, IMAGE, 12, END, IMAGE, 13, END, IMAGE, 14, IMAGE], each)
    shown = torch.tensor([0, 1, -1, 0]).repeat_interleave(each)  # the third has no picture, the last repeats the first
    session = model.start_session(input_ids=torch.tensor([tokens[:1]]))
    for start, end in pairwise([1, *(cut for cut in cuts if cut < len(tokens)), len(tokens)]):
        part = torch.tensor([tokens[start:end]])
        first = tokens[:start].count(IMAGE)
        inputs = {"input_ids": part, "image_index": shown[None, first : first + int((part == IMAGE).sum())]}
        if inputs["image_index"].numel():
            inputs["pixel_values"] = pictures(2)
        else:
            del inputs["image_index"]
        session.read(**inputs)
    whole = {"input_ids": torch.tensor([tokens]), "image_index": shown[None], "pixel_values": pictures(2)}
    expected = model.rank_items(top_k=6, **whole)
    scores, items = session.rank(top_k=6)
    assert torch.equal(items, expected[1])
    torch.testing.assert_close(scores, expected[0], rtol=1e-5, atol=1e-5)
    # What was cut off in the middle of a picture and is read again.
    keep = next(place for place, token in enumerate(tokens) if token == IMAGE) + each - 1
    rest = torch.tensor([tokens[keep:]])
    session.read(keep=keep, input_ids=rest, image_index=shown[None, each - 1 :], pixel_values=pictures(2))
    torch.testing.assert_close(session.rank(top_k=6)[0], expected[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("policy", ["new", "all"])
def test_a_step_moves_the_mapping_network(policy):
    model = prompted(tied=False)
    names = set(model.set_trainable(policy))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    inputs = prompt(ITEM, FIRST_ITEM + 4)
    labels = torch.full_like(inputs["input_ids"], -100)
    labels[:, -1] = FIRST_ITEM + 4
    model(**inputs, labels=labels).loss.backward()
    torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01).step()
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert {name for name in names if "visual_prompt" in name} == {name for name in moved if "visual_prompt" in name}
    assert len([name for name in moved if "visual_prompt" in name]) == 8
    assert moved <= names
    assert any(name.startswith("model.language_model") for name in moved) == (policy == "all")


def test_a_picture_that_no_token_shows_leaves_a_gradient_of_zero():
    """Processes that train together must use the same parameters, whether or not their batch has pictures."""
    model, inputs = prompted(), prompt(ITEM, FIRST_ITEM)
    inputs["image_index"] = torch.full_like(inputs["image_index"], -1)
    labels = torch.full_like(inputs["input_ids"], -100)
    labels[:, -1] = FIRST_ITEM
    model(**inputs, labels=labels).loss.backward()
    assert all(not parameter.grad.any() for parameter in model.model.visual_prompt.parameters())


def test_saved_and_loaded(tmp_path):
    model = prompted()
    model.save_pretrained(tmp_path)
    loaded = UniMPForConditionalGeneration.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(loaded.score_items(**prompt(ITEM)), model.score_items(**prompt(ITEM)))


def test_what_does_not_fit_is_refused():
    with pytest.raises(Exception, match="set `cross_attention_every` to 0, got 1"):
        UniMPConfig(visual_prompt_tokens=2)
    with pytest.raises(Exception, match="`visual_prompt_tokens` must be at least 0, got -1"):
        UniMPConfig(cross_attention_every=0, visual_prompt_tokens=-1)
    tokens = torch.tensor([[11, IMAGE, IMAGE, 12, IMAGE, ITEM]])
    with pytest.raises(ValueError, match=r"which of 2 pictures the batch's 3 <image> tokens show \(2 a picture\)"):
        prompted()(input_ids=tokens, pixel_values=pictures(2))
    with pytest.raises(ValueError, match="`image_latents` must be 2 a picture, got 3"):
        prompted()(input_ids=tokens[:, :4], image_latents=torch.zeros(1, 3, 32))
