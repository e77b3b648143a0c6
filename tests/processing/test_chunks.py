"""Every token of every task, and the rules that the chunk format keeps in training and inference."""

import datetime
import random

import pytest
import torch

from unimp import Catalog
from unimp.processing import TASKS
from unimp.processing.catalog_unimp import flatten_attributes, flatten_value
from unimp.processing.chunks_unimp import (
    EXPLANATION_ROLE,
    FIRST_GAP,
    FIRST_KIND,
    FIRST_PERIOD,
    FIRST_RATING,
    ITEM_ROLE,
    MARKERS,
    NO_ROLE,
    PERIOD_BUCKETS,
    QUERY_ANSWER_ROLE,
    RATING_ROLE,
    Event,
    Tokens,
    rating_scale,
)
from unimp.processing.processing_unimp import UniMPProcessor
from unimp.processing.tasks_unimp import read_answer, write_answer

from .conftest import draw_picture, make_model, make_processor, make_request, word_tokenizer

WORDS = ["Go", "title", ":", "Hat", "Cap", "Bag", "3", "4", "nice", "good", "query", "red", "candidates", ";"]
ROLE_NAMES = {NO_ROLE: "", ITEM_ROLE: "I", RATING_ROLE: "R", EXPLANATION_ROLE: "E", QUERY_ANSWER_ROLE: "Q"}

# The items: `hat` has a picture and a title, `cap` a title, `bag` a picture. `^I`: an item label, `^Q`: what answers
# a query, `^R`, `^E`: of the rating and the explanation. The events of the history, where a table has two: hat (rated
# 3, "nice"), then cap.
HAT, CAP, BAG = "<image> title : Hat", "title : Cap", "<image>"
TABLE = {
    # recommend, search: the codes of the history and the answer are predicted
    ("recommend", "code_first", None): f"Go END hat^I {HAT} END cap^I {CAP} END | bag^I",
    ("recommend", "code_first", 1): f"Go END hat^I cap^I {CAP} END | bag^I",
    ("recommend", "code_first", 0): "Go END hat^I cap^I | bag^I",
    ("recommend", "code_last", None): f"Go END {HAT} ITEM hat^I END {CAP} ITEM cap^I END ITEM | bag^I",
    ("recommend", "code_last", 1): f"Go END hat^I {CAP} ITEM cap^I END ITEM | bag^I",
    ("recommend", "code_last", 0): "Go END hat^I cap^I ITEM | bag^I",
    ("search", "code_first", None): f"Go END hat^I {HAT} END cap^I {CAP} END query : red ITEM | bag^Q",
    ("search", "code_first", 0): "Go END hat^I cap^I query : red ITEM | bag^Q",
    ("search", "code_last", 1): f"Go END hat^I {CAP} ITEM cap^I END query : red ITEM | bag^Q",
    # rate: codes and what the history shows of ratings, which is predicted as well; the recent items and
    # the one in question in full, or none of them
    ("rate", "code_first", 0): "Go END hat ANSWER 3^R eos^R cap bag ANSWER | 4^R eos^R",
    ("rate", "code_first", 1): f"Go END hat ANSWER 3^R eos^R cap {CAP} END bag {BAG} ANSWER | 4^R eos^R END",
    ("rate", "code_first", None): (
        f"Go END hat {HAT} ANSWER 3^R eos^R END cap {CAP} END bag {BAG} ANSWER | 4^R eos^R END"
    ),
    ("rate", "code_last", 0): "Go END hat ANSWER 3^R eos^R cap bag ANSWER | 4^R eos^R",
    ("rate", "code_last", None): (
        f"Go END {HAT} ANSWER 3^R eos^R ITEM hat END {CAP} ITEM cap END {BAG} ANSWER | 4^R eos^R ITEM bag END"
    ),
    # explain: always in full; what the history shows is predicted as well, the codes are not
    ("explain", "code_first", 1): (
        f"Go END hat {HAT} ANSWER 3^R :^E nice^E eos^E END cap {CAP} END bag {BAG} ANSWER | 4^R :^E good^E eos^E END"
    ),
    ("explain", "code_last", None): (
        f"Go END {HAT} ANSWER 3^R :^E nice^E eos^E ITEM hat END {CAP} ITEM cap END "
        f"{BAG} ANSWER | 4^R :^E good^E eos^E ITEM bag END"
    ),
    # select: nothing of the history is predicted; the end of the answer is
    ("select", "code_first", 0): (
        f"Go END hat {HAT} END cap {CAP} END candidates : bag {BAG} END hat {HAT} END ITEM | hat^I END^I"
    ),
    ("select", "code_last", None): (
        f"Go END {HAT} ITEM hat END {CAP} ITEM cap END candidates : {BAG} ITEM bag END {HAT} ITEM hat END ITEM "
        "| hat^I END^I"
    ),
}


