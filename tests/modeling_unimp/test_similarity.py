"""Likeness to the history: what it adds to items' scores, and that it is the same however a prompt is read."""

from itertools import pairwise

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError

from unimp import UniMPConfig
from unimp.modeling_unimp.similarity_unimp import feature_directions, mean_features, whiten

from .test_generation import GREEDY
from .test_sessions import CUTS, PROMPT, check, length, stretch
from .tiny import ANSWER, END, FIRST_ITEM, ITEM, NUM_ITEMS, VOCAB, left_pad, prompt, single, text_config, tiny_model

WEIGHT = 2.0
# The items read in each of these, oldest first; the last one of the second sample is in no catalogue.
SAMPLES = (
    [FIRST_ITEM + 1, 7, END, FIRST_ITEM + 3, 8, END, ITEM],
    [FIRST_ITEM + 4, END, FIRST_ITEM + NUM_ITEMS, 9, ITEM],
)
READ = ([1, 3], [4, None])


def similar_model(decoder="llama", **config):
    return tiny_model(decoder, item_feature_size=7, feature_similarity=WEIGHT, **config)


def _likeness(model, items):
    """Of every item of the catalogue to items that were read, step by step."""
    features = model.model.item_content.features
    deviations = features - features.mean(0)
    total = torch.zeros(len(features))
    for age, item in enumerate(reversed(items)):
        if item is not None:
            total += 0.6**age * torch.cosine_similarity(deviations, deviations[item], dim=-1)
    return total


@torch.no_grad()
def test_it_adds_weighted_cosines_to_the_logits():
    model, plain = similar_model(), tiny_model(item_feature_size=7)
    inputs = left_pad(*SAMPLES) | {"new_item_text_ids": torch.tensor([[5, 6]])}
    scores = plain.score_items(**inputs)
    expected = torch.stack([WEIGHT * _likeness(plain, items) for items in READ])
    torch.testing.assert_close(model.score_items(**inputs), (scores + expected).log_softmax(-1), rtol=1e-4, atol=1e-4)
    best, items = model.rank_items(top_k=NUM_ITEMS, **inputs)
    torch.testing.assert_close(best, model.score_items(**inputs).gather(1, items))


@torch.no_grad()
def test_labels_are_scored_with_it():
    model = similar_model()
    ids = torch.tensor([[FIRST_ITEM + 2, END, FIRST_ITEM + 5, END, 7, ITEM, FIRST_ITEM + 1]])
    labels = ids.masked_fill(~torch.isin(torch.arange(7), torch.tensor([2, 6])), -100)
    log_probs = model(input_ids=ids, labels=labels).log_probs[0]
    logits = model(input_ids=ids).logits[0]
    for position in (2, 6):
        torch.testing.assert_close(
            log_probs[position], logits[position - 1].log_softmax(-1)[ids[0, position]], rtol=1e-4, atol=1e-4
        )
    without = tiny_model(item_feature_size=7)(input_ids=ids, labels=labels).log_probs[0]
    assert (log_probs - without).abs()[[2, 6]].min() > 1e-3


@torch.no_grad()
def test_text_is_the_decoders():
    ids = torch.tensor([[FIRST_ITEM + 2, ANSWER, 5, 6]])
    models = (similar_model(), tiny_model(item_feature_size=7))
    with_it, without = (model(input_ids=ids).logits[0, 1:, :VOCAB] for model in models)
    torch.testing.assert_close(with_it, without)


def test_items_without_features_and_new_ones():
    model = similar_model()
    model.model.item_content.features[3] = 0
    known = [0, 1, 2, 4, 5]
    rows = model.compute_item_rows()[1][:, 32:]
    assert not rows[3].any()
    torch.testing.assert_close(rows[known].norm(dim=-1), torch.ones(5))
    features, mean = model.model.item_content.features[known], model.model.item_content.feature_mean
    torch.testing.assert_close(rows[0], torch.nn.functional.normalize(features[0] - mean, dim=0))
    torch.testing.assert_close(mean_features(model.model.item_content.features), features.mean(0))
    model.add_items(torch.full((1, 6), -1), features=features[:1])
    rows = model.compute_item_rows()[1][:, 32:]
    torch.testing.assert_close(rows[NUM_ITEMS], rows[0])


