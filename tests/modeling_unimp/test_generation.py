"""Text answers: cached and uncached decoding, batches, beams and sampling agree."""

import pytest
import torch
from transformers import set_seed

from .tiny import ANSWER, END, FIRST_ITEM, ITEM, VOCAB, pictures, prompt, single, tiny_model

GREEDY = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}


def _generate(model, inputs, **kwargs):
    settings = {**GREEDY, "return_dict_in_generate": True, "output_logits": True, **kwargs}
    return model.generate(**inputs, **settings)


@pytest.mark.parametrize("scope", ["last", "all"])
def test_cached_decoding_equals_uncached(decoder, scope):
    model = tiny_model(decoder, visual_scope=scope)
    inputs = prompt(ANSWER)
    inputs["behavior_ids"] = torch.randint(0, 5, (*inputs["input_ids"].shape, 2))
    cached, uncached = (_generate(model, inputs, use_cache=use_cache) for use_cache in (True, False))
    assert torch.equal(cached.sequences, uncached.sequences)
    for step, (with_cache, without) in enumerate(zip(cached.logits, uncached.logits, strict=True)):
        torch.testing.assert_close(with_cache, without, rtol=1e-4, atol=1e-4, msg=lambda m, step=step: f"{step}: {m}")


def test_static_cache_equals_dynamic_cache(model):
    inputs = prompt(ANSWER)
    static = model.generate(**inputs, **GREEDY, cache_implementation="static")
    assert torch.equal(static, model.generate(**inputs, **GREEDY))


def test_left_padded_batch_equals_one_by_one(decoder):
    model = tiny_model(decoder)
    inputs = prompt(ANSWER)
    answers = model.generate(**inputs, **GREEDY)[:, inputs["input_ids"].shape[1] :]
    for row, answer in enumerate(answers):
        alone = single(inputs, row)
        assert torch.equal(model.generate(**alone, **GREEDY)[0, alone["input_ids"].shape[1] :], answer)


@pytest.mark.parametrize("index", [True, False], ids=["image_index", "default_image_index"])
def test_cached_beams_equal_uncached_beams(model, index):
    inputs = prompt(ANSWER)
    if not index:
        inputs |= {"pixel_values": inputs["pixel_values"][[0, 1, 1]], "image_index": None}
    beams = {**GREEDY, "num_beams": 3, "num_return_sequences": 3}
    cached = model.generate(**inputs, **beams)
    assert torch.equal(cached, model.generate(**inputs, **beams, use_cache=False))
    assert torch.equal(cached, model.generate(**prompt(ANSWER), **beams))
    assert cached.unique(dim=0).shape[0] == 9


@torch.no_grad()
def test_scores_of_beams_are_those_of_a_plain_forward(model):
    """Every beam of every sample saw its own sample's pictures."""
    inputs = prompt(ANSWER)
    output = _generate(model, inputs, num_beams=3, num_return_sequences=3, output_scores=True, length_penalty=0.0)
    batch = {name: inputs[name].repeat_interleave(3, dim=0) for name in ("attention_mask", "image_index")}
    batch["attention_mask"] = torch.nn.functional.pad(batch["attention_mask"], (0, 8), value=1)
    labels = output.sequences.clone()
    labels[:, :-8] = -100
    forward = model(input_ids=output.sequences, pixel_values=inputs["pixel_values"], labels=labels, **batch)
    torch.testing.assert_close(output.sequences_scores, forward.log_probs.sum(-1), rtol=1e-4, atol=1e-4)


def test_seeded_sampling_cached_equals_uncached(model):
    inputs = prompt(ANSWER)
    samples = []
    for use_cache in (True, False):
        set_seed(5)
        settings = {**GREEDY, "do_sample": True, "num_return_sequences": 4, "max_new_tokens": 6}
        samples.append(model.generate(**inputs, **settings, use_cache=use_cache))
    assert torch.equal(*samples)
    assert samples[0].unique(dim=0).shape[0] > 3


def test_pictures_are_read_once_in_a_cached_generation(model):
    calls = []
    for module in (model.model.vision_encoder, model.model.resampler, *model.model.key_values):
        module.register_forward_hook(lambda module, args, output: calls.append(type(module).__name__))
    model.model.resampler.register_forward_pre_hook(lambda module, args: calls.append(f"{len(args[0])} pictures"))
    model.generate(**prompt(ANSWER), **GREEDY, num_beams=2)
    assert sorted(calls) == ["2 pictures", "ResNetModel", *["UniMPKeyValues"] * 3, "UniMPPerceiverResampler"]


