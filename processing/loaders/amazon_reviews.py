"""Amazon reviews of 2014, 2018 and 2023, one category at a time.

A folder holds the reviews and the items of a category as they are published, gzipped or not:

- 2014 (https://cseweb.ucsd.edu/~jmcauley/datasets/amazon/links.html): `reviews_{category}.json.gz` or its 5-core
  `reviews_{category}_5.json.gz`, and `meta_{category}.json.gz`, whose lines are Python literals, not JSON,
- 2018 (https://nijianmo.github.io/amazon/): `{category}.json.gz` or `{category}_5.json.gz`, `meta_{category}.json.gz`,
- 2023 (https://amazon-reviews-2023.github.io/): `{category}.jsonl.gz` and `meta_{category}.jsonl.gz`.

Pictures are looked for as `images/{item_id}.jpg`; the items' metadata says where to download them from.
"""

import ast
import html
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from ..columns_unimp import Columns
from ..store import IMAGE_FOLDER, StoreReport
from .download import fetch
from .queries import telling_words
from .raw import RawTables, SearchColumns, Source, as_dataset, safe_name
from .raw_files import EVENTS, as_columns, read_lines

EDITIONS = ("2014", "2018", "2023")
SEARCH = SearchColumns(words=("categories", "brand"), kind="categories", detail="brand")
SOURCE = Source(
    homepage="https://amazon-reviews-2023.github.io/",
    license_name="unknown",  # so that nobody passes the pictures on unaware
    license_text="Published for research without a licence of its own, with the request to cite the papers (He and "
    "McAuley, 2016; Ni, Li and McAuley, 2019; Hou et al., 2024). Reviews and pictures belong to their authors and "
    "sellers.",
    columns={
        "title": "of the product",
        "brand": "or, in 2023, the store",
        "categories": "from wide to narrow",
        "price": "in dollars",
        "rating": "1 to 5 stars",
        "explanation": "the review: its headline and its text",
        "query": "words of the review's headline that the item's title, brand or categories have too, otherwise drawn",
    },
)

_REVIEWS = pa.schema(
    [
        *EVENTS,
        (Columns.RATING, pa.float64()),
        (Columns.EXPLANATION, pa.string()),
        (Columns.QUERY, pa.string()),
    ]
)
_ITEMS = pa.schema(
    {
        Columns.ITEM_ID: pa.string(),
        "title": pa.string(),
        "brand": pa.string(),
        "categories": pa.list_(pa.string()),
        "price": pa.float64(),
    }
)
_QUERY_WORDS = 3
_PRICE = re.compile(r"\$?\s*(\d[\d,]*(?:\.\d+)?)")
_TAG = re.compile(r"<[^>]*>")
_BASE = "https://mcauleylab.ucsd.edu/public_datasets/data"
URLS = {
    "2014": ("https://snap.stanford.edu/data/amazon/productGraph/categoryFiles",) * 2,
    "2018": (f"{_BASE}/amazon_v2/categoryFiles", f"{_BASE}/amazon_v2/metaFiles2"),
    "2023": (f"{_BASE}/amazon_2023/raw/review_categories", f"{_BASE}/amazon_2023/raw/meta_categories"),
}
_REVIEW_FILES = {"2014": ("reviews_{}", "reviews_{}_5"), "2018": ("{}", "{}_5"), "2023": ("{}",)}


@dataclass(frozen=True)
class _Files:
    edition: str
    category: str
    reviews: Path
    items: Path


def read_amazon_reviews(folder: Path, edition: str | None = None, category: str | None = None) -> RawTables:
    """
    Reads one category.

    Args:
        folder (`Path`): with the reviews and the items.
        edition (`str`, *optional*): one of `EDITIONS`; needed if the folder has several.
        category (`str`, *optional*): as in the file names; needed if the folder has several.

    Raises:
        FileNotFoundError: if the files are not there.
        ValueError: if there are several categories or editions to choose from, or a file cannot be read.
    """
    files = _find_files(folder, edition, category)
    report = StoreReport()
    words: dict[str, set[str]] = {}
    urls: dict[str, str] = {}
    items = as_columns(_item_rows(files, words, urls, report), _ITEMS, files.items)
    reviews = as_columns(_review_rows(files, words, report), _REVIEWS, files.reviews)
    return RawTables(
        title=f"Amazon Reviews {files.edition}, {files.category.replace('_', ' ')}",
        items=as_dataset(items),
        interactions=as_dataset(reviews),
        search=SEARCH,
        picture_path=lambda item: folder / IMAGE_FOLDER / f"{safe_name(item)}.jpg",
        picture_urls=urls,
        report=report,
    )


def download_amazon_reviews(folder: Path, edition: str | None = None, category: str | None = None) -> None:
    """Downloads the reviews and the items of a category; their publishers give no checksums.

    Raises:
        OSError: if the host refuses or cannot be reached.
        ValueError: if `edition` or `category` is missing.
    """
    if edition is None or category is None:
        raise ValueError(f"`edition` ({', '.join(EDITIONS)}) and `category` are needed to download Amazon reviews.")
    if not re.fullmatch(r"\w+", category):
        raise ValueError(f"`category` must be as in the file names, such as 'All_Beauty', got {category!r}.")
    suffix = _suffix(edition)
    names = _REVIEW_FILES[edition][0].format(category), f"meta_{category}"
    for base, name in zip(URLS[edition], names, strict=True):
        fetch(f"{base}/{name}{suffix}.gz", folder / f"{name}{suffix}.gz")


def _suffix(edition: str) -> str:
    return ".jsonl" if edition == "2023" else ".json"