@pytest.fixture(scope="module")
def word_catalog():
    items = [{"item_id": "hat", "title": "Hat"}, {"item_id": "cap", "title": "Cap"}, {"item_id": "bag"}]
    for seed in (0, 2):
        items[seed]["image"] = draw_picture(seed)
    return Catalog.from_items(items)


def word_processor(catalog, **settings):
    image_processor = make_processor(catalog).image_processor
    processor = UniMPProcessor(image_processor, word_tokenizer(WORDS), **settings)
    processor.catalog = catalog
    return processor


def token_names(processor):
    """Name of every token id, as the tables write it."""
    names = dict(enumerate(["pad", "eos", "unk", *WORDS]))
    markers = dict(zip(MARKERS, ("<image>", "END", "ITEM", "ANSWER"), strict=True))
    names |= {token: markers[marker] for marker, token in processor.format.marker_ids.items()}
    first = processor.format.first_item_id
    return names | {first + code: item_id for code, item_id in enumerate(processor.catalog.item_ids)}


def spell(processor, batch, row=0):
    """A row of a batch as the tables write it."""
    names, mask = token_names(processor), batch["attention_mask"][row].bool()
    ids = batch["input_ids"][row][mask].tolist()
    roles = batch["roles"][row][mask].tolist() if "roles" in batch else [NO_ROLE] * len(ids)
    return " ".join(
        names[token] + (f"^{ROLE_NAMES[role]}" if role else "") for token, role in zip(ids, roles, strict=True)
    )


def word_request(task):
    sample = {"history": [{"item_id": "hat", "rating": 3, "explanation": "nice"}, "cap"], "instruction": "Go"}
    if task in ("rate", "explain"):
        return sample | {"item": {"item_id": "bag", "rating": 4, "explanation": "good"}}
    if task == "select":
        return sample | {"candidates": ["bag", "hat"], "answer": ["hat"]}
    return sample | {"answer": "bag"} | ({"query": "red"} if task == "search" else {})


@pytest.mark.parametrize(("task", "order", "full_chunks"), TABLE)
def test_every_token_and_label(word_catalog, task, order, full_chunks):
    processor = word_processor(word_catalog, order=order, full_chunks=full_chunks)
    prompt, answer = TABLE[task, order, full_chunks].split(" | ")
    batch = processor(word_request(task), task=task, training=True)
    assert spell(processor, batch) == f"{prompt} {answer}"
    labels = batch["labels"][0]
    assert torch.equal(labels, batch["input_ids"][0].where(batch["roles"][0] != NO_ROLE, torch.tensor(-100)))
    asked = processor(word_request(task), task=task)
    assert spell(processor, asked) == prompt.replace("^I", "").replace("^R", "").replace("^E", "")
    assert "labels" not in asked
    assert "roles" not in asked


def test_the_pictures_of_the_table(word_catalog):
    processor = word_processor(word_catalog, full_chunks=None)
    batch = processor([word_request("select"), word_request("recommend")], task=["select", "recommend"])
    index = batch["image_index"].tolist()
    hat, bag = index[0][0], index[0][1]
    assert {hat, bag} == {0, 1}
    assert index == [[hat, bag, hat], [hat, -1, -1]]
    assert len(batch["pixel_values"]) == 2


# A different person for each seed: known and new items, everything an event can carry.


def random_event(rng, processor):
    item = rng.choice(processor.catalog.item_ids)
    if rng.random() < 0.25:
        new = {"title": "New thing", "size": rng.randint(30, 50)}
        return new | ({"image": draw_picture(rng.randint(0, 3))} if rng.random() < 0.5 else {})
    if rng.random() < 0.3:
        return item
    event = {"item_id": item}
    values = {
        "rating": rng.randint(1, 5),
        "explanation": "So so",
        "behavior": "view",
        "timestamp": 1000 * rng.random(),
    }
    return event | {key: value for key, value in values.items() if rng.random() < 0.6}


def random_request(task, seed, processor):
    rng = random.Random(seed)
    history = [random_event(rng, processor) for _ in range(rng.randint(0, 9))]
    return make_request(task, history, answer=True)


