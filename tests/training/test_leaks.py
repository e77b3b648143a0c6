"""Nothing of what is to be predicted reaches who predicts it: not its future, and not the order of the ids."""

import numpy as np
import pytest
import torch
from datasets import Dataset

from unimp.processing import TASKS, Catalog
from unimp.processing.splits import leave_one_out, make_split
from unimp.processing.store import make_store
from unimp.training.evaluation import rank_answers
from unimp.training.held_out import held_out_samples, without_answer
from unimp.training.metrics import ranking_values

SPLITS = ("leave_one_out", "leave_last_3", "user_holdout", "cold_items", "new_domain")
# What a request tells of the event it is about; everything else of that event is to be predicted, or not known yet.
ASKED = {
    "recommend": (),
    "search": ("query",),
    "rate": ("item_id",),
    "explain": ("item_id",),
    "select": ("item_id",),  # one of three candidates
}


@pytest.fixture(scope="module", params=SPLITS)
def any_split(request, store):
    name = request.param
    return make_split(store, f"new_domain:category={store.items['category'][0]}" if name == "new_domain" else name)


def with_another_end(rows, item_ids, kept):
    """The same rows, but of their last events everything is otherwise except for the columns that are `kept`."""
    changed = []
    for row in rows:
        row = {name: list(values) if isinstance(values, list) else values for name, values in row.items()}
        other = next(item_id for item_id in item_ids if item_id not in row["item_id"])
        ends = {"item_id": other, "explanation": "something else", "query": "anything else"}
        ends |= {"timestamp": row["timestamp"][-1] + 10**6, "rating": 1.0 if row["rating"][-1] == 5 else 5.0}
        for name in set(ends).difference(kept):
            row[name][-1] = None if row[name][-1] is None else ends[name]  # the same rows can be asked about
        changed.append(row)
    return Dataset.from_list(changed)


@pytest.mark.parametrize("task", list(TASKS))
@pytest.mark.parametrize("part", ["test", "validation"])
def test_what_a_model_reads_does_not_depend_on_what_comes_next(any_split, part, task, processor):
    rows = getattr(any_split, part).select(range(min(20, len(getattr(any_split, part)))))
    item_ids = processor.catalog.item_ids
    samples = held_out_samples(rows, task, item_ids)
    others = held_out_samples(with_another_end(rows, item_ids, ASKED[task]), task, item_ids)
    assert len(samples) == len(others) > 0
    told = [[without_answer(sample) for sample in asked] for asked in (samples, others)]
    assert told[0] == told[1]
    inputs, same = (processor(requests, task=task) for requests in told)
    assert inputs.keys() == same.keys()
    assert all(torch.equal(inputs[name], same[name]) for name in inputs)


def test_the_change_above_is_one_that_answers_show(split, processor):
    """Otherwise nothing would be tested."""
    item_ids = processor.catalog.item_ids
    for task in TASKS:
        samples = held_out_samples(split.test, task, item_ids)
        others = held_out_samples(with_another_end(split.test, item_ids, ASKED[task]), task, item_ids)
        if task in ("rate", "explain"):
            assert samples[0]["item"] != others[0]["item"]
        elif task != "select":
            assert samples[0]["answer"] != others[0]["answer"]


def test_nothing_that_is_tested_is_trained_on(any_split):
    def events(rows, whole):
        for row in rows:
            triples = list(zip([row["user_id"]] * len(row["item_id"]), row["item_id"], row["timestamp"], strict=True))
            yield from triples if whole else triples[-1:]

    trained = set(events(any_split.train, whole=True))
    tested, validated = (set(events(rows, whole=False)) for rows in (any_split.test, any_split.validation))
    assert trained
    assert tested
    assert not trained & tested
    assert not trained & validated
    assert not tested & validated
    for _, item_id, _ in trained | set(events(any_split.validation, whole=True)):
        assert item_id not in any_split.new_items


def test_there_is_nothing_to_peek_at(split, processor):
    """A model that looks for the answer anywhere in its request finds no more than what was chosen before."""

    def texts(value):
        if isinstance(value, dict):
            return set().union(*map(texts, value.values()))
        return set().union(*map(texts, value)) if isinstance(value, list) else {value}

    for sample in held_out_samples(split.test, "recommend", processor.catalog.item_ids):
        before = {event["item_id"] for event in sample["history"]}
        assert texts(without_answer(sample)) & set(processor.catalog.item_ids) == before


NUM_ITEMS, NUM_USERS, NUM_EVENTS = 200, 150, 6


def log_in_order_of_ids(rename):
    """Everyone chooses items that the log names one after the other, as raw logs do that number items as they come."""
    starts = np.random.default_rng(0).integers(0, NUM_ITEMS, NUM_USERS)
    items = (starts[:, None] + np.arange(NUM_EVENTS)) % NUM_ITEMS
    ids = [f"item-{rename[number]:04}" for number in range(NUM_ITEMS)]
    events = {
        "user_id": np.repeat([f"u{user}" for user in range(NUM_USERS)], NUM_EVENTS),
        "item_id": [ids[number] for number in items.ravel()],
        "timestamp": np.tile(np.arange(NUM_EVENTS), NUM_USERS),
    }
    return make_store(Dataset.from_dict({"item_id": sorted(ids)}), Dataset.from_dict(events))


@pytest.mark.parametrize("shuffled", [False, True])
def test_the_order_of_ids_helps_no_one_once_they_are_shuffled(shuffled):
    """What the next id is tells everything of such a log as it is, and nothing of a copy with other ids."""
    order = np.random.default_rng(1).permutation(NUM_ITEMS) if shuffled else np.arange(NUM_ITEMS)
    store = log_in_order_of_ids(order)
    catalog = Catalog.from_items(store.items.to_list())
    samples = held_out_samples(leave_one_out(store.interactions).test, "recommend", catalog.item_ids)

    def next_id(batch):
        last = torch.tensor([catalog.position(sample["history"][-1]["item_id"]) for sample in batch])
        return -((torch.arange(NUM_ITEMS) - last[:, None] - 1) % NUM_ITEMS).float()

    def peeking(batch):
        """Of what it is given, whatever is no history."""
        scores = torch.zeros(len(batch), NUM_ITEMS)
        for row, sample in zip(scores, map(without_answer, batch), strict=True):
            named = str({key: value for key, value in sample.items() if key != "history"})
            row[[code for code, item_id in enumerate(catalog.item_ids) if item_id in named]] = 1
        return scores

    rankings = rank_answers({"next id": next_id, "peeking": peeking}, samples, "recommend", catalog)
    left = NUM_ITEMS - NUM_EVENTS + 1
    assert rankings["peeking"].ranks.tolist() == [(left + 1) / 2] * NUM_USERS
    hits = {name: own.mean() for name, own in ranking_values(rankings["next id"].ranks, cutoffs=(1, 20)).items()}
    if shuffled:  # chance, within four standard errors
        assert hits["hr@1"] < 1 / left + 4 * (1 / left / NUM_USERS) ** 0.5
        assert hits["hr@20"] == pytest.approx(20 / left, abs=4 * (20 / left / NUM_USERS) ** 0.5)
    else:
        assert hits["hr@1"] == 1
