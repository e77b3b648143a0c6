"""
How good recommendations are, beside baselines: the tables of `benchmarks/README.md`.

    python benchmarks/run_quality.py TABLE --dataset FOLDER [--item_encoder DIR] [--vision DIR] [--work_dir DIR]

`TABLE` is one of `benchmarks/quality.yaml`: a split, seeds, settings of UniMP and names of baselines. Any data set in
the folder format will do. Models are trained and measured by `unimp train` and `unimp evaluate`, baselines by
`benchmarks/run_baselines.py`, which gets the same item features; what is in the work folder is not done again. The
result, with 95% intervals over people and ratios paired over them, goes to `benchmarks/results/TABLE.json`.
"""

import argparse
import json
import logging
import shlex
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import torch
import yaml
from baselines.ranking import user_values
from datasets import Dataset

from unimp.cli import main as unimp
from unimp.evaluate import OF_THE_MODEL
from unimp.processing import TASKS, Columns, UniMPProcessor
from unimp.processing.splits import sequences
from unimp.processing.store import as_table, read_store, write_store
from unimp.training import trainer
from unimp.training.metrics import bootstrap_interval, paired_ratio_interval, user_means
from unimp.training.mixture import MixtureSettings
from unimp.training.recipe import load

logger = logging.getLogger(__name__)

HERE = Path(__file__).parent
# How the tables call what is measured, and with how many digits; the first that a table has is its order.
METRICS = {"ndcg@10": ("NDCG@10", 4), "hr@10": ("HR@10", 3), "f1": ("F1", 3), "rmse": ("RMSE", 3), "mae": ("MAE", 3)}
ERRORS = ("rmse", "mae")

Rows = np.ndarray  # [seeds, rows]: the answer's rank, or of select its F1


@dataclass(frozen=True)
class Table:
    """An entry of `quality.yaml`.

    Attributes:
        split: what is held out, see `make_split`.
        models: by name, what differs from `settings`; the first is what the others are compared with. Some settings
            are not of `unimp train`: `of` names the model of another table, to be measured only; `without` columns
            that the data set is stripped of; `reconstructs: false` trains the answer of an example alone and nothing
            of its history; `pictures_in_codes: false` leaves the pictures to cross-attention. `OF_THE_MODEL` beside
            `of` are options of `unimp evaluate`.
        settings: options of `unimp train` that all models share.
        baselines: names of `run_baselines.py`; none selects.
        grids: by baseline, settings to try instead of its own grid.
        trials: most settings that tuning tries for a baseline that is trained; all by default.
        task: what is measured.
        among: what answers are ranked among, see `unimp evaluate`.
        seeds: one training each.
    """

    split: str
    models: Mapping[str, Mapping[str, Any]]
    settings: Mapping[str, Any]
    baselines: Sequence[str] = ()
    trials: int | None = None
    grids: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    task: str = "recommend"
    among: str = "all"
    seeds: Sequence[int] = (0, 1, 2)


def train_and_evaluate(table: Table, name: str, seed: int, options: argparse.Namespace, folder: Path) -> None:
    """A model of the table trained in `folder`, and measured in its `evaluation`; not again if it is there."""
    given = {option: getattr(options, option) for option in ("item_encoder", "vision") if getattr(options, option)}
    settings = given | dict(table.settings) | dict(table.models[name])
    dataset = _stripped(options.dataset, settings.pop("without", ()), options.work_dir)
    patches = [patched for key, patched in TRAINED_WITHOUT.items() if not settings.pop(key, True)]
    model = options.work_dir / settings.pop("of") / f"seed-{seed}" if "of" in settings else folder
    config, about = folder / "train.yaml", {"dataset": dataset, "split": table.split, "seed": seed}
    wanted = yaml.safe_dump(settings | about | {"output_dir": str(folder)})
    # Other settings, if none of `unimp train`.
    wanted += "".join(f"# {patched.__name__.replace('_', ' ')}\n" for patched in patches)
    if config.is_file() and config.read_text(encoding="utf-8") != wanted:
        raise SystemExit(f"{folder} was made with other settings: delete it, or give another `--work_dir`.")
    if (folder / "evaluation" / "results.json").is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    config.write_text(wanted, encoding="utf-8")
    if model == folder:
        with ExitStack() as stack:
            for patched in patches:
                stack.enter_context(patched())
            _unimp("train", "--config", str(config))
    arguments = ["--model", str(model), "--dataset", dataset, "--split", table.split, "--tasks", table.task]
    arguments += ["--output_dir", str(folder / "evaluation"), "--among", table.among]
    for option in OF_THE_MODEL if "of" in table.models[name] else ():
        arguments += [f"--{option}", str(settings[option])] if option in settings else []
    if settings.get("item_encoder"):
        arguments += ["--item_encoder", settings["item_encoder"]]
    _unimp("evaluate", *arguments)


