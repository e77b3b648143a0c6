"""The `unimp` command: quickstart, train, recommend."""

import argparse
import difflib
import json
import logging
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NoReturn

INTERRUPTED = 130  # exit status after Ctrl-C, as shells have it

# Libraries are imported inside the commands: `unimp --help` answers at once.

USAGE = """usage: unimp COMMAND [--option VALUE ...]

  quickstart   train on the built-in demo store, evaluate, recommend, save (about three minutes on two cores)
  train        train on your own store: --dataset FOLDER --output_dir DIR
  recommend    recommend with a trained model: --model DIR --history ITEM_ID [ITEM_ID ...]

Every option can also stand in a YAML file: --config FILE. `unimp COMMAND --help` lists them."""


@dataclass
class QuickstartArguments:
    """Options of `unimp quickstart`."""

    output_dir: str = field(default="outputs/quickstart", metadata={"help": "Where the result goes."})
    seed: int = field(default=0, metadata={"help": "Of the store, the split and the training."})
    resume: bool = field(default=False, metadata={"help": "Go on from the last checkpoint in `output_dir`."})


@dataclass
class DataArguments:
    """Options of `unimp train` besides the model's and the trainer's."""

    dataset: str = field(metadata={"help": "Folder with items.*, interactions.* and, if there are any, images/."})
    split: str = field(default="leave_one_out", metadata={"help": "`leave_one_out` or `user_holdout`."})
    resume: bool = field(default=False, metadata={"help": "Go on from the last checkpoint in `output_dir`."})


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


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    commands = {"quickstart": _quickstart, "train": _train, "recommend": _recommend}
    if not arguments or arguments[0] in ("-h", "--help"):
        sys.stdout.write(USAGE + "\n")
        return 0
    if arguments[0] not in commands:
        sys.stderr.write(f"unimp: unknown command {arguments[0]!r}{_nearest(arguments[0], commands)}\n")
        return 2
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for noisy in ("httpx", "datasets", "trl", "accelerate"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        return commands[arguments[0]](arguments[1:])
    except (ValueError, OSError) as error:
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
            option is missing; a value has the wrong type.
    """
    from transformers import HfArgumentParser

    parser = HfArgumentParser(types, prog="unimp", allow_abbrev=False)
    parser.add_argument("--config", help="YAML file of options.")
    parser.error = _refuse
    known = {option.name for kind in types for option in fields(kind)}
    config = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    config.add_argument("--config", type=Path)
    config.error = _refuse
    path = config.parse_known_args(arguments)[0].config
    if path is not None:
        arguments = [*_read_config(path, known), *arguments]  # the last of two equal options counts
    for argument in arguments:
        name = argument.partition("=")[0].lstrip("-").replace("-", "_")
        if argument.startswith("--") and name.removeprefix("no_") not in {*known, "config", "help"}:
            raise ValueError(f"`--{name}` is not an option{_nearest(name, known)}")
    return parser.parse_args_into_dataclasses(arguments)[: len(types)]


def _read_config(path: Path, known: Collection[str]) -> list[str]:
    """The options of a YAML file, as they would be written on the command line."""
    import yaml

    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"`--config` {path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(settings, dict):
        raise ValueError(f"`--config` {path} must hold lines such as `num_passes: 10`, got {settings!r:.60}.")
    arguments = []
    for key, value in settings.items():
        if key not in known:
            raise ValueError(f"`{key}` in `--config` {path} is not an option{_nearest(str(key), known)}")
        if isinstance(value, list):
            arguments += [f"--{key}", *map(str, value)]
        elif value is not None:
            arguments.append(f"--{key}={json.dumps(value) if isinstance(value, dict) else value}")
    return arguments


def _refuse(message: str) -> NoReturn:
    raise ValueError(message)


def _nearest(word: str, known: Collection[str]) -> str:
    nearest = difflib.get_close_matches(word, known, n=1)
    if nearest:
        return f": did you mean `{nearest[0]}`?"
    return f": there are {', '.join(sorted(known))}." if len(known) <= 10 else "; `--help` lists them."


def _quickstart(arguments: Sequence[str]) -> int:
    options = parse(arguments, QuickstartArguments)[0]
    from .quickstart import quickstart

    return quickstart(Path(options.output_dir), options.seed, options.resume)


def _train(arguments: Sequence[str]) -> int:
    from .training.recipe import ModelArguments
    from .training.run import run
    from .training.trainer import UniMPTrainingConfig

    data, model, training = parse(arguments, DataArguments, ModelArguments, UniMPTrainingConfig)
    if data.split not in ("leave_one_out", "user_holdout"):
        raise ValueError(f"`split` must be 'leave_one_out' or 'user_holdout', got {data.split!r}.")
    from .processing import splits
    from .processing.store import read_store
    from .report import print_metrics

    store = read_store(data.dataset)
    result = run(store, getattr(splits, data.split)(store.interactions), model, training, resume=data.resume)
    if result is None:
        return INTERRUPTED  # what to do next has been logged
    if training.process_index == 0:
        print_metrics(result)
    return 0


def _recommend(arguments: Sequence[str]) -> int:
    options = parse(arguments, RecommendArguments)[0]
    from transformers import pipeline

    import unimp  # noqa: F401 - registers the pipelines

    from .report import print_recommendations

    if bool(options.history) == bool(options.user_id):
        raise ValueError("Give `--history ITEM_ID ...`, or `--dataset FOLDER --user_id ID`.")
    history = options.history or _history_of(options.user_id, options.dataset)
    recommend = pipeline("unimp-recommend", model=options.model, trust_remote_code=True)
    answers = recommend({"history": history}, top_k=options.top_k)
    catalog = recommend.processor.catalog
    print_recommendations([catalog.item(catalog.position(item_id)) for item_id in history], answers)
    return 0


def _history_of(user_id: str, dataset: str | None) -> list[str]:
    from .processing import Columns
    from .processing.splits import sequences
    from .processing.store import read_store

    if dataset is None:
        raise ValueError("`--user_id` needs `--dataset FOLDER`, the store to look the person up in.")
    people = sequences(read_store(dataset).interactions)
    ids = list(people[Columns.USER_ID])
    if user_id not in ids:
        raise ValueError(f"`user_id` {user_id!r} is not in {dataset}, which has {len(people)} people.")
    return people[ids.index(user_id)][Columns.ITEM_ID]


if __name__ == "__main__":
    sys.exit(main())
