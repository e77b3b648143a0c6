"""MovieLens: latest-small, 1M, 20M, 25M and 32M, unpacked from https://grouplens.org/datasets/movielens/.

`ratings.csv` and `movies.csv`, or the `.dat` files of the 1M edition, are needed. Used if they are there: `tags.csv`,
and two additions of one's own, `details.jsonl` (an object a line with `movieId` and `keywords`, a list) and the
posters `images/{movieId}.jpg`. The public download has neither of the two.
"""

import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..columns_unimp import Columns
from ..store import IMAGE_FOLDER, StoreReport
from ..table_files import json_column, read_json_rows
from .core import codes
from .download import fetch, published_md5, unpack
from .raw import RawTables, SearchColumns, Source, as_dataset, safe_name
from .raw_files import read_csv, read_double_colons

EDITIONS = ("latest-small", "1m", "20m", "25m", "32m")
HOST = "https://files.grouplens.org/datasets/movielens"
SEARCH = SearchColumns(words=("genres", "keywords"), kind="genres", detail="year")

SOURCE = Source(
    homepage="https://grouplens.org/datasets/movielens/",
    license_name="movielens",
    license_text="Terms of GroupLens, in the README of the raw files: no commercial use without permission, no "
    "claim of endorsement, acknowledgement in publications (Harper and Konstan, 2015). The editions from 20M on and "
    "latest-small may be passed on under the same terms; the 1M edition may not without permission. Posters belong to "
    "their owners.",
    columns={
        "title": "without the year",
        "year": "of release",
        "genres": "of the 19 of MovieLens",
        "keywords": "from `details.jsonl`",
        "rating": "0.5 to 5 stars in halves; in the 1M edition 1 to 5, whole",
        "query": "the person's own first tag of the movie, otherwise drawn",
    },
)

# "Toy Story (1995)", "Death Note (2006–2007)"; a few titles have no year.
_TITLE = re.compile(r"(?P<title>.*?)\s*(?:\((?P<year>\d{4})(?:[-–]\d{4})?\))?\s*", re.DOTALL)
_NO_GENRES = "(no genres listed)"
_FILES = ("ratings.csv", "movies.csv", "tags.csv", "links.csv", "ratings.dat", "movies.dat", "README.txt", "README")
_MOVIES = {"movieId": pa.string(), "title": pa.string(), "genres": pa.string()}
_RATINGS = {"userId": pa.string(), "movieId": pa.string(), "rating": pa.float64(), "timestamp": pa.int64()}
_TAGS = {"userId": pa.string(), "movieId": pa.string(), "tag": pa.string()}


def read_movielens(folder: Path, edition: str | None = None) -> RawTables:
    """
    Reads a raw MovieLens folder.

    A person's first tag of a movie is the `query` of the event in which they rated it.

    Args:
        folder (`Path`): with the raw files.
        edition (`str`, *optional*): one of `EDITIONS`; without it the 1M edition is told by its files.

    Raises:
        FileNotFoundError: if ratings or movies are missing.
        ValueError: if a file cannot be read or a column is missing.
    """
    report = StoreReport()
    if edition == "1m" or (edition is None and (folder / "ratings.dat").is_file()):
        movies = read_double_colons(folder / "movies.dat", _MOVIES)
        ratings = read_double_colons(folder / "ratings.dat", _RATINGS)
    else:
        movies, ratings = read_csv(folder / "movies.csv", _MOVIES), read_csv(folder / "ratings.csv", _RATINGS)
    events = ratings.rename_columns([Columns.USER_ID, Columns.ITEM_ID, Columns.RATING, Columns.TIMESTAMP])
    if (folder / "tags.csv").is_file():
        queries = _tags_of(events, read_csv(folder / "tags.csv", _TAGS), report)
        events = events.append_column(Columns.QUERY, queries)
    return RawTables(
        title=f"MovieLens {edition or ''}".strip(),
        items=as_dataset(pa.table(_movie_columns(movies, folder))),
        interactions=as_dataset(events),
        search=SEARCH,
        picture_path=lambda movie: folder / IMAGE_FOLDER / f"{safe_name(movie)}.jpg",
        report=report,
    )


