"""How good a model is on people it was not trained on."""

import logging
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from ..processing import TASKS, Columns, UniMPProcessor
from .metrics import rating_metrics, ranking_values, selection_metrics, target_ranks
from .mixture import Event, MixtureSettings, make_sample, read_sequence, usable_targets


logger = logging.getLogger(__name__)


def test_samples(
    sequences: Dataset, task: str, item_ids: Sequence[str], seed: int = 0, settings: MixtureSettings | None = None
) -> list[dict[str, Any]]:
    """
    One request a person, with its `answer`: the last event is the target, everything before it the history. People
    whose last event has no answer to `task` are not asked. Every request uses the wording never trained with.
    """
    samples = []
    settings = settings or MixtureSettings()
    for row in sequences:
        events = read_sequence(row)
        target = len(events) - 1
        if target in usable_targets(events, task):
            sample = make_sample(events, target, task, item_ids, random.Random(seed), settings)
            samples.append(sample | {"instruction": TASKS[task].held_out_instruction})
    return samples


def _batches(samples: list[dict[str, Any]], batch_size: int, task: str) -> Iterator[list[dict[str, Any]]]:
    starts = range(0, len(samples), batch_size)
    for start in tqdm(starts, desc=f"Evaluating {task}", disable=len(starts) < 5, leave=False):
        yield samples[start : start + batch_size]


def _without_answer(samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in sample.items() if key != "answer"} for sample in samples]


def evaluate_ranking(
    model: PreTrainedModel, processor: UniMPProcessor, samples: list[dict[str, Any]], task: str, batch_size: int = 64
) -> np.ndarray:
    """
    Rank of every sample's answer among the whole catalogue, `[samples]`; in recommend without the items of the history
    (an answer that is one of them has no rank: infinite), in search with them.
    """
    ranks = []
    features = processor.encode_pictures(model)
    for batch in _batches(samples, batch_size, task):
        inputs = processor(_without_answer(batch), task=task, catalog_features=features).to(model.device)
        scores = model.score_items(**inputs).cpu()
        if task == "recommend":
            _mask_history(scores, batch, processor)
        answers = [processor.catalog.position(sample["answer"]) for sample in batch]
        ranks.append(target_ranks(scores, torch.tensor(answers)))
    return np.concatenate(ranks)


def _mask_history(scores: torch.Tensor, samples: Sequence[dict[str, Any]], processor: UniMPProcessor) -> None:
    for row, sample in zip(scores, samples, strict=True):
        row[[processor.catalog.position(event[Columns.ITEM_ID]) for event in sample["history"]]] = -torch.inf


def popularity_ranks(samples: list[dict[str, Any]], train: Dataset, processor: UniMPProcessor) -> np.ndarray:
    """Ranks when items are ordered by how often `train` has them."""
    counts = Counter(item_id for items in train[Columns.ITEM_ID] for item_id in items)
    popularity = torch.tensor([float(counts[item_id]) for item_id in processor.catalog.item_ids])
    return _fixed_ranks(samples, popularity.repeat(len(samples), 1), processor)


def random_ranks(samples: list[dict[str, Any]], processor: UniMPProcessor, seed: int = 0) -> np.ndarray:
    """Ranks when items are ordered by chance."""
    generator = torch.Generator().manual_seed(seed)
    return _fixed_ranks(samples, torch.rand(len(samples), len(processor.catalog), generator=generator), processor)


def _fixed_ranks(samples: list[dict[str, Any]], scores: torch.Tensor, processor: UniMPProcessor) -> np.ndarray:
    _mask_history(scores, samples, processor)
    answers = [processor.catalog.position(sample["answer"]) for sample in samples]
    return target_ranks(scores, torch.tensor(answers))