def _find_files(folder: Path, edition: str | None, category: str | None) -> _Files:
    names = sorted(os.listdir(folder))
    found = [
        _Files(year, kind, folder / reviews, folder / items)
        for year in EDITIONS
        for items in names
        if (kind := _category_of(items, year))
        if (reviews := next((name for name in _review_names(kind, year) if name in names), None))
        if edition in (None, year) and category in (None, kind)
    ]
    if not found:
        wanted = "reviews and items such as `reviews_Beauty.json.gz` and `meta_Beauty.json.gz` (2014), "
        wanted += "`All_Beauty.json.gz` (2018) or `All_Beauty.jsonl.gz` (2023) with its `meta_` file"
        asked = " ".join(filter(None, (edition, category)))
        raise FileNotFoundError(f"`{folder}` needs {wanted}{asked and f', of {asked}'}, but has {names[:20]}.")
    if len(found) > 1:
        choices = ", ".join(f"{files.edition} {files.category}" for files in found)
        raise ValueError(f"`{folder}` has several: {choices}; choose with `--edition` and `--category`.")
    return found[0]


def _category_of(name: str, edition: str) -> str | None:
    match = re.fullmatch(rf"meta_(.+?){re.escape(_suffix(edition))}(?:\.gz)?", name)
    return match and match[1]


def _review_names(category: str, edition: str) -> list[str]:
    stems = [stem.format(category) for stem in _REVIEW_FILES[edition]]
    return [f"{stem}{_suffix(edition)}{gz}" for stem in stems for gz in (".gz", "")]


# Items


def _item_rows(
    files: _Files, words: dict[str, set[str]], urls: dict[str, str], report: StoreReport
) -> Iterator[tuple[Any, ...]]:
    """Rows of the items; fills in each item's words and the address of its picture."""
    describe = _describe_2023 if files.edition == "2023" else _describe_older
    for row in read_lines(files.items, ast.literal_eval if files.edition == "2014" else json.loads):
        item_id, brand, categories, url = describe(row, report)
        if not isinstance(item_id, str | None):  # one that is missing is told of later
            report.skip("items: their id is no text", [item_id])
            continue
        title, price = _title(row.get("title"), report), _price(row.get("price"), report)
        brand = _text(brand)
        categories = list(dict.fromkeys(filter(None, map(_text, categories))))
        if item_id is not None:
            words.setdefault(item_id, set(telling_words(" ".join(filter(None, (title, brand, *categories))))))
            if isinstance(url, str) and url:
                urls.setdefault(item_id, url)
        yield item_id, title, brand, categories, price


def _describe_older(row: dict[str, Any], report: StoreReport) -> tuple[Any, Any, list[Any], Any]:
    """Id, brand, categories and picture of an item of 2014 (which has paths of categories) or 2018."""
    paths = _list(row.get("categories"), "categories", report)
    categories = _list(paths[0] if paths else row.get("category"), "categories" if paths else "category", report)
    kinds = ("imageURLHighRes", "imageURL", "image")
    pictures = next(filter(None, (_list(row.get(kind), kind, report) for kind in kinds)), [row.get("imUrl")])
    return row.get("asin"), row.get("brand"), categories, pictures[0]


def _describe_2023(row: dict[str, Any], report: StoreReport) -> tuple[Any, Any, list[Any], Any]:
    """Id, store, categories and picture of an item of 2023, the main picture if one is marked as such."""
    pictures = [picture for picture in _list(row.get("images"), "images", report) if isinstance(picture, dict)]
    pictures.sort(key=lambda picture: picture.get("variant") != "MAIN")
    url = next((found for p in pictures if (found := p.get("hi_res") or p.get("large"))), None)
    categories = _list(row.get("categories"), "categories", report) or [row.get("main_category")]
    return row.get("parent_asin"), row.get("store"), categories, url


def _list(value: Any, name: str, report: StoreReport) -> list[Any]:
    if isinstance(value, list):
        return value
    if value:
        report.change(f"items: `{name}` is no list and is now missing", [value])
    return []


def _title(value: Any, report: StoreReport) -> str | None:
    title = _text(value)
    if title is not None and "getTime" in title:  # the program of a web page in place of the title, in 2018
        report.change("items: `title` is no title and is now missing", [title])
        return None
    return title


def _price(value: Any, report: StoreReport) -> float | None:
    if value is None or value == "":
        return None
    match = _PRICE.fullmatch(str(value).strip())
    if match is None:
        report.change("items: `price` is no single amount and is now missing", [value])
        return None
    return float(match[1].replace(",", ""))


def _text(value: Any) -> str | None:
    """Plain text in one line, `None` if there is none."""
    return " ".join(_TAG.sub(" ", html.unescape(value)).split()) or None if isinstance(value, str) else None


# Reviews


def _review_rows(files: _Files, words: dict[str, set[str]], report: StoreReport) -> Iterator[tuple[Any, ...]]:
    newer = files.edition == "2023"
    names = ("user_id", "parent_asin", "timestamp", "rating", "title", "text")
    names = names if newer else ("reviewerID", "asin", "unixReviewTime", "overall", "summary", "reviewText")
    for row in read_lines(files.reviews):
        user, item, time, rating, headline, text = map(row.get, names)
        if not (isinstance(user, str | None) and isinstance(item, str | None)):
            report.skip("interactions: an id is no text", [(user, item)])
            continue
        if newer and isinstance(time, int):
            time //= 1000  # milliseconds
        headline = _text(headline)
        query = [word for word in telling_words(headline) if word in words.get(item, ())]
        yield user, item, time, rating, _explanation(headline, _text(text)), " ".join(query[:_QUERY_WORDS]) or None


def _explanation(headline: str | None, text: str | None) -> str | None:
    if headline is None or text is None or text.startswith(headline.rstrip(".…")):
        return text or headline
    return f"{headline} {text}" if headline[-1] in ".!?…" else f"{headline}. {text}"
