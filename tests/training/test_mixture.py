"""What is shown, what is asked for and what is kept back, for each task."""

import copy
import random
from collections import Counter
from itertools import chain

import pytest
import torch
from datasets import Dataset

from unimp.processing import TASKS
from unimp.training import held_out
from unimp.training.mixture import (
    AlikeBatchesSampler,
    MixtureSettings,
    UniMPCollator,
    later_items,
    lay_out_examples,
    make_sample,
    read_sequence,
    usable_targets,
)

ALL = dict.fromkeys(TASKS, 1.0)


def person(store, length=7, user_id="ann", first=0) -> dict:
    """Somebody who rated, explained and searched for everything."""
    items = store.items["item_id"][first : first + length]
    return {
        "user_id": user_id,
        "item_id": items,
        "timestamp": [1_000_000 + 5_000 * n for n in range(length)],
        "rating": [float(1 + n % 5) for n in range(length)],
        "explanation": [f"reason {n}" for n in range(length)],
        "query": [f"query {n}" for n in range(length)],
        "behavior": ["click"] * (length - 1) + ["purchase"],
    }


def sequences_of(*rows: dict) -> Dataset:
    return Dataset.from_list(list(rows))


def examples_of(sequences, store, rates=ALL, passes=1, seed=0, **settings):
    ids = store.items["item_id"]
    return lay_out_examples(sequences, ids, rates, passes, seed, MixtureSettings(**settings))


@pytest.fixture(params=["code_first", "code_last"])
def in_order(request, processor):
    changed = copy.copy(processor)
    changed.order, changed.full_chunks = request.param, None
    return changed


def labelled_text(processor, batch, row=0) -> list[str]:
    """Runs of labelled tokens as text: `[ITEM_ID]` is a code, `/` the end of a chunk, `.` the end of a text."""
    written, before = [], False
    for label in batch["labels"][row].tolist():
        if label == -100:
            before = False
            continue
        if not before:
            written.append("")
        before = True
        if label >= processor.text_vocab_size:
            code = label - processor.format.first_item_id
            written[-1] += f"[{processor.catalog.item_ids[code]}]" if code >= 0 else "/"
        elif label == processor.tokenizer.eos_token_id:
            written[-1] += "."
        else:
            written[-1] += processor.tokenizer.decode([label])
    return written


# Context reconstruction


@pytest.mark.parametrize("task", ["recommend", "search"])
def test_every_item_of_the_history_is_a_target(in_order, store, task):
    row = person(store)
    [example] = examples_of(sequences_of(row), store, {task: 1.0}, seed=3)
    batch = UniMPCollator(in_order, {}, {})([example])
    shown = [event["item_id"] for event in example["sample"]["history"]] + [example["sample"]["answer"]]
    assert labelled_text(in_order, batch) == [f"[{item_id}]" for item_id in shown]
    end = row["item_id"].index(shown[-1]) + 1
    assert shown == row["item_id"][end - len(shown) : end]


def test_half_of_the_searches_show_no_history(store):
    row = person(store)
    assert len(row["item_id"]) > 4
    samples = examples_of(sequences_of(row), store, {"search": 1.0}, passes=400, history_window=3)[:]["sample"]
    late = [len(sample["history"]) for sample in samples if row["item_id"].index(sample["answer"]) >= 3]
    assert set(late) == {0, 3}
    assert late.count(0) / len(late) == pytest.approx(0.5, abs=0.1)


def test_every_rating_of_the_history_is_a_target(in_order, store):
    sample = make_sample(
        read_sequence(person(store)), 5, "rate", store.items["item_id"], random.Random(0), MixtureSettings()
    )
    batch = UniMPCollator(in_order, {}, {})([{"task": "rate", "sample": sample}])
    assert labelled_text(in_order, batch) == [
        "1.",
        "2.",
        "3.",
        "4.",
        "5.",
        "1.",
    ]  # all five of the history, then the item's


