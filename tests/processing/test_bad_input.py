"""Whatever comes in through the front doors: a stated fallback, or an error that says what to do."""

import io
import re

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from datasets import Dataset
from PIL import Image

from unimp import Catalog
from unimp.processing import ImageError, pipelines_unimp
from unimp.processing.store import make_store, read_store

from .conftest import TASK_NAMES, draw_picture, make_processor, make_request
from .test_images import bomb_png

# Anything of Python's own (IndexError, KeyError, TypeError, ...) would be a stack trace from the depths.
EXPECTED = (ValueError, ImageError, FileNotFoundError)


def encode(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


PHOTO = draw_picture(0)
EMOJI = "🎩👒🧢 "
GOOD_PICTURES = {
    "1 pixel": encode(Image.new("RGB", (1, 1))),
    "1 x 3 pixels": encode(Image.new("RGB", (1, 3))),
    "3 x 1 pixels": encode(Image.new("RGB", (3, 1))),
    "CMYK": encode(Image.new("CMYK", (9, 9)), "JPEG"),
    "animated": encode(PHOTO, "GIF", save_all=True, append_images=[draw_picture(1)]),
    "palette": encode(PHOTO.convert("P")),
    "gray": encode(PHOTO.convert("L")),
    "very wide": encode(Image.new("RGB", (5000, 2))),
}
BAD_PICTURES = {
    "empty": b"",
    "text": b"item_id,title",
    "truncated": encode(PHOTO)[:300],
    "corrupt": encode(PHOTO)[:60] + b"\x00" * 200 + encode(PHOTO)[260:],
    "30,000 x 30,000": bomb_png(),
    "missing file": "no/such/picture.png",
    "a folder": ".",
    "a number": 7,
    "an array": [[1, 2]],
}


def check(call, error, *named):
    """`call` raises exactly `error`, with a message that names each of `named` in back-ticks."""
    with pytest.raises(EXPECTED) as raised:
        call()
    assert raised.type is error, raised.value
    message = str(raised.value)
    for name in named:
        assert f"`{name}`" in message, message
    assert len(message) < 1000  # what was got is shown, not poured out


# Pictures


@pytest.mark.parametrize("name", GOOD_PICTURES)
def test_odd_pictures_are_used(shared, name):
    model, processor = shared
    batch = processor({"history": [{"image": GOOD_PICTURES[name]}]})
    assert torch.isfinite(model(**batch).logits).all()
    catalog = Catalog.from_items([{"item_id": "a", "image": GOOD_PICTURES[name]}])
    assert catalog.image(0).mode == "RGB"


@pytest.mark.parametrize("name", BAD_PICTURES)
def test_bad_pictures_are_refused(processor, name):
    source = BAD_PICTURES[name]
    check(lambda: Catalog.from_items([{"item_id": "a", "image": source}]), ImageError, "image")
    check(lambda: processor({"history": ["hat", {"title": "Cap", "image": source}]}), ImageError, "image")
    check(lambda: processor({"history": [], "item": {"image": source}}, task="rate"), ImageError, "image")


@pytest.mark.parametrize(
    "name", [name for name, source in BAD_PICTURES.items() if isinstance(source, bytes) and source]
)
def test_bad_pictures_of_a_table_are_left_out(name):
    images = pa.array([{"bytes": BAD_PICTURES[name], "path": None}, {"bytes": encode(PHOTO), "path": None}])
    catalog = Catalog(pa.table({"item_id": ["a", "b"], "image": images}))
    assert list(catalog.embed_images()) == ["a"]
    assert [catalog.has_image(0), catalog.has_image(1)] == [False, True]


# Catalogue: what comes in, what the error names

HAT = {"item_id": "hat"}
BAD_ITEMS = {
    "empty table": ([], "items"),
    "one dictionary": (HAT, "items"),
    "text": ("hat", "items"),
    "a number": (3, "items"),
    "None": (None, "items"),
    "ids alone": (["hat", "cap"], "items"),
    "keys that are no text": ([{"item_id": "hat", 1: 2}], "items"),
    "no id column": ([{"id": "hat", "title": "Hat"}], "item_id"),
    "an id is missing": ([HAT, {"title": "Cap"}], "item_id"),
    "an id is None": ([HAT, {"item_id": None}], "item_id"),
    "all ids are None": ([{"item_id": None}], "item_id"),
    "an id is empty": ([HAT, {"item_id": ""}], "item_id"),
    "numbers as ids": ([{"item_id": 1}, {"item_id": 2}], "item_id"),
    "NaN as id": ([{"item_id": float("nan")}], "item_id"),
    "ids of two types": ([HAT, {"item_id": 2}], "item_id"),
    "duplicate ids": ([HAT, {"item_id": "cap"}, HAT], "item_id"),
    "a column of two types": ([{**HAT, "price": 3}, {"item_id": "cap", "price": "three"}], "price"),
    "an object": ([{**HAT, "colour": object()}], "colour"),
    "a picture as attribute": ([{**HAT, "photo": PHOTO}], "photo"),
    "a huge number": ([{**HAT, "price": 10**30}], "price"),
    "half an emoji": ([{**HAT, "title": "Hat \ud83c"}], "title"),
    "available as text": ([{**HAT, "available": "yes"}], "available"),
}


@pytest.mark.parametrize("name", BAD_ITEMS)
def test_bad_items(name, catalog):
    items, named = BAD_ITEMS[name]
    check(lambda: Catalog.from_items(items), ValueError, named)
    check(lambda: catalog.add(items), ValueError, named)
    assert len(catalog) == 8


BAD_TABLES = {
    "not a table": (pd.DataFrame({"item_id": ["a"]}), "table"),
    "empty": (pa.table({"item_id": pa.array([], pa.string())}), "items"),
    "no id": (pa.table({"title": ["Hat"]}), "item_id"),
    "paths as text": (pa.table({"item_id": ["a"], "image": ["a.png"]}), "image"),
    "pictures as bytes": (pa.table({"item_id": ["a"], "image": [b"123"]}), "image"),
    "another struct": (pa.table({"item_id": ["a"], "image": [{"bytes": 3, "path": [1]}]}), "image"),
}


@pytest.mark.parametrize("name", BAD_TABLES)
def test_bad_tables(name):
    table, named = BAD_TABLES[name]
    check(lambda: Catalog(table), ValueError, named)


def test_no_picture_at_all_is_a_table_without_pictures():
    for images in ([None], [{"bytes": None, "path": None}]):
        catalog = Catalog(pa.table({"item_id": ["a"], "image": images}))
        assert not catalog.has_image(0)
        assert catalog.embed_images() == {}


@pytest.mark.parametrize("unknown", [["cap"], ["hat", 3], [None], [["hat"]], "cap"], ids=repr)
def test_removing_what_is_not_there(catalog, unknown):
    check(lambda: catalog.remove(unknown), ValueError, "item_ids")


# Histories: what goes in, what the error names. Through the processor and every pipeline.

DEEP = "deep"
for _ in range(2000):
    DEEP = [DEEP]
BAD_HISTORIES = {
    "None": (None, "history"),
    "an id": ("hat", "history"),
    "an entry": ({"item_id": "hat"}, "history"),
    "a number": (3, "history"),
    "a set": ({"hat"}, "history"),
    "a generator": ((item_id for item_id in ["hat"]), "history"),
    "unknown id": (["hat", "cap"], "item_id"),
    "unknown id in a dictionary": ([{"item_id": "cap", "rating": 3}], "item_id"),
    "an unknown id is not described by nothing": ([{"item_id": "cap", "title": None, "image": None}], "item_id"),
    "unknown id far back": (["cap", *["hat"] * 600], "item_id"),
    "number as id": ([7], "item_id"),
    "number as id in a dictionary": ([{"item_id": 7}], "item_id"),
    "None as entry": ([None], "item_id"),
    "NaN as entry": ([float("nan")], "item_id"),
    "a list as entry": ([["hat", "socks"]], "item_id"),
    "an empty dictionary": ([{}], "item_id"),
    "an event without an item": ([{"rating": 3}], "item_id"),
    "rating too high": ([{"item_id": "hat", "rating": 5.5}], "rating"),
    "rating too low": ([{"item_id": "hat", "rating": 0}], "rating"),
    "infinite rating": ([{"item_id": "hat", "rating": float("inf")}], "rating"),
    "rating as text": ([{"item_id": "hat", "rating": "5"}], "rating"),
    "rating as truth": ([{"item_id": "hat", "rating": True}], "rating"),
    "rating as list": ([{"item_id": "hat", "rating": [4]}], "rating"),
    "unknown behavior": ([{"item_id": "hat", "behavior": "returned"}], "behavior"),
    "behavior as number": ([{"item_id": "hat", "behavior": 1}], "behavior"),
    "behavior as list": ([{"item_id": "hat", "behavior": ["view"]}], "behavior"),
    "timestamp as text": ([{"item_id": "hat", "timestamp": "yesterday"}, "hat"], "timestamp"),
    "infinite timestamp": ([{"item_id": "hat", "timestamp": float("inf")}], "timestamp"),
    "a deep list as entry": ([DEEP], "item_id"),
    "nothing but a deep attribute": ([{"title": DEEP}], "item_id"),
    "deep rating": ([{"item_id": "hat", "rating": DEEP}], "rating"),
    "deep behavior": ([{"item_id": "hat", "behavior": DEEP}], "behavior"),
    "deep timestamp": ([{"item_id": "hat", "timestamp": DEEP}], "timestamp"),
    "timestamp as list": ([{"item_id": "hat", "timestamp": [1]}], "timestamp"),
}


@pytest.mark.parametrize("name", BAD_HISTORIES)
def test_bad_histories(shared, name):
    model, processor = shared
    history, named = BAD_HISTORIES[name]
    for task in TASK_NAMES:
        request = make_request(task) | {"history": history}
        check(lambda request=request, task=task: processor(request, task=task), ValueError, named)
        if task != "rate":
            check(lambda request=request, task=task: processor([request], task=task), ValueError, named)
        pipe = getattr(pipelines_unimp, f"UniMP{task.title()}Pipeline")(model=model, processor=processor)
        check(lambda request=request, pipe=pipe: pipe([make_request(pipe.task_name), request]), ValueError, named)


STATED_FALLBACKS = {
    "empty history": ([], []),
    "missing rating": ([{"item_id": "hat", "rating": None}], ["hat"]),
    "NaN rating": ([{"item_id": "hat", "rating": float("nan")}], ["hat"]),
    "NaN everywhere": (
        [dict.fromkeys(("rating", "behavior", "explanation", "timestamp"), float("nan")) | {"item_id": "hat"}],
        ["hat"],
    ),
    "missing timestamps": ([{"item_id": "hat", "timestamp": pd.NaT}], ["hat"]),
    "numbers of numpy": (
        [{"item_id": np.str_("hat"), "rating": np.float32(3), "timestamp": np.int64(5)}],
        [{"item_id": "hat", "rating": 3, "timestamp": 5}],
    ),
    "array of ids": (np.array(["hat", "socks"]), ["hat", "socks"]),
    "tuple of ids": (("hat", "socks"), ["hat", "socks"]),
    "duplicate ids": (["hat", "hat"], [{"item_id": "hat"}, "hat"]),
    "missing picture": ([{"title": "Cap", "image": float("nan")}], [{"title": "Cap"}]),
    "empty picture": ([{"title": "Cap", "image": {"bytes": None, "path": None}}], [{"title": "Cap"}]),
    "missing attributes": ([{"title": "Cap", "price": None, "size": float("nan")}], [{"title": "Cap"}]),
    "deep attribute": ([{"title": "Cap", "sizes": DEEP}], [{"title": "Cap"}]),
    "deep explanation": ([{"item_id": "hat", "explanation": DEEP}], ["hat"]),
    "time goes back": (
        [{"item_id": "hat", "timestamp": 9}, {"item_id": "belt", "timestamp": 5}],
        [{"item_id": "hat", "timestamp": 9}, {"item_id": "belt", "timestamp": 9}],
    ),
    "unhashable id of a described item": ([{"item_id": ["x"], "title": "Cap"}], [{"title": "Cap"}]),
}


@pytest.mark.parametrize("name", STATED_FALLBACKS)
def test_stated_fallbacks(shared, name):
    model, processor = shared
    got, meant = STATED_FALLBACKS[name]
    first, second = (processor({"history": history}) for history in (got, meant))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
    pipe = pipelines_unimp.UniMPRecommendPipeline(model=model, processor=processor)
    assert pipe({"history": got}) == pipe({"history": meant})


@pytest.mark.parametrize("title", [EMOJI * 10_000, "word " * 10_000, "x" * 200_000, "\x00\u202e", "\n\t"], ids=len)
def test_titles_of_any_kind(shared, title):
    model, processor = shared
    batch = processor(
        {"history": [{"title": title, "size": 3}], "query": f"hat {title[:200]}", "instruction": title[:300] or None},
        task="search",
    )
    assert batch["input_ids"].shape[1] <= processor.max_length
    assert torch.isfinite(model(**batch).logits).all()
    catalog = Catalog.from_items([{"item_id": title, "title": title}])
    assert catalog.item(0)["item_id"] == title


# Requests as a whole: the task, the request, what the error names

R = make_request
BAD_REQUESTS = {
    "not a dictionary": ("recommend", ["hat"], "history"),
    "None as a request": ("recommend", [None], "history"),
    "no history": ("recommend", {}, "history"),
    "unknown key": ("recommend", R("recommend") | {"histroy": []}, "histroy"),
    "a key that is no text": ("recommend", R("recommend") | {3: 4}, "3"),
    "query in recommend": ("recommend", R("search"), "query"),
    "instruction is no text": ("recommend", R("recommend") | {"instruction": 5}, "instruction"),
    "no query": ("search", R("recommend"), "query"),
    "None as query": ("search", R("recommend") | {"query": None}, "query"),
    "empty query": ("search", R("recommend") | {"query": "  "}, "query"),
    "NaN as query": ("search", R("recommend") | {"query": float("nan")}, "query"),
    "deep query": ("search", R("search") | {"query": DEEP}, "query"),
    "deep instruction": ("recommend", R("recommend") | {"instruction": DEEP}, "instruction"),
    "deep candidate": ("select", R("select") | {"candidates": DEEP}, "candidates"),
    "endless query": ("search", R("recommend") | {"query": "x" * 5000}, "max_length"),
    "no item to rate": ("rate", R("recommend"), "item"),
    "unknown item to rate": ("rate", R("recommend") | {"item": "cap"}, "item_id"),
    "number to rate": ("rate", R("recommend") | {"item": 3}, "item_id"),
    "list to rate": ("rate", R("recommend") | {"item": ["hat"]}, "item_id"),
    "nothing to rate": ("explain", R("recommend") | {"item": {}}, "item_id"),
    "no item to explain": ("explain", R("recommend"), "item"),
    "no candidates": ("select", R("recommend"), "candidates"),
    "empty candidates": ("select", R("recommend") | {"candidates": []}, "candidates"),
    "one candidate": ("select", R("recommend") | {"candidates": "hat"}, "candidates"),
    "candidates as a set": ("select", R("recommend") | {"candidates": {"hat"}}, "candidates"),
    "unknown candidate": ("select", R("recommend") | {"candidates": ["hat", "cap"]}, "candidates"),
    "None as candidate": ("select", R("recommend") | {"candidates": [None]}, "candidates"),
    "list as candidate": ("select", R("recommend") | {"candidates": [["hat"]]}, "candidates"),
    "too many candidates": ("select", R("recommend") | {"candidates": ["hat", "coat"] * 60}, "max_length"),
}


@pytest.mark.parametrize("name", BAD_REQUESTS)
def test_bad_requests(shared, name):
    model, processor = shared
    task, request, named = BAD_REQUESTS[name]
    check(lambda: processor(request, task=task), ValueError, named)
    pipe = getattr(pipelines_unimp, f"UniMP{task.title()}Pipeline")(model=model, processor=processor)
    check(lambda: pipe(request), ValueError, named)
    check(lambda: pipe([make_request(task), request], batch_size=2), ValueError, named)


def test_candidates_without_a_code_cannot_be_chosen(shared):
    model, processor = shared
    select = pipelines_unimp.UniMPSelectPipeline(model=model, processor=processor)
    check(lambda: select(R("recommend") | {"candidates": ["hat", {"title": "Cap"}]}), ValueError, "candidates")


BAD_ANSWERS = {
    "no answer": ("recommend", R("recommend"), "answer"),
    "None as answer": ("search", R("search") | {"answer": None}, "answer"),
    "unknown answer": ("recommend", R("recommend") | {"answer": "cap"}, "answer"),
    "several answers": ("recommend", R("recommend") | {"answer": ["hat", "coat"]}, "answer"),
    "number as answer": ("recommend", R("recommend") | {"answer": 3}, "answer"),
    "no selection": ("select", R("select"), "answer"),
    "empty selection": ("select", R("select") | {"answer": []}, "answer"),
    "one id as selection": ("select", R("select") | {"answer": "coat"}, "answer"),
    "selection of none of them": ("select", R("select") | {"answer": ["hat"]}, "answer"),
    "selection of one twice": ("select", R("select") | {"answer": ["coat", "coat"]}, "answer"),
    "no rating": ("rate", R("rate"), "rating"),
    "NaN as rating": ("explain", R("explain") | {"item": {"item_id": "hat", "rating": float("nan")}}, "rating"),
}


@pytest.mark.parametrize("name", BAD_ANSWERS)
def test_bad_answers_to_train_with(processor, name):
    task, sample, named = BAD_ANSWERS[name]
    check(lambda: processor(sample, task=task, training=True), ValueError, named)


BAD_CALLS = {
    "unknown task": (lambda p: p(R("recommend"), task="recomend"), "task"),
    "None as task": (lambda p: p(R("recommend"), task=None), "task"),
    "number as task": (lambda p: p(R("recommend"), task=3), "task"),
    "list as a task": (lambda p: p([R("recommend")], task=[["rate"]]), "task"),
    "too many tasks": (lambda p: p([R("recommend")], task=["recommend", "rate"]), "task"),
    "too few tasks": (lambda p: p([R("recommend")] * 3, task=["recommend", "recommend"]), "task"),
    "no samples": (lambda p: p([]), "samples"),
    "None as samples": (lambda p: p(None), "samples"),
    "number as samples": (lambda p: p(3), "samples"),
    "text as samples": (lambda p: p("hat"), "samples"),
    "a tensor as features": (lambda p: p(R("recommend"), catalog_features=torch.zeros(8, 4, 16)), "catalog_features"),
    "another thing as catalogue": (lambda p: setattr(p, "catalog", [HAT]), "catalog"),
    "no catalogue": (lambda p: (setattr(p, "catalog", None), p(R("recommend"))), "processor.catalog"),
    "order": (lambda p: make_processor(order="first"), "order"),
    "full_chunks": (lambda p: make_processor(full_chunks=-1), "full_chunks"),
    "max_length": (lambda p: make_processor(max_length=0), "max_length"),
    "item_text_length": (lambda p: make_processor(item_text_length=0), "item_text_length"),
    "max_words": (lambda p: make_processor(max_words="20"), "max_words"),
    "rating_range": (lambda p: make_processor(rating_range=(5, 1)), "rating_range"),
    "rating_range as text": (lambda p: make_processor(rating_range="15"), "rating_range"),
    "rating_range of texts": (lambda p: make_processor(rating_range=("1", "5")), "rating_range"),
    "None as rating_range": (lambda p: make_processor(rating_range=None), "rating_range"),
    "number as rating_range": (lambda p: make_processor(rating_range=5), "rating_range"),
    "endless rating_range": (lambda p: make_processor(rating_range=(1, float("inf"))), "rating_range"),
    "NaN in rating_range": (lambda p: make_processor(rating_range=(float("nan"), 5)), "rating_range"),
    "rating_levels outside": (lambda p: make_processor(rating_levels=[1, 6]), "rating_levels"),
    "no rating_levels": (lambda p: make_processor(rating_levels=[]), "rating_levels"),
    "number as rating_levels": (lambda p: make_processor(rating_levels=5), "rating_levels"),
    "rating_levels as text": (lambda p: make_processor(rating_levels="12345"), "rating_levels"),
    "rating_range of one": (lambda p: make_processor(rating_range=(5,)), "rating_range"),
    "text_vocab_size below the tokenizer's": (lambda p: make_processor(text_vocab_size=100), "text_vocab_size"),
}


@pytest.mark.parametrize("name", BAD_CALLS)
def test_bad_calls_of_the_processor(processor, name):
    call, named = BAD_CALLS[name]
    check(lambda: call(processor), ValueError, named)


BAD_PARAMETERS = {
    "unknown": ("recommend", {"topk": 3}, "topk"),
    "top_k of search in rate": ("rate", {"top_k": 3}, "top_k"),
    "top_k is 0": ("recommend", {"top_k": 0}, "top_k"),
    "top_k is text": ("search", {"top_k": "3"}, "top_k"),
    "top_k is a fraction": ("recommend", {"top_k": 2.5}, "top_k"),
    "top_k is None": ("recommend", {"top_k": None}, "top_k"),
    "batch_size is 0": ("recommend", {"batch_size": 0}, "batch_size"),
    "batch_size is text": ("select", {"batch_size": "4"}, "batch_size"),
}


@pytest.mark.parametrize("name", BAD_PARAMETERS)
def test_bad_parameters_of_a_pipeline(shared, name):
    model, processor = shared
    task, parameters, named = BAD_PARAMETERS[name]
    pipeline_class = getattr(pipelines_unimp, f"UniMP{task.title()}Pipeline")
    pipe = pipeline_class(model=model, processor=processor)
    check(lambda: pipe([make_request(task)], **parameters), ValueError, named)
    if "batch_size" not in parameters:
        check(lambda: pipeline_class(model=model, processor=processor, **parameters), ValueError, named)


@pytest.mark.parametrize("inputs", [None, 3, "hat", [["hat"]], [None]], ids=repr)
def test_bad_inputs_of_a_pipeline(shared, inputs):
    model, processor = shared
    pipe = pipelines_unimp.UniMPRecommendPipeline(model=model, processor=processor)
    check(lambda: pipe(inputs), ValueError, "history")


# The store

EVENTS = {"user_id": ["u", "u"], "item_id": ["hat", "coat"], "timestamp": [1, 2]}
STORE_ITEMS = {"item_id": ["hat", "coat"]}
BAD_STORES = {
    "no items": ({"item_id": []}, EVENTS, "items"),
    "no events": (STORE_ITEMS, {name: [] for name in EVENTS}, "interactions"),
    "wrong item column": ({"sku": ["hat"]}, EVENTS, "item_id"),
    "wrong event column": (STORE_ITEMS, {**EVENTS, "timestamp": None, "when": [1, 2]}, "timestamp"),
    "ids of another kind": ({"item_id": [1.5, 2.5]}, EVENTS, "item_id"),
    "rating in words": (STORE_ITEMS, {**EVENTS, "rating": ["good", "bad"]}, "rating"),
    "nothing fits": ({"item_id": ["cap"]}, EVENTS, "interactions"),
}


@pytest.mark.parametrize("name", BAD_STORES)
def test_bad_stores(name):
    items, events, named = BAD_STORES[name]
    events = {column: values for column, values in events.items() if values is not None}
    check(lambda: make_store(Dataset.from_dict(items), Dataset.from_dict(events)), ValueError, named)


def test_a_folder_that_is_no_store(tmp_path):
    with pytest.raises(FileNotFoundError, match=re.escape("items")):
        read_store(tmp_path)
