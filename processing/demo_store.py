"""The demo store: a small shop, its shoppers and their history, made in code from a seed.

Garments are drawn with Pillow; their colour and pattern show in the picture and nowhere else in the items table.
Shoppers choose mostly by colour and pattern, so whoever ignores the pictures misses most of the taste. The store
runs everything in minutes on a CPU and measures whether pictures are used; it stands for no real shop.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from huggingface_hub import DatasetCardData
from PIL import Image, ImageDraw, ImageFont

from .columns_unimp import Columns
from .demo_pictures import COLOURS, draw_garment

# Drawn by this package, pictures and people alike.
DATA_CARD = DatasetCardData(pretty_name="UniMP's demo store", license="apache-2.0")
STORE_NAME = "Loom & Lane"
MIN_ITEMS = 40
MIN_EVENTS, MAX_EVENTS = 6, 16  # of a person
OPENING = 1_704_067_200  # 1 January 2024, seconds since 1970
SPAN = 548 * 86_400  # eighteen months in seconds
OPENING_SHARE = 0.4  # of the items are there from the start; the rest arrives steadily until near the end

PATTERNS = {  # as an adjective, as things one likes
    "plain": ("plain", "plain fabrics"),
    "stripes": ("striped", "stripes"),
    "dots": ("dotted", "polka dots"),
    "checks": ("checked", "checks"),
    "zigzag": ("zigzag", "zigzags"),
    "floral": ("floral", "flower prints"),
}
GARMENTS = {  # plural, usual price, nouns for titles
    "t-shirt": ("T-shirts", 25, ("Tee", "T-shirt", "Top")),
    "dress": ("dresses", 70, ("Dress", "Sundress", "Day Dress")),
    "trousers": ("trousers", 60, ("Trousers", "Slacks", "Chinos")),
    "shoes": ("shoes", 85, ("Sneaker", "Trainers", "Low Shoe")),
    "bag": ("bags", 55, ("Tote", "Shopper", "Bag")),
    "hat": ("hats", 35, ("Hat", "Brim Hat", "Fedora")),
    "scarf": ("scarves", 30, ("Scarf", "Shawl", "Wrap")),
    "coat": ("coats", 140, ("Coat", "Overcoat", "Car Coat")),
}
BRANDS = {"Aldermoor": 0.8, "Brisa": 0.9, "Casa Tilde": 1.0, "Nordhem": 1.1, "Okapi": 1.2, "Vell & Sons": 1.4}
TITLE_WORDS = (
    "Harbour Atlas Summit Avenue Juniper Cascade Lisbon Marlow Studio Voyage Sunday Orchard Pilot Garden Quay Ember "
    "Tempo Willow Canyon Bistro Comet Dune Echo Fable Gallery Haven Island Jasper Kite Lantern Meridian Nomad Opera "
    "Parade Ridge Sonata Terrace Valley Weekend Zephyr"
)

# How much each trait weighs in a taste. Colour and pattern, which only the picture tells, make up about 70% of the
# variance of a person's utility over the range.
TASTE_SHARES = {"colour": 0.36, "pattern": 0.28, "garment": 0.26, "brand": 0.06, "price": 0.04}
TASTE_BLOCKS = (  # trait, its values, fewest and most favourites of a person
    ("colour", tuple(COLOURS), (1, 2)),
    ("pattern", tuple(PATTERNS), (1, 2)),
    ("garment", tuple(GARMENTS), (2, 3)),
    ("brand", tuple(BRANDS), (1, 2)),
)
FAVOURITE_WEIGHTS = np.array([1.0, 0.8, 0.6])
DISLIKE_WEIGHT = -0.4
# Columns of the trait matrix, in the order of the blocks.
COLOUR_COLUMNS, PATTERN_COLUMNS = slice(0, len(COLOURS)), slice(len(COLOURS), len(COLOURS) + len(PATTERNS))
PICTURE_COLUMNS = slice(0, PATTERN_COLUMNS.stop)

TASTE_STRENGTH = 13.0  # utility over temperature: higher is a more predictable person
LEANING_STRENGTH = 3.0  # pull of the colours and patterns bought last
# Chance per event that the favourite colour or pattern is swapped for another: what came last tells more than what
# came often, and counting who bought what together is not enough.
CHANGE_OF_MIND = 0.45
POPULARITY_STRENGTH = 0.8  # exponent of the Zipf-like popularity, small beside taste
NOVELTY_STRENGTH = 3.5  # shops show what is new first
NOVELTY_DAYS = 30.0
MISSING_PICTURE, MISSING_ATTRIBUTE, MISSING_RATING, MISSING_EXPLANATION = 0.03, 0.05, 0.10, 0.30


@dataclass(frozen=True)
class DemoItem:
    """What the store knows of an item. Colour and pattern are in no table: they are the picture's to tell."""

    item_id: str
    garment: str
    colour: str
    pattern: str
    title: str
    brand: str | None  # missing here where it is missing in the table
    price: float | None
    arrival: int  # seconds since 1970


