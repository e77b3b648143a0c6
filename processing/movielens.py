"""MovieLens (ml-latest-small and its larger siblings) as the two tables of a store.

    python -m unimp.processing.movielens --raw_dir RAW --output_dir FOLDER --posters_only

`RAW` is the unpacked folder of https://grouplens.org/datasets/movielens/ with `ratings.csv` and `movies.csv`. Two
additions of one's own are used if they are there: `details.jsonl`, an object a line with `movieId` and `keywords` (a
list), and the posters `images/{movieId}.jpg`. The public download has neither: leave out `--posters_only` then.
"""

import argparse
import logging
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from datasets import Dataset, DatasetInfo

from .columns_unimp import Columns
from .store import (
    IMAGE_FOLDER,
    Store,
    as_table,
    make_store,
    require_columns,
    write_store,
)
from .table_files import json_column, read_json_rows, require_utf8

logger = logging.getLogger(__name__)

# "Toy Story (1995)", "Death Note (2006–2007)"; a few titles have no year.
_TITLE = re.compile(r"(?P<title>.*?)\s*(?:\((?P<year>\d{4})(?:[-–]\d{4})?\))?\s*")
_NO_GENRES = "(no genres listed)"
_EVENT_NAMES = {"userId": Columns.USER_ID, "movieId": Columns.ITEM_ID}


def movielens_store(folder: str | Path, min_events: int = 5, posters_only: bool = False) -> Store:
    """Reads a raw MovieLens folder.

    Args:
        folder (`str` or `Path`):
            Folder with `ratings.csv`, `movies.csv` and, if at hand, `details.jsonl` and `images/`.
        min_events (`int`, *optional*, defaults to 5):
            Users and movies with fewer ratings are left out, over and over until nobody and nothing has fewer.
        posters_only (`bool`, *optional*, defaults to `False`):
            Whether to leave out, before counting ratings, the movies without a poster.

    Returns:
        [`Store`]: items with `title` (without the year), `year` (int), `genres` (list of strings) and, where the
        folder has them, `keywords` (list of strings) and `image`; interactions with `rating` (0.5 to 5 stars). What
        was left out is counted in the report.

    Raises:
        FileNotFoundError: if `ratings.csv` or `movies.csv` is missing.
        ValueError: if a file cannot be read, a column is missing, `posters_only` is asked for and there is no poster,
            or nothing is left.
    """
    movies = _read_movies(Path(folder))
    if posters_only and not _has_poster(movies).any():
        expected = Path(folder) / IMAGE_FOLDER / "{movieId}.jpg"
        raise ValueError(
            f"`posters_only` expects posters in `{expected}`, but got none; add them (they are not part of the "
            "MovieLens download), or drop `--posters_only` to train without."
        )
    store = make_store(movies, _read_ratings(Path(folder)))
    if posters_only:
        store = _keep(store, _has_poster(store.items), min_events=0, reason="no poster")
    store = _keep(store, np.ones(len(store.items), bool), min_events, reason=f"fewer than {min_events} ratings")
    logger.info("%s", store.report)
    return store


def _read_csv(path: Path, **options: Any) -> pd.DataFrame:
    require_utf8(path)
    try:
        return pd.read_csv(path, **options)
    except ValueError as error:  # the parser's errors are of this kind, and do not name the file
        raise ValueError(f"`{path}` cannot be read: {error}") from error


def _read_ratings(folder: Path) -> Dataset:
    frame = _read_csv(folder / "ratings.csv", dtype=dict.fromkeys(_EVENT_NAMES, str))
    ratings = Dataset.from_pandas(frame, preserve_index=False)
    require_columns(ratings, "ratings.csv", ("userId", "movieId", "rating", "timestamp"))
    return ratings.rename_columns(_EVENT_NAMES)