@pytest.mark.parametrize("full_chunks", [0, 1, None])
def test_the_inference_prompt_begins_the_training_sequence(task, order, full_chunks):
    processor = make_processor(order=order, full_chunks=full_chunks)
    for seed in range(12):
        processor.max_length = 1500 if seed % 2 else 420
        sample = random_request(task, seed, processor)
        trained = processor(sample, task=task, training=True)
        asked = processor({key: value for key, value in sample.items() if key != "answer"}, task=task)
        length = asked["input_ids"].shape[1]
        for key in ("input_ids", "behavior_ids", "attention_mask"):
            assert torch.equal(trained[key][:, :length], asked[key])
        assert set(trained) - set(asked) == {"labels", "roles"}
        for key in set(asked) - {"input_ids", "behavior_ids", "attention_mask", "history_scores"}:
            assert torch.equal(trained[key], asked[key])
        # The answer comes next, and it is what is trained on.
        assert trained["input_ids"].shape[1] > length
        assert trained["labels"][0, length] == trained["input_ids"][0, length]


@pytest.fixture(scope="module")
def model():
    return make_model(make_processor())


@pytest.mark.parametrize("full_chunks", [0, 1, None])
def test_a_label_follows_a_token_after_which_its_kind_is_predicted(model, task, order, full_chunks):
    processor = make_processor(order=order, full_chunks=full_chunks)
    for seed in range(8):
        batch = processor(random_request(task, seed, processor), task=task, training=True)
        labels, before = batch["labels"][:, 1:], batch["input_ids"][:, :-1]
        assert batch["labels"][0, 0] == -100  # nothing comes before it
        is_item = torch.isin(batch["roles"][:, 1:], torch.tensor([ITEM_ROLE, QUERY_ANSWER_ROLE]))
        labelled = labels != -100
        assert labelled.any()
        assert torch.equal(model._next_levels(before)[labelled] >= 0, is_item[labelled])
        text = labels[labelled & ~is_item]
        assert (text < processor.text_vocab_size).all()
        assert (
            labels[is_item] < model.config.vocab_size
        ).all()  # never a new item, which has no row to be predicted by
        with torch.no_grad():
            loss = model(**{key: value for key, value in batch.items() if key != "roles"}).loss
        assert torch.isfinite(loss)
        assert loss < 1e4  # no label is among what its position rules out
        asked = processor(random_request(task, seed, processor), task=task)
        answers_with_item = TASKS[task].answer == "item"
        assert (model._next_levels(asked["input_ids"])[0, -1] >= 0) == answers_with_item


# Behaviours


def behaviors(processor, event, task="recommend"):
    """Rating, kind, gap and period of the first event of a history of two."""
    batch = processor(make_request(task, [event, "hat"]), task=task)
    code = processor.format.first_item_id + processor.catalog.position(event["item_id"])
    return batch["behavior_ids"][0][batch["input_ids"][0] == code].tolist()[0]


def test_behaviors_of_an_event(processor):
    assert behaviors(processor, {"item_id": "coat"}) == [0, 0, 0, 0]
    assert behaviors(processor, {"item_id": "coat", "rating": 1}) == [FIRST_RATING, 0, 0, 0]
    assert behaviors(processor, {"item_id": "coat", "rating": 5.0}) == [FIRST_RATING + 9, 0, 0, 0]
    assert behaviors(processor, {"item_id": "coat", "behavior": "view"}) == [0, FIRST_KIND + 1, 0, 0]
    assert processor.num_behaviors == FIRST_KIND + 2


@pytest.mark.parametrize(("gap", "row"), [(0, 0), (1, 0), (3600, 7), (10**12, 19), (-5, 0)])
def test_the_time_since_the_event_before(processor, gap, row):
    history = [{"item_id": "coat", "timestamp": 100}, "hat", {"item_id": "belt", "timestamp": 100 + gap}]
    batch = processor({"history": history})
    codes = [
        processor.format.first_item_id + processor.catalog.position(item_id) for item_id in ("coat", "hat", "belt")
    ]
    gaps = [batch["behavior_ids"][0][batch["input_ids"][0] == code][0, 2].item() for code in codes]
    assert gaps == [0, 0, FIRST_GAP + row]