def build_demo_store(
    num_items: int = 600, num_users: int = 1000, seed: int = 0
) -> tuple[datasets.Dataset, datasets.Dataset]:
    """Builds the two tables of the demo store.

    Args:
        num_items: Items in the shop, at least 40.
        num_users: Shoppers, each with 6 to 16 events.
        seed: The same seed gives the same tables, byte for byte; items do not depend on `num_users`.

    Returns:
        `items` (`item_id`, `image` of 64 x 64 RGB, `title`, `category`, `brand`, `price`) and `interactions`
        (`user_id`, `item_id`, `timestamp` in seconds, `rating` 1 to 5, `explanation`, `query`, `behavior`), the
        latter in order of time. About 3% of pictures, 5% of brands and of prices, 10% of ratings and 30% of
        explanations are missing.

    Raises:
        ValueError: `num_items`, `num_users` or `seed` is too small.
    """
    if num_users < 1:
        raise ValueError(f"`num_users` must be at least 1, got {num_users}.")
    items = _make_items(num_items, seed)
    return _items_table(items, seed), _interactions_table(items, num_users, seed)


def demo_item_traits(num_items: int = 600, seed: int = 0) -> dict[str, DemoItem]:
    """Returns the truth behind `build_demo_store(num_items, ..., seed)`, by item id; for benchmarks and tests only."""
    return {item.item_id: item for item in _make_items(num_items, seed)}


def _make_items(num_items: int, seed: int) -> list[DemoItem]:
    if num_items < MIN_ITEMS:
        raise ValueError(f"`num_items` must be at least {MIN_ITEMS}, got {num_items}.")
    if seed < 0:
        raise ValueError(f"`seed` must not be negative, got {seed}.")
    rng = np.random.default_rng([seed, 0])
    kinds = list(itertools.product(GARMENTS, COLOURS, PATTERNS))
    # Whole rounds of all combinations keep the traits balanced and independent of each other.
    rounds = [rng.permutation(len(kinds)) for _ in range(math.ceil(num_items / len(kinds)))]
    chosen = [kinds[index] for index in np.concatenate(rounds)[:num_items]]
    numbers = rng.permutation(num_items)
    # The opening range outlasts the longest history, so there is always something left to choose.
    late = rng.permutation(num_items) >= max(MAX_EVENTS, OPENING_SHARE * num_items)
    titles = {garment: _titles(garment, rng) for garment in GARMENTS}
    return [
        _make_item(f"item-{numbers[row] + 1:04d}", kind, next(titles[kind[0]]), bool(late[row]), rng)
        for row, kind in enumerate(chosen)
    ]


def _titles(garment: str, rng: np.random.Generator) -> Iterator[str]:
    titles = [f"{word} {noun}" for word in TITLE_WORDS.split() for noun in GARMENTS[garment][2]]
    return itertools.cycle(rng.permutation(titles).tolist())


def _make_item(item_id: str, kind: tuple[str, str, str], title: str, late: bool, rng: np.random.Generator) -> DemoItem:
    brand = list(BRANDS)[rng.integers(len(BRANDS))]
    price = round(GARMENTS[kind[0]][1] * BRANDS[brand] * math.exp(0.18 * rng.standard_normal())) - 0.1
    return DemoItem(
        item_id,
        *kind,
        title=title,
        brand=None if rng.random() < MISSING_ATTRIBUTE else brand,
        price=None if rng.random() < MISSING_ATTRIBUTE else round(price, 2),
        arrival=OPENING + int(late * rng.random() * 0.96 * SPAN),
    )


