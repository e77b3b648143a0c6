"""
Every baseline on a data set: settings chosen on validation, figures on test.

    python benchmarks/run_baselines.py --dataset FOLDER --split leave_last_10 --output results.json
    python benchmarks/run_baselines.py --dataset FOLDER --methods ease sasrec --seeds 0 1 2 --features features.npz \
        --output results.json

`--features` has the arrays `item_id` (texts), and `text`, `picture` or both, a row an item. Without it the methods
that read features are left out, and so are rating and explanation methods where the events have none.

Beside the JSON file comes an .npz of the same name, for paired comparisons. Its rows are those of the split's test
part: `user_id`; for each recommender its name with ranks, `(seeds, rows)`; for each rating predictor `rating:NAME`
with predictions, `(seeds, rows)`, NaN in rows without a rating; for each explainer `explanation:NAME` with texts,
`(rows,)`, empty in rows without one. With a split that has new items, `NAME:new_items` are ranks among those alone.
"""

import argparse
import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from baselines.data import EncodedSplit, encode_split
from baselines.methods import EXPLANATION, RANKING, RATING, Method
from baselines.ranking import Tuned, fit, rank, selection_figure, tune, user_values
from baselines.ratings import predictions, rated, rating_figure
from torchmetrics.functional.text import bleu_score

from unimp.processing import Columns
from unimp.processing.splits import Split, make_split
from unimp.processing.store import read_store
from unimp.training.evaluation import rating_measures
from unimp.training.metrics import bootstrap_interval, figures

logger = logging.getLogger(__name__)

Results = dict[str, dict[str, Any]]
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Benchmark:
    """What every method is run on.

    Attributes:
        split ([`EncodedSplit`]): the data.
        user_ids (`np.ndarray` of shape `(num_rows,)`): whose the rows of test are.
        new_items (`np.ndarray` of shape `(num_items,)`): true for the split's new items.
        seeds (`Sequence[int]`): of what is trained; the first is that of tuning.
        trials (`int` or `None`): most settings that are tried for what is trained; the rest takes seconds each.
        grids (`Mapping`): by method, the settings to try instead of its own.
    """

    split: EncodedSplit
    user_ids: np.ndarray
    new_items: np.ndarray
    seeds: Sequence[int]
    trials: int | None = None
    grids: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)


def make_benchmark(
    split: Split,
    item_ids: Sequence[str],
    features: Mapping[str, np.ndarray],
    seeds: Sequence[int],
    trials: int | None = None,
    grids: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
) -> Benchmark:
    """A split with its arrays; features as from [`read_features`]."""
    new_items = np.isin(np.asarray(item_ids), np.asarray(split.new_items, dtype=str))
    user_ids = np.asarray(split.test[Columns.USER_ID][:])
    return Benchmark(encode_split(split, item_ids, features), user_ids, new_items, seeds, trials, grids or {})


def read_features(path: str | None, item_ids: Sequence[str]) -> Arrays:
    """The matrices of a file, rows in order of `item_ids`; an item that is not in the file has zeros."""
    if path is None:
        return {}
    with np.load(path) as file:
        if "item_id" not in file:
            raise ValueError(f"`features` ({path}) has no array item_id, only {sorted(file)}; add the rows' ids.")
        arrays = {name: file[name] for name in file}
    place = {item_id: row for row, item_id in enumerate(arrays.pop("item_id").tolist())}
    rows = np.array([place.get(item_id, -1) for item_id in item_ids])
    return {kind: np.where(rows[:, None] >= 0, matrix[rows], 0) for kind, matrix in arrays.items()}


