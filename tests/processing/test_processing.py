"""Requests to tensors: histories of any length, items never seen, batches, pictures; and the processor on disk."""

import copy
import io
import json
import weakref
from unittest.mock import patch

import numpy as np
import pytest
import torch
from transformers import AutoProcessor

from unimp import Catalog, UniMPConfig, UniMPForConditionalGeneration, UniMPProcessor
from unimp.processing import TASKS, catalog_unimp, load_image, requests_unimp
from unimp.processing.chunks_unimp import END_OF_CHUNK
from unimp.processing.neighbours_unimp import Neighbours

from .conftest import TASK_NAMES, draw_picture, make_model, make_processor, make_request


def png(image):
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def codes_of(processor, batch, row=0):
    """Codes of a row, those of new items included."""
    ids = batch["input_ids"][row][batch["attention_mask"][row].bool()].tolist()
    return [token - processor.format.first_item_id for token in ids if token >= processor.format.first_item_id]


def long_history(processor, length):
    item_ids = processor.catalog.item_ids
    return [item_ids[number % len(item_ids)] for number in range(length)]


# Long and short histories


@pytest.mark.parametrize("window", [0, 1, 3, 9])
def test_a_history_window_shows_the_most_recent_events(task, window, tmp_path):
    """Of a task that itself shows fewer, these."""
    make_processor(history_window=window).save_pretrained(tmp_path)
    processor, whole = AutoProcessor.from_pretrained(tmp_path), make_processor()
    history = long_history(whole, 7)
    asked = processor(make_request(task, history), task=task)["input_ids"]
    expected = whole(make_request(task, history[max(0, 7 - window) :]), task=task)["input_ids"]
    assert torch.equal(asked, expected)


def test_where_a_batch_is_padded(task):
    """Asked on the left; in training on the right, where every token has one before it to attend to."""
    processor = make_processor()
    requests = [make_request(task, long_history(processor, length), answer=True) for length in (1, 5)]
    names = ("input_ids", "behavior_ids", "labels", "roles")
    trained = processor(requests, task=task, training=True)
    asked = processor([{k: v for k, v in request.items() if k != "answer"} for request in requests], task=task)
    for row, request in enumerate(requests):
        alone = processor(request, task=task, training=True)
        length = alone["input_ids"].shape[1]
        assert trained["attention_mask"][row].tolist() == [1] * length + [0] * (len(trained["labels"][row]) - length)
        assert all(torch.equal(trained[name][row, :length], alone[name][0]) for name in names)
        assert (trained["labels"][row, length:] == -100).all()
        mask = asked["attention_mask"][row].tolist()
        assert mask == sorted(mask)


@pytest.mark.parametrize("full_chunks", [0, 2, None])
def test_of_a_long_history_whole_chunks_go_oldest_first(task, order, full_chunks):
    processor = make_processor(order=order, full_chunks=full_chunks)
    request = make_request(task, long_history(processor, 12))
    whole = processor(request, task=task)["input_ids"][0].tolist()
    empty = processor({**request, "history": []}, task=task)["input_ids"][0].tolist()
    start = len(processor.format.text(TASKS[task].instructions[0])) + 1
    ending = len(empty) - start
    # Prompts that end like the whole one, one chunk shorter each: histories of the most recent 0, 1, 2, ... events.
    legal = {}
    for events in range(13):
        history = request["history"][len(request["history"]) - events :]
        ids = processor({**request, "history": history}, task=task)["input_ids"][0].tolist()
        legal[len(ids)] = ids
    for max_length in range(len(empty), len(whole) + 2):
        processor.max_length = max_length
        ids = processor(request, task=task)["input_ids"][0].tolist()
        assert ids == legal[max(length for length in legal if length <= max_length)]
        assert ids[:start] == whole[:start]
        assert ids[len(ids) - ending :] == whole[len(whole) - ending :]
    processor.max_length = len(empty) - 1
    with pytest.raises(ValueError, match=r"`max_length` is \d+ tokens, but the request alone takes \d+"):
        processor(request, task=task)


