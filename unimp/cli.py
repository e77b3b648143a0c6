"""The `unimp` command: quickstart, data, train, evaluate, recommend, imagine, demo, push."""

import argparse
import difflib
import json
import logging
import shlex
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import NoneType
from typing import Any, NoReturn, get_args, get_type_hints

INTERRUPTED = 130  # exit status after Ctrl-C, as shells have it

# Libraries are imported inside the commands: `unimp --help` answers at once.

USAGE = """usage: unimp COMMAND [--option VALUE ...]

  quickstart   train on the built-in demo store, evaluate, recommend, save (a few minutes)
  data         prepare a public data set: prepare NAME --raw FOLDER --output_dir FOLDER
  train        train on your own store: --dataset FOLDER --output_dir DIR
  evaluate     measure a trained model: --model DIR --dataset FOLDER --split NAME
  recommend    recommend with a trained model: --model DIR --history ITEM_ID [ITEM_ID ...]
  imagine      draw for someone: --model DIR --history ITEM_ID [ITEM_ID ...] --query TEXT | --target ITEM_ID
  demo         a page to try a model on: --model DIR, the quickstart's by default
  push         upload to the Hugging Face Hub: --model DIR (or --dataset FOLDER) --repo_id NAME

Every option can also stand in a YAML file: --config FILE. `unimp COMMAND --help` lists them."""


@dataclass(kw_only=True)
class ResumeArguments:
    """Option of every command that trains."""

    resume: bool = field(default=False, metadata={"help": "Go on from the last checkpoint in `output_dir`."})


@dataclass(kw_only=True)
class QuickstartArguments(ResumeArguments):
    """Options of `unimp quickstart`."""

    output_dir: str = field(default="outputs/quickstart", metadata={"help": "Where the result goes."})
    seed: int = field(default=0, metadata={"help": "Of the store, the split and the training."})
    imagine: bool = field(
        default=False,
        metadata={"help": "Also learn to draw for people (some more minutes); with `resume`, beside what is there."},
    )


@dataclass(kw_only=True)
class DataArguments(ResumeArguments):
    """Options of `unimp train` besides the model's and the trainer's."""

    dataset: str = field(metadata={"help": "Folder with items.*, interactions.* and, if there are any, images/."})
    split: str = field(
        default="leave_one_out",
        metadata={
            "help": "What is held out: `leave_one_out`, `leave_last_N`, `user_holdout`, `cold_items` or "
            "`new_domain:COLUMN=VALUE`."
        },
    )
    rating_range: list[float] | None = field(
        default=None,
        metadata={"help": "Lowest and highest rating; one outside counts as missing. By default every one is taken."},
    )

    def __post_init__(self) -> None:
        if self.rating_range is not None and len(self.rating_range) != 2:
            raise ValueError(f"`rating_range` must be the lowest and the highest rating, got {self.rating_range}.")


@dataclass
class RecommendArguments:
    """Options of `unimp recommend`."""

    model: str | None = field(
        default=None, metadata={"help": "Folder or Hub id of a trained model; the quickstart's by default."}
    )
    history: list[str] = field(default_factory=list, metadata={"help": "Item ids, oldest first."})
    dataset: str | None = field(default=None, metadata={"help": "Folder to take the history of `user_id` from."})
    user_id: str | None = field(default=None, metadata={"help": "Whose history to take from `dataset`."})
    top_k: int = field(default=10, metadata={"help": "How many items."})


