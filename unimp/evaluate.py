"""`unimp evaluate`: how good a model is on a data set, in figures with intervals, a table and plots."""

import json
import logging
import os
import random
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import torch
from accelerate import PartialState
from datasets import Dataset
from transformers import PreTrainedModel

from .data import check_folder
from .processing import TASKS, Columns, UniMPProcessor
from .processing.catalog_unimp import AVAILABLE
from .processing.splits import Split, make_split
from .processing.store import Store, as_table, read_store
from .processing.tasks_unimp import get_task
from .report import print_evaluation, say
from .training.card import add_to_model_card, markdown_table
from .training.continued import check_events, continue_with
from .training.evaluation import TaskResult, describe_split, evaluate_tasks
from .training.figures import LEVEL, NUM_RESAMPLES, task_figures
from .training.held_out import NUM_CANDIDATES
from .training.plots import plot_results
from .training.recipe import load

logger = logging.getLogger(__name__)

LIKENESS = ("feature_similarity", "feature_whitening")
RESULTS_FILE, RANKS_FILE, TABLE_FILE = "results.json", "ranks.npz", "table.md"


LEAST_VALUES = {"batch_size": 1, "max_people": 1} | dict.fromkeys(
    ("history_window", "word_similarity", "choice_similarity", "feature_similarity", "seed"), 0
)
# What is saved with a processor, and what with a model or its processor, and can be otherwise in an evaluation.
OF_THE_PROCESSOR = ("history_window", "word_similarity", "choice_similarity")
OF_THE_MODEL = (*OF_THE_PROCESSOR, *LIKENESS, "new_item_bias")


