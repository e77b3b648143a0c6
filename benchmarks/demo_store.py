"""
Are pictures used? The quickstart's model on the demo store with pictures, the same model without, and popularity.

    python benchmarks/demo_store.py --seeds 0 1 2 --tasks recommend
    python benchmarks/demo_store.py --seeds 0 1 2

Queries and explanations of the store name colours and patterns, so that the quickstart's mixture tells a model without
pictures what the pictures show. Trained on "recommend" alone it has to do without.

Held-out people (10% of them a seed), full ranking of the catalogue without the items of the history, wording never
trained with; intervals are 95% bootstrap over people, ratios are paired.
"""

import argparse
import logging
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from transformers import set_seed

from unimp.processing import Columns
from unimp.processing.demo_store import build_demo_store
from unimp.processing.splits import user_holdout
from unimp.processing.store import make_store
from unimp.quickstart import model_arguments, training_config
from unimp.training import evaluation
from unimp.training.metrics import bootstrap_interval, paired_ratio_interval, ranking_values
from unimp.training.recipe import build
from unimp.training.trainer import UniMPTrainer

METRICS = ("hr@10", "ndcg@10")


def train_and_rank(
    seed: int, pictures: bool, tasks: list[str] | None, folder: str
) -> tuple[dict[str, np.ndarray], float]:
    """Ranks by system on the held-out people of one seed, and seconds of training."""
    items, interactions = build_demo_store(seed=seed)
    if not pictures:
        items = items.remove_columns(Columns.IMAGE)
    store = make_store(items, interactions)
    split = user_holdout(store.interactions, seed=seed)
    set_seed(seed)
    model, processor = build(store, model_arguments(), split.train)
    config = training_config(Path(folder), seed)
    if tasks is not None:
        config.task_rates = dict.fromkeys(tasks, 1.0)
    trainer = UniMPTrainer(model, config, processor, split.train)
    start = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - start
    samples = evaluation.held_out_samples(split.test, "recommend", processor.catalog.item_ids)
    model.eval()
    ranks = {
        "model": evaluation.evaluate_ranking(model, processor, samples, "recommend"),
        "popularity": evaluation.popularity_ranks(samples, split.train, processor),
        "random": evaluation.random_ranks(samples, processor, seed).T,  # [people, draws]
    }
    return ranks, seconds


def main() -> None:
    """Print the table and the two ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--tasks", nargs="+", help="Tasks to train, at a rate of 1; the quickstart's mixture by default."
    )
    options = parser.parse_args()
    logging.getLogger("unimp").setLevel(logging.WARNING)
    ranks: dict[str, list[np.ndarray]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for seed in options.seeds:
            for pictures in (True, False):
                by_system, seconds = train_and_rank(seed, pictures, options.tasks, folder)
                name = "with pictures" if pictures else "without pictures"
                print(f"seed {seed}, {name}: {seconds:.0f} s of training", flush=True)
                ranks.setdefault(name, []).append(by_system.pop("model"))
                if pictures:
                    for system, values in by_system.items():
                        ranks.setdefault(system, []).append(values)
    report({name: np.concatenate(values) for name, values in ranks.items()})


def _by_person(ranks: np.ndarray) -> dict[str, np.ndarray]:
    """Figures of each person; the mean over the draws where there are several."""
    values = ranking_values(ranks.ravel(), (10,))
    return {name: figures.reshape(len(ranks), -1).mean(1) for name, figures in values.items()}


def report(ranks: dict[str, np.ndarray]) -> None:
    """Print figures with intervals, and paired ratios."""
    people = len(ranks["popularity"])
    print(
        f"\n{people} held-out people, {torch.get_num_threads()} threads\n\n| system | HR@10 | NDCG@10 |\n|---|---|---|"
    )
    values = {name: _by_person(system) for name, system in ranks.items()}
    for name, by_metric in values.items():
        cells = []
        for metric in METRICS:
            low, high = bootstrap_interval(by_metric[metric])
            cells.append(f"{by_metric[metric].mean():.3f} [{low:.3f}, {high:.3f}]")
        print(f"| {name} | {' | '.join(cells)} |")
    with_pictures = values["with pictures"]["hr@10"]
    for other in ("popularity", "without pictures"):
        baseline = values[other]["hr@10"]
        low, high = paired_ratio_interval(with_pictures, baseline)
        ratio = with_pictures.mean() / baseline.mean()
        print(f"\nHR@10, with pictures / {other}: {ratio:.2f} [{low:.2f}, {high:.2f}]")


if __name__ == "__main__":
    main()