@contextmanager
def answers_alone() -> Iterator[None]:
    """Training without context reconstruction (UniMP): an example ends anywhere, and only its end counts."""
    tasks = {name: replace(task, reconstructs=False) for name, task in TASKS.items()}

    def ends_anywhere(*arguments: Any, **options: Any) -> MixtureSettings:
        return MixtureSettings(*arguments, **options | {"dense": False})

    with patch.dict(TASKS, tasks), patch.object(trainer, "MixtureSettings", ends_anywhere):
        yield


@contextmanager
def no_pictures_in_codes() -> Iterator[None]:
    """Item codes that know nothing of the pictures of the items trained on, which cross-attention alone then sees."""
    pooled_pictures = UniMPProcessor.pooled_pictures

    def no_pictures(processor: UniMPProcessor, *arguments: Any, **options: Any) -> torch.Tensor:
        return torch.zeros_like(pooled_pictures(processor, *arguments, **options))

    with patch.object(UniMPProcessor, "pooled_pictures", no_pictures):
        yield


# Settings of a model that are none of `unimp train`, and what it is trained in where they are false.
TRAINED_WITHOUT = {"reconstructs": answers_alone, "pictures_in_codes": no_pictures_in_codes}


def _stripped(dataset: str, columns: Sequence[str], work_dir: Path) -> str:
    """The folder of a data set without some columns of its items or events."""
    if not columns:
        return dataset
    folder = work_dir / f"without-{'-'.join(columns)}" / Path(dataset).name
    if not folder.is_dir():
        store = read_store(dataset)
        events = in_order_only(store.interactions) if Columns.TIMESTAMP in columns else store.interactions
        left_out = set(columns) - {Columns.TIMESTAMP}
        tables = (
            t.remove_columns([name for name in t.column_names if name in left_out]) for t in (store.items, events)
        )
        write_store(*tables, folder)
    return str(folder)


def in_order_only(interactions: Dataset) -> Dataset:
    """The events with their place in the person's history instead of their time."""
    table = as_table(sequences(interactions))
    lists = [name for name in table.column_names if name != Columns.USER_ID]
    lengths = table[Columns.ITEM_ID].combine_chunks().value_lengths().to_numpy()
    columns = {name: table[name].combine_chunks().flatten() for name in lists}
    columns[Columns.USER_ID] = np.repeat(table[Columns.USER_ID].to_numpy(), lengths)
    columns[Columns.TIMESTAMP] = np.concatenate([np.arange(length) for length in lengths])
    return Dataset(pa.table(columns))


def _unimp(*arguments: str) -> None:
    if unimp(arguments) != 0:
        raise SystemExit(f"`unimp {shlex.join(arguments)}` failed.")


def export_features(folder: Path, path: Path) -> None:
    """What the item codes of a model know, for the baselines that read content."""
    model, processor = load(str(folder))
    content = model.model.item_content
    # As the codes see them: what pictures have in common is taken off, a missing one is zeros.
    pictured = content.image_embeddings.any(dim=-1, keepdim=True)
    pictures = (content.image_embeddings - content.image_mean) * content.image_scale * pictured
    arrays = {"text": content.features, "picture": pictures}
    present = {kind: matrix.numpy() for kind, matrix in arrays.items() if matrix.any()}
    np.savez_compressed(path, item_id=np.array(processor.catalog.item_ids), **present)


