import re

import datasets
import numpy as np
import pytest
from PIL import Image

from unimp.processing import demo_store
from unimp.processing.columns_unimp import Columns
from unimp.processing.demo_store import build_demo_store, demo_item_traits, draw_sheet

NUM_ITEMS, NUM_USERS, SEED = 150, 150, 3


@pytest.fixture(scope="module")
def store():
    return build_demo_store(NUM_ITEMS, NUM_USERS, SEED)


@pytest.fixture(scope="module")
def truth():
    return demo_item_traits(NUM_ITEMS, SEED)


@pytest.fixture(scope="module")
def histories(store):
    """user id -> rows of the interactions table, in order of time."""
    rows = {}
    for row in store[1]:
        rows.setdefault(row[Columns.USER_ID], []).append(row)
    return rows


def _bytes_of(table):
    raw = table.cast_column(Columns.IMAGE, datasets.Image(decode=False)) if Columns.IMAGE in table.features else table
    return raw.to_list()


def test_the_same_seed_gives_the_same_tables():
    one, two, other = (build_demo_store(40, 10, seed) for seed in (5, 5, 6))
    for first, second, different in zip(one, two, other, strict=True):
        assert _bytes_of(first) == _bytes_of(second)
        assert _bytes_of(first) != _bytes_of(different)


def test_items_do_not_depend_on_the_number_of_users():
    assert _bytes_of(build_demo_store(40, 1, 0)[0]) == _bytes_of(build_demo_store(40, 3, 0)[0])


def test_items_table(store, truth):
    items = store[0]
    assert {name: getattr(feature, "dtype", None) for name, feature in items.features.items() if name != "image"} == {
        "item_id": "string",
        "title": "string",
        "category": "string",
        "brand": "string",
        "price": "float64",
    }
    assert isinstance(items.features["image"], datasets.Image)
    assert set(items["item_id"]) == set(truth)
    assert len(truth) == NUM_ITEMS
    assert list(items["item_id"]) != sorted(items["item_id"])


def test_pictures_are_small_pngs_and_some_are_missing(store):
    pictures = [picture for picture in store[0]["image"] if picture is not None]
    assert 0 < NUM_ITEMS - len(pictures) < 0.1 * NUM_ITEMS
    assert {(picture.format, picture.mode, picture.size) for picture in pictures} == {("PNG", "RGB", (64, 64))}
    assert len({picture.tobytes() for picture in pictures}) == len(pictures)


def test_some_brands_and_prices_are_missing(store):
    for column in ("brand", "price"):
        assert 0 < sum(value is None for value in store[0][column]) < 0.15 * NUM_ITEMS
    assert all(price is None or price > 0 for price in store[0]["price"])


def test_colour_and_pattern_show_in_the_picture_only(store):
    adjectives, prints = zip(*demo_store.PATTERNS.values(), strict=True)
    telling = {*demo_store.COLOURS, *demo_store.PATTERNS, *adjectives, *" ".join(prints).split()}
    texts = [
        " ".join(row) for row in zip(*(map(str, store[0][c]) for c in ("title", "category", "brand")), strict=True)
    ]
    assert telling.isdisjoint(re.findall(r"[\w-]+", " ".join(texts).lower()))


def test_the_picture_shows_the_colour():
    """The middle of a plain red, green or blue T-shirt is strongest in that channel."""
    items, _ = build_demo_store(400, 1, 0)
    traits, channels, seen = demo_item_traits(400, 0), ("red", "green", "blue"), 0
    for item_id, picture in zip(items["item_id"], items["image"], strict=True):
        item = traits[item_id]
        if picture is not None and item.pattern == "plain" and item.garment == "t-shirt" and item.colour in channels:
            patch = np.asarray(picture, dtype=float)[28:44, 24:40].mean(axis=(0, 1))
            assert channels[int(np.argmax(patch))] == item.colour
            seen += 1
    assert seen > 0


def test_interactions_table(store, truth):
    interactions = store[1]
    assert {name: feature.dtype for name, feature in interactions.features.items()} == {
        "user_id": "string",
        "item_id": "string",
        "timestamp": "int64",
        "rating": "float64",
        "explanation": "string",
        "query": "string",
        "behavior": "string",
    }
    assert set(interactions["item_id"]) <= set(truth)
    assert set(interactions["behavior"]) == {"purchase", "click", "view"}
    assert list(interactions["timestamp"]) == sorted(interactions["timestamp"])