def test_every_explanation_of_the_history_is_a_target(in_order, store):
    events = read_sequence(person(store))
    events[2]["explanation"] = None
    sample = make_sample(events, 3, "explain", store.items["item_id"], random.Random(0), MixtureSettings())
    batch = UniMPCollator(in_order, {}, {})([{"task": "explain", "sample": sample}])
    assert labelled_text(in_order, batch) == ["1: reason 0.", "2: reason 1.", "3.", "4: reason 3."]
    roles = batch["roles"][0]
    assert [UniMPCollator.ROLES[role] for role in roles.unique_consecutive().tolist() if role] == [
        *("rating", "explanation") * 2,
        "rating",
        *("rating", "explanation"),
    ]


def test_of_a_selection_only_the_answer_is_a_target(in_order, store):
    for seed in range(5):
        [example] = examples_of(sequences_of(person(store)), store, {"select": 1.0}, seed=seed)
        batch = UniMPCollator(in_order, {}, {})([example])
        answer = "".join(f"[{item_id}]" for item_id in example["sample"]["answer"])
        assert labelled_text(in_order, batch) == [answer + "/"]


# Nothing is given away


@pytest.mark.parametrize("task", TASKS)
def test_nothing_after_the_target_is_used(store, task):
    events, ids = read_sequence(person(store, 12)), store.items["item_id"]
    other_future = read_sequence(person(store, 12, first=20))
    for target in usable_targets(events, task)[:9]:
        past = events[: target + 1]
        shuffled = past + random.Random(target).sample(events[target + 1 :], k=len(events) - target - 1)
        samples = [
            make_sample(sequence, target, task, ids, random.Random(7), MixtureSettings())
            for sequence in (events, past, shuffled, past + other_future[target + 1 :])
        ]
        assert samples[1:] == samples[:1] * 3
        assert samples[0]["history"] in [past[:-1], past[:-2]]


@pytest.mark.parametrize("task", ["rate", "explain"])
@pytest.mark.parametrize("order", ["code_first", "code_last"])
def test_a_prompt_does_not_depend_on_the_rating_it_asks_for(processor, store, task, order):
    processor = copy.copy(processor)
    processor.order = order
    prompts = []
    for rating, behavior in ((1.0, "view"), (5.0, "purchase")):
        row = person(store)
        row["rating"][-1], row["behavior"][-1], row["explanation"][-1] = rating, behavior, f"because {rating}"
        [sample] = held_out.held_out_samples(sequences_of(row), task, store.items["item_id"])
        batch = UniMPCollator(processor, {}, {})([{"task": task, "sample": sample}])
        asked = processor([held_out.without_answer(sample)], task=task)
        first = (batch["roles"][0] > 0).nonzero()[-1].item()
        while batch["roles"][0, first - 1] > 0:
            first -= 1
        prompts.append({name: batch[name][0, :first].tolist() for name in ("input_ids", "behavior_ids")})
        # What is asked in evaluation is what training showed before the answer.
        assert {name: asked[name][0].tolist() for name in prompts[-1]} == prompts[-1]
    assert prompts[0] == prompts[1]


def test_no_behaviour_tells_a_rating_that_is_to_be_predicted(processor, store):
    with_ratings, without = person(store), person(store)
    without["rating"] = [None] * 5 + [5.0, 5.0]
    ids = store.items["item_id"]
    for task, same in (("explain", True), ("recommend", False)):
        rows = [read_sequence(row) for row in (with_ratings, without)]
        samples = [make_sample(events, 5, task, ids, random.Random(0), MixtureSettings()) for events in rows]
        batches = [processor([sample], task=task, training=True)["behavior_ids"] for sample in samples]
        kinds = [batch[0][batch[0].any(-1)] for batch in batches]
        assert torch.equal(*kinds) == same


@pytest.mark.parametrize("task", ["rate", "explain"])
def test_of_an_item_that_is_asked_about_neither_kind_nor_time_is_known(processor, store, task):
    """Nobody has done it yet who asks; of the events before it both are."""
    timed = copy.copy(processor)
    timed.periods = [1_000_000.0, 1_012_000.0]
    [example] = examples_of(sequences_of(person(store)), store, {task: 1.0}, behavior_dropout=0.0, seed=2)
    assert {"rating", "explanation", "query"} <= set(example["sample"]["item"])
    assert not {"behavior", "timestamp"} & set(example["sample"]["item"])
    assert all({"behavior", "timestamp"} <= set(event) for event in example["sample"]["history"])
    batch = UniMPCollator(timed, {}, {})([example])
    codes = batch["input_ids"][0] >= timed.format.first_item_id
    *before, asked = batch["behavior_ids"][0][codes].tolist()
    assert before[-1][1:] != [0, 0, 0]
    assert asked == [0, 0, 0, 0]


