"""`unimp demo`: a page on which a model is tried, on this machine or as a Hugging Face Space."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from datasets import Dataset

from . import QUICKSTART_DIR
from .cli import parse
from .processing import Catalog, Columns, UniMPProcessor
from .processing.demo_store import build_demo_store
from .processing.splits import make_split, sequences
from .processing.store import make_store, read_store
from .quickstart import quickstart
from .report import say

NUM_PEOPLE = 24
LONGEST_HISTORY = 8  # of a person to begin with: as much as one takes in at a glance


@dataclass(kw_only=True)
class DemoArguments:
    """Options of `unimp demo`."""

    model: str | None = field(
        default=None,
        metadata={"help": "Folder or Hub id of a trained model; the quickstart's by default, made if there is none."},
    )
    dataset: str | None = field(default=None, metadata={"help": "Folder whose people one can begin with."})
    host: str = field(default="127.0.0.1", metadata={"help": "Address to serve at; 0.0.0.0 for every machine."})
    port: int | None = field(default=None, metadata={"help": "Port; the first free one from 7860 by default."})


def main(arguments: Sequence[str]) -> int:
    """Serve the page until Ctrl-C; returns the exit status."""
    options = parse(arguments, DemoArguments)[0]
    try:
        from .spaces_demo.server import make_page, serve
    except ImportError as error:
        raise ValueError(f"The page needs gradio ({error}): `pip install 'unimp[demo]'`.") from error
    if options.model is None and not (QUICKSTART_DIR / "config.json").is_file():
        say(f"There is no model in {QUICKSTART_DIR} yet: the quickstart makes one, in a few minutes.\n")
        if status := quickstart(QUICKSTART_DIR):
            return status
    model = options.model or str(QUICKSTART_DIR)
    say(f"Opening {model} ...")
    page = make_page(model, find_people(model, options.dataset))
    address = serve(page, options.host, options.port, block=False)
    say(f"The page is at {address} (Ctrl-C ends it).")
    page.block_thread()
    return 0


def find_people(model: str, dataset: str | None) -> dict[str, list[str]]:
    """
    Histories to begin with, item ids by a person's name: of a data set's people, or of those of the demo store that
    the model was not trained on, if it was made for that; otherwise none.
    """
    if dataset is not None:
        return _histories(sequences(read_store(dataset).interactions))
    catalog = UniMPProcessor.from_pretrained(model).catalog
    if catalog is None or sorted(catalog.item_ids) != [f"item-{number + 1:04d}" for number in range(len(catalog))]:
        return {}
    items, interactions = build_demo_store(num_items=max(40, len(catalog)))
    if not _same_titles(catalog, items):
        return {}
    return _histories(make_split(make_store(items, interactions), "user_holdout").test)


def _histories(people: Dataset) -> dict[str, list[str]]:
    rows = people.select(range(min(NUM_PEOPLE, len(people))))
    return {row[Columns.USER_ID]: row[Columns.ITEM_ID][-LONGEST_HISTORY:] for row in rows}


def _same_titles(catalog: Catalog, items: Dataset) -> bool:
    """Whether a catalogue is that of the demo store, and not one with the same ids."""
    titles = dict(zip(items[Columns.ITEM_ID], items["title"], strict=True))
    return all(
        titles.get(item_id) == catalog.attributes(position).get("title")
        for position, item_id in enumerate(catalog.item_ids[:20])
    )
