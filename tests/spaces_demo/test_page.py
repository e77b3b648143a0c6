"""What the page does on a click, whatever a browser says."""

from concurrent.futures import ThreadPoolExecutor

import gradio as gr
import pytest

from unimp.spaces_demo import cards
from unimp.spaces_demo.page import NOBODY, Page
from unimp.spaces_demo.visitor import Visitor

TOP_K = 50


@pytest.fixture(scope="module")
def page(shop):
    page = Page(shop, {"Ada": ["shirt", "hat"], "Ben": ["coat", "not there"]}, "tiny <model>")
    page.build()
    return page


def event(action, item_id):
    return gr.EventData(None, {"action": action, "id": item_id})


def test_clicks_at_once_are_read_one_after_the_other(page, shop):
    visitor = page.visitor(None)
    page.draw_all(visitor, TOP_K)
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda item_id: page.click(visitor, event("add", item_id)), ["hat", "coat"] * 6))
    assert sorted(visitor.history) == ["coat"] * 6 + ["hat"] * 6
    live = {answer["item_id"]: answer["score"] for answer in visitor.recommend(TOP_K)}
    again = shop.ask("recommend", {"history": visitor.history}, top_k=TOP_K)
    assert live == pytest.approx({answer["item_id"]: answer["score"] for answer in again}, abs=1e-4)


def test_what_follows_a_click_is_drawn_one_at_a_time(page):
    """Answers to clicks reach a browser in any order: an older one must not be drawn over a later one."""
    functions = page.build().fns
    [click] = [number for number, function in functions.items() if function.name == "click"]
    assert not {page.strip, page.results} & set(functions[click].outputs)
    [drawing] = [function for function in functions.values() if function.trigger_after == click]
    assert (drawing.name, drawing.trigger_mode) == ("draw_all", "always_last")
    assert {page.strip, page.results} <= set(drawing.outputs)


@pytest.mark.parametrize(
    ("action", "item_id"),
    [
        ("add", "<script>"),
        ("add", ""),
        ("why", "nothing"),
        ("remove", "99"),
        ("remove", "-1"),
        ("drop", "hat"),
        ("", ""),
    ],
)
def test_odd_clicks_change_nothing(page, action, item_id):
    visitor = page.visitor(None)
    visitor.set_history(["hat"])
    shown = page.click(visitor, event(action, item_id))
    assert visitor.history == ["hat"]
    assert not any("<script>" in part for part in shown if isinstance(part, str))


def test_a_click_that_says_nothing_changes_nothing(page):
    visitor = page.visitor(None)
    page.click(visitor, gr.EventData(None, None))
    assert visitor.history == []


def test_people_have_the_items_that_are_there(page):
    visitor, strip, *_ = page.choose_person(None, 8, "Ben")
    assert visitor.history == ["coat"]
    assert "Grey coat" in strip
    assert page.choose_person(visitor, 8, NOBODY)[0].history == []


def test_a_name_is_escaped_and_what_it_does_is_told(page):
    assert "tiny &lt;model&gt;" in page._head()
    assert "draws" not in page._head()  # this model has nothing to draw with


def test_visitors_share_nothing(page):
    ada, ben = (page.choose_person(None, 8, who)[0] for who in ("Ada", "Ben"))
    page.hide_pictures(ada, 8, True)
    assert (ada.history, ben.history) == (["shirt", "hat"], ["coat"])
    assert ada.hide_pictures
    assert not ben.hide_pictures


def test_a_history_of_everything_there_is(page, shop):
    visitor = page.visitor(None)
    visitor.set_history(shop.find())
    assert "nothing left to recommend" in page.draw_all(visitor, 8)[2]
    assert "u-heat" not in page.look(visitor, True)
    page.pick_three(visitor, "")
    assert len(set(visitor.candidates)) == 3
    with pytest.raises(gr.Error, match="nothing is left"):
        page.api.what_it_looked_at(shop.find())


def test_the_heat_is_of_what_is_recommended_of_their_own_items(page, shop):
    visitor = page.visitor(None)
    visitor.enter(shop.with_items([{"item_id": "yours-1", "title": "A scarf of mine"}]))
    visitor.set_history(["hat"])
    page.recommend_own(visitor, 8, True)
    assert "<b>A scarf of mine</b>" in page.look(visitor, True)


def test_the_heat_says_how_likely_the_first_is_without_each_picture(page, shop):
    visitor = page.visitor(None)
    visitor.set_history(["shirt", "hat", "socks"])
    best, falls = shop.looked_at(visitor.history)
    shown = page.look(visitor, True)
    assert f"{cards.percent(best['score'])} likely" in shown
    assert all(f"<span>{cards.percent(best['score'] - fall)}</span>" in shown for fall in falls.values())


@pytest.mark.parametrize(
    ("words", "is_shown"),
    [
        ("I never have never have.", False),
        ("Black is my colour and black is my colour.", False),
        ("Black is my colour and black suits me.", True),
        ("I am fond of hats and I am fond of stripes.", True),
        ("A very, very good hat.", True),
    ],
)
def test_words_that_repeat_themselves_are_left_out(shop, words, is_shown):
    shown = cards.why(Visitor(shop), "hat", {"rating": 4.0, "explanation": words})
    assert (words in shown) == is_shown
    assert ("repeat themselves" in shown) != is_shown


def test_nobody_is_not_called_this_person(shop):
    visitor, answer = Visitor(shop), {"rating": 4.0, "explanation": "Fine."}
    assert "this person" not in cards.why(visitor, "hat", answer)
    visitor.add("coat")
    assert "this person" in cards.why(visitor, "hat", answer)


def test_ratings_that_are_all_the_same_are_left_out(shop):
    assert "4.0 of 5" not in cards.candidates(shop, ["hat", "coat"], ["hat"], {"hat": 4.01, "coat": 3.99})
    assert "4.0 of 5" in cards.candidates(shop, ["hat", "coat"], ["hat"], {"hat": 4.01, "coat": 3.0})


def test_reading_what_is_sent_leaves_room_for_everybody_else(page):
    blocks = page.build()
    reading = [fn for fn in blocks.fns.values() if fn.name in ("add_items", "join_items")]
    assert [(fn.concurrency_id, fn.concurrency_limit) for fn in reading] == [("uploads", 2)] * 2