def test_items_that_join_leave_the_others_alone(tmp_path):
    model, inputs = similar_model(), prompt(ITEM)
    before = model.score_items(**inputs)
    model.add_items(torch.full((9, 6), -1), features=20 + torch.randn(9, 7))
    after = model.score_items(**inputs)[:, :NUM_ITEMS]
    torch.testing.assert_close(after - after[:, :1], before - before[:, :1], rtol=1e-4, atol=1e-4)
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path).eval()
    torch.testing.assert_close(loaded.score_items(**inputs), model.score_items(**inputs))


def test_features_that_are_all_alike_tell_nothing():
    features = torch.rand(1, 7).repeat(50, 1)
    assert not feature_directions(features, mean_features(features)).any()


@pytest.mark.parametrize("whitening", [0.0, 0.5, 1.0])
def test_whitening_divides_by_the_spread_of_each_principal_direction(whitening):
    """Four items on the axes, off the origin, and one of which nothing is known; the third axis tells nothing."""
    features = torch.tensor([[3.0, 0, 0], [-3, 0, 0], [0, 0.5, 0], [0, -0.5, 0]])
    features = torch.cat([features + torch.tensor([10.0, 20.0, 30.0]), torch.zeros(1, 3)])
    spreads = torch.tensor([3 * 2**0.5, 0.5 * 2**0.5])
    expected = torch.zeros(5, 3)
    expected[0, 0], expected[2, 1] = 3 / spreads[0] ** whitening, 0.5 / spreads[1] ** whitening
    expected[1], expected[3] = -expected[0], -expected[2]
    torch.testing.assert_close(whiten(features, whitening), expected, rtol=1e-4, atol=1e-4)


def test_whitened_features_that_are_all_alike_tell_nothing():
    assert not whiten(torch.rand(1, 7).repeat(50, 1), 1.0).any()


@torch.no_grad()
def test_likeness_of_whitened_features_is_of_the_catalogue_as_it_is():
    model, input_ids = similar_model(), torch.tensor([SAMPLES[0]])
    model.score_items(input_ids=input_ids)
    model.config.feature_whitening = 1.0
    model.add_items(torch.full((9, 6), -1), features=20 + torch.randn(9, 7))
    white = whiten(model.model.item_content.features, 1.0)
    torch.testing.assert_close(white.mean(0), torch.zeros(7), rtol=0, atol=1e-4)
    torch.testing.assert_close(white.T @ white, torch.eye(7), rtol=0, atol=1e-3)
    scores = model.score_items(input_ids=input_ids)
    model.config.feature_similarity = 0.0
    white = torch.nn.functional.normalize(white, dim=-1)
    likeness = white @ (white[READ[0][1]] + 0.6 * white[READ[0][0]])
    expected = (model.score_items(input_ids=input_ids) + WEIGHT * likeness).log_softmax(-1)
    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("whitening", [-0.1, 1.1, float("nan")])
def test_whitening_out_of_range_is_refused(whitening):
    with pytest.raises(StrictDataclassClassValidationError, match="`feature_whitening` must lie between 0 and 1"):
        UniMPConfig(text_config=text_config(), feature_whitening=whitening)


def test_whitening_without_likeness_is_refused():
    with pytest.raises(StrictDataclassClassValidationError, match=r"`feature_whitening` 1\.0 has no use without"):
        UniMPConfig(text_config=text_config(), item_feature_size=7, feature_whitening=1.0)


@pytest.mark.parametrize(
    ("before", "after"), [((0.0, 0.0), (WEIGHT, 0.0)), ((WEIGHT, 0.0), (0.0, 0.0)), ((WEIGHT, 0.0), (WEIGHT, 1.0))]
)
def test_it_can_be_changed_after_an_answer(before, after):
    models = []
    for similarity, whitening in (before, after):
        models.append(tiny_model(item_feature_size=7, feature_similarity=similarity, feature_whitening=whitening))
    (model, fresh), inputs = models, prompt(ITEM)
    scores, session = model.score_items(**inputs), model.start_session(input_ids=torch.tensor([SAMPLES[0]]))
    model.config.feature_similarity, model.config.feature_whitening = after
    assert not session.is_current()
    torch.testing.assert_close(model.score_items(**inputs), fresh.score_items(**inputs))
    assert (model.score_items(**inputs) - scores).abs().max() > 1e-3