def _items_table(items: Sequence[DemoItem], seed: int) -> datasets.Dataset:
    rng = np.random.default_rng([seed, 1])
    rows = []
    for item in items:
        picture = None
        if rng.random() >= MISSING_PICTURE:
            picture = {"bytes": draw_garment(item.garment, item.colour, item.pattern, rng), "path": None}
        shown = {"title": item.title, "category": item.garment, "brand": item.brand, "price": item.price}
        rows.append({Columns.ITEM_ID: item.item_id, Columns.IMAGE: picture} | shown)
    features = dict.fromkeys(rows[0], datasets.Value("string"))
    features |= {Columns.IMAGE: datasets.Image(), "price": datasets.Value("float64")}
    return datasets.Dataset.from_list(rows, features=datasets.Features(features))


def _interactions_table(items: Sequence[DemoItem], num_users: int, seed: int) -> datasets.Dataset:
    shop = _Shop(items, np.random.default_rng([seed, 2]))
    rng = np.random.default_rng([seed, 3])
    rows = [row for user in range(num_users) for row in _history(f"user-{user + 1:04d}", shop, rng)]
    rows.sort(key=lambda row: (row[Columns.TIMESTAMP], row[Columns.USER_ID]))
    features = dict.fromkeys(rows[0], datasets.Value("string"))
    features |= {Columns.TIMESTAMP: datasets.Value("int64"), Columns.RATING: datasets.Value("float64")}
    return datasets.Dataset.from_list(rows, features=datasets.Features(features))


class _Shop:
    """The range as arrays: `traits` (items, trait values and price level), arrivals and popularity."""

    def __init__(self, items: Sequence[DemoItem], rng: np.random.Generator) -> None:
        self.items = items
        self.values = [(trait, value) for trait, names, _ in TASTE_BLOCKS for value in names]
        usual = [GARMENTS[item.garment][1] for item in items]
        levels = [math.log((item.price or price) / price) / 0.27 for item, price in zip(items, usual, strict=True)]
        matches = [[getattr(item, trait) == value for trait, value in self.values] for item in items]
        self.traits = np.column_stack([np.array(matches, dtype=float), levels])
        self.arrival = np.array([item.arrival for item in items])
        self.popularity = -POPULARITY_STRENGTH * np.log(1 + rng.permutation(len(items)))

    def appeal(self, taste: np.ndarray, leaning: np.ndarray, moment: int) -> np.ndarray:
        """What draws a person to each item at `moment`; minus infinity where it has not arrived yet."""
        age = (moment - self.arrival) / 86_400
        appeal = self.traits @ (TASTE_STRENGTH * taste + LEANING_STRENGTH * leaning)
        appeal += self.popularity + NOVELTY_STRENGTH * np.exp(-np.maximum(age, 0) / NOVELTY_DAYS)
        return np.where(age >= 0, appeal, -np.inf)


def _draw_taste(rng: np.random.Generator) -> np.ndarray:
    """A person: one weight per column of the trait matrix."""
    blocks = []
    for trait, names, (fewest, most) in TASTE_BLOCKS:
        block, order = np.zeros(len(names)), rng.permutation(len(names))
        count = rng.integers(fewest, most + 1)
        block[order[:count]] = FAVOURITE_WEIGHTS[:count]
        block[order[-1]] = DISLIKE_WEIGHT
        blocks.append(TASTE_SHARES[trait] * block)
    return np.append(np.concatenate(blocks), TASTE_SHARES["price"] * rng.standard_normal())


def _change_mind(taste: np.ndarray, rng: np.random.Generator) -> None:
    """Now and then the favourite colour or pattern changes places with another one."""
    if rng.random() < CHANGE_OF_MIND:
        block = taste[[COLOUR_COLUMNS, PATTERN_COLUMNS][rng.integers(2)]]  # a view: `taste` itself changes
        favourite, other = int(np.argmax(block)), int(rng.integers(len(block)))
        block[[favourite, other]] = block[[other, favourite]]


def _event_times(rng: np.random.Generator) -> np.ndarray:
    count = MIN_EVENTS + rng.binomial(MAX_EVENTS - MIN_EVENTS, rng.beta(1.2, 2.8))  # some shop far more than others
    joined = 0.5 * rng.random()
    moments = np.sort(joined + (1 - joined) * rng.random(count))
    return OPENING + (moments * SPAN).astype(np.int64) + np.arange(count)  # the last term keeps them distinct


