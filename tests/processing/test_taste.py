"""What a request asks for and what a person likes, on a tiny random recommender."""

import copy

import pytest
import torch

from unimp.processing.pipelines_unimp import UniMPSearchPipeline
from unimp.processing.taste_unimp import TasteMixin

from .conftest import make_processor
from .test_semantic_codes import first_rows, semantic_model


class Taste(TasteMixin):
    """All that it needs of the pipeline that it is part of."""

    def __init__(self, model, processor):
        self.model, self.processor = model, processor


@pytest.fixture
def taste(shared):
    return Taste(*shared)


def test_what_has_the_words_of_the_request_is_retrieved_first(taste):
    for word in ("hat", "gloves", "wool"):
        assert word in taste._words_of_item({"item_id": taste.retrieve(["shirt"], word, 30)[0]["item_id"]}).lower()
    found = [answer["item_id"] for answer in taste.retrieve(["shirt"], "something", 3)]  # no item has it
    search = taste._pipeline(UniMPSearchPipeline)
    assert found == [row["item_id"] for row in search({"history": ["shirt"], "query": "something"}, top_k=3)]


def scored(**scores):
    return [{"item_id": item_id, "score": score} for item_id, score in scores.items()]


@pytest.fixture
def begin_with(taste, monkeypatch):
    """`begin_with` of a recommender that knows how alike items are."""

    def begin(asked, found, query, weightings, history=(), **likeness):
        monkeypatch.setattr(taste, "likeness", lambda history, item_ids: [likeness[item_id] for item_id in item_ids])
        return taste.begin_with(asked, found, query, history, weightings)

    return begin


def test_the_more_taste_the_more_it_decides_what_is_changed(begin_with):
    asked, found = scored(gloves=-1.0, hat=-2.0, socks=-3.0), scored(socks=-1.0, hat=-1.5)
    # At .1 gloves: -1 + .2 * (-1.5 + 8 log .6) = -2.12; hat: -2 + .2 * (-1.5 + 8 log .9) = -2.47; at .25 -3.79 and
    # -3.17.
    starts = begin_with(asked, found, "something", [0.0, 0.1, 0.25, 1.0], gloves=0.6, hat=0.9, socks=0.5)
    assert starts == ["gloves", "gloves", "hat", "hat"]


def test_what_has_the_words_of_the_request_is_changed_first(begin_with):
    asked, found = scored(gloves=-1.0, hat=-9.0), scored(gloves=-1.0, socks=-9.0)
    likeness = {"gloves": 0.9, "hat": 0.1, "socks": 0.1}
    assert begin_with(asked, found, "straw hat", [0.0, 1.0], **likeness) == ["hat", "hat"]
    assert begin_with(asked, found, "straw hat", [0.0, 1.0], ["hat"], **likeness) == ["hat", "hat"]  # the only one
    # At 0 nobody's history decides, not even what is found for it.
    assert begin_with(asked, found, "socks", [0.0, 0.5], **likeness) == ["gloves", "socks"]


def test_what_they_had_chosen_is_not_drawn_for_them_again(begin_with):
    asked, found = scored(gloves=-1.0, hat=-2.0), scored(gloves=-1.0, hat=-2.0)
    for history, starts in ((["gloves"], ["gloves", "hat"]), (["gloves", {"item_id": "hat"}], ["gloves", "gloves"])):
        assert begin_with(asked, found, "something", [0.0, 1.0], history, gloves=0.9, hat=0.1) == starts


def test_items_are_alike_as_the_recommender_knows_them(taste):
    history = ["coat", {"item_id": "hat", "rating": 5}, {"item_id": "socks", "rating": 1}, {"title": "Green kilt"}]
    rows = taste.model.compute_item_rows()[0].detach()
    catalog = taste.processor.catalog
    rows = torch.nn.functional.normalize(rows - rows.mean(0), dim=-1)
    coat, hat, gloves = (rows[catalog.position(item_id)] for item_id in ("coat", "hat", "gloves"))
    cosines = torch.stack([item @ (coat + hat) / 2 for item in (gloves, hat)])
    assert taste.likeness(history, ["gloves", "hat"]) == pytest.approx(((1 + cosines) / 2).tolist(), abs=1e-5)
    assert taste.likeness([{"title": "Green kilt"}], ["gloves"]) == [None]


def test_items_of_several_tokens_are_alike_by_their_codes():
    processor = make_processor()
    model = semantic_model(processor)
    processor.index_catalog(model, fit_codes=first_rows)
    taste = Taste(model, processor)
    rows, codes = model.compute_item_rows()[0].detach(), torch.as_tensor(processor.catalog.codes.astype(int))
    places = codes + torch.tensor(model.config.level_starts)
    items = torch.stack([rows[place].mean(0) for place in places])
    items = torch.nn.functional.normalize(items - items.mean(0), dim=-1)
    position = processor.catalog.position
    cosine = items[position("gloves")] @ items[position("coat")]
    assert taste.likeness(["coat"], ["gloves", "coat"]) == pytest.approx([float(1 + cosine) / 2, 1.0], abs=1e-5)


def test_what_has_no_picture_is_not_changed(taste):
    assert taste.begin_with(scored(shirt=-1.0), scored(shirt=-1.0), "shirt", ["hat"], [0.0, 1.0]) == [None, None]


def test_what_was_rated_low_is_not_liked(taste):
    events = [{"item_id": "coat", "rating": 1}, {"item_id": "shoes", "rating": 4}]
    assert taste.keywords_of_taste(events) == ["black", "shoes"]


def test_keywords_follow_a_catalogue_that_changes(taste):
    catalog = taste.processor.catalog
    taste.processor.catalog = copy.copy(catalog)  # the processor is shared by all tests
    try:
        assert "striped" not in taste.keywords_of_taste(["hat"])
        taste.processor.catalog.replace([{"item_id": "hat", "title": "Striped cap"}])
        assert taste.keywords_of_taste(["hat"]) == ["striped", "cap"]
    finally:
        taste.processor.catalog = catalog
