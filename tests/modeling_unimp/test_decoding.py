"""Item answers equal those of scoring every item of the catalogue one by one."""

import copy

import numpy as np
import pytest
import torch

from unimp.modeling_unimp import trie_unimp

from .tiny import END, FIRST_ITEM, ITEM, NUM_ITEMS, prompt, single, tiny_model

SIZES = [3, 4, 5]
SEMANTIC_ITEMS = 24


def codes_of(items, sizes, seed=0):
    """Distinct codes, most of the possible ones unused."""
    numbers = torch.randperm(torch.tensor(sizes).prod().item(), generator=torch.Generator().manual_seed(seed))[:items]
    return torch.stack(torch.unravel_index(numbers, sizes), dim=-1).int()


def semantic_model(decoder="llama", items=SEMANTIC_ITEMS, sizes=SIZES, **config):
    model = tiny_model(decoder, items=0, num_items=items, code_sizes=list(sizes), **config)
    model.model.item_codes.codes = codes_of(items, sizes)
    return model


def make(levels, decoder="llama", **config):
    return tiny_model(decoder, **config) if levels == 1 else semantic_model(decoder, **config)


@pytest.fixture(params=[1, 3], ids=["atomic", "semantic"])
def levels(request):
    return request.param


def codes_and_sizes(model):
    if model.config.code_sizes is None:
        return torch.arange(model.config.num_items)[:, None], [model.config.num_items]
    return model.model.item_codes.codes.long(), model.config.code_sizes


@torch.no_grad()
def reference(model, inputs, ending=()):
    """
    Log-probability of every item of the catalogue, `[items]`, after one sample's prompt: its tokens are read behind
    it, without a cache, and each is normalised over the codes of its level.
    """
    codes, sizes = codes_and_sizes(model)
    starts = [FIRST_ITEM + sum(sizes[:level]) for level in range(len(sizes))]
    ids = torch.cat([inputs["input_ids"], torch.tensor([list(ending)], dtype=torch.long)], dim=1)
    length, items = ids.shape[1], len(codes)
    whole = {"input_ids": torch.cat([ids.expand(items, -1), codes + torch.tensor(starts)], dim=1)}
    if "pixel_values" in inputs:
        pictures = len(inputs["pixel_values"])
        whole |= {"pixel_values": inputs["pixel_values"], "image_index": torch.arange(pictures).expand(items, -1)}
    logits = model(**whole).logits
    total = torch.zeros(items)
    for level, (start, size) in enumerate(zip(starts, sizes, strict=True)):
        log_probs = logits[:, length - 1 + level, start : start + size].float().log_softmax(-1)
        total += log_probs.gather(1, codes[:, level : level + 1])[:, 0]
    return total


def references(model, inputs):
    return torch.stack([reference(model, single(inputs, row)) for row in range(len(inputs["input_ids"]))])


def expected(scores, allowed, top_k):
    """The best allowed items of one sample and their scores, and nothing where there are no more."""
    best = sorted(allowed, key=lambda item: -scores[item].item())[:top_k]
    missing = min(top_k, len(scores)) - len(best)
    return best + [-1] * missing, [scores[item].item() for item in best] + [-torch.inf] * missing


def check(ranked, scores, allowed, top_k):
    """`ranked` is what the reference's `scores` of the `allowed` items of each sample say."""
    for row, own in enumerate(allowed):
        items, values = expected(scores[row], own, top_k)
        assert ranked[1][row].tolist() == items
        torch.testing.assert_close(ranked[0][row], torch.tensor(values), rtol=1e-5, atol=1e-5)


def test_a_wide_beam_ranks_as_the_reference(decoder, levels):
    model, inputs = make(levels, decoder), prompt(ITEM)
    number = model.config.num_items
    scores = references(model, inputs)
    torch.testing.assert_close(model.score_items(**inputs), scores, rtol=1e-5, atol=1e-5)
    for top_k in (1, 4, number):
        ranked = model.rank_items(top_k=top_k, beam_width=number, **inputs)
        check(ranked, scores, [range(number)] * 3, top_k)