def test_an_answer_does_not_shorten_the_history(task):
    """Training shows exactly what will be shown when asked."""
    processor = make_processor()
    trained = make_request(task, long_history(processor, 9), answer=True)
    asked = {key: value for key, value in trained.items() if key != "answer"}
    shortest, longest = (
        processor({**asked, "history": history}, task=task)["input_ids"].shape[1] for history in ([], asked["history"])
    )
    for max_length in range(shortest, longest + 2):
        processor.max_length = max_length
        prompt = processor(asked, task=task)["input_ids"]
        assert torch.equal(processor(trained, task=task, training=True)["input_ids"][:, : prompt.shape[1]], prompt)


@pytest.mark.parametrize("task_name", ["explain", "select"])
def test_short_histories_are_the_most_recent_events(processor, task_name):
    history = long_history(processor, 11)
    batches = [processor(make_request(task_name, events), task=task_name) for events in (history, history[-4:])]
    assert TASKS[task_name].max_history == 4
    assert all(torch.equal(batches[0][key], batches[1][key]) for key in batches[0])


def test_an_empty_history_is_answered(shared, task):
    model, processor = shared
    batch = processor(make_request(task, []), task=task)
    logits = model(**batch).logits
    assert torch.isfinite(logits).all()
    trained = processor(make_request(task, [], answer=True), task=task, training=True)
    assert torch.isfinite(model(**{key: value for key, value in trained.items() if key != "roles"}).loss)


@pytest.mark.parametrize(("full_chunks", "pictures"), [(0, 0), (1, 1), (2, 1), (3, 2), (None, 5)])
def test_only_pictures_that_are_shown_are_read(full_chunks, pictures):
    """An older item is its code alone: encoding its picture would be for nothing."""
    processor = make_processor(full_chunks=full_chunks)
    batch = processor({"history": processor.catalog.item_ids})
    assert len(batch.get("pixel_values", [])) == pictures
    with patch.object(Catalog, "image", autospec=True, side_effect=Catalog.image) as read:
        processor({"history": processor.catalog.item_ids * 3})
    assert read.call_count == pictures


def test_pictures_of_events_left_out_are_not_read(processor):
    history = [{"image": draw_picture(0)}, *long_history(processor, 4)]
    batch = processor(make_request("explain", history), task="explain")
    assert "new_item_text_ids" not in batch


# Never-seen items


def test_a_never_seen_item_is_its_picture_and_text(processor):
    batch = processor({"history": ["shirt", {"image": draw_picture(90), "title": "Cap", "size": 7}]})
    assert codes_of(processor, batch) == [0, len(processor.catalog)]
    text = processor.format.text("title: Cap; size: 7")
    row = batch["new_item_text_ids"][0].tolist()
    assert row == text + [-1] * (processor.item_text_length - len(text))
    assert batch["new_item_image_index"].tolist() == [0]
    assert batch["image_index"].tolist() == [[0]]
    assert len(batch["pixel_values"]) == 1


def test_its_id_may_be_given(processor):
    """A shop knows its new items by an id as well; the catalogue does not."""
    described = {"title": "Cap", "price": 3}
    first, second = (processor({"history": [entry]}) for entry in (described, {"item_id": "cap-1", **described}))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_a_known_item_is_what_the_catalogue_says(processor):
    entry = {"item_id": "hat", "title": "Another title", "image": draw_picture(50), "available": False}
    first, second = (processor({"history": [entry]}) for entry in ("hat", entry))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_an_answer_can_be_a_history(shared):
    from unimp.processing.pipelines_unimp import UniMPRecommendPipeline

    model, processor = shared
    recommend = UniMPRecommendPipeline(model=model, processor=processor)
    answer = recommend({"history": ["hat"]}, top_k=3)
    ids = [entry["item_id"] for entry in answer]
    expected = recommend({"history": ids})
    assert recommend({"history": answer}) == expected
    assert recommend({"history": [entry["item"] for entry in answer]}) == expected