def run_baselines(table: Table, options: argparse.Namespace, features: Path, output: Path) -> None:
    """All baselines of the table, tuned on validation; what is in `output` is not done again."""
    command = [sys.executable, str(HERE / "run_baselines.py"), "--dataset", options.dataset]
    command += ["--split", table.split, "--output", str(output)]
    command += ["--features", str(features)] if features.is_file() else []
    command += ["--seeds", *map(str, table.seeds), "--methods", *table.baselines]
    command += ["--trials", str(table.trials)] if table.trials is not None else []
    command += ["--grids", json.dumps(table.grids)] if table.grids else []
    subprocess.run(command, check=True)


def read_rows(table: Table, folder: Path) -> tuple[dict[str, Rows], np.ndarray]:
    """What every system has in each row, of select its F1 and else the answer's rank; and whose the rows are."""
    rows: dict[str, Rows] = {}
    users = None
    for name in table.models:
        files = [np.load(folder / name / f"seed-{seed}" / "evaluation" / "ranks.npz") for seed in table.seeds]
        rows[name] = np.stack([file[f"{table.task}/model"] for file in files])
        users = files[0][f"{table.task}/user_id"]
        if f"{table.task}/words" in files[0]:  # what needs no training
            what = "query" if table.task == "search" else "history"
            rows[f"words of the {what} alone"] = np.stack([file[f"{table.task}/words"] for file in files])
    if table.baselines:
        file = np.load(folder / "baselines.npz")
        if not np.array_equal(file["user_id"], users):
            raise SystemExit(f"The rows of {folder / 'baselines.npz'} are not those of the models: delete it.")
        suffix = "" if table.among == "all" else ":new_items"
        present = [name for name in table.baselines if name + suffix in file]  # the others lacked something
        rows |= {name: file[name + suffix] for name in present}
    return rows, users


def compare(table: Table, rows: Mapping[str, Rows], users: np.ndarray) -> dict[str, Any]:
    """Figures of every system, and the ratio of the first model to each of the others."""
    if table.task == "select":
        values = {name: {"f1": user_means(own.mean(0)[:, None], users)[:, 0]} for name, own in rows.items()}
    else:
        values = {name: user_values(own, users) for name, own in rows.items()}
    ours = values[next(iter(table.models))]
    metrics = [metric for metric in METRICS if metric in ours]
    systems = {}
    for name, theirs in values.items():
        systems[name] = {metric: _figure(theirs[metric]) for metric in metrics}
        if theirs is not ours:
            systems[name]["ratio"] = {metric: _ratio(ours[metric], theirs[metric]) for metric in metrics}
    return systems


def _figure(values: np.ndarray) -> dict[str, float]:
    low, high = bootstrap_interval(values)
    return {"value": float(values.mean()), "low": low, "high": high}


def _ratio(ours: np.ndarray, theirs: np.ndarray) -> dict[str, float] | None:
    if not theirs.mean() > 0:
        return None
    low, high = paired_ratio_interval(ours, theirs)
    return {"value": float(ours.mean() / theirs.mean()), "low": low, "high": high}


def rating_errors(table: Table, folder: Path) -> dict[str, Any]:
    """RMSE and MAE of every system, the mean over the seeds; intervals are those of the first."""
    systems: dict[str, Any] = {}
    for name in table.models:
        files = [folder / name / f"seed-{seed}" / "evaluation" / "results.json" for seed in table.seeds]
        results = [json.loads(file.read_text())["tasks"]["rate"]["systems"]["model"] for file in files]
        systems[name] = {m: results[0][m] | {"value": _mean(r[m]["value"] for r in results)} for m in ERRORS}
    for name, entry in json.loads((folder / "baselines.json").read_text())["methods"].items():
        systems[name] = {m: figure | {"value": figure["mean"]} for m, figure in entry["metrics"].items()}
    return systems


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))


