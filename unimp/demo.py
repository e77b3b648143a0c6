"""`unimp demo`: a page on which a model is tried, on this machine or as a Hugging Face Space."""

import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

from datasets import Dataset
from transformers import TrainerCallback, TrainerControl, TrainerState

from . import QUICKSTART_DIR
from .cli import parse
from .processing import Catalog, Columns, UniMPProcessor
from .processing.demo_store import build_demo_store
from .processing.splits import make_split, sequences
from .processing.store import make_store, read_store
from .spaces_demo.waiting import WaitingPage

# Training and gradio, which take seconds to import, are imported inside the functions: the page comes first.

SHEET = "store.png"  # that the quickstart draws first
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
    if find_spec("gradio") is None:
        raise ValueError("The page needs gradio: `pip install 'unimp[demo]'`.")
    port, is_missing = options.port, options.model is None and not (QUICKSTART_DIR / "config.json").is_file()
    with WaitingPage(options.host, port, QUICKSTART_DIR / SHEET) if is_missing else nullcontext() as waiting:
        if is_missing:
            port = waiting.port
            if status := make_quickstart(waiting):
                return status
        from .spaces_demo.server import make_page, serve

        model = options.model or str(QUICKSTART_DIR)
        _say(f"Opening {model} ...")
        page = make_page(model, find_people(model, options.dataset))
    address = serve(page, options.host, port, block=False)
    _say(f"The page is at {address} (Ctrl-C ends it).")
    page.block_thread()
    return 0


def make_quickstart(waiting: WaitingPage) -> int:
    """Make the quickstart's model, or go on with one that was interrupted, and tell a page how far it is."""
    _say(f"There is no model in {QUICKSTART_DIR} yet: the quickstart makes one, in a few minutes.")
    _say(f"How far it is, and then the demo: {waiting.address}\n")
    waiting.tell("Drawing the demo store", 0.01)
    from transformers.trainer_utils import get_last_checkpoint

    from .quickstart import quickstart

    begun = QUICKSTART_DIR.is_dir() and get_last_checkpoint(str(QUICKSTART_DIR)) is not None
    status = quickstart(QUICKSTART_DIR, resume=begun, callbacks=[TellPage(waiting)])
    if status:
        _say("`unimp demo` goes on from there.")
    waiting.tell("Opening the demo", 0.98)
    return status


class TellPage(TrainerCallback):
    """Tells a page how far the training is; the shares of all the work are those of the quickstart, about."""

    BEFORE, AFTER = 0.03, 0.92

    def __init__(self, waiting: WaitingPage) -> None:
        self.waiting = waiting

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """The store is drawn and laid out."""
        self._start, self._first = time.monotonic(), state.global_step
        self.waiting.tell("Learning what people like", self.BEFORE)

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """One step more."""
        done, total = state.global_step, state.max_steps
        seconds_a_step = (time.monotonic() - self._start) / (done - self._first)
        share = self.BEFORE + (self.AFTER - self.BEFORE) * done / total
        self.waiting.tell(f"Learning, step {done:,} of {total:,}", share, seconds_a_step * (total - done))

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """What is left is to measure it."""
        self.waiting.tell("Trying it on people it has never seen", self.AFTER)


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


def _say(text: str) -> None:
    """As `report.say`, without waiting for what that imports."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


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