def _history(user_id: str, shop: _Shop, rng: np.random.Generator) -> list[dict[str, Any]]:
    taste, seen, rows = _draw_taste(rng), np.zeros(len(shop.items)), []
    leaning = np.zeros_like(taste)
    for moment in _event_times(rng).tolist():
        _change_mind(taste, rng)
        # The largest of Gumbel-shifted values is a draw from the softmax.
        chosen = int(np.argmax(shop.appeal(taste, leaning, moment) + seen + rng.gumbel(size=len(seen))))
        seen[chosen] = -np.inf
        leaning *= 0.5
        leaning[PICTURE_COLUMNS] += 0.5 * shop.traits[chosen, PICTURE_COLUMNS]
        event = {Columns.USER_ID: user_id, Columns.ITEM_ID: shop.items[chosen].item_id, Columns.TIMESTAMP: moment}
        rows.append(event | _reaction(chosen, taste, shop, rng))
    return rows


def _reaction(chosen: int, taste: np.ndarray, shop: _Shop, rng: np.random.Generator) -> dict[str, Any]:
    """Rating, explanation, query and behaviour of someone who met an item."""
    item, utility = shop.items[chosen], float(shop.traits[chosen] @ taste)
    rating = float(np.clip(round(1.0 + 3.6 * utility + 0.9 * rng.standard_normal()), 1, 5))
    reasons = zip(shop.values, taste, strict=False)  # price, the last column, is nobody's stated reason
    liked = [trait for (trait, value), weight in reasons if getattr(item, trait) == value and weight > 0]
    adjective, prints = PATTERNS[item.pattern]
    words = asdict(item) | {"pattern": adjective, "prints": prints, "plural": GARMENTS[item.garment][0]}
    explanation = _explain(words, rating, liked, rng)
    query = str(rng.choice(QUERIES)).format(**words, occasion=rng.choice(OCCASIONS))
    bought = 0.35 + 0.1 * rating
    behavior = rng.choice(["purchase", "click", "view"], p=[bought, 0.6 * (1 - bought), 0.4 * (1 - bought)])
    return {
        Columns.RATING: None if rng.random() < MISSING_RATING else rating,
        Columns.EXPLANATION: None if rng.random() < MISSING_EXPLANATION else explanation,
        Columns.QUERY: query,
        Columns.BEHAVIOR: str(behavior),
    }


LIKES = {
    "colour": ("{colour} is my colour", "I always come back to {colour}", "{colour} suits me"),
    "pattern": ("I am fond of {prints}", "{prints} are just my thing", "I love {prints}"),
    "garment": ("I can never have enough {plural}", "{plural} are what I buy most"),
    "brand": ("I trust {brand}", "{brand} never lets me down"),
}
DISLIKES = {
    "colour": ("{colour} is not my colour", "{colour} does nothing for me"),
    "pattern": ("{prints} are not for me", "I do not care for {prints}"),
    "garment": ("I hardly ever buy {plural}", "I have little use for {plural}"),
}
HIGH = ("", "Just right: ", "A happy find: ", "An easy choice: ", "It had to be this one: ")
LOW = ("", "Not for me: ", "I will pass: ", "I would not choose it again: ")
MIDDLE = ("{0}, but {1}.", "{0}; then again, {1}.", "Mixed feelings: {0}, but {1}.")
SURPRISES = ("I was pleasantly surprised", "the make is very good", "the fabric is a joy")
LETDOWNS = ("the make is poor", "the quality let me down", "the picture promised more")
QUERIES = (  # each names the garment and what only the picture can show: its colour, its pattern or both
    "{colour} {pattern} {garment}",
    "{pattern} {garment} in {colour}",
    "{colour} {pattern} {garment} for {occasion}",
    "{colour} {garment} for {occasion}",
    "{pattern} {garment}",
)
OCCASIONS = ("work", "summer", "autumn", "travel", "weekends")


