"""The demo store: a small shop, its shoppers and their history, made in code from a seed.

Garments are drawn with Pillow; their colour and pattern show in the picture and nowhere else in the items table.
Shoppers choose mostly by colour and pattern, so whoever ignores the pictures misses most of the taste. The store
runs everything in minutes on a CPU and measures whether pictures are used; it stands for no real shop.
"""

import colorsys
import io
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from huggingface_hub import DatasetCardData
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from .columns_unimp import Columns

# Drawn by this package, pictures and people alike.
DATA_CARD = DatasetCardData(pretty_name="UniMP's demo store", license="apache-2.0")
STORE_NAME = "Loom & Lane"
PICTURE_SIZE = 64  # pixels, width and height
OVERSAMPLING = 4  # pictures are drawn this much larger and shrunk, which smooths every edge
MIN_ITEMS = 40
MIN_EVENTS, MAX_EVENTS = 6, 16  # of a person
OPENING = 1_704_067_200  # 1 January 2024, seconds since 1970
SPAN = 548 * 86_400  # eighteen months in seconds
OPENING_SHARE = 0.4  # of the items are there from the start; the rest arrives steadily until near the end

COLOURS = {  # hue, saturation, value
    "red": (0.985, 0.82, 0.80),
    "orange": (0.070, 0.84, 0.93),
    "yellow": (0.135, 0.70, 0.95),
    "green": (0.385, 0.60, 0.56),
    "blue": (0.595, 0.74, 0.74),
    "purple": (0.755, 0.52, 0.60),
    "pink": (0.930, 0.38, 0.94),
    "black": (0.620, 0.20, 0.22),
}
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

Point = tuple[float, float]


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
    rows = [
        {
            Columns.ITEM_ID: item.item_id,
            Columns.IMAGE: None if rng.random() < MISSING_PICTURE else {"bytes": _draw_png(item, rng), "path": None},
            "title": item.title,
            "category": item.garment,
            "brand": item.brand,
            "price": item.price,
        }
        for item in items
    ]
    features = dict.fromkeys(rows[0], datasets.Value("string"))
    features |= {Columns.IMAGE: datasets.Image(), "price": datasets.Value("float64")}
    return datasets.Dataset.from_list(rows, features=datasets.Features(features))


class _Sketch:
    """A garment being drawn: its silhouette, filled with fabric later, and details laid on top.

    Points are (x, y) in -1..1, y downwards; the sketch places them with its own scale, shift and tilt.
    """

    def __init__(self, tones: dict[str, tuple[int, ...]], rng: np.random.Generator) -> None:
        side = PICTURE_SIZE * OVERSAMPLING
        self.rng, self.tones = rng, tones
        self.silhouette, self.details = Image.new("L", (side, side)), Image.new("RGBA", (side, side))
        self._pens = ImageDraw.Draw(self.silhouette), ImageDraw.Draw(self.details)
        scale, tilt = 0.455 * side * rng.uniform(0.90, 1.0), rng.normal(0, 0.035)
        self._turn = scale * np.array([[math.cos(tilt), math.sin(tilt)], [-math.sin(tilt), math.cos(tilt)]])
        self._centre = side * (0.5 + rng.uniform(-0.025, 0.025, size=2))

    def _place(self, points: Sequence[Point]) -> list[Point]:
        return [tuple(point) for point in (np.asarray(points) @ self._turn + self._centre).tolist()]

    def shape(self, points: Sequence[Point], fill: int = 255) -> None:
        """Adds a polygon to the silhouette, or takes it away (`fill=0`)."""
        self._pens[0].polygon(self._place(points), fill=fill)

    def mirrored(self, half: Sequence[Point]) -> None:
        """Adds a symmetric polygon, of which the right half is given from top to bottom."""
        self.shape([*half, *[(-x, y) for x, y in reversed(half)]])

    def patch(self, points: Sequence[Point], tone: str) -> None:
        self._pens[1].polygon(self._place(points), fill=self.tones[tone])

    def line(self, points: Sequence[Point], tone: str, width: int = 5) -> None:
        self._pens[1].line(self._place(points), fill=self.tones[tone], width=width, joint="curve")

    def button(self, x: float, y: float, radius: float, tone: str) -> None:
        self.patch(_arc(x, y, radius, radius), tone)


def _arc(x: float, y: float, width: float, height: float, start: float = 0, end: float = 360) -> list[Point]:
    """Points of an ellipse's arc from `start` to `end` degrees, clockwise from three o'clock."""
    angles = np.radians(np.linspace(start, end, 25))
    return list(zip((x + width * np.cos(angles)).tolist(), (y + height * np.sin(angles)).tolist(), strict=True))