@pytest.fixture(params=[0, 10**6], ids=["sorted", "counted"])
def listed(request, monkeypatch):
    """Both ways to keep listed items, whatever the catalogue's size."""
    monkeypatch.setattr(trie_unimp, "SORTED_SHARE", request.param)


def test_exclude_and_candidates_are_those_of_each_sample(decoder, levels, listed):
    model, inputs = make(levels, decoder), prompt(ITEM)
    number = model.config.num_items
    scores = references(model, inputs)
    exclude = torch.tensor([[0, 3, 3], [-1, -1, -1], [5, -1, 1]])
    candidates = torch.tensor([[3, 2, 1, 5, 5], [4, -1, -1, -1, -1], [-1, 5, 1, 0, 2]])
    kept = [set(range(number)) - set(row.tolist()) for row in exclude]
    offered = [set(row.tolist()) - {-1} for row in candidates]
    wide = {"top_k": number, "beam_width": number, **inputs}
    check(model.rank_items(exclude=exclude, **wide), scores, kept, number)
    check(model.rank_items(candidates=candidates, **wide), scores, offered, number)
    both = [own & other for own, other in zip(kept, offered, strict=True)]
    assert [len(own) for own in both] == [3, 1, 2]
    check(model.rank_items(exclude=exclude, candidates=candidates, **wide), scores, both, number)


@pytest.mark.parametrize("beam_width", [None, 1, 2, 5])
@pytest.mark.parametrize("top_k", [1, 3, 7])
@pytest.mark.parametrize("limit", [None, "exclude", "candidates"])
def test_a_narrow_beam_finds_legal_items_none_twice_with_their_scores(beam_width, top_k, limit, listed):
    model, inputs = semantic_model(), prompt(ITEM)
    scores = references(model, inputs)
    generator = torch.Generator().manual_seed(top_k)
    listed = torch.stack([torch.randperm(SEMANTIC_ITEMS, generator=generator)[:16] for _ in range(3)])
    limits = {} if limit is None else {limit: listed}
    ranked, items = model.rank_items(top_k=top_k, beam_width=beam_width, **limits, **inputs)
    assert items.shape == (3, top_k)
    for row in range(3):
        found = items[row][items[row] >= 0]
        assert len(found.unique()) == len(found) >= min(top_k, beam_width or top_k)
        assert (items[row][len(found) :] == -1).all()
        assert (ranked[row][len(found) :] == -torch.inf).all()
        torch.testing.assert_close(ranked[row][: len(found)], scores[row][found], rtol=1e-5, atol=1e-5)
        assert (ranked[row].nan_to_num(neginf=-1e9).diff() <= 0).all()
        if limit is not None:
            assert (torch.isin(found, listed[row]) == (limit == "candidates")).all()


def test_a_beam_as_wide_as_the_answer_fills_it_with_what_is_left(listed):
    """Seven items may be answered, all but two of them improbable: none is lost to a beam of what may not be."""
    model, inputs = semantic_model(), prompt(ITEM)
    worst = references(model, inputs).argsort(-1)[:, :7]
    best = references(model, inputs).argsort(-1, descending=True)[:, : SEMANTIC_ITEMS - 7]
    for limits in ({"candidates": worst}, {"exclude": best}):
        items = model.rank_items(top_k=7, beam_width=7, **limits, **inputs)[1]
        assert torch.equal(items.sort().values, worst.sort().values)