@pytest.mark.parametrize(
    ("periods", "time", "row"),
    [
        ([], 150, None),  # no periods, nothing to say
        ([100, 200], None, None),  # no time, nothing to say
        ([100, 200], 0, 0),
        ([100, 200], 99.9, 0),
        ([100, 200], 100, 1),  # a period begins with its time
        ([100, 200], 199.9, 1),
        ([100, 200], 200, 2),
        ([100, 200], 10**12, 2),
        ([100, 100, 200], 100, 2),
        (range(PERIOD_BUCKETS - 1), 10**12, PERIOD_BUCKETS - 1),
        (range(PERIOD_BUCKETS - 1), -1, 0),
    ],
)
def test_the_period_of_the_calendar(periods, time, row):
    processor = make_processor(periods=periods)
    event = {"item_id": "coat"} if time is None else {"item_id": "coat", "timestamp": time}
    assert behaviors(processor, event) == [0, 0, 0, 0 if row is None else FIRST_PERIOD + row]


def test_no_two_behaviours_share_a_row():
    """Each of the four numbers has rows of its own, and none is past the model's table."""
    processor = make_processor(periods=range(1000, 1000 + PERIOD_BUCKETS - 1))
    rows = [set() for _ in range(4)]
    for rating, behavior, gap, time in zip(
        [1, 2, 3, 4, 5] * 20,
        ["purchase", "view"] * 50,
        [2**n for n in range(0, 50)] * 2,
        range(980, 1080),
        strict=True,
    ):
        event = {"item_id": "coat", "rating": rating, "behavior": behavior, "timestamp": time}
        history = [{"item_id": "hat", "timestamp": time - gap}, event]
        batch = processor({"history": history})
        code = processor.format.first_item_id + processor.catalog.position("coat")
        for known, row in zip(rows, batch["behavior_ids"][0][batch["input_ids"][0] == code][0].tolist(), strict=True):
            known.add(row)
    assert [len(known) for known in rows] == [5, 2, 20, PERIOD_BUCKETS]
    assert len(set().union(*rows)) == sum(map(len, rows))
    assert 0 not in set().union(*rows)
    assert max(set().union(*rows)) == processor.num_behaviors - 1


def test_of_every_event_of_a_history_the_own_time_counts():
    processor = make_processor(periods=[100, 200], full_chunks=0)
    times = {"coat": 50, "hat": None, "belt": 120, "socks": 300}
    history = [{"item_id": name, "timestamp": time} for name, time in times.items()]
    batch = processor({"history": history})
    first = processor.format.first_item_id
    told = batch["behavior_ids"][0][batch["input_ids"][0] >= first][:, 3].tolist()
    assert told == [FIRST_PERIOD, 0, FIRST_PERIOD + 1, FIRST_PERIOD + 2]


def test_periods_are_saved_with_the_processor(tmp_path):
    processor = make_processor(periods=(100, 200.5))
    assert processor.periods == [100.0, 200.5]
    processor.save_pretrained(tmp_path)
    loaded = UniMPProcessor.from_pretrained(tmp_path)
    assert loaded.periods == [100.0, 200.5]
    event = {"item_id": "coat", "timestamp": 150}
    assert behaviors(loaded, event) == behaviors(processor, event) == [0, 0, 0, FIRST_PERIOD + 1]


@pytest.mark.parametrize(
    "periods",
    [[2, 1], range(PERIOD_BUCKETS), ["a"], [float("nan")], [1.0, float("inf")], 5, "12", None],
    ids=repr,
)
def test_wrong_periods_are_refused(periods):
    with pytest.raises(ValueError, match="`periods` must be at most 31 times in seconds, ascending, got"):
        make_processor(periods=periods)


def test_a_date_is_seconds_since_1970(processor):
    def history(first, second):
        return {"history": [{"item_id": "coat", "timestamp": first}, {"item_id": "belt", "timestamp": second}]}

    moments = [datetime.datetime(2024, 5, 1, hour, tzinfo=datetime.UTC) for hour in (1, 3)]
    naive = [moment.replace(tzinfo=None) for moment in moments]
    expected = processor(history(0, 7200))["behavior_ids"]
    for first, second in (moments, naive, ("2024-05-01 01:00", "2024-05-01T03:00Z"), ("0", "7200")):
        assert torch.equal(processor(history(first, second))["behavior_ids"], expected)
    day = datetime.date(2024, 5, 1)
    assert torch.equal(processor(history(day, "2024-05-01 02:00"))["behavior_ids"], expected)