def tune_and_repeat(
    name: str, method: Method, benchmark: Benchmark, figure_of: Any
) -> tuple[dict[str, Any], list[Any]]:
    """The best settings, what it took to find them, and a predictor of each seed fitted with them."""
    split, seeds = benchmark.split, benchmark.seeds
    grid = benchmark.grids.get(name) or (method.grid[: benchmark.trials] if method.draws else method.grid)
    tuned: Tuned = tune(method.make, grid, split, seeds[0], figure_of)
    fitted, start = [tuned.ranker], time.perf_counter()
    for seed in seeds[1:] if method.draws else ():
        fitted.append(method.make(**tuned.settings))
        fit(fitted[-1], split, seed, figure_of)
    entry = {"settings": tuned.settings, "trials": tuned.trials, "seeds": list(seeds[: len(fitted)])}
    if len(fitted) > 1:
        entry["seconds_a_further_seed"] = (time.perf_counter() - start) / (len(fitted) - 1)
    return entry, fitted


def _with_interval(values: np.ndarray) -> dict[str, float]:
    low, high = bootstrap_interval(values)
    return {"mean": float(values.mean()), "low": low, "high": high}


def _ranking_entry(ranks: np.ndarray, user_ids: np.ndarray) -> dict[str, dict[str, float]]:
    return {name: _with_interval(values) for name, values in user_values(ranks, user_ids).items()}


def run_ranking(name: str, benchmark: Benchmark) -> tuple[dict[str, Any], Arrays]:
    """A recommender's entry in the results, and its ranks."""
    entry, fitted = tune_and_repeat(name, RANKING[name], benchmark, selection_figure)
    test, users = benchmark.split.test, benchmark.user_ids
    ranks = {name: np.stack([rank(ranker, test) for ranker in fitted])}
    entry["metrics"] = _ranking_entry(ranks[name], users)
    if benchmark.new_items.any():
        among = np.stack([rank(ranker, test, benchmark.new_items) for ranker in fitted])
        ranks[f"{name}:new_items"] = among
        tested = benchmark.new_items[test.items[test.last]]
        entry["metrics_among_new_items"] = _ranking_entry(among[:, tested], users[tested])
    return entry, ranks


def run_rating(name: str, benchmark: Benchmark) -> tuple[dict[str, Any], Arrays]:
    """A rating predictor's entry in the results, and its predictions."""
    entry, fitted = tune_and_repeat(name, RATING[name], benchmark, rating_figure)
    test = benchmark.split.test
    kept = rated(test)
    guesses = np.stack([predictions(predictor, test) for predictor in fitted])
    guesses[:, ~kept] = np.nan
    truth, users = test.ratings[test.last][kept], benchmark.user_ids[kept]
    by_seed = [figures(rating_measures(row[kept], truth), users) for row in guesses]
    entry["metrics"] = {
        metric: {"mean": float(np.mean([by_metric[metric]["value"] for by_metric in by_seed]))}
        | {end: by_seed[0][metric][end] for end in ("low", "high")}  # of the first seed
        for metric in ("rmse", "mae")
    }
    return entry, {f"rating:{name}": guesses}


def run_explanation(name: str, benchmark: Benchmark, ratings: np.ndarray) -> tuple[dict[str, Any], Arrays]:
    """An explainer's entry in the results, and its texts; `ratings` are those predicted for the rows of test."""
    explainer, test = EXPLANATION[name].make(), benchmark.split.test
    explainer.fit(benchmark.split.train)
    truth = test.texts[test.last]
    kept = np.array([text is not None for text in truth])
    texts = np.full(len(test), "", dtype=object)
    texts[kept] = explainer.explain(test.items[test.last][kept], ratings[kept])
    bleu = bleu_score(texts[kept].tolist(), [[text] for text in truth[kept]]).item()
    return {"metrics": {"bleu": bleu}}, {f"explanation:{name}": texts.astype(str)}


def applicable(benchmark: Benchmark) -> list[str]:
    """Names of the methods that have what they need in this data."""
    train, test = benchmark.split.train, benchmark.split.test
    names = [name for name, method in RANKING.items() if set(method.kinds) <= set(train.features)]
    if rated(test).any() and not np.isnan(train.events.ratings).all():
        names += RATING
    if _explained(train.events.texts) and _explained(test.texts[test.last]):
        names += EXPLANATION
    return names


