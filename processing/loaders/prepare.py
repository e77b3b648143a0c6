"""From raw tables to a store: checked, the k-core kept, pictures found, queries drawn."""

import os

import numpy as np
import pyarrow as pa
from datasets import Features, Image

from ..columns_unimp import Columns
from ..store import IMAGE_TYPE, Store, StoreReport, as_table, make_store
from .core import keep_core, merge_reports
from .download import fetch_pictures
from .queries import draw_queries
from .raw import RawTables, as_dataset


def build_store(
    raw: RawTables, min_events: int = 5, pictures_only: bool = False, download: bool = False, seed: int = 0
) -> Store:
    """
    Checks the tables and completes them.

    Args:
        raw ([`RawTables`]): of a loader.
        min_events (`int`, *optional*, defaults to 5):
            People and items with fewer events are left out, over and over until nobody and nothing has fewer.
        pictures_only (`bool`, *optional*, defaults to `False`): whether to leave out the items without a picture.
        download (`bool`, *optional*, defaults to `False`):
            Whether to download the pictures that are not there, of the items that are left.
        seed (`int`, *optional*, defaults to 0): of the search queries.

    Returns:
        [`Store`]: with pictures where their files are there; what was left out is counted in its report.

    Raises:
        ValueError: as in [`make_store`], if `pictures_only` is asked for and there is no picture, or nothing is left.
    """
    store = make_store(raw.items, raw.interactions)
    store = Store(store.items, store.interactions, merge_reports(raw.report, store.report))
    store = keep_core(store, min_events)
    if download and raw.picture_urls:
        store = _download_pictures(store, raw)
    if raw.picture_path is not None:
        store = _with_pictures(store, raw)
    if pictures_only:
        store = _only_pictures(store, raw, min_events)
    return Store(store.items, draw_queries(store.interactions, store.items, raw.search, seed), store.report)


def _download_pictures(store: Store, raw: RawTables) -> Store:
    items = store.items[Columns.ITEM_ID][:]
    report = StoreReport()
    report.change(
        "items: nothing says where their picture is", [item for item in items if item not in raw.picture_urls]
    )
    urls = {item: raw.picture_urls[item] for item in items if item in raw.picture_urls}
    return Store(
        store.items, store.interactions, merge_reports(store.report, report, fetch_pictures(urls, raw.picture_path))
    )


def _with_pictures(store: Store, raw: RawTables) -> Store:
    paths = [str(raw.picture_path(item)) for item in store.items[Columns.ITEM_ID][:]]
    found = [path if os.path.isfile(path) else None for path in paths]
    if not any(found):
        return store
    pictures = pa.array([path and {"bytes": None, "path": path} for path in found], IMAGE_TYPE)
    table = as_table(store.items).append_column(Columns.IMAGE, pictures)
    features = Features({**store.items.features, Columns.IMAGE: Image(decode=False)})
    items = as_dataset(table.replace_schema_metadata(None), features)
    return Store(items, store.interactions, store.report)


def _only_pictures(store: Store, raw: RawTables, min_events: int) -> Store:
    if Columns.IMAGE not in store.items.column_names:
        where = raw.picture_path("ITEM_ID") if raw.picture_path else "no place: this data set has none"
        raise ValueError(
            f"`pictures_only` expects pictures in `{where}`, but got none; add them, or drop `--pictures_only` to go "
            "on without."
        )
    seen = np.array([picture is not None for picture in store.items[Columns.IMAGE]])
    store = keep_core(store, 0, seen, reason="no picture")
    return keep_core(store, min_events)
