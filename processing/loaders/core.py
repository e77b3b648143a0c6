"""The k-core: people and items with enough events, over and over until nobody and nothing has fewer."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..columns_unimp import Columns
from ..store import Store, StoreReport, as_table
from .raw import as_dataset


def keep_core(store: Store, min_events: int, items_kept: np.ndarray | None = None, reason: str | None = None) -> Store:
    """
    Keeps the items marked, less those and the people that have fewer than `min_events` of the events kept.

    Args:
        store ([`Store`]): checked tables.
        min_events (`int`): fewest events of a person and of an item; 0 keeps everything that is marked.
        items_kept (`np.ndarray`, *optional*): `(num_items,)`, bool; all by default.
        reason (`str`, *optional*): why the others go, for the report; "fewer than ... events" by default.

    Raises:
        ValueError: if no event is left.
    """
    reason = reason or f"fewer than {min_events} events"
    item_ids, events = as_table(store.items)[Columns.ITEM_ID], as_table(store.interactions)
    items_kept = np.ones(len(item_ids), bool) if items_kept is None else items_kept
    users, _ = codes(events[Columns.USER_ID])
    items, used = codes(events[Columns.ITEM_ID])
    items = pc.index_in(used, value_set=item_ids).to_numpy()[items]
    events_kept, items_kept = _core(users, items, items_kept, min_events)
    if not events_kept.any():
        raise ValueError(f"No event is left: all items or people have {reason}; check the raw files or ask for less.")
    report = merge_reports(store.report)
    report.skip(f"items: {reason}", item_ids.filter(~items_kept).to_pylist())
    dropped = events[Columns.ITEM_ID].filter(~events_kept)
    report.skip(f"interactions: of an item or person with {reason}", _Texts(dropped))
    # Not `Dataset.select`: it keeps a list of row numbers, through which everything later would be slow.
    return Store(
        as_dataset(as_table(store.items).filter(items_kept), store.items.features),
        as_dataset(events.filter(events_kept), store.interactions.features),
        report,
    )


def merge_reports(*reports: StoreReport) -> StoreReport:
    """A new report with the counts of all."""
    merged = StoreReport()
    for report in reports:
        for counts, total in ((report.skipped, merged.skipped), (report.changed, merged.changed)):
            for reason, count in counts.items():
                total[reason] = total.get(reason, 0) + count
        for reason, values in report.examples.items():
            merged.examples[reason] = [*merged.examples.get(reason, []), *values][:3]
    return merged


def codes(texts: pa.ChunkedArray) -> tuple[np.ndarray, pa.Array]:
    """For every text its place among the distinct ones, and these."""
    encoded = texts.dictionary_encode().combine_chunks()
    return encoded.indices.to_numpy(), encoded.dictionary


class _Texts(Sequence[str]):
    """A column whose length is asked for, and its first values alone: millions of rows are not turned into a list."""

    def __init__(self, values: pa.ChunkedArray) -> None:
        self.values = values

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, place: slice) -> list[str]:
        return self.values[place].to_pylist()


def _core(
    users: np.ndarray, items: np.ndarray, items_kept: np.ndarray, min_events: int
) -> tuple[np.ndarray, np.ndarray]:
    events_kept = items_kept[items]
    while True:
        enough_items = np.bincount(items[events_kept], minlength=len(items_kept)) >= min_events
        enough_users = np.bincount(users[events_kept], minlength=users.max() + 1) >= min_events
        items_kept = items_kept & enough_items
        fewer = events_kept & enough_items[items] & enough_users[users]
        if fewer.sum() == events_kept.sum():
            return events_kept, items_kept
        events_kept = fewer