def test_new_tokens_see_the_last_picture(model):
    """With a cache, the tokens that follow are still shown the pictures of the prompt."""
    looks = []
    model.model.cross_attention[0].register_forward_hook(lambda module, args, output: looks.append(args[0] - output))
    model.generate(**single(prompt(ANSWER), 0), **GREEDY)
    assert len(looks) == 8
    assert all(look[0, -1].abs().max() > 1e-3 for look in looks)


def test_without_pictures(model):
    inputs = {key: prompt(ANSWER)[key] for key in ("input_ids", "attention_mask")}
    cached = model.generate(**inputs, **GREEDY)
    assert torch.equal(cached, model.generate(**inputs, **GREEDY, use_cache=False))
    # An `<image>` token without its picture does not make the model look at anything.
    shown = model.generate(**inputs, pixel_values=pictures(1), image_index=torch.full((3, 1), -1), **GREEDY)
    assert torch.equal(cached, shown)


def test_a_never_seen_item_in_the_prompt(model):
    inputs = prompt(ANSWER)
    inputs["input_ids"][0, -3] = model.config.vocab_size
    new = {"new_item_text_ids": torch.tensor([[9, 8, 7, -1]]), "new_item_image_index": torch.tensor([1])}
    cached = model.generate(**inputs, **new, **GREEDY, num_beams=2)
    assert torch.equal(cached, model.generate(**inputs, **new, **GREEDY, num_beams=2, use_cache=False))


@torch.no_grad()
def test_text_follows_text_and_items_follow_items(model):
    """Joint logits: probability of the other kind is exactly 0, of the own kind 1."""
    ids = torch.tensor([[5, ITEM, FIRST_ITEM + 2, END, FIRST_ITEM, ANSWER, 7, model.config.vocab_size]])
    new = {"new_item_text_ids": torch.tensor([[9, 8]])}
    logits = model(input_ids=ids, **new).logits[0]
    assert logits.shape[-1] == model.config.vocab_size
    probabilities = logits.softmax(-1)
    item_columns = torch.zeros(model.config.vocab_size, dtype=torch.bool)
    item_columns[END], item_columns[FIRST_ITEM:] = True, True
    text_columns = torch.arange(model.config.vocab_size) < VOCAB
    follows_item = [False, True, True, True, True, False, False, True]
    for row, is_item in zip(probabilities, follows_item, strict=True):
        own, other = (item_columns, text_columns) if is_item else (text_columns, item_columns)
        torch.testing.assert_close(row[own].sum(), torch.tensor(1.0))
        assert row[~own].sum() == 0
        assert row[other].sum() == 0


def test_generated_kinds(model):
    text = model.generate(**prompt(ANSWER), **GREEDY)[:, -8:]
    assert (text < VOCAB).all()
    items = model.generate(**prompt(ITEM), **{**GREEDY, "do_sample": True, "num_return_sequences": 20})[:, -8:]
    assert ((items == END) | (items >= FIRST_ITEM)).all()


def test_logits_to_keep(model):
    inputs = prompt(ITEM)
    torch.testing.assert_close(model(**inputs, logits_to_keep=2).logits, model(**inputs).logits[:, -2:])


@torch.no_grad()
def test_scored_texts_equal_reading_each_after_the_prompt(decoder):
    model = tiny_model(decoder)
    inputs = prompt(ANSWER)
    texts = [[7, 2], [9], [7, 11, 2], [12, 13]]
    scores = model.score_texts(texts, **inputs)
    for row in range(len(inputs["input_ids"])):
        alone = single(inputs, row)
        for text, score in zip(texts, scores[row], strict=True):
            length = alone["input_ids"].shape[1]
            whole = dict(alone, input_ids=torch.cat([alone["input_ids"], torch.tensor([text])], dim=1))
            whole["attention_mask"] = torch.ones_like(whole["input_ids"])
            log_probs = model(**whole).logits[0, length - 1 : -1].log_softmax(-1)
            torch.testing.assert_close(score, log_probs[range(len(text)), text].sum(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model.score_texts([[9], [7]], **inputs)[:, 0], scores[:, 1], rtol=1e-4, atol=1e-4)