@dataclass(kw_only=True)
class EvaluateArguments:
    """Options of `unimp evaluate`."""

    model: str = field(metadata={"help": "Folder or Hub id of a trained model."})
    dataset: str = field(metadata={"help": "Folder with items.*, interactions.* and, if there are any, images/."})
    split: str = field(
        default="leave_one_out",
        metadata={
            "help": "What is held out: `leave_one_out`, `leave_last_N`, `user_holdout`, `cold_items` or "
            "`new_domain:COLUMN=VALUE`; the one that the model was trained with."
        },
    )
    tasks: list[str] = field(
        default_factory=lambda: list(TASKS),
        metadata={"help": "Which tasks; by default all that the data has answers for."},
    )
    among: str = field(
        default="all",
        metadata={
            "help": "What answers are ranked among: `all` items of the data set, or the `new` ones alone, those that "
            "the split holds out of training."
        },
    )
    output_dir: str | None = field(
        default=None, metadata={"help": "Where the results go; by default `evaluation-SPLIT` in the model's folder."}
    )
    batch_size: int = field(default=64, metadata={"help": "Requests answered at once."})
    seed: int = field(default=0, metadata={"help": "Of candidates, intervals and `max_people`, but not of the split."})
    history_window: int | None = field(
        default=None,
        metadata={"help": "Most events of a history that are shown, 0 for none; by default as in training."},
    )
    word_similarity: float | None = field(
        default=None,
        metadata={
            "help": "How much words that it shares with the history add to an item's score; by default as it is."
        },
    )
    choice_similarity: float | None = field(
        default=None,
        metadata={"help": "How much it adds that people choose it close to the history's items; by default as it is."},
    )
    feature_similarity: float | None = field(
        default=None,
        metadata={"help": "How much likeness to the history adds to an item's score; by default as in training."},
    )
    feature_whitening: float | None = field(
        default=None,
        metadata={
            "help": "How much the features are whitened before that, 0 to 1, for a catalogue of a domain that was not "
            "trained on; by default as it is."
        },
    )
    new_item_bias: float | None = field(
        default=None,
        metadata={"help": "Added to the scores of items that the model was not trained on; by default as it is."},
    )
    max_people: int | None = field(
        default=None,
        metadata={
            "help": "Evaluate so many people only, drawn by chance, for a quick look: it does not enter the card."
        },
    )
    rating_range: list[float] | None = field(
        default=None,
        metadata={"help": "Lowest and highest rating; one outside counts as missing. By default every one is taken."},
    )
    item_encoder: str | None = field(
        default=None,
        metadata={
            "help": "Folder or Hub id of the text encoder that the model was made with, if it was and the data set "
            "has items that it does not know."
        },
    )

    def __post_init__(self) -> None:
        for name, least in LEAST_VALUES.items():
            if getattr(self, name) is not None and not getattr(self, name) >= least:  # nor what is no number
                raise ValueError(f"`{name}` must be at least {least}, got {getattr(self, name)}.")
        if self.feature_whitening is not None and not 0 <= self.feature_whitening <= 1:
            raise ValueError(f"`feature_whitening` must lie between 0 and 1, got {self.feature_whitening}.")
        if self.among not in ("all", "new"):
            raise ValueError(f"`among` must be 'all' or 'new', got {self.among!r}.")
        if self.rating_range is not None and len(self.rating_range) != 2:
            raise ValueError(f"`rating_range` must be the lowest and the highest rating, got {self.rating_range}.")
        if not self.tasks:
            raise ValueError(f"`tasks` is empty: name at least one of {', '.join(TASKS)}, or leave the option out.")
        for task in self.tasks:
            get_task(task)


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit status."""
    from .cli import parse

    options = parse(arguments, EvaluateArguments)[0]
    state = PartialState(cpu=not torch.accelerator.is_available())
    if not state.is_main_process:
        logging.getLogger("unimp").setLevel(logging.ERROR)
    folder = _output_dir(options)
    check_folder(folder)
    results, by_task = evaluate_model(options, state.device)
    if state.is_main_process:
        write_results(results, by_task, folder)
        whole = results["counts"]["people"] == results["counts"]["people_of_split"]
        as_saved = all(getattr(options, name) is None for name in OF_THE_MODEL)
        # A quick look is nothing to be quoted, nor what others would not get from the files.
        if whole and as_saved and Path(options.model, "README.md").is_file():
            add_to_model_card(Path(options.model), results)
        print_evaluation(results)
        say(f"\nEverything is in {folder}.")
    state.wait_for_everyone()
    return 0


def _set_likeness(model: PreTrainedModel, options: EvaluateArguments) -> None:
    for name in LIKENESS:
        if getattr(options, name) is not None:
            setattr(model.config, name, getattr(options, name))
    model.config.validate_sizes()


def _output_dir(options: EvaluateArguments) -> Path:
    name = "evaluation-" + re.sub(r"[^\w.-]+", "-", options.split)
    parent = Path(options.model) if Path(options.model).is_dir() else Path()
    return Path(options.output_dir) if options.output_dir is not None else parent / name


def evaluate_model(options: EvaluateArguments, device: Any = "cpu") -> tuple[dict[str, Any], dict[str, TaskResult]]:
    """
    Evaluate as the options say. Items of the data set that the model does not know are added to it, in memory; answers
    are ranked among the data set's items.

    Returns:
        What is written as JSON: `model`, `dataset`, `split`, `title`, `settings`, `counts` and `tasks` as of
        [`task_figures`]; and by task what they are made of.
    """
    store = read_store(options.dataset, rating_range=options.rating_range)
    split = make_split(store, options.split)
    model, processor = load(options.model)
    if options.among == "new" and not split.new_items:
        raise ValueError(f"`among` is 'new', but `split` {split.name!r} holds no items out of training.")
    check_events(store.interactions, processor)
    is_of_another_split = _warn_of_another_split(options.model, split.name)
    model = model.eval().to(device)
    for name in OF_THE_PROCESSOR:
        if getattr(options, name) is not None:
            setattr(processor, name, getattr(options, name))
    processor.check_settings()
    _set_likeness(model, options)
    if options.new_item_bias is not None:
        model.set_new_item_bias(options.new_item_bias)
    num_added = add_items(model, processor, store, options.item_encoder)
    _warn_of_trained_items(model, processor, split)
    test = _some_people(split.test, options.max_people, options.seed)
    by_task = evaluate_tasks(
        model,
        processor,
        test,
        split.train,
        options.tasks,
        item_ids=split.new_items if options.among == "new" else store.items[Columns.ITEM_ID][:],
        batch_size=options.batch_size,
        seed=options.seed,
        catalog_features=_pictures(model, processor, options),
    )
    if not by_task:
        raise ValueError(f"`dataset` {options.dataset} has nobody with an answer to {', '.join(options.tasks)}.")
    name = Path(options.dataset).absolute().name
    results = {
        "model": options.model,
        "dataset": name,
        "split": split.name,
        "title": f"{name}, {describe_split(split.name)}",
        "settings": _settings(options)
        | {
            **{name: getattr(processor, name) for name in OF_THE_PROCESSOR},
            **{name: getattr(model.config, name) for name in LIKENESS},
            "new_item_bias": model.config.new_item_bias,
        },
        "counts": _counts(store, split, test) | {"items_added": num_added},
        "tasks": task_figures(by_task, split.train, options.seed),
    }
    if options.among == "new":
        results["title"] += ", among the new items alone"
    if is_of_another_split:  # on the card, too
        results["title"] += ", by a model that was trained with another split"
    if len(test) < len(split.test):
        results["title"] += f" ({results['counts']['people']:,} of {results['counts']['people_of_split']:,} people)"
    return results, by_task


def _settings(options: EvaluateArguments) -> dict[str, Any]:
    return {
        "seed": options.seed,
        "batch_size": options.batch_size,
        "max_people": options.max_people,
        "rating_range": options.rating_range,
        "among": options.among,
        "candidates": NUM_CANDIDATES,
        "interval": f"{LEVEL:.0%} percentile bootstrap over people, {NUM_RESAMPLES} draws",
    }


def _counts(store: Store, split: Split, test: Dataset) -> dict[str, int]:
    return {
        "items": len(store.items),
        "events": len(store.interactions),
        "train_events": int(pc.sum(pc.list_value_length(as_table(split.train)[Columns.ITEM_ID])).as_py()),
        "people": len(test.unique(Columns.USER_ID)),
        "people_of_split": len(split.test.unique(Columns.USER_ID)),
        "rows": len(test),
        "items_not_to_be_trained": len(split.new_items),
    }


def _some_people(test: Dataset, max_people: int | None, seed: int) -> Dataset:
    """The rows of so many people, drawn by chance; all of them where there are no more."""
    people = test.unique(Columns.USER_ID)
    if max_people is None or max_people >= len(people):
        return test
    drawn = set(random.Random(seed).sample(sorted(people), max_people))
    logger.info("%s of %s people are evaluated.", f"{max_people:,}", f"{len(people):,}")
    table = as_table(test)  # not `Dataset.select`, which keeps a list of row numbers
    return Dataset(table.filter([user in drawn for user in table[Columns.USER_ID].to_pylist()]))


def _warn_of_another_split(model: str, split: str) -> bool:
    path = Path(model, "metrics.json")
    trained_with = json.loads(path.read_text(encoding="utf-8")).get("split", "") if path.is_file() else ""
    if trained_with and trained_with != describe_split(split):
        logger.warning(
            "The model was trained with the split %r: if that was on this data set, it may have been trained on what "
            "%r tests.",
            trained_with,
            split,
        )
        return True
    return False


def _warn_of_trained_items(model: PreTrainedModel, processor: UniMPProcessor, split: Split) -> None:
    """An item that was added after training has nothing learned in its row; semantic codes have none of their own."""
    if model.config.code_sizes is not None:
        return
    codes = [processor.catalog.position(item_id) for item_id in split.new_items]
    if trained := int(model.model.item_rows.learned[codes].any(dim=-1).sum()):
        logger.warning(
            "The model was trained with %s of the %s items that %r holds out: its figures say nothing of new items.",
            f"{trained:,}",
            f"{len(codes):,}",
            split.name,
        )


def add_items(model: PreTrainedModel, processor: UniMPProcessor, store: Store, item_encoder: str | None = None) -> int:
    """
    Add the items of a store that a model does not know, known by what they are alone; returns how many.

    Args:
        model ([`UniMPForConditionalGeneration`]), processor ([`UniMPProcessor`]): changed in place.
        store ([`Store`]): the items.
        item_encoder (`str`, *optional*): folder or Hub id of the text encoder that the model's item features are of.

    Raises:
        `ValueError`: `item_encoder` is missing, does not fit or has no use.
    """
    if item_encoder is not None and not model.config.item_feature_size:
        raise ValueError(f"`item_encoder` {item_encoder!r} has no use: `model` was made without one.")
    catalog, table = processor.catalog, as_table(store.items)
    table = table.filter([item_id not in catalog for item_id in table[Columns.ITEM_ID].to_pylist()])
    if len(table):  # they are recommended here, whatever is sold out by now
        table = table.drop_columns([name for name in table.column_names if name == AVAILABLE])
        continue_with(model, processor, Store(Dataset(table), store.interactions, store.report), item_encoder)
    return len(table)


def _pictures(model: PreTrainedModel, processor: UniMPProcessor, options: EvaluateArguments) -> Any:
    """
    Latents of the pictures, beside the model, or with the results if nothing can be written there; `None` where no
    task shows any.
    """
    if not processor.shows_pictures(options.tasks):
        return None
    if os.access(options.model, os.W_OK):
        return processor.encode_pictures(model, options.model, latents=True)
    return processor.encode_pictures(model, _output_dir(options), latents=True, replace=True)


def write_results(results: Mapping[str, Any], by_task: Mapping[str, TaskResult], folder: Path) -> None:
    """
    Write `results.json`, `table.md`, plots, and `ranks.npz`: for every task that ranks, `TASK/user_id`, `TASK/item_id`
    and `TASK/SYSTEM`, a rank a row, so that another system can be compared in pairs. For select the same with the F1
    of a row in a rank's place.
    """
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(results, indent=2, allow_nan=False)
    (folder / RESULTS_FILE).write_text(text + "\n", encoding="utf-8")
    (folder / TABLE_FILE).write_text(f"{results['title']}\n\n{markdown_table(results)}\n", encoding="utf-8")
    ranks = {}
    for task, result in by_task.items():
        rows = result.ranks
        if task == "select":
            rows = {system: metrics["f1"].rows for system, metrics in result.measured.items()}
        if rows:
            ranks |= {f"{task}/user_id": result.samples.users, f"{task}/item_id": result.samples.items}
            ranks |= {f"{task}/{system}": values for system, values in rows.items()}
    np.savez_compressed(folder / RANKS_FILE, **ranks)
    plot_results(results, folder)


if __name__ == "__main__":  # for launchers, which start a module: several processes share the work
    from .cli import main as command  # what goes wrong is told in one line there

    sys.exit(command(["evaluate", *sys.argv[1:]]))
