"""What words of a query, and the history, add to items' scores, wherever those are computed."""

import math

import pytest
import torch
from safetensors.torch import load_file

from unimp.modeling_unimp.queries_unimp import FIRST_WEIGHT

from .test_codes import semantic_model
from .test_generation import GREEDY
from .tiny import END, FIRST_ITEM, ITEM, NUM_ITEMS, left_pad, tiny_model

SAMPLES = ([FIRST_ITEM + 1, END, 7, 9, ITEM], [FIRST_ITEM + 4, END, FIRST_ITEM, 8, ITEM], [12, FIRST_ITEM, END])
MATCHES = torch.rand(3, NUM_ITEMS, generator=torch.Generator().manual_seed(0))
MATCHES[2] = 0  # asks for nothing


def searched(model, **inputs):
    return model.score_items(**left_pad(*SAMPLES), **inputs)


@torch.no_grad()
def test_matches_are_added_with_the_learned_weight():
    model = tiny_model()
    model.query_weight.log_scale.fill_(math.log(3.0 / FIRST_WEIGHT))
    expected = (searched(model) + 3.0 * MATCHES).log_softmax(-1)
    scores = searched(model, query_matches=MATCHES)
    torch.testing.assert_close(scores, expected)
    torch.testing.assert_close(scores[2], searched(model)[2])
    best, items = model.rank_items(top_k=3, query_matches=MATCHES, **left_pad(*SAMPLES))
    torch.testing.assert_close(best, scores.gather(1, items))
    torch.testing.assert_close(best, scores.topk(3).values)


@torch.no_grad()
def test_an_item_with_all_words_comes_first_before_any_training():
    model = tiny_model()
    matches = torch.zeros(3, NUM_ITEMS)
    matches[torch.arange(3), torch.tensor([5, 2, 3])] = 1
    _, items = model.rank_items(top_k=1, query_matches=matches, **left_pad(*SAMPLES))
    assert items[:, 0].tolist()[:2] == [5, 2]


@torch.no_grad()
def test_logits_and_answers_have_them_at_the_last_item_marker_alone():
    model = tiny_model()
    # In the paper's order a marker stands before every item: the last one asks.
    inputs = left_pad([ITEM, FIRST_ITEM + 2, END, 7, ITEM], [8, ITEM])
    matches = MATCHES[:2]
    plain, logits = model(**inputs).logits, model(**inputs, query_matches=matches).logits
    items = slice(FIRST_ITEM, FIRST_ITEM + NUM_ITEMS)
    torch.testing.assert_close(logits[:, :-1], plain[:, :-1])
    torch.testing.assert_close(logits[:, -1, :FIRST_ITEM], plain[:, -1, :FIRST_ITEM])
    torch.testing.assert_close(logits[:, -1, items], plain[:, -1, items] + model.query_weight(matches))
    kept = model(**inputs, query_matches=matches, logits_to_keep=1).logits
    torch.testing.assert_close(kept, logits[:, -1:])


@torch.no_grad()
def test_scores_of_the_history_are_added_as_they_are():
    model = tiny_model()
    scores = 5 * MATCHES.roll(1, 0)
    expected = (searched(model) + scores + model.query_weight(MATCHES)).log_softmax(-1)
    torch.testing.assert_close(searched(model, history_scores=scores, query_matches=MATCHES), expected)
    torch.testing.assert_close(searched(model, history_scores=scores), (searched(model) + scores).log_softmax(-1))
    # The first ends with what asks for the item, the second with the history.
    inputs = left_pad([FIRST_ITEM + 2, END, 7, ITEM], [8, FIRST_ITEM + 1, END])
    plain, logits = model(**inputs).logits, model(**inputs, history_scores=scores[:2]).logits
    items = slice(FIRST_ITEM, FIRST_ITEM + NUM_ITEMS)
    torch.testing.assert_close(logits[:, -1, items], plain[:, -1, items] + scores[:2])
    torch.testing.assert_close(logits[:, :-1], plain[:, :-1])


