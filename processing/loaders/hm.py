"""H&M Personalized Fashion Recommendations, from the files of the Kaggle competition.

`articles.csv` and `transactions_train.csv` are needed; pictures are looked for as `images/0xx/0xxxxxxxxx.jpg`.
`customers.csv` is not read: the two tables of a store say nothing of people but what they did.
"""

from pathlib import Path

import pyarrow as pa

from ..columns_unimp import Columns
from ..store import IMAGE_FOLDER
from .raw import RawTables, SearchColumns, Source, as_dataset, safe_name
from .raw_files import read_csv

SEARCH = SearchColumns(words=("colour", "product_type", "appearance", "section"), kind="product_type", detail="colour")
SOURCE = Source(
    homepage="https://www.kaggle.com/competitions/h-and-m-personalized-fashion-recommendations/data",
    license_name="kaggle-competition-rules",
    license_text="The rules of the Kaggle competition: for the competition and for research that is not commercial, "
    "not to be passed on.",
    columns={
        "title": "name of the product",
        "product_type": "such as Trousers",
        "appearance": "such as Solid or Stripe",
        "colour": "group of colours",
        "section": "of the shop",
        "description": "by the shop",
        "timestamp": "midnight (UTC) of the day of purchase, in seconds since 1970: the files have no time of day",
    },
)

_ARTICLES = {
    "article_id": Columns.ITEM_ID,
    "prod_name": "title",
    "product_type_name": "product_type",
    "graphical_appearance_name": "appearance",
    "colour_group_name": "colour",
    "section_name": "section",
    "detail_desc": "description",
}
# The 1.4 million customers' ids have 64 characters each: every one is held once.
_TRANSACTIONS = {
    "customer_id": pa.dictionary(pa.int32(), pa.string()),
    "article_id": pa.dictionary(pa.int32(), pa.string()),
    "t_dat": pa.date32(),
}


def read_hm(folder: Path) -> RawTables:
    """
    Reads `articles.csv` and `transactions_train.csv`.

    Raises:
        FileNotFoundError: if one of the two is missing.
        ValueError: if one cannot be read or lacks a column.
    """
    articles = read_csv(folder / "articles.csv", dict.fromkeys(_ARTICLES, pa.string()))
    events = read_csv(folder / "transactions_train.csv", _TRANSACTIONS)
    return RawTables(
        title="H&M Personalized Fashion Recommendations",
        items=as_dataset(articles.rename_columns(list(_ARTICLES.values()))),
        interactions=as_dataset(events.rename_columns([Columns.USER_ID, Columns.ITEM_ID, Columns.TIMESTAMP])),
        search=SEARCH,
        picture_path=lambda item: folder / IMAGE_FOLDER / safe_name(item[:3]) / f"{safe_name(item)}.jpg",
    )