def _read_movies(folder: Path) -> Dataset:
    frame = _read_csv(folder / "movies.csv", dtype=str, keep_default_na=False)
    require_columns(Dataset.from_pandas(frame), "movies.csv", ("movieId", "title", "genres"))
    titles = [_TITLE.fullmatch(title.strip()) for title in frame["title"]]
    columns = {
        Columns.ITEM_ID: pa.array(frame["movieId"], pa.string()),
        "title": pa.array([title["title"] for title in titles]),
        "year": pa.array([title["year"] and int(title["year"]) for title in titles], pa.int64()),
        "genres": pa.array([[] if g == _NO_GENRES else g.split("|") for g in frame["genres"]], pa.list_(pa.string())),
    }
    if (folder / "details.jsonl").is_file():
        columns["keywords"] = _read_keywords(folder / "details.jsonl", frame["movieId"])
    if (folder / IMAGE_FOLDER).is_dir():
        posters = [folder / IMAGE_FOLDER / f"{movie}.jpg" for movie in frame["movieId"]]
        columns[Columns.IMAGE] = pa.array([str(path) if path.is_file() else None for path in posters], pa.string())
    return Dataset(pa.table(columns))


def _read_keywords(path: Path, movies: Iterable[str]) -> pa.Array:
    rows = read_json_rows(path)
    if not all("movieId" in row for row in rows):
        raise ValueError(f"`{path}` must have `movieId` in every line; add it.")
    by_movie = {str(row["movieId"]): row.get("keywords") for row in rows}
    keywords = json_column([by_movie.get(movie) for movie in movies], "keywords", path)
    if keywords.type not in (pa.null(), pa.list_(pa.null()), pa.list_(pa.string())):
        raise ValueError(f"`keywords` of `{path}` must be lists of texts, but got {keywords.type}; convert them.")
    return keywords.cast(pa.list_(pa.string()))


def _has_poster(items: Dataset) -> np.ndarray:
    if Columns.IMAGE not in items.column_names:
        return np.zeros(len(items), bool)
    return np.array([picture is not None for picture in items[Columns.IMAGE]])


def _keep(store: Store, items_kept: np.ndarray, min_events: int, reason: str) -> Store:
    """Keeps the marked items, less those and the users that have fewer than `min_events` of the events kept."""
    item_ids = np.array(store.items[Columns.ITEM_ID][:])
    items = pd.Index(item_ids).get_indexer(store.interactions[Columns.ITEM_ID][:])
    users, _ = pd.factorize(np.array(store.interactions[Columns.USER_ID][:]))
    events_kept = items_kept[items]
    while True:
        enough_items = np.bincount(items[events_kept], minlength=len(item_ids)) >= min_events
        enough_users = np.bincount(users[events_kept], minlength=users.max() + 1) >= min_events
        items_kept = items_kept & enough_items
        fewer = events_kept & enough_items[items] & enough_users[users]
        if fewer.sum() == events_kept.sum():
            break
        events_kept = fewer
    if not events_kept.any():
        raise ValueError(f"`folder` has no rating left: all movies or users have {reason}; check its files.")
    store.report.skip(f"items: {reason}", item_ids[~items_kept].tolist())
    dropped = _rows(store.interactions, ~events_kept)
    store.report.skip(f"interactions: of an item or user with {reason}", dropped[Columns.ITEM_ID][:])
    return Store(_rows(store.items, items_kept), _rows(store.interactions, events_kept), store.report)


def _rows(dataset: Dataset, kept: np.ndarray) -> Dataset:
    # Not `Dataset.select`: it keeps a list of row numbers, through which everything later would be slow.
    return Dataset(as_table(dataset).filter(kept), info=DatasetInfo(features=dataset.features))


def main() -> None:
    """The command line: raw folder in, data set folder out. Wrong input is one line and exit status 1."""
    parser = argparse.ArgumentParser(description="Turns a raw MovieLens folder into a data set folder.")
    parser.add_argument("--raw_dir", required=True, help="folder with ratings.csv and movies.csv")
    parser.add_argument("--output_dir", required=True, help="where items.parquet and interactions.parquet go")
    parser.add_argument("--min_events", type=int, default=5, help="fewest ratings of a user or movie (default: 5)")
    parser.add_argument(
        "--posters_only", action="store_true", help="leave out movies without a poster, RAW/images/{movieId}.jpg"
    )
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        _convert(arguments)
    except (ValueError, OSError) as error:
        parser.exit(1, f"movielens: {' '.join(str(error).split())}\n")


def _convert(arguments: argparse.Namespace) -> None:
    store = movielens_store(arguments.raw_dir, arguments.min_events, arguments.posters_only)
    write_store(store.items, store.interactions, arguments.output_dir)
    users = len(set(store.interactions[Columns.USER_ID]))
    logger.info("%d users, %d items, %d ratings", users, len(store.items), len(store.interactions))


if __name__ == "__main__":
    main()