@torch.no_grad()
def test_a_session_answers_with_scores_of_the_history():
    model = tiny_model()
    ids = left_pad(SAMPLES[2])["input_ids"]
    session = model.start_session(input_ids=ids[:, :-1], history_scores=MATCHES[:1])
    session.read(input_ids=ids[:, -1:], history_scores=7 * MATCHES[1:2])
    best, items = session.rank(top_k=3)
    expected = model.score_items(input_ids=ids, history_scores=7 * MATCHES[1:2])
    torch.testing.assert_close(best, expected.topk(3).values, rtol=1e-4, atol=1e-4)
    assert torch.equal(items, expected.topk(3).indices)


@torch.no_grad()
@pytest.mark.parametrize("name", ["query_matches", "history_scores"])
@pytest.mark.parametrize("beams", [1, 2])
def test_generate_answers_with_them_cached_or_not(beams, name):
    model = tiny_model()
    inputs = left_pad(*SAMPLES[:2]) | {name: 9 * MATCHES[:2]}
    settings = GREEDY | {"max_new_tokens": 3, "num_beams": beams}
    cached = model.generate(**inputs, **settings)
    assert torch.equal(cached, model.generate(**inputs, **settings, use_cache=False))
    if beams == 1:
        length = inputs["input_ids"].shape[1]
        assert (cached[:, length] - FIRST_ITEM).tolist() == model.score_items(**inputs).argmax(-1).tolist()


def test_labels_are_scored_with_them():
    model = tiny_model()
    # Two searches, the second in the paper's order, where a marker stands before every item; a row that asks nothing.
    ids = torch.tensor(
        [
            [FIRST_ITEM + 2, END, FIRST_ITEM + 5, END, 7, ITEM, FIRST_ITEM + 1],
            [ITEM, FIRST_ITEM + 4, END, 8, ITEM, FIRST_ITEM + 3, END],
            [FIRST_ITEM + 3, END, FIRST_ITEM, END, 9, 8, 7],
        ]
    )
    labels = ids.masked_fill(ids < FIRST_ITEM, -100)
    labels[:, 0] = -100
    outputs = model(input_ids=ids, labels=labels, query_matches=MATCHES)
    logits = model(input_ids=ids, query_matches=MATCHES).logits
    expected = logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0] * (labels[:, 1:] != -100)
    torch.testing.assert_close(outputs.log_probs[:, 1:], expected, rtol=1e-4, atol=1e-4)
    scale = model.query_weight.log_scale
    gradients = [torch.autograd.grad(part.sum(), scale)[0] for part in (outputs.log_probs, expected)]
    assert gradients[0] != 0
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)


def test_a_checkpoint_from_before_begins_with_the_first_weight(tmp_path):
    model = tiny_model()
    state = {name: tensor for name, tensor in model.state_dict().items() if "query_weight" not in name}
    model.save_pretrained(tmp_path, state_dict=state)
    assert not any("query_weight" in name for name in load_file(tmp_path / "model.safetensors"))
    loaded = type(model).from_pretrained(tmp_path)
    torch.testing.assert_close(searched(loaded, query_matches=MATCHES), searched(model, query_matches=MATCHES))


def test_without_a_query_the_weight_still_has_a_gradient():
    # Processes that train together wait for one from each.
    model = tiny_model()
    ids = torch.tensor([[FIRST_ITEM + 2, END, FIRST_ITEM + 5]])
    model(input_ids=ids, labels=ids.masked_fill(ids == END, -100)).loss.backward()
    assert model.query_weight.log_scale.grad.item() == 0


@pytest.mark.parametrize("name", ["query_matches", "history_scores"])
def test_what_is_of_another_catalogue_or_of_semantic_codes_is_refused(name):
    with pytest.raises(ValueError, match=rf"`{name}` must be \(3, 6\), got \(3, 5\)"):
        searched(tiny_model(), **{name: MATCHES[:, 1:]})
    with pytest.raises(ValueError, match=f"`{name}` are of items with a code of their own"):
        semantic_model()(torch.tensor([[7, 8]]), **{name: MATCHES[:1]})


def test_scores_of_the_history_are_for_answers():
    ids = torch.tensor([[FIRST_ITEM + 2, END, FIRST_ITEM + 5]])
    with pytest.raises(ValueError, match="`history_scores` are for answering: leave them out with `labels`"):
        tiny_model()(input_ids=ids, labels=ids, history_scores=MATCHES[:1])