def download_movielens(folder: Path, edition: str | None = None) -> None:
    """
    Downloads and unpacks an edition, checked against the checksum that the publisher gives beside it.

    Raises:
        OSError: if the host cannot be reached or the transfer breaks off again and again.
        ValueError: if `edition` is missing or the checksum differs.
    """
    if edition is None:
        raise ValueError(f"`edition` is needed to download MovieLens: give one of {', '.join(EDITIONS)}.")
    url = f"{HOST}/ml-{edition}.zip"
    archive = folder / f"ml-{edition}.zip"
    fetch(url, archive, published_md5(f"{url}.md5"))
    unpack(archive, folder, _FILES)


def _movie_columns(movies: pa.Table, folder: Path) -> dict[str, pa.Array]:
    titles = [_TITLE.fullmatch((title or "").strip()) for title in movies["title"].to_pylist()]
    genres = [[] if g in (None, _NO_GENRES) else g.split("|") for g in movies["genres"].to_pylist()]
    columns = {
        Columns.ITEM_ID: movies["movieId"],
        "title": pa.array([title["title"] for title in titles]),
        "year": pa.array([title["year"] and int(title["year"]) for title in titles], pa.int64()),
        "genres": pa.array(genres, pa.list_(pa.string())),
    }
    if (folder / "details.jsonl").is_file():
        columns["keywords"] = _read_keywords(folder / "details.jsonl", movies["movieId"].to_pylist())
    return columns


def _read_keywords(path: Path, movies: Iterable[str | None]) -> pa.Array:
    rows = read_json_rows(path)
    if not all("movieId" in row for row in rows):
        raise ValueError(f"`{path}` must have `movieId` in every line; add it.")
    by_movie = {str(row["movieId"]): row.get("keywords") for row in rows}
    keywords = json_column([by_movie.get(movie) for movie in movies], "keywords", path)
    if keywords.type not in (pa.null(), pa.list_(pa.null()), pa.list_(pa.string())):
        raise ValueError(f"`keywords` of `{path}` must be lists of texts, but got {keywords.type}; convert them.")
    return keywords.cast(pa.list_(pa.string()))


def _tags_of(events: pa.Table, tags: pa.Table, report: StoreReport) -> pa.Array:
    """The person's own tag of the movie for every rating, null where there is none."""
    if not len(tags):
        return pa.nulls(len(events), pa.string())
    texts = pc.utf8_trim_whitespace(tags["tag"]).to_pylist()
    rated, tagged = _pairs(
        (events[Columns.USER_ID], events[Columns.ITEM_ID]),
        (tags["userId"], tags["movieId"]),
    )
    keys, first = np.unique(tagged, return_index=True)  # the first of equal ones
    again = np.setdiff1d(np.arange(len(tags)), first)
    report.skip("tags: not the first of this person for this movie", [texts[row] for row in again])
    places = np.minimum(np.searchsorted(keys, rated), len(keys) - 1)
    found = keys[places] == rated
    unrated = np.delete(first, places[found])
    report.skip("tags: of a movie that this person has not rated", [texts[row] for row in unrated])
    return pa.array(texts, pa.string()).take(pa.array(first[places], mask=~found))


def _pairs(*tables: tuple[pa.ChunkedArray, pa.ChunkedArray]) -> list[np.ndarray]:
    """For each table of users and items a number a row, the same in all for the same user and item."""
    columns = [
        codes(pa.chunked_array([chunk for column in same for chunk in column.chunks], pa.string()))
        for same in zip(*tables, strict=True)
    ]
    (users, _), (items, distinct) = columns
    pairs = users.astype(np.int64) * len(distinct) + items
    return np.split(pairs, np.cumsum([len(column) for column, _ in tables])[:-1])
