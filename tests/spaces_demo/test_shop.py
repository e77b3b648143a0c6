"""Answers, and copies that share the weights and nothing else."""

import copy

import pytest
import torch

from unimp.spaces_demo.visitor import Visitor

from ..processing.conftest import draw_picture

HISTORY = ["shirt", "hat", "socks"]


def scores(shop, history=HISTORY):
    return {answer["item_id"]: answer["score"] for answer in shop.ask("recommend", {"history": history}, top_k=50)}


def test_a_live_session_answers_as_the_pipeline(shop):
    visitor = Visitor(shop)
    for item_id in HISTORY:
        visitor.recommend(3)
        visitor.add(item_id)
    live = {answer["item_id"]: answer["score"] for answer in visitor.recommend(50)}
    assert live == pytest.approx(scores(shop), abs=1e-4)
    visitor.remove(1)
    visitor.remove(1)  # that one is gone already
    assert visitor.history == ["shirt", "socks"]
    live = {answer["item_id"]: answer["score"] for answer in visitor.recommend(50)}
    assert live == pytest.approx(scores(shop, ["shirt", "socks"]), abs=1e-4)


def test_words_that_mean_little_are_known(shop):
    assert shop.unknown_words("A straw hat, and an umbrella") == ["umbrella"]  # its tokenizer knows no whole word
    assert shop.unknown_words("") == []


def test_hidden_pictures_change_answers_and_leave_the_shop_as_it_is(shop):
    before = scores(shop)
    visitor = Visitor(shop)
    visitor.set_history(HISTORY)
    visitor.set_hide_pictures(True)
    hidden = {answer["item_id"]: answer["score"] for answer in visitor.recommend(50)}
    assert any(abs(hidden[item_id] - before[item_id]) > 1e-3 for item_id in before)
    assert scores(shop) == before
    assert not any(shop.blind.catalog.has_image(position) for position in range(len(shop.catalog)))


def test_the_places_with_pictures_are_known_while_they_are_hidden(shop):
    visitor = Visitor(shop)
    visitor.set_history(HISTORY)
    expected = [answer["item_id"] for answer in visitor.recommend(50)]
    visitor.set_hide_pictures(True)
    ranks = visitor.ranks_with_pictures()
    assert sorted(ranks, key=ranks.get) == expected
    assert sorted(ranks.values()) == list(range(1, len(expected) + 1))


def test_a_hidden_picture_of_an_unknown_item_is_not_seen(shop):
    visitor = Visitor(shop)
    visitor.set_history([{"title": "scarf", "image": draw_picture(7)}])
    visitor.set_hide_pictures(True)
    assert visitor.shown_history() == [{"title": "scarf"}]


def test_what_it_looked_at_is_the_fall_when_a_picture_is_gone(shop):
    best, falls = shop.looked_at(HISTORY)
    pictured = [n for n, item_id in enumerate(HISTORY) if shop.catalog.has_image(shop.catalog.position(item_id))]
    assert sorted(falls) == pictured
    # By another way: the item is told anew without its picture.
    place = pictured[-1]
    model, processor = copy.deepcopy(shop.model), copy.copy(shop.processor)
    processor.catalog = copy.copy(shop.catalog)
    position = shop.catalog.position(HISTORY[place])
    codes = processor.catalog.replace([shop.catalog.item(position)])
    processor.index_catalog(model, codes)
    from transformers import pipeline

    recommend = pipeline("unimp-recommend", model=model, processor=processor)
    answer = recommend({"history": HISTORY}, candidates=[best["item_id"]])
    assert best["score"] - answer[0]["score"] == pytest.approx(falls[place], abs=1e-4)


def test_own_items_join_a_copy_that_shares_the_weights(shop):
    rows, before = len(shop.catalog), scores(shop)
    own = shop.with_items([{"item_id": "yours-1", "title": "Green scarf", "image": draw_picture(5)}])
    assert own.own_ids == ["yours-1"]
    assert "yours-1" in scores(own)
    assert own.find()[0] == "yours-1"
    assert "yours-1" not in shop.catalog
    assert len(shop.catalog) == rows == shop.model.config.num_items
    assert scores(shop) == before
    shared = {id(weight) for weight in shop.model.parameters()}
    assert sum(id(weight) in shared for weight in own.model.parameters()) >= len(shared) - 3  # all but item rows
    visitor = Visitor(shop)
    visitor.enter(own)
    visitor.own_only = True
    assert [answer["item_id"] for answer in visitor.recommend(5)] == ["yours-1"]
    visitor.add("yours-1")
    visitor.enter(shop)
    assert visitor.history == []


def test_why_has_a_rating_and_select_chooses_among_the_candidates(shop):
    from unimp.spaces_demo.api import select

    answer = select(shop, HISTORY, ["coat", "belt", "scarf"])
    assert set(answer["ratings"]) == {"coat", "belt", "scarf"}
    assert set(answer["chosen"]) <= {"coat", "belt", "scarf"}
    assert answer["chosen"]
    assert 1 <= shop.why(HISTORY, "coat")["rating"] <= 5
    assert torch.is_grad_enabled()


def test_the_history_has_an_end(shop):
    visitor = Visitor(shop)
    for _ in range(40):
        visitor.add("hat")
    with pytest.raises(ValueError, match="at most 40"):
        visitor.add("hat")
    with pytest.raises(ValueError, match="no item 'nothing'"):
        Visitor(shop).add("nothing")


def test_candidates_are_three_and_the_oldest_leaves(shop):
    visitor = Visitor(shop)
    visitor.pick_candidates()
    assert len(set(visitor.candidates)) == 3
    visitor.candidates = ["shirt", "hat", "coat"]
    visitor.toggle_candidate("belt")
    assert visitor.candidates == ["hat", "coat", "belt"]
    visitor.toggle_candidate("coat")
    assert visitor.candidates == ["hat", "belt"]