def test_a_hidden_history_has_no_period(store, processor):
    timed = copy.copy(processor)
    timed.periods = [1_000_000.0, 1_012_000.0]
    for dropout, hidden in ((1.0, True), (0.0, False)):
        [example] = examples_of(sequences_of(person(store)), store, {"recommend": 1.0}, behavior_dropout=dropout)
        told = UniMPCollator(timed, {}, {})([example])["behavior_ids"]
        assert (told[..., 3] > 0).any() != hidden
        assert told.any() != hidden


def test_an_item_to_be_predicted_has_no_behaviour(processor, store):
    [example] = examples_of(sequences_of(person(store)), store, {"recommend": 1.0}, behavior_dropout=0.0)
    batch = UniMPCollator(processor, {}, {})([example])
    assert batch["labels"][0, -1] != -100
    assert not batch["behavior_ids"][0, -1].any()
    assert batch["behavior_ids"][0, :-1].any()


# Selections


def draw_selections(store, number=300, target=6):
    events, ids = read_sequence(person(store)), store.items["item_id"]
    settings = MixtureSettings()
    return events, [make_sample(events, target, "select", ids, random.Random(n), settings) for n in range(number)]


def test_of_selections_six_in_ten_have_one_positive(store):
    events, samples = draw_selections(store)
    counts = Counter(len(sample["answer"]) for sample in samples)
    assert set(counts) == {1, 2}
    assert 0.5 < counts[1] / len(samples) < 0.7
    for sample in samples:
        assert len(set(sample["candidates"])) == 3
        chosen = [event["item_id"] for event in events[7 - len(sample["answer"]) : 7]]
        assert set(sample["answer"]) == set(chosen)
        assert sample["history"] == events[: 7 - len(chosen)]
        known = {event["item_id"] for event in events[:7]}
        assert not known & (set(sample["candidates"]) - set(chosen))


def test_the_place_of_a_positive_tells_nothing(store):
    places = Counter(
        sample["candidates"].index(item_id) for sample in draw_selections(store)[1] for item_id in sample["answer"]
    )
    assert max(places.values()) < 1.5 * min(places.values())


def test_each_person_is_tested_with_other_candidates(store):
    rows = [person(store, user_id=f"user {n}") for n in range(60)]
    samples = held_out.held_out_samples(sequences_of(*rows), "select", store.items["item_id"])
    places = Counter(sample["candidates"].index(sample["answer"][0]) for sample in samples)
    assert set(places) == {0, 1, 2}
    assert len({tuple(sample["candidates"]) for sample in samples}) > 50
    assert {len(sample["answer"]) for sample in samples} == {1, 2}
    # ... and with the same ones however many people are tested with them.
    alone = held_out.held_out_samples(sequences_of(rows[33]), "select", store.items["item_id"])
    assert alone[:] == [samples[33]]


def test_a_catalogue_may_have_fewer_items_than_candidates(store):
    events = read_sequence(person(store, 3))
    for seed in range(5):
        ids = store.items["item_id"][:4]
        sample = make_sample(events, 2, "select", ids, random.Random(seed), MixtureSettings())
        assert len(sample["candidates"]) == len(sample["answer"]) + 1


# The mixture