def test_a_whitened_likeness_is_saved_and_loaded(tmp_path):
    model, inputs = similar_model(feature_whitening=0.5), prompt(ITEM)
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path).eval()
    assert loaded.config.feature_whitening == 0.5
    torch.testing.assert_close(loaded.score_items(**inputs), model.score_items(**inputs))


def test_an_item_that_is_the_mean_tells_nothing_whitened_either():
    features = 20 + torch.tensor([[0.7, 0.3, 0.1], [-0.7, -0.3, -0.1], [0.0, 0.0, 0.0]])
    assert not whiten(features, 1.0)[2].any()


@pytest.mark.parametrize("whitening", [0.0, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_trains_under_autocast_and_gives_directions_no_gradient(dtype, whitening):
    model = similar_model(feature_whitening=whitening).train()
    ids = torch.tensor([[FIRST_ITEM + 2, END, FIRST_ITEM + 5]])
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        model(input_ids=ids, labels=torch.tensor([[-100, -100, FIRST_ITEM + 5]])).loss.backward()
    assert model.model.item_rows.learned.grad.isfinite().all()
    assert not model.model.item_content.features.requires_grad


def test_a_catalogue_that_is_empty_still_answers():
    model = similar_model(items=0)
    assert model(input_ids=torch.tensor([[5, ITEM]])).logits.isfinite().all()


@torch.no_grad()
def test_whitening_is_as_exact_under_autocast():
    features = torch.randn(40, 7, generator=torch.Generator().manual_seed(0)) * torch.logspace(0, -2, 7)
    with torch.autocast("cpu", torch.bfloat16):
        white = whiten(features, 1.0)
    torch.testing.assert_close(white, whiten(features, 1.0))


@torch.no_grad()
def test_whitening_of_an_empty_catalogue_and_of_one_item():
    assert similar_model(items=0, feature_whitening=1.0)(input_ids=torch.tensor([[5, ITEM]])).logits.isfinite().all()
    assert not whiten(torch.rand(1, 7), 1.0).any()
    assert not whiten(torch.zeros(3, 7), 1.0).any()


def test_reading_in_parts_equals_reading_at_once(decoder):
    model = similar_model(decoder)
    ends = CUTS["anywhere"]
    session = model.start_session(**stretch(model, 0, ends[0]))
    for start, end in pairwise(ends):
        session.read(**stretch(model, start, end))
        check(session, model, end)
    session.read(keep=length(model, 8), **stretch(model, 8, len(PROMPT)))
    check(session, model, len(PROMPT))


@pytest.mark.parametrize("beams", [1, 3])
def test_cached_decoding_of_items_equals_uncached(decoder, beams):
    model = similar_model(decoder)
    settings = {**GREEDY, "num_beams": beams, "max_new_tokens": 6, "return_dict_in_generate": True}
    cached, uncached = (
        model.generate(**prompt(ITEM), **settings, output_logits=True, use_cache=use_cache)
        for use_cache in (True, False)
    )
    assert torch.equal(cached.sequences, uncached.sequences)
    for with_cache, without in zip(cached.logits, uncached.logits, strict=True):
        torch.testing.assert_close(with_cache, without, rtol=1e-4, atol=1e-4)


def test_left_padded_batch_equals_one_by_one(decoder):
    model = similar_model(decoder)
    inputs = prompt(ITEM)
    scores = model.score_items(**inputs)
    for row, expected in enumerate(scores):
        torch.testing.assert_close(model.score_items(**single(inputs, row))[0], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("config", [{"code_sizes": [3, 4], "item_feature_size": 7}, {"item_feature_size": 0}])
def test_it_needs_features_and_codes_of_the_items_own(config):
    with pytest.raises(StrictDataclassClassValidationError, match=r"`feature_similarity` 2\.0"):
        UniMPConfig(text_config=text_config(), feature_similarity=WEIGHT, **config)


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
def test_a_weight_that_is_none_is_refused(weight):
    with pytest.raises(StrictDataclassClassValidationError, match="`feature_similarity` must be"):
        UniMPConfig(text_config=text_config(), item_feature_size=7, feature_similarity=weight)