def test_the_same_picture_is_read_once(tmp_path, processor):
    image = draw_picture(91)
    image.save(tmp_path / "cap.png")
    data = (tmp_path / "cap.png").read_bytes()
    for source in (image, data, str(tmp_path / "cap.png"), tmp_path / "cap.png", {"bytes": data, "path": None}):
        history = [{"image": source, "title": "Cap"}, {"image": source, "title": "Other"}]
        batch = processor([{"history": history}, {"history": history[:1]}])
        assert len(batch["pixel_values"]) == 1
        assert batch["image_index"].tolist() == [[0, 0], [0, -1]]
        assert batch["new_item_image_index"].tolist() == [0, 0, 0]


def test_pictures_and_items_of_a_batch_are_numbered_together(processor):
    new = {"image": draw_picture(92), "title": "Cap"}
    batch = processor([{"history": ["hat", new]}, {"history": ["socks"]}, {"history": [{"title": "Bag"}, "hat"]}])
    assert len(batch["pixel_values"]) == 3  # hat, cap, socks
    index, new_index = batch["image_index"], batch["new_item_image_index"].tolist()
    assert index[0, 0] == index[2, 0]
    assert index[1, 0] not in index[0]
    assert new_index == [index[0, 1], -1]
    first_new = len(processor.catalog)
    assert codes_of(processor, batch, 0) == [1, first_new]
    assert codes_of(processor, batch, 2) == [first_new + 1, 1]
    expected = processor._pixel_values(processor.catalog.image(1))[0]
    assert torch.equal(batch["pixel_values"][index[0, 0]], expected)


class OneAtATime:
    """An image processor that counts its pictures, and how many were in memory at once since they were opened."""

    def __init__(self, image_processor, monkeypatch):
        self.image_processor, self.loaded, self.most, self.number = image_processor, [], 0, 0
        for module in (catalog_unimp, requests_unimp):
            monkeypatch.setattr(module, "load_image", self.load)

    def load(self, source, root=None):
        picture = load_image(source, root)
        self.loaded.append(weakref.ref(picture))
        self.most = max(self.most, sum(reference() is not None for reference in self.loaded))
        return picture

    def to_dict(self):
        return self.image_processor.to_dict()

    def __call__(self, images, return_tensors):
        self.number += len(images)
        return self.image_processor(images=images, return_tensors=return_tensors)


def test_one_picture_at_a_time_is_held_at_its_own_size(monkeypatch, shared):
    """A batch of photographs of 64 megapixels each would be 12 GB."""
    model, processor = shared[0], make_processor(full_chunks=None)
    requests = [
        {"history": ["hat", {"image": draw_picture(93)}, "socks"]},
        {"history": [{"image": {"bytes": png(draw_picture(94)), "path": None}}, "gloves", "hat"]},
    ]
    batch, features = processor(requests), processor.encode_pictures(model)
    original = processor.image_processor
    pictures = [processor.catalog.image(position) for position in (1, 5)]
    expected = original(images=[pictures[0], draw_picture(93), pictures[1]], return_tensors="pt")["pixel_values"]
    assert torch.equal(batch["pixel_values"][batch["image_index"][0]], expected)  # as all at once
    del pictures
    processor.image_processor = counter = OneAtATime(original, monkeypatch)
    assert torch.equal(processor(requests)["pixel_values"], batch["pixel_values"])
    assert (counter.number, counter.most) == (5, 1)
    assert torch.equal(processor.encode_pictures(model).values, features.values)
    processor.index_catalog(make_model(processor))
    assert (counter.number, counter.most) == (15, 1)