def test_ratings_and_explanations(store):
    interactions = store[1]
    ratings = [rating for rating in interactions["rating"] if rating is not None]
    assert set(ratings) == {1.0, 2.0, 3.0, 4.0, 5.0}
    assert 3.0 < np.mean(ratings) < 4.2
    assert 0.05 < 1 - len(ratings) / len(interactions) < 0.15
    explanations = [text for text in interactions["explanation"] if text is not None]
    assert 0.2 < 1 - len(explanations) / len(interactions) < 0.4
    assert all(text[0].isupper() and text.endswith(".") and "{" not in text for text in explanations)


def test_explanations_speak_of_the_item(store, truth):
    """A colour, a print or a brand in the explanation is the item's own."""
    for row in store[1]:
        item, text = truth[row["item_id"]], (row["explanation"] or "").lower()
        assert {colour for colour in demo_store.COLOURS if re.search(rf"\b{colour}\b", text)} <= {item.colour}
        assert {name for name, (_, prints) in demo_store.PATTERNS.items() if prints in text} <= {item.pattern}
        assert {brand for brand in demo_store.BRANDS if brand.lower() in text} <= {item.brand}


def test_queries_name_the_garment_and_what_the_picture_shows(store, truth):
    for row in store[1]:
        item, words = truth[row["item_id"]], row["query"].split()
        assert 2 <= len(words) <= 5
        assert item.garment in words
        assert item.colour in words or demo_store.PATTERNS[item.pattern][0] in words


def test_histories_are_of_arrived_items_without_repeats(histories, truth):
    assert len(histories) == NUM_USERS
    for rows in histories.values():
        times = [row["timestamp"] for row in rows]
        assert 6 <= len(rows) <= 16
        assert times == sorted(set(times))
        assert len({row["item_id"] for row in rows}) == len(rows)
        assert all(truth[row["item_id"]].arrival <= row["timestamp"] for row in rows)
    assert len({item.arrival for item in truth.values()}) > NUM_ITEMS / 3


def _hit_rate(score, histories, position, top_k=10):
    """Share of users whose last item is among the `top_k` best scores of unseen items."""
    hits = 0
    for rows in histories.values():
        *seen, target = (position[row["item_id"]] for row in rows)
        scores = score(seen).astype(float)
        scores[seen] = -np.inf
        hits += target in np.argsort(-scores, kind="stable")[:top_k]
    return hits / len(histories)


def test_taste_shows_in_the_traits_of_the_pictures(histories, truth):
    position = {item_id: index for index, item_id in enumerate(truth)}
    counts = np.zeros(len(truth))
    for rows in histories.values():
        for row in rows[:-1]:
            counts[position[row["item_id"]]] += 1

    def neighbours(*traits):
        values = [(t, v) for t in traits for v in {getattr(item, t) for item in truth.values()}]
        one_hot = np.array([[getattr(item, t) == v for t, v in values] for item in truth.values()], dtype=float)
        return lambda seen: one_hot @ (0.65 ** np.arange(len(seen))[::-1] @ one_hot[seen])

    popular = _hit_rate(lambda seen: counts.copy(), histories, position)
    pictures = _hit_rate(neighbours("colour", "pattern", "garment"), histories, position)
    text = _hit_rate(neighbours("garment", "brand"), histories, position)
    assert pictures > 2 * popular
    assert pictures > 2 * text


def test_sheet_is_written(store, tmp_path):
    draw_sheet(store[0], tmp_path / "sheet.png", columns=5, limit=12)
    draw_sheet(store[0], tmp_path / "one_row.png", columns=5, limit=5)
    with Image.open(tmp_path / "sheet.png") as sheet, Image.open(tmp_path / "one_row.png") as row:
        assert sheet.format == "PNG"
        assert sheet.width == row.width > 5 * 64
        tile = demo_store.TILE + demo_store.CAPTION + demo_store.GAP
        assert sheet.height == row.height + 2 * tile


def test_sheet_shows_items_without_picture_brand_or_price(store, tmp_path):
    bare = store[0].filter(lambda row: row["image"] is None or row["brand"] is None or row["price"] is None)
    draw_sheet(bare, str(tmp_path / "bare.png"))
    assert (tmp_path / "bare.png").stat().st_size > 0


@pytest.mark.parametrize(
    "arguments", [{"num_items": 39}, {"num_users": 0}, {"seed": -1}], ids=["num_items", "num_users", "seed"]
)
def test_bad_arguments_are_named(arguments):
    with pytest.raises(ValueError, match=f"`{next(iter(arguments))}`"):
        build_demo_store(**arguments)


@pytest.mark.parametrize("name", ["columns", "limit"])
def test_bad_sheet_arguments_are_named(store, tmp_path, name):
    with pytest.raises(ValueError, match=f"`{name}`"):
        draw_sheet(store[0], tmp_path / "sheet.png", **{name: 0})