@pytest.mark.parametrize("task_name", ["rate", "explain"])
def test_a_rating_to_be_predicted_is_nowhere_in_the_prompt(processor, task_name):
    """Neither as text nor as a behaviour."""
    batches = [
        processor(make_request(task_name) | {"item": {"item_id": "shoes", "rating": rating}}, task=task_name)
        for rating in (1, 5)
    ]
    assert all(torch.equal(batches[0][key], batches[1][key]) for key in batches[0])


def test_one_rating_only_is_a_range():
    processor = make_processor(rating_range=(5, 5))
    assert behaviors(processor, {"item_id": "coat", "rating": 5}) == [FIRST_RATING, 0, 0, 0]


# Attributes


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("Red shirt", "Red shirt"),
        ("  two\n lines\t", "two lines"),
        (3, "3"),
        (0, "0"),
        (19.5, "19.5"),
        (1250000.0, "1250000"),
        (0.1 + 0.2, "0.3"),
        (float("inf"), "inf"),
        (True, "yes"),
        (False, "no"),
        (["red", None, "", 2], "red, 2"),
        (("a", ["b", "c"]), "a, b, c"),
        ({"b", "a", "c"}, "a, b, c"),
        ({"width": 3, "depth": None, "tags": ["x"]}, "width 3, tags x"),
        (datetime.date(2024, 5, 1), "2024-05-01"),
        (datetime.datetime(2024, 5, 1, 12, 30), "2024-05-01"),
        ("🎩👒", "🎩👒"),
        # Nothing to say
        (None, ""),
        (float("nan"), ""),
        ("", ""),
        (" ", ""),
        ([], ""),
        ({}, ""),
        ({"a": None}, ""),
        ([None, float("nan")], ""),
        (b"\x00\x01", ""),
        (bytearray(b"x"), ""),
    ],
    # Of a set in one order: processes that share the tests must name them alike.
    ids=lambda value: repr(sorted(value) if isinstance(value, set) else value),
)
def test_values_of_any_type(value, text):
    assert flatten_value(value) == text


def test_values_of_data_frames():
    np, pd = pytest.importorskip("numpy"), pytest.importorskip("pandas")
    for missing in (np.float32("nan"), np.float64("nan"), pd.NaT):
        assert flatten_value(missing) == ""
    assert flatten_value(np.float32(19.99)) == "19.99"
    assert flatten_value(np.int64(7)) == "7"
    assert flatten_value(np.bool_(True)) == "yes"
    assert flatten_value(np.array(["a", "b"])) == "a, b"
    assert flatten_value(pd.Timestamp("2024-05-01 10:00")) == "2024-05-01"


def test_twenty_words_a_field():
    words = [f"w{number}" for number in range(10_000)]
    assert flatten_value(" ".join(words)) == " ".join(words[:20])
    assert flatten_value(words) == ", ".join(words[:20]) + ","
    assert flatten_value(" ".join(words), max_words=3) == "w0 w1 w2"
    assert flatten_attributes({"a": " ".join(words), "b": "c"}).endswith("w19; b: c")


def test_what_is_nested_deeply_is_left_out():
    value = "deep"
    for levels in range(1, 2000):
        value = {"a": value} if levels % 2 else [value]
        if levels in (4, 5, 1999):
            assert flatten_value(value) == ("a a deep" if levels == 4 else "")
    assert flatten_value(["top", [[[["deep"]]]]]) == "top"
    endless = ["top"]
    endless.append(endless)
    assert flatten_value(endless) == "top, top, top, top"
    assert flatten_attributes({"title": "Cap", "sizes": value}) == "title: Cap"


@pytest.mark.parametrize(
    ("rating_range", "levels"),
    [
        ((1, 5), [1.0, 2.0, 3.0, 4.0, 5.0]),
        ([0.5, 3.5], [1.0, 2.0, 3.0]),
        ((-1.5, 0), [-1.0, 0.0]),
        ((0.2, 0.7), [0.2, 0.7]),
        ((0.5, 0.5), [0.5]),
        ((3, 3), [3.0]),
    ],
)
def test_rating_levels_are_the_whole_numbers_within_the_range(rating_range, levels):
    scale, by_default = rating_scale(rating_range)
    assert scale == list(rating_range)
    assert by_default == levels
    assert all(type(number) is float for number in (*scale, *by_default))
    assert rating_scale((0, 4), range(5)) == ([0.0, 4.0], [0.0, 1.0, 2.0, 3.0, 4.0])


def test_keys_and_missing_attributes():
    attributes = {"brand_name": "Acme", "price": None, "size": float("nan"), "tags": [], 7: "seven"}
    assert flatten_attributes(attributes) == "brand name: Acme; 7: seven"
    assert flatten_attributes({}) == ""
    assert flatten_attributes({"price": None}) == ""