def test_no_picture_is_opened_for_a_model_that_never_looks(monkeypatch, tmp_path):
    processor = make_processor()
    model = UniMPForConditionalGeneration(UniMPConfig(cross_attention_every=0))
    monkeypatch.setattr(processor.catalog, "image", lambda position: pytest.fail("opened a picture"))
    batch = processor({"history": ["hat", "socks"]}, catalog_features=processor.encode_pictures(model))
    assert not {"pixel_values", "image_features"} & set(batch)
    processor.encode_pictures(model, tmp_path, latents=True)
    assert not list(tmp_path.iterdir())


MIXED = [
    ["hat", {"image": draw_picture(93), "title": "Cap"}, "socks"],
    [],
    [{"title": "Bag"}, {"item_id": "coat", "rating": 2, "behavior": "view"}],
    ["shirt", "belt", "hat", "gloves", "hat", {"image": draw_picture(94)}],
]


def test_a_batch_equals_its_samples_one_by_one(shared, task):
    model, processor = shared
    requests = [make_request(task, history) for history in MIXED]
    if task in ("rate", "explain"):
        requests[0]["item"] = {"title": "Boots", "image": draw_picture(95)}
        requests[1]["item"] = {"title": "Boots"}
    together = processor(requests, task=task)
    logits = model(**together).logits
    for row, request in enumerate(requests):
        alone = processor(request, task=task)
        length = alone["input_ids"].shape[1]
        expected = model(**alone).logits[0]
        assert torch.equal(together["attention_mask"][row].sum(), alone["attention_mask"].sum())
        assert together["attention_mask"][row, -length:].all()
        torch.testing.assert_close(logits[row, -length:], expected, rtol=1e-4, atol=1e-4)


def test_tasks_can_be_mixed_in_a_batch(shared):
    _, processor = shared
    together = processor([make_request(task) for task in TASK_NAMES], task=list(TASK_NAMES))
    for row, task in enumerate(TASK_NAMES):
        ids = processor(make_request(task), task=task)["input_ids"][0]
        assert torch.equal(together["input_ids"][row, -len(ids) :], ids)


def test_a_changed_picture_changes_the_answer(shared):
    model, processor = shared
    first, second = (
        model(**processor({"history": [{"title": "Cap", "image": draw_picture(seed)}]})).logits[0, -1]
        for seed in (1, 2)
    )
    assert not torch.allclose(first, second)


def test_cached_features_are_exactly_the_pictures(shared, task):
    model, processor = shared
    features = processor.encode_pictures(model)
    requests = [make_request(task), make_request(task, ["gloves", "hat"]), make_request(task, [])]
    pictures = processor(requests, task=task)
    cached = processor(requests, task=task, catalog_features=features)
    assert "pixel_values" not in cached
    assert torch.equal(cached["image_index"], pictures["image_index"]) if "image_index" in pictures else True
    first, second = (model(**batch).logits for batch in (pictures, cached))
    torch.testing.assert_close(first, second, rtol=1e-5, atol=1e-5)


def test_features_of_a_catalogue_without_pictures():
    processor = make_processor(Catalog.from_items([{"item_id": "a"}, {"item_id": "b", "image": None}]))
    model = make_model(processor)
    features = processor.encode_pictures(model)
    assert not len(features)
    for known in (None, features):
        assert "image_index" not in processor({"history": ["a", "b"]}, catalog_features=known)


# The model's rows


def test_items_added_later_get_rows(catalog):
    processor = make_processor(catalog)
    model = make_model(processor)
    before = model(**processor({"history": ["shirt", "hat"]})).logits
    catalog.add([{"item_id": "cap", "title": "Cap", "image": draw_picture(77)}])
    processor.index_catalog(model, batch_size=1)
    assert model.config.num_items == 9
    text = processor.format.text("title: Cap")
    assert model.model.item_content.text_ids[8, : len(text)].tolist() == text
    after = model(**processor({"history": ["shirt", "hat"]})).logits
    torch.testing.assert_close(after[..., :-1], before)
    processor.index_catalog(model)
    assert model.config.num_items == 9