def test_the_seed_decides_everything(split, store):
    first, again, other = (examples_of(split.train, store, seed=seed)[:40] for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_rates_and_passes(store):
    sequences = sequences_of(*(person(store, user_id=f"user {n}") for n in range(200)))
    examples = examples_of(sequences, store, {"recommend": 1.0, "search": 0.25, "rate": 2.5, "select": 0.0}, passes=2)
    counts = Counter(examples.with_format(None)["task"])
    assert (counts["recommend"], counts["rate"]) == (400, 1000)
    assert 70 <= counts["search"] <= 130
    assert set(counts) == {"recommend", "search", "rate"}


def test_long_histories_are_covered(store):
    sequences = sequences_of(person(store, 33))
    examples = examples_of(sequences, store, {"recommend": 1.0}, passes=100, history_window=10)
    assert len(examples) == 4 * 100
    targets = [store.items["item_id"].index(sample["answer"]) for sample in examples[:]["sample"]]
    assert set(targets) == set(range(10, 33))
    assert {len(sample["history"]) for sample in examples[:]["sample"]} == {10}


@pytest.mark.parametrize(
    ("task", "dense", "targets"),
    [
        ("recommend", True, {6}),
        ("recommend", False, set(range(1, 7))),
        ("rate", True, {6}),
        ("rate", False, set(range(7))),
        ("search", True, set(range(7))),
    ],
)
def test_which_event_a_short_history_is_asked_for(store, task, dense, targets):
    examples = examples_of(sequences_of(person(store)), store, {task: 1.0}, passes=90, dense=dense)
    asked = [sample.get("answer") or sample["item"]["item_id"] for sample in examples[:]["sample"]]
    answers = {store.items["item_id"].index(item_id) for item_id in asked}
    assert answers == targets


def test_a_task_without_answers_is_left_out_and_reported(store, caplog):
    row = person(store)
    row["query"], row["explanation"], row["rating"] = [None] * 7, [""] * 7, [float("nan")] * 6 + [3.0]
    with caplog.at_level("INFO"):
        examples = examples_of(sequences_of(row), store)
    assert set(examples.with_format(None)["task"]) == {"recommend", "rate", "select"}
    assert "Left out, as no event has an answer to it: search, explain." in caplog.text
    assert {sample["item"]["rating"] for sample in examples[:]["sample"] if "item" in sample} == {3.0}


def test_a_person_of_one_event(store):
    examples = examples_of(sequences_of(person(store, 1)), store)
    assert set(examples.with_format(None)["task"]) == {"search", "rate", "explain"}
    assert len(examples_of(sequences_of(person(store, 1)), store, {"recommend": 1.0})) == 0


@pytest.mark.parametrize("task", TASKS)
def test_one_wording_is_never_trained_with(split, store, task):
    examples = examples_of(split.train, store, {task: 1.0}, passes=4)
    trained = {sample["instruction"] for sample in examples[:]["sample"]}
    assert trained == set(TASKS[task].instructions)
    tested = held_out.held_out_samples(split.test, task, store.items["item_id"])
    assert {sample["instruction"] for sample in tested} == {TASKS[task].held_out_instruction}


def test_behaviours_of_the_history_are_hidden_at_times(store):
    examples = examples_of(sequences_of(person(store)), store, passes=300, behavior_dropout=0.3)[:]
    hidden = Counter()
    for task, sample in zip(examples["task"], examples["sample"], strict=True):
        if sample["history"]:
            keys = {key for event in sample["history"] for key in event}
            assert keys & {"rating", "behavior", "timestamp"} in (set(), {"rating", "behavior", "timestamp"})
            hidden[task, "rating" in keys] += 1
        assert "item" not in sample or {"rating", "explanation"} <= set(sample["item"])
    for task in TASKS:
        assert 0.2 < hidden[task, False] / (hidden[task, False] + hidden[task, True]) < 0.4


def test_an_example_is_the_same_alone_and_among_others(split, store):
    examples = examples_of(split.train, store)
    assert [examples[n] for n in (3, 17)] == [
        {key: values[n] for key, values in examples[:20].items()} for n in (3, 17)
    ]


def test_large_data_is_laid_out_in_seconds():
    users, events = 600, 150
    sequences = Dataset.from_dict(
        {
            "user_id": [str(n) for n in range(users)],
            "item_id": [[f"item {(7 * n + e) % 3000}" for e in range(events)] for n in range(users)],
            "timestamp": [list(range(events))] * users,
            "rating": [[3.0] * events] * users,
        }
    )
    ids = [f"item {n}" for n in range(3000)]
    examples = lay_out_examples(sequences, ids, ALL, 10, 0, MixtureSettings())
    assert len(examples) == users * 10 * (3 + 3 + 1)  # recommend and rate in windows of 50
    assert len(examples[:500]["sample"]) == 500


def batches_of(tasks, lengths, batch_size, seed) -> list[list[int]]:
    order = list(AlikeBatchesSampler(tasks, lengths, batch_size=batch_size, seed=seed))
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def test_batches_hold_requests_of_one_kind_in_an_order_that_the_seed_settles():
    tasks = ["recommend", "rate", "search", "explain", "select"] * 13
    lengths = [3] * 65
    batches = batches_of(tasks, lengths, 4, 1)
    assert sorted(chain.from_iterable(batches)) == list(range(len(tasks)))
    alike = {"recommend": 0, "search": 0, "select": 1, "rate": 2, "explain": 3}
    kinds = [[alike[tasks[index]] for index in batch] for batch in batches]
    assert sum(len(set(batch)) > 1 for batch in kinds) <= 3  # where the kinds meet
    assert [batch[0] for batch in kinds] != sorted(batch[0] for batch in kinds)  # the kinds take turns
    assert len(batches[-1]) == 1  # 65 examples: the short batch comes last
    assert batches_of(tasks, lengths, 4, 1) == batches
    assert batches_of(tasks, lengths, 4, 2) != batches


def test_batches_hold_requests_of_like_lengths():
    rng = random.Random(0)
    lengths = [rng.randint(1, 50) for _ in range(8 * 50 * 2 + 5)]  # two stretches, and a few more
    tasks = ["recommend"] * len(lengths)
    batches = batches_of(tasks, lengths, 8, 3)
    assert sorted(chain.from_iterable(batches)) == list(range(len(lengths)))
    assert [len(batch) for batch in batches] == [8] * 100 + [5]
    spreads = sorted(max(lengths[n] for n in batch) - min(lengths[n] for n in batch) for batch in batches[:-1])
    assert spreads[-1] <= 4
    assert sum(spreads) / len(spreads) < 1.5  # a batch of 8 by chance has one of about 39
    assert batches_of(tasks, lengths, 8, 3) == batches
    assert batches_of(tasks, lengths, 8, 4) != batches


def test_batches_of_like_lengths_come_in_random_order_and_are_not_always_the_same():
    lengths = list(range(1, 41)) * 10  # one stretch of 50 batches
    tasks = ["search"] * len(lengths)
    first, second = (batches_of(tasks, lengths, 8, seed) for seed in (0, 1))
    for batches in (first, second):
        means = torch.tensor([sum(lengths[n] for n in batch) / 8 for batch in batches])
        places = torch.arange(len(batches)).float()
        assert abs(torch.corrcoef(torch.stack([means, places]))[0, 1]) < 0.5  # 1 if the short ones came first
    assert {frozenset(batch) for batch in first} != {frozenset(batch) for batch in second}


def test_sorting_reaches_no_further_than_a_stretch():
    """Else every pass over a large data set would have the same batches of its very longest people."""
    lengths = [1] * 400 + [50] * 400
    order = list(AlikeBatchesSampler(["recommend"] * 800, lengths, batch_size=8, seed=0))
    batches = [{lengths[n] for n in order[start : start + 8]} for start in range(0, 800, 8)]
    assert sum(len(batch) > 1 for batch in batches) == 2  # once in each of the two stretches
    assert {1} in batches
    assert {50} in batches


@pytest.mark.parametrize("count", [1, 3, 4])
def test_a_batch_that_is_all_there_is(count):
    [batch] = batches_of(["rate"] * count, [2] * count, 4, 0)
    assert sorted(batch) == list(range(count))


def test_examples_know_how_long_their_histories_are(store):
    sequences = sequences_of(person(store, 4, "ann"), person(store, 33, "ben"), person(store, 1, "cat"))
    examples = examples_of(sequences, store, passes=2, history_window=10)
    rows = examples.with_format(None)[:]
    assert len(set(rows["length"])) > 3
    assert max(rows["length"]) == 10
    for task, length, sample in zip(rows["task"], rows["length"], examples[:]["sample"], strict=True):
        # A selection may also ask about the event before.
        assert length - (task == "select") <= len(sample["history"]) <= length


# Later items


def naive_later(labels, is_item, num_later):
    later = [[[-100] * num_later for _ in row] for row in labels]
    for n, row in enumerate(labels):
        for place in range(len(row)):
            if is_item[n][place]:
                following = [row[p] for p in range(place + 1, len(row)) if is_item[n][p]]
                later[n][place][: len(following[:num_later])] = following[:num_later]
    return later


def test_later_items_of_a_table():
    no = -100
    labels = torch.tensor([[no, 7, no, 8, 3, 9, no], [5, no, no, no, no, 3, 6], [no] * 7])
    is_item = torch.tensor([[0, 1, 0, 1, 0, 1, 0], [1, 0, 0, 0, 0, 0, 1], [0] * 7]).bool()  # 3 is a word
    later = later_items(labels, is_item, 2)
    none = [no, no]
    assert later.tolist() == [
        [none, [8, 9], none, [9, no], none, none, none],
        [[6, no], none, none, none, none, none, none],
        [none] * 7,
    ]
    assert later_items(labels, is_item, 1)[..., 0].tolist() == [[row[0] for row in rows] for rows in later.tolist()]
    assert labels[0].tolist() == [no, 7, no, 8, 3, 9, no]  # left as it was


@pytest.mark.parametrize("num_later", [1, 2, 5])
def test_later_items_are_those_of_a_naive_loop(num_later):
    generator = torch.Generator().manual_seed(num_later)
    for share in (0.0, 0.2, 0.6, 1.0):
        labels = torch.randint(0, 100, (4, 17), generator=generator)
        is_item = torch.rand(labels.shape, generator=generator) < share
        later = later_items(labels, is_item, num_later)
        assert later.shape == (4, 17, num_later)
        assert later.tolist() == naive_later(labels.tolist(), is_item.tolist(), num_later)


def test_a_history_expects_the_items_to_come(in_order, store):
    row = person(store)
    [example] = examples_of(sequences_of(row), store, {"recommend": 1.0}, seed=3)
    batch = UniMPCollator(in_order, {}, {}, num_later=2)([example])
    items = [in_order.format.first_item_id + in_order.catalog.position(item_id) for item_id in row["item_id"]]
    labelled = batch["labels"][0] != -100
    assert batch["labels"][0][labelled].tolist() == items
    expected = [[*items, -100, -100][n + 1 : n + 3] for n in range(len(items))]
    assert batch["later_labels"][0][labelled].tolist() == expected
    assert (batch["later_labels"][0][~labelled] == -100).all()


@pytest.mark.parametrize("task", ["select", "rate", "explain"])
def test_where_no_order_of_items_is_predicted_none_is_expected_later(processor, store, task):
    """The chosen candidates are a set, and ratings and words are no items."""
    for seed in range(6):
        [example] = examples_of(sequences_of(person(store)), store, {task: 1.0}, seed=seed)
        batch = UniMPCollator(processor, {}, {}, num_later=2)([example])
        assert (batch["labels"] != -100).any()
        assert (batch["later_labels"] == -100).all()


def test_of_mixed_tasks_each_row_has_its_own_later_items(processor, store):
    examples = [
        examples_of(sequences_of(person(store)), store, {task: 1.0}, seed=0)[0]
        for task in ("select", "recommend", "explain", "search")
    ]
    later = UniMPCollator(processor, {}, {}, num_later=1)(examples)["later_labels"]
    assert [bool((row != -100).any()) for row in later] == [False, True, False, True]


def test_without_later_items_nothing_is_added(processor, store):
    [example] = examples_of(sequences_of(person(store)), store, {"recommend": 1.0})
    plain, with_later = (UniMPCollator(processor, {}, {}, num_later=number)([example]) for number in (0, 2))
    assert set(with_later) - set(plain) == {"later_labels"}
    assert all(torch.equal(plain[name], with_later[name]) for name in plain)
    assert set(UniMPCollator(processor, {}, {})([example])) == set(plain)
