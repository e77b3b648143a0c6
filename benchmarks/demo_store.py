"""
Are pictures used? The quickstart's model on the demo store, which may see them through the items' codes and, beside
that or alone, through gated cross-attention or as two tokens each (VIP5's visual prompt); and what needs no model.

    python benchmarks/demo_store.py --seeds 0 1 2 3 4 5 --tasks recommend select
    python benchmarks/demo_store.py --seeds 0 1 2 3 4 5

Queries and explanations of the store name colours and patterns, so that the quickstart's mixture (the second command)
tells a model without pictures what the pictures show. Trained on "recommend" and "select" alone it has to do without.

Held-out people (10% of them a seed), full ranking of the catalogue without the items of the history, wording never
trained with; intervals are 95% bootstrap over people, ratios are paired. What is in the work folder is not done again.
"""

import argparse
import json
import logging
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from transformers import set_seed

from unimp.processing import Columns
from unimp.processing.demo_store import build_demo_store
from unimp.processing.splits import user_holdout
from unimp.processing.store import make_store
from unimp.quickstart import model_arguments, training_config
from unimp.training.evaluation import TaskResult, evaluate_tasks
from unimp.training.metrics import bootstrap_interval, paired_ratio_interval
from unimp.training.recipe import build
from unimp.training.trainer import UniMPTrainer

logger = logging.getLogger(__name__)

RESULTS = Path(__file__).parent / "results"
CROSS_ATTENTION: dict[str, int] = {}  # as in the quickstart
VISUAL_PROMPT = {"cross_attention_every": 0, "visual_prompt_tokens": 2}
NOT_READ = {"cross_attention_every": 0}
# Whether the items' codes know the pictures, and how the prompt's are looked at.
SYSTEMS = {
    "codes and cross-attention": (True, CROSS_ATTENTION),
    "codes and visual prompt": (True, VISUAL_PROMPT),
    "codes alone": (True, NOT_READ),
    "cross-attention alone": (False, CROSS_ATTENTION),
    "visual prompt alone": (False, VISUAL_PROMPT),
    "no pictures": (False, NOT_READ),
}
FIRST = next(iter(SYSTEMS))

Values = dict[str, np.ndarray]  # by figure, a number a person
Run = tuple[dict[str, Values], float]


def train_and_measure(
    seed: int, system: str, tasks: list[str] | None, folder: Path
) -> tuple[dict[str, Values], float]:
    """Figures of each held-out person by system (popularity and chance beside the model), and seconds of training."""
    in_codes, way = SYSTEMS[system]
    items, interactions = build_demo_store(seed=seed)
    if system == "no pictures":
        items = items.remove_columns(Columns.IMAGE)
    store = make_store(items, interactions)
    split = user_holdout(store.interactions, seed=seed)
    set_seed(seed)
    model, processor = build(store, replace(model_arguments(), **way), split.train)
    if not in_codes:
        model.model.item_content.image_embeddings.zero_()
    config = training_config(folder / "training", seed)
    if tasks is not None:
        config.task_rates = dict.fromkeys(tasks, 1.0)
    trainer = UniMPTrainer(model, config, processor, split.train)
    start = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - start
    asked = [task for task in ("recommend", "select") if tasks is None or task in tasks]
    results = evaluate_tasks(model, processor, split.test, split.train, asked, batch_size=32)
    return {name: _by_person(results, name) for name in ("model", "popularity", "random")}, seconds


def _by_person(results: dict[str, TaskResult], system: str) -> Values:
    recommend = results["recommend"]
    values = {name: recommend.measured[system][name].rows for name in ("hr@10", "ndcg@10")}
    # Of the longer three quarters there is no such figure: NaN.
    is_short = recommend.samples.lengths <= np.quantile(recommend.samples.lengths, 0.25)
    values["hr@10, short histories"] = np.where(is_short, values["hr@10"], np.nan)
    if "select" in results and system in results["select"].measured:
        values["f1 of select"] = results["select"].measured[system]["f1"].rows
    return values


def measured_once(seed: int, system: str, tasks: list[str] | None, folder: Path) -> Run:
    """What [`train_and_measure`] returns, kept in `folder`."""
    file = folder / "figures.npz"
    if not file.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        by_name, seconds = train_and_measure(seed, system, tasks, folder)
        flat = {f"{name}/{figure}": rows for name, values in by_name.items() for figure, rows in values.items()}
        np.savez(file, seconds=seconds, **flat)
        logger.info("seed %d, %s: %.0f s of training", seed, system, seconds)
    by_name = {}
    with np.load(file) as kept:
        for key in kept.files:
            if key != "seconds":
                name, figure = key.split("/")
                by_name.setdefault(name, {})[figure] = kept[key]
        return by_name, float(kept["seconds"])


def main() -> None:
    """Print the table, write it to `results/`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(6)))
    parser.add_argument(
        "--tasks", nargs="+", help="Tasks to train, at a rate of 1; the quickstart's mixture by default."
    )
    parser.add_argument("--work_dir", type=Path, default=Path("outputs/demo_store"), help="What is done.")
    parser.add_argument("--output", type=Path, help="By default a file of benchmarks/results named by the tasks.")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("unimp").setLevel(logging.WARNING)
    trained = "-".join(options.tasks) if options.tasks else "mixture"
    values: dict[str, list[Values]] = {}
    seconds: dict[str, list[int]] = {}
    for seed in options.seeds:
        for system in SYSTEMS:
            folder = options.work_dir / trained / system / f"seed-{seed}"
            by_name, spent = measured_once(seed, system, options.tasks, folder)
            seconds.setdefault(system, []).append(round(spent))
            values.setdefault(system, []).append(by_name.pop("model"))
            if system == FIRST:
                for name, others in by_name.items():
                    values.setdefault(name, []).append(others)
    systems = compare({name: _join(parts) for name, parts in values.items()})
    about = {"tasks": options.tasks, "seeds": options.seeds, "seconds": seconds}
    output = options.output or RESULTS / f"demo_store_{trained}.json"
    output.write_text(json.dumps(about | {"systems": systems}, indent=1) + "\n", encoding="utf-8")
    print(markdown(systems))


def _join(parts: list[Values]) -> Values:
    """The people of all seeds."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def compare(values: dict[str, Values]) -> dict[str, dict]:
    """Of every system each figure with its interval, and the ratio of the first system to it."""
    systems: dict[str, dict] = {}
    for system, own in values.items():
        systems[system] = {}
        for name, numbers in own.items():
            counted = ~np.isnan(numbers)
            entry = dict(zip(("low", "high"), bootstrap_interval(numbers[counted]), strict=True))
            entry |= {"value": float(numbers[counted].mean()), "people": int(counted.sum())}
            if system != FIRST and numbers[counted].any():
                ours = values[FIRST][name][counted]
                low, high = paired_ratio_interval(ours, numbers[counted])
                ratio = float(ours.mean() / numbers[counted].mean())
                entry["ratio"] = {"value": ratio, "low": low, "high": high}
            systems[system][name] = entry
    return systems


def markdown(systems: dict[str, dict]) -> str:
    """The table as it stands in `README.md`; in brackets, times the first system has this figure."""
    names = list(systems[FIRST])
    lines = [f"| | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for system, figures in systems.items():
        cells = [_cell(figures[name]) if name in figures else "" for name in names]
        lines.append(f"| {system} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(figure: dict) -> str:
    cell = "{value:.3f} [{low:.3f}, {high:.3f}]".format(**figure)
    return cell + (" (x {value:.2f} [{low:.2f}, {high:.2f}])".format(**figure["ratio"]) if "ratio" in figure else "")


if __name__ == "__main__":
    main()
