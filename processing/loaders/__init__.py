"""Named loaders: public raw files to the two tables of a store."""

from collections.abc import Callable
from dataclasses import dataclass

from . import amazon_reviews, hm, movielens, netflix, sequences
from .amazon_reviews import download_amazon_reviews, read_amazon_reviews
from .card import write_dataset_card
from .hm import read_hm
from .movielens import download_movielens, read_movielens
from .netflix import read_netflix
from .prepare import build_store
from .raw import RawTables, Source
from .sequences import read_sequences

__all__ = ["LOADERS", "Loader", "build_store", "write_dataset_card"]


@dataclass(frozen=True)
class Loader:
    """
    How a public data set is read.

    Attributes:
        read (`Callable[..., RawTables]`): takes the raw folder and, by name, the options of `options`.
        source ([`Source`]): for the card.
        options (`dict[str, tuple[str, ...]]`): what has to be chosen: option -> its values, none if any.
        download (`Callable[..., None]`, *optional*): takes the same; `None` where the publisher wants a login.
    """

    read: Callable[..., RawTables]
    source: Source
    options: dict[str, tuple[str, ...]]
    download: Callable[..., None] | None = None


LOADERS = {
    "movielens": Loader(read_movielens, movielens.SOURCE, {"edition": movielens.EDITIONS}, download_movielens),
    "amazon-reviews": Loader(
        read_amazon_reviews,
        amazon_reviews.SOURCE,
        {"edition": amazon_reviews.EDITIONS, "category": ()},
        download_amazon_reviews,
    ),
    "hm": Loader(read_hm, hm.SOURCE, {}),
    "netflix": Loader(read_netflix, netflix.SOURCE, {}),
    "sequences": Loader(read_sequences, sequences.SOURCE, {}),
}