def _explained(texts: np.ndarray) -> bool:
    return any(text is not None for text in texts)


def run(
    benchmark: Benchmark, names: Sequence[str], about: Mapping[str, Any], output: Path | None = None
) -> tuple[Results, Arrays]:
    """
    Every method of `names`: entries by name, and the arrays of what they gave on test. They are written to `output`
    after each method, and what is there already, of the same run, is not done again.
    """
    results, arrays = _read(output, about) if output is not None else ({}, {})
    arrays["user_id"] = benchmark.user_ids
    for name in sorted(names, key=list(EXPLANATION).count):  # explainers last: they read the ratings of another
        if name in results:
            continue
        if name in RANKING:
            results[name], found = run_ranking(name, benchmark)
        elif name in RATING:
            results[name], found = run_rating(name, benchmark)
        else:
            nothing = np.zeros((1, len(benchmark.user_ids)))
            ratings = arrays.get("rating:bias", arrays.get("rating:global_mean", nothing))[0]
            results[name], found = run_explanation(name, benchmark, ratings)
        arrays |= found
        logger.info("%s: %s %s", name, results[name].get("settings", {}), results[name]["metrics"])
        if output is not None:
            np.savez_compressed(output.with_suffix(".npz"), **arrays)
            output.write_text(json.dumps(dict(about) | {"methods": results}, indent=1))
    return results, arrays


def _read(output: Path, about: Mapping[str, Any]) -> tuple[Results, Arrays]:
    if not output.is_file():
        return {}, {}
    written = json.loads(output.read_text())
    if any(written.get(key) != value for key, value in about.items()):
        raise SystemExit(f"`--output` {output} is there and of another run: give another name, or delete it.")
    with np.load(output.with_suffix(".npz")) as file:
        return written["methods"], dict(file)


def main() -> None:
    """Run, write the two files and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True, help="A folder in the two-table format.")
    parser.add_argument("--split", default="leave_one_out")
    parser.add_argument("--split_seed", type=int, default=0)
    parser.add_argument("--methods", nargs="+", choices=[*RANKING, *RATING, *EXPLANATION], metavar="NAME")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--features", help="An .npz file.")
    parser.add_argument("--trials", type=int, help="Most settings tried for what is trained; all by default.")
    parser.add_argument(
        "--grids", type=json.loads, default={}, help='Settings to try instead, as JSON: {"sasrec": [{"width": 64}]}.'
    )
    parser.add_argument("--output", required=True, type=Path, help="The JSON file to write.")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    store = read_store(options.dataset)
    item_ids = store.items[Columns.ITEM_ID][:]
    split = make_split(store, options.split, options.split_seed)
    features = read_features(options.features, item_ids)
    benchmark = make_benchmark(split, item_ids, features, options.seeds, options.trials, options.grids)
    names = applicable(benchmark)
    if missing := [name for name in options.methods or () if name not in names]:
        logger.warning("Left out, as this data lacks the features, ratings or texts: %s.", ", ".join(missing))
        options.methods = [name for name in options.methods if name in names]
    about = {"dataset": Path(options.dataset).name, "split": split.name, "split_seed": options.split_seed}
    about |= {"rows": len(benchmark.user_ids), "users": len(np.unique(benchmark.user_ids))}
    about |= {"model_seeds": options.seeds, "most_trials": options.trials, "grids": options.grids}
    results, _ = run(benchmark, names if options.methods is None else options.methods, about, options.output)
    print(table(results))


def table(results: Results) -> str:
    """The figures of all methods, a line each."""
    lines = []
    for name, entry in results.items():
        figures = []
        for metric, value in entry["metrics"].items():
            if isinstance(value, dict):
                figures.append(f"{metric} {value['mean']:.4f} [{value['low']:.4f}, {value['high']:.4f}]")
            else:
                figures.append(f"{metric} {value:.4f}")
        lines.append(f"{name}: {', '.join(figures)}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