def evaluate_ratings(
    model: PreTrainedModel, processor: UniMPProcessor, samples: list[dict[str, Any]], fallback: float, batch_size: int = 64
) -> dict[str, float]:
    """RMSE and MAE; an answer that is no rating counts as `fallback`, and `unreadable` says how often that was."""
    from ..processing.pipelines_unimp import UniMPRatePipeline

    pipe = UniMPRatePipeline(model=model, processor=processor)
    items = [{key: value for key, value in sample["item"].items() if key == Columns.ITEM_ID} for sample in samples]
    requests = [sample | {"item": item} for sample, item in zip(samples, items, strict=True)]
    predictions = [answer["rating"] for batch in _batches(requests, batch_size, "rate") for answer in pipe(batch, batch_size=batch_size)]
    unreadable = sum(prediction is None for prediction in predictions)
    ratings = [sample["item"][Columns.RATING] for sample in samples]
    values = rating_metrics([fallback if rating is None else rating for rating in predictions], ratings)
    return values | {"unreadable": unreadable / len(samples)}


def evaluate_selection(
    model: PreTrainedModel, processor: UniMPProcessor, samples: list[dict[str, Any]], batch_size: int = 64
) -> dict[str, float]:
    """Precision, recall and F1 of the chosen candidates."""
    from ..processing.pipelines_unimp import UniMPSelectPipeline

    pipe = UniMPSelectPipeline(model=model, processor=processor)
    chosen = [
        {entry["item_id"] for entry in answer}
        for batch in _batches(_without_answer(samples), batch_size, "select")
        for answer in pipe(batch, batch_size=batch_size)
    ]
    return selection_metrics(chosen, [set(sample["answer"]) for sample in samples])


def mean_rating(train: Dataset) -> float:
    """Mean rating of the training events; the middle of a 1-to-5 range without any."""
    if Columns.RATING not in train.column_names:
        return 3.0
    ratings = [rating for row in train[Columns.RATING] for rating in row if rating is not None]
    return float(np.mean(ratings)) if ratings else 3.0


def evaluate(
    model: PreTrainedModel, processor: UniMPProcessor, test: Dataset, train: Dataset, tasks: Sequence[str]
) -> dict[str, dict[str, dict[str, float]]]:
    """
    Every task on the people of `test`, beside what needs no model.

    Args:
        test (`datasets.Dataset`): sequences whose last event is the target.
        train (`datasets.Dataset`): sequences that were trained on, for the baselines.
        tasks: which ones; a task that no person of `test` has an answer for is left out, and logged.

    Returns:
        By task, by system (`model`, `popularity`, `random`, ...), by metric.
    """
    model.eval()
    results: dict[str, dict[str, dict[str, float]]] = {}
    for task in tasks:
        samples = test_samples(test, task, processor.catalog.item_ids)
        if not samples:
            logger.info("Nobody's last event has an answer to %s: not evaluated.", task)
            continue
        results[task] = _evaluate_task(model, processor, samples, task, train)
    return results


def _evaluate_task(
    model: PreTrainedModel, processor: UniMPProcessor, samples: list[dict[str, Any]], task: str, train: Dataset
) -> dict[str, dict[str, float]]:
    if task in ("recommend", "search"):
        ranks = {
            "model": evaluate_ranking(model, processor, samples, task),
            "popularity": popularity_ranks(samples, train, processor),
            "random": random_ranks(samples, processor),
        }
        return {system: summarise_ranks(values) for system, values in ranks.items()}
    if task == "select":
        guesses = [{random.Random(number).choice(sample["candidates"])} for number, sample in enumerate(samples)]
        chance = selection_metrics(guesses, [set(sample["answer"]) for sample in samples])
        return {"model": evaluate_selection(model, processor, samples), "random": chance}
    mean = mean_rating(train)
    ratings = [sample["item"][Columns.RATING] for sample in samples]
    return {
        "model": evaluate_ratings(model, processor, samples, mean),
        "mean rating": rating_metrics([mean] * len(ratings), ratings),
    }


def summarise_ranks(ranks: np.ndarray) -> dict[str, float]:
    """HR, NDCG and MRR, means over people."""
    return {name: float(values.mean()) for name, values in ranking_values(ranks, (5, 10)).items()}


__all__ = ["Event", "evaluate", "evaluate_ranking", "popularity_ranks", "random_ranks", "test_samples"]