def test_nothing_left_and_more_than_there_is(levels, listed):
    model, inputs = make(levels), prompt(ITEM)
    number = model.config.num_items
    everything = torch.arange(number).expand(3, -1)
    for limits in (
        {"exclude": everything},
        {"candidates": torch.full((3, 2), -1)},
        {"candidates": torch.empty(3, 0, dtype=torch.long)},
        {"exclude": everything, "candidates": everything},
    ):
        scores, items = model.rank_items(top_k=2, **limits, **inputs)
        assert (scores == -torch.inf).all()
        assert torch.equal(items, torch.full((3, 2), -1))
    scores, items = model.rank_items(top_k=1000, **inputs)
    assert torch.equal(items.sort().values, everything)
    assert (scores > -torch.inf).all()
    # Nothing is left for one of them alone.
    exclude = everything.clone()
    exclude[1:, 1:] = -1
    items = model.rank_items(top_k=1000, exclude=exclude, **inputs)[1]
    assert [len(row[row >= 0]) for row in items] == [0, number - 1, number - 1]


@pytest.mark.parametrize("sizes", [None, [2, 2], [3, 1, 2]])
def test_a_catalogue_of_one_item(sizes):
    model = tiny_model(items=0, num_items=1) if sizes is None else semantic_model(items=1, sizes=sizes)
    inputs = prompt(ITEM, samples=([11, 12], [21]))
    inputs = {key: inputs[key] for key in ("input_ids", "attention_mask")}
    scores, items = model.rank_items(**inputs)
    assert items.tolist() == [[0], [0]]
    torch.testing.assert_close(scores, model.score_items(**inputs), rtol=1e-5, atol=1e-5)
    assert model.rank_items(exclude=torch.tensor([[0], [-1]]), **inputs)[1].tolist() == [[-1], [0]]


def test_a_catalogue_of_nothing():
    model = tiny_model(items=0)
    inputs = {key: prompt(ITEM, samples=([11, 12], [21]))[key] for key in ("input_ids", "attention_mask")}
    scores, items = model.rank_items(**inputs)
    assert scores.shape == items.shape == (2, 0)


@pytest.mark.parametrize("wrong", [0, -1, 2.0, "2"])
@pytest.mark.parametrize("name", ["top_k", "beam_width"])
def test_numbers_below_1_and_what_is_none_are_refused(model, name, wrong):
    state = model.read_prompt(**prompt(ITEM))
    for rank in (
        lambda **kwargs: model.rank_items(**kwargs, **prompt(ITEM)),
        lambda **kw: model.rank_from(state, **kw),
    ):
        with pytest.raises(ValueError, match=f"`{name}` must be a whole number of at least 1, got {wrong!r}"):
            rank(**{name: wrong})


def test_whole_numbers_of_any_type(levels):
    model, inputs = make(levels), prompt(ITEM)
    expected = model.rank_items(top_k=3, beam_width=4, **inputs)
    scores, items = model.rank_items(top_k=np.int64(3), beam_width=torch.tensor(4), **inputs)
    assert torch.equal(items, expected[1])
    assert torch.equal(scores, expected[0])


@pytest.mark.parametrize(("wrong", "shown"), [([0, 24], 24), ([3, 99], 99), ([0, -2], -2)])
@pytest.mark.parametrize("name", ["exclude", "candidates"])
def test_positions_outside_the_catalogue_are_refused(name, wrong, shown):
    model, inputs = semantic_model(), prompt(ITEM, samples=([11, 12],))
    message = f"`{name}` must be positions in a catalogue of 24 items, padded with -1, got {shown}"
    with pytest.raises(ValueError, match=message):
        model.rank_items(**{name: torch.tensor([wrong])}, **inputs)
    with pytest.raises(ValueError, match=f"`candidates` must be positions in a catalogue of 24 items, got {shown}"):
        model.select_items([wrong], **inputs)