def test_a_new_item_is_read_as_it_will_be_once_added(catalog):
    """Its code's row is its content alone, before and after."""
    cap = {"item_id": "cap", "price": 5, "available": True, "title": "Cap", "image": draw_picture(78)}
    processor = make_processor(catalog, word_similarity=0.0)  # what words weigh changes with a catalogue
    model = make_model(processor)
    before = model(**processor({"history": ["hat", cap]})).logits[0, -1]
    catalog.add([cap])
    processor.index_catalog(model)
    after = model(**processor({"history": ["hat", "cap"]})).logits[0, -1]
    torch.testing.assert_close(after[:-1], before, rtol=1e-4, atol=1e-4)


def test_a_model_of_another_catalogue_is_refused(shared):
    model, _ = shared
    processor = make_processor(Catalog.from_items([{"item_id": "a"}]))
    with pytest.raises(ValueError, match="`model` has 8 item codes, but the catalogue only 1 items"):
        processor.index_catalog(model)


def test_indexing_tells_the_model_which_items_its_codes_stand_for(catalog):
    processor = make_processor(catalog)
    model = make_model(processor)
    first = model.config.catalog_fingerprint
    assert first == catalog.fingerprint
    catalog.add([{"item_id": "cap"}])
    assert first != catalog.fingerprint
    processor.index_catalog(model)
    assert model.config.catalog_fingerprint == catalog.fingerprint
    model.config.catalog_fingerprint = None  # as of a model whose rows were given by hand
    processor.index_catalog(model)
    assert model.config.catalog_fingerprint == catalog.fingerprint


@pytest.mark.parametrize("more", [0, 1])
def test_a_model_of_other_items_is_refused(shared, more):
    model, processor = copy.deepcopy(shared[0]), make_processor()
    ids = [*reversed(processor.catalog.item_ids), *["cap"] * more]
    processor.catalog = Catalog.from_items([{"item_id": item_id} for item_id in ids])
    with pytest.raises(ValueError, match=r"`model` was made for another catalogue .* first 8 item ids are not those"):
        processor.index_catalog(model)
    assert model.config.num_items == 8
    assert model.config.catalog_fingerprint == shared[1].catalog.fingerprint


def test_another_catalogue_brings_its_own_texts(processor):
    """What was remembered of the first one is forgotten."""
    processor({"history": ["shirt"]})
    processor.catalog = Catalog.from_items([{"item_id": "shirt", "title": "Blue"}])
    ids = processor({"history": ["shirt"]})["input_ids"][0].tolist()
    text = processor.format.text("title: Blue")
    end = processor.format.marker_ids[END_OF_CHUNK]
    assert ids[-len(text) - 1 :] == [*text, end]


# Words of a query


def test_a_search_says_which_items_have_its_words(processor):
    requests = [make_request("recommend"), {"history": [], "query": "warm WOOL"}, make_request("select")]
    batch = processor(requests, task=["recommend", "search", "select"])
    matches, socks = batch["query_matches"], processor.catalog.position("socks")
    assert matches.shape == (3, 8)
    assert matches.nonzero().tolist() == [[1, socks]]
    assert matches[1, socks] == processor.query_matches("warm WOOL")[socks] > 0.5
    trained = processor(requests[1] | {"answer": "belt"}, task="search", training=True)
    assert torch.equal(trained["query_matches"], batch["query_matches"][1:2])
    assert "query_matches" not in processor(make_request("recommend"))


def test_words_are_those_that_items_have_become(processor):
    def match(item_id, query):
        batch = processor({"history": [], "query": query}, task="search")
        return batch["query_matches"][0, processor.catalog.position(item_id)].item()

    assert match("belt", "woven") == 0
    processor.catalog.replace([{"item_id": "belt", "title": "Woven belt", "price": 12.5}])
    processor.catalog.add([{"item_id": "cap", "title": "Woven cap"}])
    assert 0 < match("belt", "woven") < match("cap", "woven")  # which has fewer other words
    assert match("belt", "12.5") > 0
    index = processor._words["index"]
    processor.catalog.remove(["cap"])
    assert match("cap", "woven") > 0  # that it is not answered is settled elsewhere
    assert processor._words["index"] is index