def _draw_t_shirt(sketch: _Sketch) -> None:
    sleeve, hem = sketch.rng.uniform(0.0, 0.22), sketch.rng.uniform(0.72, 0.84)
    cuff = [(0.96, -0.22 + sleeve), (0.68, 0.02 + sleeve)]
    sketch.mirrored([(0.0, -0.78), (0.22, -0.80), (0.50, -0.68), *cuff, (0.50, -0.16), (0.51, hem), (0.0, hem)])
    sketch.shape(_arc(0, -0.82, 0.21, 0.22), fill=0)
    sketch.line(_arc(0, -0.82, 0.23, 0.24, 2, 178), "ink", 8)
    for side in (-1, 1):
        sketch.line([(side * 0.50, -0.62), (side * 0.46, -0.16)], "seam")
        sketch.line([(side * 0.92, -0.25 + sleeve), (side * 0.66, -0.03 + sleeve)], "seam", 4)


def _draw_dress(sketch: _Sketch) -> None:
    flare, hem, sleeves = sketch.rng.uniform(0.56, 0.76), sketch.rng.uniform(0.80, 0.92), sketch.rng.random() < 0.4
    sketch.mirrored([(0.0, -0.60), (0.2, -0.92), (0.32, -0.92), (0.36, -0.48), (0.25, -0.12), (flare, hem), (0, 0.96)])
    if sleeves:
        for side in (-1, 1):
            sketch.shape([(side * 0.24, -0.92), (side * 0.66, -0.58), (side * 0.50, -0.40), (side * 0.30, -0.55)])
    sketch.line([(-0.2, -0.92), (0.0, -0.62), (0.2, -0.92)], "ink", 6)
    sketch.patch([(-0.27, -0.18), (0.27, -0.18), (0.27, -0.07), (-0.27, -0.07)], "ink")
    for fold in (-0.45, 0.0, 0.45):
        sketch.line([(fold * 0.35, 0.0), (fold * flare * 1.4, 0.86)], "seam")


def _draw_trousers(sketch: _Sketch) -> None:
    ankle, hem = sketch.rng.uniform(0.34, 0.56), sketch.rng.uniform(0.78, 0.96)
    sketch.mirrored([(0.0, -0.92), (0.40, -0.92), (0.48, -0.35), (ankle, hem), (ankle - 0.27, hem), (0.0, -0.18)])
    sketch.patch([(-0.40, -0.94), (0.40, -0.94), (0.41, -0.81), (-0.41, -0.81)], "ink")
    sketch.button(0, -0.875, 0.045, "cream")
    sketch.line([(0, -0.80), (0, -0.18)], "seam")
    for side in (-1, 1):
        sketch.line([(side * 0.22, -0.80), (side * 0.44, -0.55)], "seam", 6)


def _draw_shoes(sketch: _Sketch) -> None:
    top = sketch.rng.uniform(-0.62, -0.44)
    tongue = [(-0.42, top + 0.16), (-0.18, top - 0.10), (-0.02, top + 0.06)]
    toe = [(0.26, -0.16), (0.62, -0.06), (0.88, 0.10), (0.95, 0.40)]
    sketch.shape([(-0.92, 0.42), (-0.86, -0.05), (-0.90, top), (-0.74, top + 0.04), *tongue, *toe])
    sketch.patch([(-0.97, 0.36), (0.98, 0.36), (1.0, 0.46), (0.93, 0.58), (-0.93, 0.58), (-0.98, 0.48)], "cream")
    sketch.line([(-0.96, 0.36), (0.98, 0.36)], "ink", 5)
    sketch.patch([(-0.93, top + 0.02), (-0.76, top + 0.04), (-0.70, 0.36), (-0.94, 0.36)], "ink")
    sketch.line(_arc(0.98, 0.36, 0.44, 0.44, 180, 258), "seam", 6)
    for step in (0.0, 0.14, 0.28):
        sketch.line([(-0.10 + step, top + 0.18 + step * 0.8), (0.04 + step, top + 0.05 + step * 0.8)], "cream", 8)


