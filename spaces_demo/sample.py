"""Files for whoever has none of their own at hand: a table of a few items, and their pictures."""

import csv
from pathlib import Path

from PIL import Image

from .shop import IMAGE, ITEM_ID, Shop

NUM_ITEMS = 3
LOOKED_THROUGH = 50  # first items of the catalogue, those with a picture being preferred


def write_sample(folder: str | Path, shop: Shop) -> list[str]:
    """
    Items as a visitor could have them: with the columns of this catalogue, and its pictures in other colours.

    Args:
        folder: where the files are written.
        shop ([`Shop`]): whose items are the models.

    Returns:
        The files' paths, the table first.
    """
    folder, rows, paths = Path(folder), [], []
    models = sorted(shop.find()[:LOOKED_THROUGH], key=lambda item_id: not shop.thumbnail(item_id))[:NUM_ITEMS]
    for number, model in enumerate(models, start=1):
        row = {name: value for name, value in shop.item(model).items() if isinstance(value, str | int | float)}
        row |= {ITEM_ID: f"sample-{number}", "title": f"My {shop.title(model)}"}
        if shop.thumbnail(model):
            row[IMAGE] = f"sample-{number}.png"
            paths.append(str(folder / row[IMAGE]))
            _recolour(shop.catalog.image(shop.catalog.position(model))).save(paths[-1])
        rows.append(row)
    table = folder / "sample.csv"
    with table.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
        writer.writeheader()
        writer.writerows(rows)
    return [str(table), *paths]


def _recolour(picture: Image.Image) -> Image.Image:
    red, green, blue = picture.split()
    return Image.merge("RGB", (blue, red, green))