# What a history tells of items by itself


def test_a_recommendation_has_scores_of_its_history(processor):
    catalog = processor.catalog
    hat, socks, belt = (catalog.position(item_id) for item_id in ("hat", "socks", "belt"))
    starts = np.where(np.arange(len(catalog) + 1) > hat, 1, 0)  # the hat has one neighbour, the belt
    catalog.set_neighbours(Neighbours(starts, np.array([belt]), np.array([0.5], dtype=np.float32)))
    requests = [{"history": ["hat", {"title": "Wool"}]}, {"history": ["hat"], "query": "wool"}, {"history": []}]
    batch = processor(requests, task=["recommend", "search", "recommend"])
    scores, words = batch["history_scores"], processor.word_similarities(["hat", {"title": "Wool"}])
    assert words[socks] == words.max() > 0.2
    torch.testing.assert_close(scores[0] - 4 * words, torch.eye(len(catalog))[belt] * 12 * 0.8 * 0.5)
    assert not scores[1:].any()
    processor.choice_similarity = 0.0
    torch.testing.assert_close(processor(requests[0])["history_scores"][0], 4 * words)
    processor.word_similarity = 0.0
    assert not processor(requests[0])["history_scores"].any()


def test_scores_are_of_what_is_shown_and_nothing_in_training(processor):
    history = [{"title": "Wool"}, "hat", "belt"]
    scores = processor({"history": history})["history_scores"][0]
    torch.testing.assert_close(scores, 4 * processor.word_similarities(history))
    processor.history_window = 1
    shown = processor({"history": history})["history_scores"][0]
    torch.testing.assert_close(shown, 4 * processor.word_similarities(["belt"]))
    assert scores.max() > 1
    assert shown.abs().max() < 1e-6
    assert "history_scores" not in processor({"history": history, "answer": "hat"}, training=True)
    assert "history_scores" not in processor(make_request("select"), task="select")
    processor.history_window = None
    processor.max_length = processor({"history": history[1:]})["input_ids"].shape[1]  # room for two of them
    fitting = processor({"history": history})["history_scores"][0]
    torch.testing.assert_close(fitting, 4 * processor.word_similarities(history[1:]))
    assert fitting.abs().max() < 1e-6


def test_models_answer_with_them(shared):
    model, processor = shared
    inputs = processor({"history": ["hat", {"title": "Wool"}]})
    with_them = model.score_items(**inputs)
    added = inputs.pop("history_scores")
    assert added.any()
    torch.testing.assert_close(with_them, (model.score_items(**inputs) + added).log_softmax(-1))


@pytest.mark.parametrize("name", ["word_similarity", "choice_similarity"])
@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf"), "4"])
def test_a_similarity_is_a_number_of_at_least_zero(name, value):
    with pytest.raises(ValueError, match=f"`{name}` must be a number of at least 0"):
        make_processor(**{name: value})


def test_items_without_words_have_none():
    processor = make_processor(Catalog.from_items([{"item_id": "a"}, {"item_id": "b"}]))
    assert processor.query_matches("hat").tolist() == [0, 0]
    assert processor.word_similarities(["a", {"title": "Hat"}]).tolist() == [0, 0]
    processor.catalog.add([{"item_id": "c"}])
    assert processor.query_matches("hat").tolist() == [0, 0, 0]


# On disk