def _draw_bag(sketch: _Sketch) -> None:
    top, height = sketch.rng.uniform(0.56, 0.72), sketch.rng.uniform(0.62, 0.86)
    sketch.line([(-0.34, 0.0), *_arc(0, -0.34, 0.34, height * 0.72, 180, 360), (0.34, 0.0)], "leather", 13)
    sketch.mirrored([(0.0, -0.24), (top, -0.24), (0.80, 0.82), (0.70, 0.90), (0.0, 0.90)])
    sketch.patch([(-top - 0.02, -0.26), (top + 0.02, -0.26), (top + 0.04, -0.12), (-top - 0.04, -0.12)], "leather")
    for side in (-1, 1):
        sketch.button(side * 0.34, -0.02, 0.07, "leather")
        sketch.line([(side * top * 0.96, -0.1), (side * 0.72, 0.86)], "seam", 4)
    sketch.button(0, -0.12, 0.075, "cream")


def _draw_hat(sketch: _Sketch) -> None:
    crown, lean = sketch.rng.uniform(-0.66, -0.50), sketch.rng.uniform(-0.04, 0.04)
    sketch.shape(_arc(0, 0.38, 0.98, 0.27))
    dent = [(-0.40, crown), (-0.14, crown - 0.03), (lean, crown + 0.08), (0.14, crown - 0.03), (0.40, crown)]
    sketch.shape([(-0.58, 0.38), (-0.55, -0.15), *dent, (0.55, -0.15), (0.58, 0.38)])
    band = [(0.57, 0.16), *_arc(0, 0.36, 0.58, 0.12, 0, 180), (-0.57, 0.16), *_arc(0, 0.16, 0.57, 0.12, 180, 0)]
    sketch.patch(band, "ink")
    sketch.patch([(0.38, 0.17), (0.52, 0.10), (0.52, 0.44), (0.38, 0.48)], "cream")
    sketch.line(_arc(0, 0.38, 0.92, 0.22, 20, 160), "seam", 4)


def _draw_scarf(sketch: _Sketch) -> None:
    left, right = sketch.rng.uniform(0.62, 0.82), sketch.rng.uniform(0.30, 0.55)
    for inner, outer, end in ((-0.02, -0.46, left), (0.06, 0.48, right)):
        sketch.shape([(inner, -0.4), (outer * 0.9, -0.4), (outer, end), (inner + outer * 0.08, end)])
        for strand in np.linspace(inner + outer * 0.12, outer * 0.97, 6):
            sketch.line([(strand, end - 0.02), (strand, end + 0.15)], "ink", 6)
    sketch.shape(_arc(0, -0.52, 0.64, 0.42))
    sketch.patch(_arc(0, -0.64, 0.40, 0.19), "ink")
    sketch.line(_arc(0, -0.52, 0.60, 0.36, 25, 155), "seam", 5)
    sketch.line([(0.02, -0.12), (0.0, min(left, right))], "seam", 6)


def _draw_coat(sketch: _Sketch) -> None:
    hem, cuff, belted = sketch.rng.uniform(0.80, 0.95), sketch.rng.uniform(0.30, 0.45), sketch.rng.random() < 0.5
    arm = [(0.50, -0.74), (0.80, cuff - 0.05), (0.58, cuff + 0.04), (0.44, -0.22)]
    sketch.mirrored([(0.0, -0.90), (0.18, -0.92), *arm, (0.54, hem), (0.0, hem)])
    for side in (-1, 1):
        sketch.patch([(side * 0.02, -0.40), (side * 0.15, -0.95), (side * 0.34, -0.68)], "ink")
        sketch.line([(side * 0.46, -0.66), (side * 0.44, -0.20)], "seam")
        sketch.line([(side * 0.20, 0.38), (side * 0.40, 0.34)], "ink", 6)
        sketch.line([(side * 0.79, cuff - 0.14), (side * 0.56, cuff - 0.06)], "ink", 6)
    sketch.patch([(-0.12, -0.94), (0.12, -0.94), (0.0, -0.50)], "cream")
    sketch.line([(0, -0.42), (0, hem)], "seam", 6)
    for height in (-0.26, 0.02, 0.30):
        sketch.button(0.10, height, 0.055, "cream")
    if belted:
        sketch.patch([(-0.47, 0.10), (0.47, 0.10), (0.48, 0.21), (-0.48, 0.21)], "ink")


_DRAW_TOPS = (_draw_t_shirt, _draw_dress, _draw_trousers, _draw_shoes)
DRAWERS = dict(zip(GARMENTS, (*_DRAW_TOPS, _draw_bag, _draw_hat, _draw_scarf, _draw_coat), strict=True))


