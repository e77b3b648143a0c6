"""The model card that every checkpoint carries."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard
from transformers import PreTrainedModel

from ..modeling_unimp.card_unimp import model_card
from ..modeling_unimp.codes_unimp import UniMPItemCodes
from ..processing import Columns
from ..processing.dataset_card import license_fields, stated_license
from ..processing.loaders.card import num_present
from ..processing.store import Store
from .evaluation import headline
from .semantic_codes import code_report, describe_codes

METRIC_NAMES = {
    "hr": "Hit rate",
    "ndcg": "NDCG",
    "mrr": "MRR",
    "rmse": "RMSE",
    "mae": "MAE",
    "f1": "F1",
    "precision": "Precision",
    "recall": "Recall",
    "bleu": "BLEU-4",
    "rouge1": "ROUGE-1",
    "rouge2": "ROUGE-2",
    "rougeL": "ROUGE-L",
    "meteor": "METEOR (exact matches)",
}
# What the arguments of a metric call its interval: the Hub has no other place for it.
INTERVAL = "bootstrap_interval_95"


def write_model_card(
    folder: Path,
    model: PreTrainedModel,
    args: Any,
    metrics: Mapping[str, Mapping[str, Mapping[str, float]]],
    split: str = "held-out events",
    store: Store | None = None,
    untaught: Sequence[str] = (),
) -> None:
    """
    Write `README.md`.

    Args:
        folder (`Path`): where.
        model: its sizes are stated.
        args ([`UniMPTrainingConfig`]): its settings are stated.
        metrics (`dict[str, dict[str, dict[str, float]]]`): by task, system and metric; may be empty. The Hub is told
            those of the system `model`.
        split (`str`): what they were measured on, see [`describe_split`].
        store ([`Store`], *optional*): what it was trained on. Its licence becomes that of the checkpoint, in which the
            catalogue lies.
        untaught (`Sequence[str]`): the tasks of which training had no example.
    """
    name = folder.absolute().name
    dataset = {"dataset_type": "custom", "dataset_name": split}
    results = [
        _result(task, metric, value, **dataset)
        for task, systems in metrics.items()
        for metric, value in headline(systems["model"]).items()
    ]
    sections = [_data(store, model)] if store else []
    sections += [_metrics(metrics, split), _training(args, model, untaught)]
    data = {"model_name": name, "eval_results": results or None} | license_fields(store and store.card)
    folder.mkdir(parents=True, exist_ok=True)
    model_card(model, name, "\n".join(sections), **data).save(folder / "README.md")


def add_to_model_card(folder: Path, results: Mapping[str, Any]) -> None:
    """
    Write an evaluation's first figures into `README.md`: with their intervals (`metric_args`) into the `model-index`
    that the Hub reads, and as a section. What an earlier evaluation on the same data set and split said is replaced.

    Args:
        folder (`Path`): a checkpoint's, with a model card.
        results: with `dataset`, `split` and `title`, and `tasks` as of [`task_figures`].
    """
    path = folder / "README.md"
    card = ModelCard.load(path)
    dataset = {"dataset_type": results["dataset"], "dataset_config": results["split"], "dataset_split": "test"}
    kept = [entry for entry in card.data.eval_results or () if any(getattr(entry, k) != v for k, v in dataset.items())]
    card.data.eval_results = kept + [
        _result(task, name, figure["value"], figure, dataset_name=results["title"], **dataset)
        for task, table in results["tasks"].items()
        for name, figure in headline(table["systems"]["model"]).items()
        if figure["value"] is not None
    ]
    card.data.model_name = card.data.model_name or folder.absolute().name
    heading = f"## Evaluation: {results['title']}"
    section = f"{heading}\n\n{markdown_table(results)}\n\n"
    old = re.search(rf"{re.escape(heading)}\n.*?(?=^## |\Z)", card.text, re.DOTALL | re.MULTILINE)
    before, after = (card.text[: old.start()], card.text[old.end() :]) if old else _around(card.text, "## Training")
    card.text = before + section + after
    card.save(path)


def _around(text: str, heading: str) -> tuple[str, str]:
    """What comes before a heading, and the rest; everything and nothing without it."""
    before, found, after = text.partition(f"{heading}\n")
    return (before, found + after) if found else (text.rstrip() + "\n\n", "")


def markdown_table(results: Mapping[str, Any]) -> str:
    """The first figures of every task and system, with their intervals, as a Markdown table."""
    rows = ["| task | metric | system | value | 95% interval |", "|---|---|---|---|---|"]
    for task, table in results["tasks"].items():
        for system, metrics in table["systems"].items():
            for name, figure in headline(metrics).items():
                low, high = (_shown(figure[end]) for end in ("low", "high"))
                interval = f"{low} to {high}" if low and high else ""
                rows.append(f"| {task} | {name} | {system} | {_shown(figure['value'])} | {interval} |")
    return "\n".join(rows)


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _result(
    task: str, metric: str, value: float, interval: Mapping[str, float | None] | None = None, **dataset: str
) -> EvalResult:
    """A figure as the Hub knows it."""
    ends = {} if interval is None else {end: interval[end] for end in ("low", "high") if interval[end] is not None}
    kind, *cutoff = metric.partition("@")
    return EvalResult(
        task_type=f"unimp-{task}",
        task_name=task.title(),
        metric_type=metric,
        metric_name="".join([METRIC_NAMES.get(kind, kind), *cutoff]),
        metric_value=round(value, 4),
        metric_args={INTERVAL: [round(end, 4) for end in ends.values()]} if len(ends) == 2 else None,
        **dataset,
    )


def _codes(model: PreTrainedModel) -> str:
    found = [module for module in model.modules() if isinstance(module, UniMPItemCodes)]  # in whatever wraps it
    return "".join(f"\n{describe_codes(code_report(item_codes))}\n" for item_codes in found)


def _metrics(metrics: Mapping[str, Mapping[str, Mapping[str, float]]], split: str) -> str:
    rows = [
        f"| {task} | {metric} | {system} | {value:.4f} |"
        for task, systems in metrics.items()
        for system, values in systems.items()
        for metric, value in headline(values).items()
    ]
    table = "\n".join([f"On {split}.\n", "| task | metric | system | value |", "|---|---|---|---|", *rows])
    return f"## Metrics\n\n{table if rows else 'Not evaluated yet.'}\n"


def _training(args: Any, model: PreTrainedModel, untaught: Sequence[str]) -> str:
    # The trainer settles the rate where none is given.
    rate = "" if args.learning_rate is None else f" learning rate {args.learning_rate:g},"
    passes = f"{args.num_passes} pass{'es' if args.num_passes > 1 else ''}"
    length = f"{args.max_steps:,} steps over the examples of {passes}" if args.max_steps > 0 else passes
    taught = ", ".join(task for task, share in args.task_rates.items() if share and task not in untaught)
    warning = f"\nNo event had an answer to {' or '.join(untaught)}: what it answers then means nothing.\n"
    return f"""## Training

Tasks {taught}; {length},{rate} focal gamma {args.focal_gamma:g}, what trained:
`{args.train_policy}`, seed {args.seed}.
{warning if untaught else ""}{_codes(model)}"""


def _data(store: Store, model: PreTrainedModel) -> str:
    name = (store.card and store.card.get("pretty_name")) or "a data set of its own"
    events, pictures = len(store.interactions), num_present(store.items, Columns.IMAGE)
    people = len(store.interactions.unique(Columns.USER_ID))
    licence = stated_license(store.card)
    learned = "what the weights have learned"
    if model.config.code_sizes is None:
        learned = f"which items they chose close together (`neighbours`, a single person's pair too) and {learned}"
    return f"""## Data

Trained on {name}, but for what the metrics are measured on: {events:,} events of {people:,} people in all,
{len(store.items):,} items, {pictures:,} of them with a picture. The items, pictures included, are in
`catalog.parquet`; of the people {learned}, and nothing else.
{f"Licence: {licence}." if licence else "Their licence is not stated."}
"""