def test_saved_and_loaded_it_is_the_same(tmp_path, task):
    processor = make_processor(order="code_last", full_chunks=None, rating_range=(0, 10), item_text_length=11)
    processor.catalog.remove(["belt"])
    processor.save_pretrained(tmp_path)
    for loader in (UniMPProcessor, AutoProcessor):
        loaded = loader.from_pretrained(tmp_path)
        assert type(loaded) is UniMPProcessor
        assert loaded.catalog.item_ids == processor.catalog.item_ids
        assert loaded.catalog.available == processor.catalog.available
        for name in ("order", "full_chunks", "rating_range", "behavior_kinds", "item_text_length", "text_vocab_size"):
            assert getattr(loaded, name) == getattr(processor, name)
        first, second = (one(make_request(task), task=task) for one in (processor, loaded))
        assert all(torch.equal(first[key], second[key]) for key in first)


def test_without_a_catalogue(tmp_path):
    processor = make_processor()
    processor.catalog = None
    processor.save_pretrained(tmp_path)
    assert not (tmp_path / "catalog.parquet").exists()
    assert UniMPProcessor.from_pretrained(tmp_path).catalog is None


def test_the_catalogue_is_not_in_the_json(tmp_path, processor):
    processor({"history": processor.catalog.item_ids})
    processor.save_pretrained(tmp_path)
    text = (tmp_path / "processor_config.json").read_text()
    assert not {"catalog", "_catalog", "_item_text"} & set(json.loads(text))
    assert "Straw hat" not in text
    assert "Straw hat" not in repr(processor)
    assert json.loads(text)["auto_map"] == {"AutoProcessor": "processing_unimp.UniMPProcessor"}


def test_writing_copies_no_table(processor):
    with patch.object(Catalog, "_set_table", side_effect=AssertionError("a table was built again")):
        assert "tokenizer" not in processor.to_dict()
        twin = copy.deepcopy(processor)
    assert twin.catalog.table is processor.catalog.table


def test_pushing_waits_for_the_catalogue(tmp_path, processor):
    def push(self, repo_id, **kwargs):
        assert (tmp_path / "name" / "catalog.parquet").is_file()
        assert kwargs == {"private": True}
        pushed.append(repo_id)

    pushed = []
    with patch.object(UniMPProcessor, "push_to_hub", push):
        processor.save_pretrained(tmp_path / "name", push_to_hub=True, private=True)
        processor.save_pretrained(tmp_path / "name", push_to_hub=True, repo_id="me/other", private=True)
    assert pushed == ["name", "me/other"]


def test_every_catalogue_item_has_its_text(processor):
    for position in range(len(processor.catalog)):
        attributes = processor.catalog.attributes(position)
        assert processor.item_text_ids(position) == processor.format.item_text(attributes)


def test_replaced_items_are_what_they_have_become(shared):
    model, processor = copy.deepcopy(shared)
    catalog = processor.catalog
    before = model.compute_item_rows()[0].detach()
    codes = catalog.replace([{"item_id": catalog.item_ids[2], "title": "Moon boots"}])
    catalog.add([{"item_id": "twin", "title": "Moon boots"}])
    processor.index_catalog(model, codes)
    rows = model.compute_item_rows()[0].detach()
    changed = (rows[:-1] != before).any(dim=1).nonzero().flatten().tolist()
    assert changed == codes
    learned = model.model.item_rows.learned
    torch.testing.assert_close(rows[codes[0]] - learned[codes[0]], rows[-1])  # same content; what was learned stays
    assert not learned[-1].any()
    with pytest.raises(ValueError, match="`codes`"):
        processor.index_catalog(model, [99])


def test_a_number_for_an_id_that_is_text_is_answered_with_the_text():
    processor = make_processor(Catalog.from_items([{"item_id": "1000", "title": "Hat"}]))
    with pytest.raises(ValueError, match="`item_id` must be text, got the number 1000 in `history`: give '1000'"):
        processor({"history": [1000]})
    with pytest.raises(ValueError, match=r"must be one of the catalogue's 1 item ids .* got 7 in `history`"):
        processor({"history": [7]})
