"""A trained model goes on with a store: items that are new or have changed, events that it can read."""

import logging
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import torch
from datasets import Dataset

from ..modeling_unimp import UniMPForConditionalGeneration
from ..processing import Catalog, Columns, UniMPProcessor
from ..processing.catalog_unimp import AVAILABLE, flatten_value
from ..processing.store import Store, as_table
from .item_encoder import item_features
from .pictures import training_pictures

if TYPE_CHECKING:
    from .trainer import UniMPTrainingConfig

logger = logging.getLogger(__name__)


def continue_with(
    model: UniMPForConditionalGeneration,
    processor: UniMPProcessor,
    store: Store,
    item_encoder: str | None = None,
    training: "UniMPTrainingConfig | None" = None,
) -> tuple[UniMPForConditionalGeneration, UniMPProcessor]:
    """
    Bring the catalogue of a trained model up to a store: items it does not know are added, items that the store has
    with other attributes or another picture are replaced. Items that the store does not have stay, and what had been
    removed stays so unless the store says otherwise (`available`). Pictures that cannot be read are left out, counted
    and logged.

    Args:
        model ([`UniMPForConditionalGeneration`]): changed in place.
        processor ([`UniMPProcessor`]): its processor, with the catalogue; changed in place.
        store ([`Store`]): the items and events to go on with.
        item_encoder (`str`, *optional*): folder or Hub id of the text encoder that the model's item features are of;
            needed where the model has such features and there are new or changed items.
        training ([`UniMPTrainingConfig`], *optional*): how it trains, see [`build`].

    Raises:
        `ValueError`: the events have kinds or ratings that the model was not made for, `item_encoder` is missing or
            does not fit, or there are more items than the model's semantic codes tell apart.
    """
    check_events(store.interactions, processor)
    feature_size = model.config.item_feature_size
    if item_encoder is not None and not feature_size:
        raise ValueError(f"`item_encoder` {item_encoder!r} has no use: `model` was made without one.")
    catalog = processor.catalog
    items = _items_of(store, catalog)
    items.embed_images()
    ids = list(enumerate(items.item_ids))
    new = [code for code, item_id in ids if item_id not in catalog]
    changed = [code for code, item_id in ids if item_id in catalog and _differs(items, code, catalog)]
    if not new and not changed:
        return model, processor
    if feature_size and item_encoder is None:
        raise ValueError(
            f"`item_encoder` is needed: `model` has features of such an encoder, and the store has {len(new)} new and "
            f"{len(changed)} changed items."
        )
    added = catalog.add(_rows(items, new)) if new else ()  # first, as there may be no room for them
    codes = catalog.replace(_rows(items, changed)) if changed else []
    logger.info("Items of the model: %d added, %d replaced.", len(added), len(codes))
    features = _features(item_encoder, catalog, [*codes, *added], feature_size) if feature_size else None
    pictures = None if training is None else training_pictures(model, processor, training)
    processor.index_catalog(model, codes, features=features, pictures=pictures)
    return model, processor


def check_events(interactions: Dataset, processor: UniMPProcessor) -> None:
    """Raises `ValueError` for kinds of events or ratings that a model of this processor cannot read."""
    if Columns.BEHAVIOR in interactions.column_names:
        kinds = {kind for kind in interactions.unique(Columns.BEHAVIOR) if kind}
        if unknown := sorted(kinds.difference(processor.behavior_kinds)):
            raise ValueError(
                f"`{Columns.BEHAVIOR}` must be one of {processor.behavior_kinds}, which the model was made for, got "
                f"{', '.join(map(repr, unknown))}: rename those, or train a new model."
            )
    if Columns.RATING in interactions.column_names:
        low, high = processor.rating_range
        ratings = [rating for rating in interactions.unique(Columns.RATING) if rating is not None]
        if outside := sorted(rating for rating in ratings if not low <= rating <= high):
            raise ValueError(
                f"`{Columns.RATING}` must lie within {processor.rating_range}, which the model was made for, got "
                f"{', '.join(f'{rating:g}' for rating in outside[:5])}: convert those, give `rating_range`, or train "
                "a new model."
            )


def _items_of(store: Store, catalog: Catalog) -> Catalog:
    """The items of the store; what had been removed stays so, unless the store says otherwise."""
    table = as_table(store.items)
    if AVAILABLE not in table.column_names:
        left = dict(zip(catalog.item_ids, catalog.available, strict=True))
        available = [left.get(item_id, True) for item_id in table[Columns.ITEM_ID].to_pylist()]
        table = table.append_column(AVAILABLE, pa.array(available, pa.bool_()))
    return Catalog(table)


def _differs(items: Catalog, code: int, catalog: Catalog) -> bool:
    """Whether the model's catalogue has the item otherwise."""
    return _contents(items, code) != _contents(catalog, catalog.position(items.item_ids[code]))


def _contents(catalog: Catalog, code: int) -> tuple[dict[str, str], bytes | None, bool]:
    """All that is known of an item, of whatever types its table is."""
    values = {name: flatten_value(value, sys.maxsize) for name, value in catalog.attributes(code).items()}
    picture = catalog.table[Columns.IMAGE][code].as_py()["bytes"] if catalog.has_image(code) else None
    return values, picture, catalog.table[AVAILABLE][code].as_py()


def _rows(items: Catalog, codes: Sequence[int]) -> list[dict[str, Any]]:
    """Items as [`Catalog.add`] and [`Catalog.replace`] take them, pictures as bytes."""
    return items.table.take(codes).to_pylist()


def _features(encoder: str, catalog: Catalog, codes: Sequence[int], feature_size: int) -> torch.Tensor:
    features = item_features(encoder, catalog, codes)
    if features.shape[1] != feature_size:
        raise ValueError(
            f"`item_encoder` {encoder!r} gives features of width {features.shape[1]}, but `model` has those of an "
            f"encoder of width {feature_size}: name that one."
        )
    return features