@dataclass
class ImagineArguments:
    """Options of `unimp imagine`."""

    model: str | None = field(
        default=None,
        metadata={"help": "Folder or Hub id of a model that learned to draw; the quickstart's by default."},
    )
    history: list[str] = field(default_factory=list, metadata={"help": "Item ids, oldest first."})
    query: str | None = field(default=None, metadata={"help": 'What is asked for, such as "red dress".'})
    target: str | None = field(default=None, metadata={"help": "Id of an item to be shown as they like it."})
    alpha: float = field(default=0.5, metadata={"help": "0: what was asked; 1: what they like."})
    seed: int = field(default=0, metadata={"help": "Of the noise that a picture is drawn with."})
    output: str = field(default="imagined.png", metadata={"help": "Where the picture goes."})


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    commands = {
        "quickstart": _quickstart,
        "data": _data,
        "train": _train,
        "evaluate": _evaluate,
        "recommend": _recommend,
        "imagine": _imagine,
        "demo": _demo,
        "push": _push,
    }
    if not arguments or arguments[0] in ("-h", "--help"):
        sys.stdout.write(USAGE + "\n")
        return 0
    if arguments[0] not in commands:
        sys.stderr.write(f"unimp: unknown command {arguments[0]!r}{_nearest(arguments[0], commands)}\n")
        return 2
    from huggingface_hub.errors import StrictDataclassError

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for noisy in ("absl", "httpx", "httpx2", "datasets", "trl", "accelerate"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        return commands[arguments[0]](arguments[1:])
    except (ValueError, OSError, StrictDataclassError) as error:
        sys.stderr.write(f"unimp: {' '.join(str(error).split())}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("unimp: interrupted\n")
        return INTERRUPTED


def parse(arguments: Sequence[str], *types: type) -> tuple[Any, ...]:
    """
    Command-line options, over those of the YAML file named by `--config`, over the defaults.

    Args:
        arguments: what followed the command.
        types: dataclasses; each field is an option.

    Raises:
        `ValueError`: an option or a key of the file that none of `types` has, with the nearest one; a required
            option is missing; a value has the wrong type; the file has null where a value is needed; `model` is
            neither a folder nor what a Hub id may be.
    """
    from transformers import HfArgumentParser

    parser = HfArgumentParser(types, prog="unimp", allow_abbrev=False)
    parser.add_argument("--config", help="YAML file of options.")
    parser.error = _refuse
    for action in parser._actions:  # a list may be empty
        action.nargs = "*" if action.nargs == "+" else action.nargs
    known = {option.name for kind in types for option in fields(kind)}
    config = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    config.add_argument("--config", type=Path)
    config.error = _refuse
    path = config.parse_known_args(arguments)[0].config
    if path is not None:
        settings = _read_config(path, known)
        # The command line has no way to write null: it becomes the default, which an option there still overrides.
        parser.set_defaults(**dict.fromkeys(_nulls(settings, path, types)))
        arguments = [*_as_options(settings), *arguments]  # the last of two equal options counts
    for argument in arguments:
        name = argument.partition("=")[0].lstrip("-").replace("-", "_")
        if argument.startswith("--") and name.removeprefix("no_") not in {*known, "config", "help"}:
            raise ValueError(f"`--{name}` is not an option{_nearest(name, known)}")
    parsed = parser.parse_args_into_dataclasses(arguments)[: len(types)]
    for options in parsed:
        _check_model(getattr(options, "model", None))
    return parsed


def _read_config(path: Path, known: Collection[str]) -> dict[str, Any]:
    """The options of a YAML file."""
    import yaml

    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"`--config` {path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(settings, dict):
        raise ValueError(f"`--config` {path} must hold lines such as `num_passes: 10`, got {settings!r:.60}.")
    for key in settings:
        if key not in known:
            raise ValueError(f"`{key}` in `--config` {path} is not an option{_nearest(str(key), known)}")
    return settings


def _nulls(settings: dict[str, Any], path: Path, types: Sequence[type]) -> list[str]:
    """The options that a YAML file sets to null."""
    hints = {name: hint for kind in types for name, hint in get_type_hints(kind).items()}
    nulls = [key for key, value in settings.items() if value is None]
    for key in nulls:
        if NoneType not in get_args(hints[key]):
            raise ValueError(f"`{key}` in `--config` {path} has no value: give one, or leave the line out.")
    return nulls


def _as_options(settings: dict[str, Any]) -> list[str]:
    """Options as they would be written on the command line."""
    arguments = []
    for key, value in settings.items():
        if isinstance(value, list):
            arguments += [f"--{key}", *map(str, value)]
        elif value is not None:
            arguments.append(f"--{key}={json.dumps(value) if isinstance(value, dict) else value}")
    return arguments


def _refuse(message: str) -> NoReturn:
    raise ValueError(message)


def _nearest(word: str, known: Collection[str], otherwise: str = "; `--help` lists them.") -> str:
    nearest = difflib.get_close_matches(word, known, n=1)
    if nearest:
        return f": did you mean `{nearest[0]}`?"
    return f": there are {', '.join(sorted(known))}." if len(known) <= 10 else otherwise


def _quickstart(arguments: Sequence[str]) -> int:
    options = parse(arguments, QuickstartArguments)[0]
    from .quickstart import quickstart

    return quickstart(Path(options.output_dir), options.seed, options.resume, options.imagine)


def _train(arguments: Sequence[str]) -> int:
    from .training.recipe import ModelArguments
    from .training.run import run
    from .training.trainer import UniMPTrainingConfig

    data, model, training = parse(arguments, DataArguments, ModelArguments, UniMPTrainingConfig)
    from .processing import Columns
    from .processing.splits import make_split
    from .processing.store import read_store
    from .report import print_metrics, say

    store = read_store(data.dataset, rating_range=data.rating_range)
    result = run(store, make_split(store, data.split), model, training, resume=data.resume)
    if result is None:
        return INTERRUPTED  # what to do next has been logged
    if training.process_index == 0:
        print_metrics(result)
        about = f"--model {shlex.quote(str(training.output_dir))} --dataset {shlex.quote(data.dataset)}"
        say(f"The model is in {training.output_dir}. Next:")
        rated = "" if data.rating_range is None else f" --rating_range {' '.join(map(str, data.rating_range))}"
        say(f"  unimp evaluate {about} --split {shlex.quote(data.split)}{rated}")
        say(f"  unimp recommend {about} --user_id {shlex.quote(store.interactions[0][Columns.USER_ID])}")
        say(f"  unimp demo {about}")
    return 0


def _data(arguments: Sequence[str]) -> int:
    from .data import main as prepare

    return prepare(arguments)


def _evaluate(arguments: Sequence[str]) -> int:
    from .evaluate import main as evaluate

    return evaluate(arguments)


def _demo(arguments: Sequence[str]) -> int:
    from .demo import main as demo

    return demo(arguments)


def _push(arguments: Sequence[str]) -> int:
    from .push import main as push

    return push(arguments)


def _recommend(arguments: Sequence[str]) -> int:
    options = parse(arguments, RecommendArguments)[0]
    from transformers import pipeline

    import unimp  # noqa: F401 - registers the pipelines

    from .report import print_recommendations

    if bool(options.history) == bool(options.user_id):
        raise ValueError("Give `--history ITEM_ID ...`, or `--dataset FOLDER --user_id ID`.")
    if options.user_id and options.dataset is None:
        raise ValueError("`--user_id` needs `--dataset FOLDER`, the store to look the person up in.")
    recommend = pipeline("unimp-recommend", model=options.model, trust_remote_code=True)
    history = [{"item_id": item_id} for item_id in options.history]
    low, high = recommend.processor.rating_range
    history = history or _history_of(options.user_id, options.dataset, (low, high) if low < high else None)
    catalog = recommend.processor.catalog
    if unknown := [event["item_id"] for event in history if event["item_id"] not in catalog]:
        raise ValueError(
            f"`{'history' if options.history else 'dataset'}` has {unknown[0]!r}, which is not one of the catalogue's "
            f"{len(catalog)} item ids{_nearest(unknown[0], catalog.item_ids, f', such as {catalog.item_ids[0]!r}.')}"
        )
    answers = recommend({"history": history}, top_k=options.top_k)
    print_recommendations([catalog.item(catalog.position(event["item_id"])) for event in history], answers)
    return 0


def _imagine(arguments: Sequence[str]) -> int:
    options = parse(arguments, ImagineArguments)[0]
    import torch
    from transformers import pipeline

    import unimp  # noqa: F401 - registers the pipelines

    from .report import say

    imagine = pipeline("unimp-imagine", model=options.model, trust_remote_code=True)
    request = {"history": options.history, "query": options.query, "target": options.target}
    result = imagine(request, alpha=options.alpha, generator=torch.Generator().manual_seed(options.seed))
    result.image.save(options.output)
    say(f"Asked for: {', '.join(result.target_keywords)}. They like: {', '.join(result.preference_keywords)}.")
    say(f"Drawn: {options.output}")
    return 0


def _check_model(name: str | None) -> None:
    """Tell a mistyped folder from a Hub id, for which a download would be tried again and again."""
    if name is not None and not Path(name).is_dir() and (name.count("/") != 1 or name[0] in "/.~"):
        raise ValueError(f"`model` {name!r} is no folder here, nor a Hub id, which has an owner (`owner/name`).")


def _history_of(user_id: str, dataset: str, rating_range: tuple[float, float] | None) -> list[dict[str, Any]]:
    """A person's events, with all that is known of them; a rating that the model cannot read counts as missing."""
    from .processing import Columns
    from .processing.splits import sequences
    from .processing.store import read_store
    from .training.mixture import read_sequence

    people = sequences(read_store(dataset, rating_range=rating_range).interactions)
    ids = list(people[Columns.USER_ID])
    if user_id not in ids:
        raise ValueError(
            f"`user_id` {user_id!r} is not in {dataset}, which has {len(people)} people, such as {ids[0]!r}."
        )
    return read_sequence(people[ids.index(user_id)])


if __name__ == "__main__":
    sys.exit(main())
