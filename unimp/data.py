"""The `unimp data` command: public data sets as folders that every other command takes."""

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .processing.loaders import Loader
    from .processing.store import Store

logger = logging.getLogger(__name__)

USAGE = """usage: unimp data prepare NAME --raw FOLDER --output_dir FOLDER [--option VALUE ...]

  movielens        latest-small, 1m, 20m, 25m, 32m; posters images/{movieId}.jpg and details.jsonl if you have them
  amazon-reviews   2014, 2018, 2023, one category at a time, with pictures
  hm               H&M Personalized Fashion Recommendations (Kaggle)
  netflix          the release of LLMRec
  sequences        user_sequence.txt and items.jsonl, without times
  demo             the store of `unimp quickstart`, drawn from a seed: without --raw

`unimp data prepare NAME --help` lists the options."""


DEMO = "demo"


@dataclass(kw_only=True)
class DemoArguments:
    """Options of `unimp data prepare demo`."""

    output_dir: str = field(metadata={"help": "Where items.parquet, interactions.parquet and README.md go."})
    seed: int = field(default=0, metadata={"help": "Of all that is drawn."})

    def __post_init__(self) -> None:
        _check_seed(self.seed)


@dataclass(kw_only=True)
class PrepareArguments:
    """Options of `unimp data prepare`."""

    raw: str = field(metadata={"help": "Folder of the raw files."})
    output_dir: str = field(metadata={"help": "Where items.parquet, interactions.parquet and README.md go."})
    edition: str | None = field(
        default=None,
        metadata={"help": "movielens: latest-small, 1m, 20m, 25m, 32m; amazon-reviews: 2014, 2018, 2023."},
    )
    category: str | None = field(default=None, metadata={"help": "amazon-reviews: as in the file names."})
    min_events: int = field(
        default=5, metadata={"help": "Fewest events of a person and of an item; the others are left out."}
    )
    pictures_only: bool = field(default=False, metadata={"help": "Leave out the items without a picture."})
    download: bool = field(
        default=False, metadata={"help": "Download what is missing, raw files and pictures, into `raw` first."}
    )
    seed: int = field(default=0, metadata={"help": "Of the search queries that are drawn."})

    def __post_init__(self) -> None:
        if self.min_events < 0:
            raise ValueError(f"`min_events` must be 0 or more, got {self.min_events}.")
        _check_seed(self.seed)


def _check_seed(seed: int) -> None:
    if not 0 <= seed < 2**63:
        raise ValueError(f"`seed` must be from 0 to 2^63 - 1, got {seed}.")


def main(arguments: Sequence[str]) -> int:
    """
    Run `unimp data`; returns the exit status.

    Raises:
        ValueError: an option or a raw file is wrong.
        OSError: a file is missing, or something could not be downloaded.
    """
    if not arguments or arguments[0] in ("-h", "--help") or list(arguments) == ["prepare"]:
        sys.stdout.write(USAGE + "\n")
        return 0
    if arguments[0] != "prepare":
        raise ValueError(f"`unimp data` knows `prepare`, got {arguments[0]!r}.")
    from .cli import parse
    from .processing.loaders import LOADERS

    name, *options = arguments[1:]
    if name in ("-h", "--help"):
        parse([name], PrepareArguments)  # lists the options and exits
    if name == DEMO:
        _draw_demo(parse(options, DemoArguments)[0])
    elif name in LOADERS:
        _prepare(LOADERS[name], name, parse(options, PrepareArguments)[0])
    else:
        names = ", ".join((*LOADERS, DEMO))
        raise ValueError(f"`unimp data prepare` must be followed by one of {names}, got {name!r}.")
    return 0


def _draw_demo(options: DemoArguments) -> None:
    from .processing.dataset_card import CARD_FILE
    from .processing.demo_store import DATA_CARD, build_demo_store
    from .processing.loaders.card import dataset_card
    from .processing.store import make_store, write_store

    output = Path(options.output_dir)
    _check_output(output)
    store = replace(make_store(*build_demo_store(seed=options.seed)), card=DATA_CARD)
    write_store(store.items, store.interactions, output)
    dataset_card(store, DATA_CARD.pretty_name).save(output / CARD_FILE)
    _log_counts(store, output)


def _prepare(loader: "Loader", name: str, options: PrepareArguments) -> None:
    from .processing.loaders import build_store, write_dataset_card
    from .processing.store import write_store

    chosen = _chosen(loader, name, options)
    raw, output = Path(options.raw), Path(options.output_dir)
    if output.resolve() == raw.resolve():
        raise ValueError(f"`output_dir` must be another folder than `raw`, got {output} for both.")
    _check_output(output)
    if options.download:
        _download(loader, name, raw, chosen)
    tables = loader.read(raw, **chosen)
    store = build_store(tables, options.min_events, options.pictures_only, options.download, options.seed)
    write_store(store.items, store.interactions, output)
    settings = {key: getattr(options, key) for key in ("min_events", "pictures_only", "seed")}
    write_dataset_card(store, output, tables.title, loader.source, settings)
    logger.info("%s", store.report)
    _log_counts(store, output)


def _log_counts(store: "Store", output: Path) -> None:
    people = len(store.interactions.unique("user_id"))
    logger.info("%s: %d people, %d items, %d events", output, people, len(store.items), len(store.interactions))


def check_folder(folder: Path) -> None:
    """Raises `ValueError` where an `output_dir` cannot be made, before there is anything to write."""
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not there.is_dir():
        raise ValueError(f"`output_dir` must be a folder, but {there} is a file; name another.")


def _check_output(output: Path) -> None:
    check_folder(output)
    names = [f"{table}.{suffix}" for table in ("items", "interactions") for suffix in ("jsonl", "csv")]
    if found := [name for name in names if (output / name).is_file()]:
        raise ValueError(
            f"`output_dir` {output} has {' and '.join(found)} already, beside which no command would read the new "
            "tables; name another folder, or remove them."
        )


def _chosen(loader: "Loader", name: str, options: PrepareArguments) -> dict[str, str | None]:
    """The options that say which part of a data set is meant."""
    for option in ("edition", "category"):
        value = getattr(options, option)
        values = loader.options.get(option)
        if value is not None and values is None:
            raise ValueError(f"`{option}` is nothing to choose for {name}; leave it out.")
        if value is not None and values and value not in values:
            raise ValueError(f"`{option}` of {name} must be one of {', '.join(values)}, got {value!r}.")
    return {option: getattr(options, option) for option in loader.options}


def _download(loader: "Loader", name: str, folder: Path, chosen: dict[str, str | None]) -> None:
    if loader.download is None:
        raise ValueError(f"`download` cannot get {name}: take the files from {loader.source.homepage} yourself.")
    loader.download(folder, **chosen)