def add_training(table: Table, folder: Path, systems: dict[str, Any]) -> None:
    """Seconds of training, and what tuning chose."""
    for name in table.models:
        reports = [folder / name / f"seed-{seed}" / "metrics.json" for seed in table.seeds]
        systems[name]["seconds"] = [round(json.loads(r.read_text())["seconds"]) for r in reports if r.is_file()]
    if table.baselines:
        done = json.loads((folder / "baselines.json").read_text())["methods"]
        for name, entry in ((name, done[name]) for name in table.baselines if name in done):
            systems[name] |= {key: entry[key] for key in ("settings", "trials", "seeds")}


def markdown(systems: Mapping[str, Any], reference: str) -> str:
    """The table as it stands in `README.md`."""
    metrics = [metric for metric in METRICS if metric in systems[reference]]
    labels = [METRICS[metric][0] for metric in metrics]
    compared = metrics[0] not in ERRORS
    labels += [f"{reference} / this, {labels[0]}"] if compared else []
    lines = [f"| | {' | '.join(labels)} |", "|---" * (len(labels) + 1) + "|"]
    order = sorted(systems, key=lambda name: -systems[name][metrics[0]]["value"]) if compared else systems
    for name in order:
        cells = [_interval(systems[name][metric], METRICS[metric][1]) for metric in metrics]
        if compared:
            ratio = systems[name].get("ratio", {}).get(metrics[0])
            cells.append(_interval(ratio, 2) if ratio else "")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _interval(figure: Mapping[str, float], digits: int) -> str:
    return "{value:.{n}f} [{low:.{n}f}, {high:.{n}f}]".format(n=digits, **figure)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, measure, compare, write."""
    tables = yaml.safe_load((HERE / "quality.yaml").read_text(encoding="utf-8"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=tables)
    parser.add_argument("--dataset", required=True, help="A folder in the two-table format.")
    parser.add_argument("--item_encoder", help="A text encoder whose embeddings join the items' content.")
    parser.add_argument("--vision", help="A pretrained vision encoder; a small random one by default.")
    parser.add_argument("--work_dir", type=Path, default=Path("outputs/quality"), help="Models, and what is done.")
    parser.add_argument("--seeds", type=int, nargs="+", help="Others than the table's.")
    parser.add_argument("--models", nargs="+", help="Only these models of the table (and the first).")
    parser.add_argument("--output", type=Path, help="By default benchmarks/results/TABLE.json.")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    entry = tables[options.table] | ({"seeds": options.seeds} if options.seeds else {})
    if options.models:
        first = next(iter(entry["models"]))
        entry["models"] = {n: m for n, m in entry["models"].items() if n == first or n in options.models}
    table = Table(**entry)
    systems = run(table, options, options.work_dir / options.table)
    command = "python benchmarks/run_quality.py " + shlex.join(sys.argv[1:] if arguments is None else arguments)
    about = {"table": options.table, "command": command, "split": table.split, "task": table.task}
    output = options.output or HERE / "results" / f"{options.table}.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(about | entry | {"systems": systems}, indent=1) + "\n", encoding="utf-8")
    print(markdown(systems, next(iter(table.models))))


def run(table: Table, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Every system of a table: its figures, settings and seconds."""
    for seed in table.seeds:
        for name in table.models:
            train_and_evaluate(table, name, seed, options, folder / name / f"seed-{seed}")
    if table.baselines:
        features = folder / "features.npz"
        name, settings = next(iter(table.models.items()))
        model = (options.work_dir / settings["of"] if "of" in settings else folder / name) / f"seed-{table.seeds[0]}"
        if not features.is_file() and (model / "model.safetensors").is_file():
            export_features(model, features)
        run_baselines(table, options, features, folder / "baselines.json")
    systems = rating_errors(table, folder) if table.task == "rate" else compare(table, *read_rows(table, folder))
    add_training(table, folder, systems)
    return systems


if __name__ == "__main__":
    main()