def _explain(words: dict[str, Any], rating: float, liked: Sequence[str], rng: np.random.Generator) -> str:
    """One sentence that gives the rating's reason out of what the person likes in the item and what not."""
    good = [str(rng.choice(LIKES[trait])).format(**words) for trait in liked]
    bad = [str(rng.choice(texts)).format(**words) for trait, texts in DISLIKES.items() if trait not in liked]
    good, bad = rng.permutation(good).tolist(), rng.permutation(bad).tolist()
    reasons = good if rating > 3 else bad
    if rating == 3 or not reasons:
        pair = (good or [rng.choice(SURPRISES)])[0], (bad or [rng.choice(LETDOWNS)])[0]
        # What weighs more comes last: "stripes are not for me, but the make is very good".
        sentence = rng.choice(MIDDLE).format(*(pair[::-1] if rating > 3 else pair))
    else:
        sentence = rng.choice(HIGH if rating > 3 else LOW) + " and ".join(reasons[: rng.integers(1, 3)]) + "."
    return sentence[0].upper() + sentence[1:]


TILE, GAP, MARGIN, HEADER, CAPTION = 104, 12, 28, 64, 34  # pixels
PAPER, CARD, INK_TEXT, GREY_TEXT = (250, 248, 244), (236, 233, 227), (44, 42, 48), (130, 124, 120)


def draw_sheet(items: datasets.Dataset, path: str | Path, columns: int = 12, limit: int = 96) -> None:
    """Writes one PNG that shows the shop: a tile per item with its picture, title, price and brand.

    Args:
        items: The items table of `build_demo_store`.
        path: Where the PNG goes.
        columns: Tiles in a row.
        limit: Most items shown, from the top of the table.

    Raises:
        ValueError: `columns` or `limit` is below 1.
    """
    for name, value in (("columns", columns), ("limit", limit)):
        if value < 1:
            raise ValueError(f"`{name}` must be at least 1, got {value}.")
    shown = items.select(range(min(limit, len(items))))
    width = 2 * MARGIN + columns * (TILE + GAP) - GAP
    height = HEADER + MARGIN + math.ceil(len(shown) / columns) * (TILE + CAPTION + GAP)
    sheet = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((MARGIN, 32), STORE_NAME, INK_TEXT, font=ImageFont.load_default(size=26), anchor="lm")
    pen.text((width - MARGIN, 34), f"{len(items)} items", GREY_TEXT, ImageFont.load_default(size=12), anchor="rm")
    pen.line([(MARGIN, 53), (width - MARGIN, 53)], CARD, width=2)
    for index, item in enumerate(shown):
        row, column = divmod(index, columns)
        _draw_tile(sheet, MARGIN + column * (TILE + GAP), HEADER + 6 + row * (TILE + CAPTION + GAP), item)
    sheet.save(path, format="PNG")


def _draw_tile(sheet: Image.Image, left: int, top: int, item: dict[str, Any]) -> None:
    pen, corners = ImageDraw.Draw(sheet), Image.new("L", (TILE, TILE))
    if item[Columns.IMAGE] is None:
        _draw_hanger(pen, left, top)
    else:
        ImageDraw.Draw(corners).rounded_rectangle((0, 0, TILE - 1, TILE - 1), radius=8, fill=255)
        picture = item[Columns.IMAGE].resize((TILE, TILE), Image.Resampling.LANCZOS)
        sheet.paste(picture, (left, top), corners)
    small, smaller = ImageFont.load_default(size=11), ImageFont.load_default(size=10)
    price = "ask us" if item["price"] is None else f"{item['price']:.2f}"
    pen.text((left + 1, top + TILE + 5), item["title"], INK_TEXT, font=small)
    pen.text((left + 1, top + TILE + 20), price, INK_TEXT, font=smaller)
    pen.text((left + TILE - 1, top + TILE + 20), item["brand"] or "", GREY_TEXT, font=smaller, anchor="ra")


def _draw_hanger(pen: ImageDraw.ImageDraw, left: int, top: int) -> None:
    """The tile of an item without a picture: a coat hanger and a word of excuse."""
    pen.rounded_rectangle((left, top, left + TILE - 1, top + TILE - 1), radius=8, fill=CARD)
    x, y, tone = left + TILE // 2, top + 38, (178, 171, 163)
    pen.arc((x - 5, y - 16, x + 5, y - 6), 150, 90, fill=tone, width=2)
    pen.line([(x, y - 6), (x, y), (x + 26, y + 18), (x - 26, y + 18), (x, y)], fill=tone, width=2, joint="curve")
    pen.text((x, y + 36), "picture to come", GREY_TEXT, font=ImageFont.load_default(size=10), anchor="mm")