def _pattern_cover(pattern: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Share of the accent tone, 0..1, at fabric coordinates counted in repeats of the pattern."""
    if pattern == "plain":
        return np.zeros_like(u)
    if pattern == "stripes":
        return (v % 1 < 0.42).astype(float)
    if pattern == "checks":
        return ((u % 1 < 0.5).astype(float) + (v % 1 < 0.5)) / 2
    if pattern == "zigzag":
        return ((v + 0.9 * np.abs(u % 1 - 0.5)) % 1 < 0.38).astype(float)
    across, down = (u + 0.5 * (np.floor(v) % 2)) % 1 - 0.5, v % 1 - 0.5  # every other row shifted by half
    radius = np.hypot(across, down)
    if pattern == "dots":
        return (radius < 0.27).astype(float)
    petals = 0.47 * (0.62 + 0.38 * np.cos(5 * np.arctan2(down, across)))
    return ((radius < petals) & (radius > 0.11)).astype(float)


def _fabric(item: DemoItem, base: np.ndarray, accent: np.ndarray, rng: np.random.Generator) -> Image.Image:
    side = PICTURE_SIZE * OVERSAMPLING
    repeat = side * {"floral": 0.235, "dots": 0.17}.get(item.pattern, 0.165) * rng.uniform(0.92, 1.1)
    v, u = np.mgrid[:side, :side] / repeat + rng.uniform(0, 1, size=(2, 1, 1))
    if rng.random() < 0.4:
        u, v = v, u
    cover = _pattern_cover(item.pattern, u, v)[..., None]
    return Image.fromarray((base + (accent - base) * cover).astype(np.uint8))


def _tones(colour: str, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """The colour with a slight jitter, a dark and a light companion, as RGB arrays in 0..255."""
    hue, saturation, value = np.array(COLOURS[colour]) + rng.uniform(-1, 1, size=3) * (0.010, 0.05, 0.04)

    def rgb(saturation: float, value: float) -> np.ndarray:
        return 255 * np.array(colorsys.hsv_to_rgb(hue % 1, float(np.clip(saturation, 0, 1)), min(value, 1.0)))

    ink = rgb(saturation, 0.52) if colour == "black" else rgb(saturation + 0.12, 0.52 * value)
    return {"base": rgb(saturation, value), "ink": ink, "cream": np.array([250.0, 245.0, 234.0])}


def _draw_png(item: DemoItem, rng: np.random.Generator) -> bytes:
    tones = _tones(item.colour, rng)
    # Cream on a light colour would hardly show, so light colours are mostly printed with their own dark tone.
    accent = tones["ink" if rng.random() < (0.85 if item.colour in ("yellow", "pink") else 0.2) else "cream"]
    leather = np.array([146.0, 98.0, 62.0]) * rng.uniform(0.75, 1.1)
    opaque = {name: (*tone.astype(int).tolist(), 255) for name, tone in (tones | {"leather": leather}).items()}
    sketch = _Sketch(opaque | {"seam": (20, 15, 30, 70)}, rng)
    DRAWERS[item.garment](sketch)
    fabric = _fabric(item, tones["base"], accent, rng)
    buffer = io.BytesIO()
    _photograph(sketch, fabric, rng).save(buffer, format="PNG")
    return buffer.getvalue()


def _photograph(sketch: _Sketch, fabric: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Sews fabric, silhouette and details together and lights them on a pale backdrop."""
    # Blurring and hardening the silhouette rounds its corners.
    silhouette = sketch.silhouette.filter(ImageFilter.BoxBlur(4)).point([max(0, 4 * v - 382) for v in range(256)])
    fabric.paste(sketch.details, mask=sketch.details)
    cover = np.maximum(np.asarray(silhouette), np.asarray(sketch.details.getchannel("A")))
    cover = Image.fromarray(cover).reduce(OVERSAMPLING)
    product = np.asarray(fabric.reduce(OVERSAMPLING), dtype=float)
    shade = Image.new("L", cover.size)
    shade.paste(cover, (2, 3))  # the light comes from the upper left
    layers = cover, cover.filter(ImageFilter.GaussianBlur(1.5)), shade.filter(ImageFilter.GaussianBlur(4))
    alpha, soft, shadow = (np.asarray(layer, dtype=float)[..., None] / 255 for layer in layers)
    across = np.linspace(-1, 1, PICTURE_SIZE)
    product *= (0.56 + 0.48 * soft) * (1 - 0.06 * across)[None, :, None]  # rounder at the edges, lit from the left
    backdrop = np.array([(246, 243, 238), (240, 243, 246), (244, 240, 245), (241, 245, 240)][rng.integers(4)])
    ground = backdrop * (1 - 0.035 * across[:, None, None]) * (1 - 0.30 * shadow)
    return Image.fromarray(np.clip(ground + (product - ground) * alpha, 0, 255).astype(np.uint8))


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