def test_the_default_beam_is_twice_the_answer():
    model, inputs = semantic_model(), prompt(ITEM)
    widths = []
    model.model.register_forward_pre_hook(
        lambda module, args, kwargs: widths.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    model.rank_items(top_k=2, **inputs)
    model.rank_items(top_k=2, beam_width=3, **inputs)
    length = inputs["input_ids"].shape[1]
    assert widths == [length, 3, 4, length, 3, 3]  # there are three first codes


def test_a_left_padded_batch_ranks_as_one_by_one(decoder, levels):
    model, inputs = make(levels, decoder), prompt(ITEM)
    scores, items = model.rank_items(top_k=3, **inputs)
    for row in range(3):
        alone_scores, alone_items = model.rank_items(top_k=3, **single(inputs, row))
        assert torch.equal(alone_items[0], items[row])
        torch.testing.assert_close(alone_scores[0], scores[row], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_tree_under_a_window_that_ends_inside_the_prompt(attention):
    """A window that the prompt outgrows: a level further, it begins a token later."""
    model = semantic_model("gemma3_text")
    config = copy.deepcopy(model.config.text_config)
    config.sliding_window, config.layer_types = 4, ["sliding_attention"] * 2 + ["full_attention"]
    windowed = semantic_model(text_config=config)
    windowed.model.language_model.set_attn_implementation(attention)
    inputs = prompt(ITEM)
    scores = references(windowed, inputs)
    assert not torch.allclose(scores, references(model, inputs), atol=1e-3)
    ranked = windowed.rank_items(top_k=SEMANTIC_ITEMS, **inputs)
    check(ranked, scores, [range(SEMANTIC_ITEMS)] * 3, SEMANTIC_ITEMS)


def test_eager_attention_ranks_as_sdpa(levels):
    model, inputs = make(levels), prompt(ITEM)
    scores, items = model.rank_items(top_k=5, **inputs)
    assert model.model.language_model.config._attn_implementation == "sdpa"
    model.set_attn_implementation("eager")
    eager_scores, eager_items = model.rank_items(top_k=5, **inputs)
    assert torch.equal(eager_items, items)
    torch.testing.assert_close(eager_scores, scores, rtol=1e-4, atol=1e-5)


def test_an_attention_that_cannot_read_a_tree_is_refused():
    model, inputs = semantic_model(), prompt(ITEM)
    state = model.read_prompt(**inputs)
    model.model.language_model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(ValueError, match="`attn_implementation` 'flash_attention_2'"):
        model.rank_from(state)
    model.model.language_model.config._attn_implementation = "sdpa"
    model.model.language_model.config.layer_types = ["full_attention", "linear_attention", "full_attention"]
    with pytest.raises(ValueError, match=r"`text_config` of type 'llama'.*'linear_attention'"):
        model.rank_from(state)


def test_the_prompt_and_its_pictures_are_read_once_and_for_all_beams():
    model, inputs = semantic_model(), prompt(ITEM)
    calls = []
    for module in (model.model.vision_encoder, model.model.resampler, *model.model.key_values):
        module.register_forward_hook(lambda module, args, output: calls.append(type(module).__name__))
    model.model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: calls.append(tuple(kwargs["inputs_embeds"].shape[:2])), with_kwargs=True
    )
    model.rank_items(top_k=3, **inputs)
    assert [call for call in calls if isinstance(call, tuple)] == [inputs["input_ids"].shape, (3, 3), (3, 6)]
    assert len(calls) == 3 + 1 + 1 + 3


def test_a_state_can_be_ranked_from_again_and_again(levels):
    model, inputs = make(levels), prompt(ITEM)
    state = model.read_prompt(**inputs)
    kept = [(layer.keys.clone(), layer.values.clone()) for layer in state.past_key_values.layers]
    first = model.rank_from(state, top_k=4)
    model.rank_from(state, top_k=1, exclude=torch.arange(3)[:, None], beam_width=2)
    for layer, (keys, values) in zip(state.past_key_values.layers, kept, strict=True):
        assert torch.equal(layer.keys, keys)
        assert torch.equal(layer.values, values)
    again = model.rank_from(state, top_k=4)
    assert torch.equal(first[1], again[1])
    assert torch.equal(first[0], again[0])
    direct = model.rank_items(top_k=4, **inputs)
    assert torch.equal(first[1], direct[1])
    torch.testing.assert_close(first[0], direct[0])


def test_a_state_that_cannot_be_ranked_from_is_refused():
    atomic, semantic = tiny_model(), semantic_model()
    state = atomic.read_prompt(**prompt(ITEM))
    atomic.add_items(torch.tensor([[5, 6]]))
    with pytest.raises(ValueError, match=r"`state` was read when the model had 6 item codes, now it has 7"):
        atomic.rank_from(state)
    with pytest.raises(ValueError, match="`state` has no cache"):
        semantic.rank_from(semantic.read_prompt(use_cache=False, **prompt(ITEM)))


def test_the_trie_follows_the_items():
    model = semantic_model()
    trie = model.trie
    assert model.trie is trie
    model.model.item_codes.codes = codes_of(SEMANTIC_ITEMS, SIZES, seed=1)
    assert torch.equal(model.trie.codes[0][0], model.model.item_codes.codes[:, 0].min())
    changed = model.trie
    assert changed is not trie
    codes = model.model.item_codes.codes
    codes[[0, 1]] = codes[[1, 0]]  # in place
    assert model.trie.leaf_of_item[:2].tolist() == changed.leaf_of_item[:2].tolist()[::-1]
    atomic = tiny_model()
    assert atomic.trie.num_items == NUM_ITEMS
    atomic.add_items(torch.tensor([[5, 6]]))
    assert atomic.trie.num_items == NUM_ITEMS + 1


# Selecting


@torch.no_grad()
def naive_selection(model, inputs, candidates):
    """The best candidate after what was chosen before, until the end of the chunk is more probable."""
    codes, sizes = codes_and_sizes(model)
    starts = torch.tensor([FIRST_ITEM + sum(sizes[:level]) for level in range(len(sizes))])
    chosen, ending = [], []
    while left := [item for item in candidates if item not in chosen]:
        scores = reference(model, inputs, ending)
        ids = torch.cat([inputs["input_ids"], torch.tensor([ending], dtype=torch.long)], dim=1)
        logits = model(**{**inputs, "input_ids": ids}).logits[0, -1]
        end = logits[[END, *range(FIRST_ITEM, FIRST_ITEM + sizes[0])]].log_softmax(-1)[0]
        # The reference leaves the end of the chunk out: what it would take is taken off again.
        best = max(left, key=lambda item: scores[item].item())
        if chosen and scores[best] + torch.log1p(-end.exp()) < end:
            break
        chosen.append(best)
        ending += (codes[best] + starts).tolist()
    return chosen


def test_selection_equals_scoring_every_candidate_behind_what_was_chosen(decoder, levels):
    model = make(levels, decoder)
    inputs = prompt(ITEM)
    lengths = set()
    for seed in range(4):
        generator = torch.Generator().manual_seed(seed)
        end = model.model.markers.weight.data[1]
        end.copy_(torch.randn(end.shape, generator=generator) * 3)
        candidates = [torch.randperm(NUM_ITEMS, generator=generator)[:size].tolist() for size in (3, 1, 5)]
        chosen = model.select_items(candidates, **inputs)
        assert chosen == [naive_selection(model, single(inputs, row), candidates[row]) for row in range(3)]
        lengths |= set(map(len, chosen))
    assert len(lengths) > 1


def test_selection_reads_the_prompt_once(levels):
    model, inputs = make(levels), prompt(ITEM)
    lengths = []
    model.model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: lengths.append(kwargs["inputs_embeds"].shape[1]), with_kwargs=True
    )
    model.select_items([[0, 1, 2], [3], [4, 5]], **inputs)
    assert lengths[0] == inputs["input_ids"].shape[1]
    assert set(lengths[1:]) <= {levels, 3 * (levels - 1)}


def test_a_candidate_named_twice_is_chosen_once(model):
    chosen = model.select_items([[1, 1, 1]] * 3, **prompt(ITEM))
    assert chosen == [[1]] * 3