def test_missing_attributes_take_no_tokens(processor):
    texts = [{}, {"title": None}, {"title": "", "price": float("nan")}]
    assert [processor.format.item_text(attributes) for attributes in texts] == [[], [], []]


def test_long_texts_are_cut(processor):
    assert len(processor.format.item_text({"title": "x" * 100_000})) == processor.item_text_length
    assert len(processor.format.item_text({"title": "🎩 " * 10_000})) == processor.item_text_length


LOOK_ALIKES = ("<image>", "<eos>", "<pad>", "<|endofchunk|>", "<|item|>", "<|answer|>")


@pytest.mark.parametrize("where", ["title", "key", "query", "instruction", "explanation"])
def test_what_looks_like_a_special_token_is_text(where):
    """A title cannot say that a picture is there, that the text ends or that a chunk does."""
    text = " ".join(LOOK_ALIKES)
    item = {"title": "Hat"} | {"title": {"title": text}, "key": {text: "Hat"}}.get(where, {})
    sample = {"history": [item | ({"rating": 3, "explanation": text} if where == "explanation" else {})]}
    task = "explain" if where == "explanation" else "search"
    sample |= {"item": "belt"} if task == "explain" else {"query": text if where == "query" else "red"}
    sample |= {"instruction": text} if where == "instruction" else {}
    processor = make_processor(item_text_length=200, full_chunks=None)
    ids = processor(sample, task=task)["input_ids"][0].tolist()
    assert not set(ids) & {processor.tokenizer.pad_token_id, processor.format.marker_ids["<image>"]}
    # One end of text where an explanation ends; one end of chunk after the instruction, one after the item.
    assert ids.count(processor.tokenizer.eos_token_id) == (task == "explain")
    assert ids.count(processor.format.marker_ids["<|endofchunk|>"]) == 2
    for marker in ("<|item|>", "<|answer|>"):
        assert ids.count(processor.format.marker_ids[marker]) <= 2
    written = processor.tokenizer.decode([token for token in ids if token < processor.text_vocab_size])
    assert text in written


def test_half_an_emoji_is_no_error(processor):
    sample = {"history": [{"title": "Hat \ud83c"}], "query": "\udfa9"}
    assert processor(sample, task="search")["input_ids"].shape[0] == 1


# Answers


@pytest.mark.parametrize(
    ("rating", "explanation"), [(4.0, "Good"), (3.5, None), (5.0, "Warm: and light. Why? 10/10"), (1.0, "🎩")]
)
def test_answers_are_read_back_as_written(processor, rating, explanation):
    text = "".join(part for _, part in write_answer(rating, explanation))
    ids = [*processor.format.text(text), processor.tokenizer.eos_token_id]
    assert processor.read_answer(ids) == (rating, explanation)


@pytest.mark.parametrize("text", ["", "good", "9: too much", "0.5", "-3", ": 4", "nan", "9" * 400])
def test_what_is_no_answer_is_none(processor, text):
    assert processor.read_answer(processor.format.text(text)) == (None, None)


@pytest.mark.parametrize(
    ("text", "answer"),
    [("4", (4.0, None)), (" 4 : fine", (4.0, "fine")), ("4:", (4.0, None)), ("4 stars", (4.0, None))],
)
def test_answers_are_read_generously(text, answer):
    assert read_answer(text, lambda rating: 1 <= rating <= 5) == answer


def test_tokens_keep_their_sides_together():
    tokens = Tokens().add([1, 2], ITEM_ROLE, (1, 2, 3, 4)).extend(Tokens(images=[7]).add([3]))
    assert (len(tokens), tokens.ids, tokens.roles) == (3, [1, 2, 3], [ITEM_ROLE, ITEM_ROLE, NO_ROLE])
    assert (tokens.behaviors, tokens.images) == ([(1, 2, 3, 4), (1, 2, 3, 4), (0, 0, 0, 0)], [7])


def test_a_compact_chunk_is_the_code_alone(processor):
    event = Event(code=[3], text_ids=[5, 6], image=0, rating=5.0)
    chunk = processor.format.chunk(event, TASKS["recommend"], full=False, labelled=True)
    assert (chunk.ids, chunk.images, chunk.roles) == ([processor.format.first_item_id + 3], [], [ITEM_ROLE])
    assert chunk.behaviors == [(FIRST_RATING + 9, 0, 0, 0)]
