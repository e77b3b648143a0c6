"""Queries: from the item alone, the same for the same event."""

from collections import Counter

from datasets import Dataset

from unimp.processing.loaders.queries import draw_queries, telling_words
from unimp.processing.loaders.raw import SearchColumns
from unimp.processing.store import make_store

SEARCH = SearchColumns(words=("genres", "keywords"), kind="genres", detail="year")
FILM = {"item_id": "f", "title": "The Red Lantern", "year": 1994, "genres": ["Drama"], "keywords": ["heist", None]}
# Everything that may be asked for, by the way of asking.
TWO = {"drama heist", "heist drama"}
PAIR = {"drama 1990s"}
ONE = {"red", "lantern"}


def events(users=("u",), item="f", **columns):
    return Dataset.from_dict(
        {"user_id": list(users), "item_id": [item] * len(users), "timestamp": [0] * len(users)} | columns
    )


def items(**changes):
    return Dataset.from_list([{**FILM, **changes}])


def ways(**changes):
    people = [f"u{n}" for n in range(4000)]
    queries = draw_queries(events(people), items(**changes), SEARCH)["query"][:]
    return Counter("two" if q in TWO else "pair" if q in PAIR else "one" if q in ONE else q for q in queries)


def test_telling_words():
    assert telling_words("The Day the Earth Stood Still, 2nd: X-Ray O'Neil, the DAY of 1984") == [
        "day",
        "earth",
        "stood",
        "still",
        "x-ray",
        "o'neil",
    ]
    assert telling_words(None) == []


def test_shares():
    found = ways()
    assert set(found) == {"two", "pair", "one"}
    # 4,000 draws: 5 standard deviations are 4 points.
    assert abs(found["two"] / 4000 - 0.4) < 0.04
    assert abs(found["pair"] / 4000 - 0.3) < 0.04


def test_every_word_is_asked_for():
    people = [f"u{n}" for n in range(4000)]
    queries = draw_queries(events(people), items(), SEARCH)["query"][:]
    assert set(queries) == TWO | PAIR | ONE


def test_an_item_is_asked_for_by_what_it_has():
    assert set(ways(keywords=[])) == {"pair", "one"}
    assert set(ways(year=None)) == {"two", "one"}
    assert set(ways(title="Lantern")) == {"two", "pair"}  # the whole title would make search trivial
    # What a way cannot do passes to the next one round: words for two lack here, and the pair takes their share.
    assert abs(ways(keywords=[])["pair"] / 4000 - 0.7) < 0.04


def test_two_words_are_two():
    queries = draw_queries(
        events([f"u{n}" for n in range(500)]), items(genres=["A", "a", "B"], title=None, year=None), SEARCH
    )
    asked = {frozenset(query.split()) for query in queries["query"]}
    assert asked == {frozenset(pair) for pair in (("a", "b"), ("a", "heist"), ("b", "heist"))}


def test_an_own_query_stays():
    queries = draw_queries(events(["u", "v"], query=["my words", None]), items(), SEARCH)["query"][:]
    assert queries[0] == "my words"
    assert queries[1] in TWO | PAIR | ONE


def test_a_query_depends_on_the_event_and_the_seed_alone():
    catalog = Dataset.from_list([FILM, {**FILM, "item_id": "g", "keywords": ["moon", "lake"]}])
    rows = [{"user_id": f"u{n}", "item_id": "fg"[n % 2], "timestamp": n} for n in range(200)]
    expected = draw_queries(Dataset.from_list(rows), catalog, SEARCH)["query"][:]
    backwards = Dataset.from_list([{**row, "timestamp": 5} for row in reversed(rows)])
    assert draw_queries(backwards, catalog.select([1, 0]), SEARCH)["query"][::-1] == expected
    alone = draw_queries(Dataset.from_list(rows[:1]), catalog.select([0]), SEARCH)["query"][:]
    assert alone == expected[:1]
    assert draw_queries(Dataset.from_list(rows), catalog, SEARCH, seed=1)["query"][:] != expected


def test_draws_do_not_change_between_versions():
    queries = draw_queries(events(["u1", "u2", "u3", "u4"]), items(), SEARCH)["query"][:]
    assert queries == ["drama 1990s", "drama heist", "red", "heist drama"]


def test_nothing_to_ask_for_leaves_no_column():
    nobody = make_store(items(), events(query=[None])).interactions
    found = draw_queries(nobody, items(title=None, genres=["Unknown", " "], keywords=None), SEARCH)
    assert found.column_names == ["user_id", "item_id", "timestamp"]
