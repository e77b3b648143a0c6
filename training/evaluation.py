"""How good a model is on what a split holds out: people it was not trained on, or the last events of those it was."""

import logging
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torchmetrics.functional.text import bleu_score
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from ..processing import TASKS, Columns, UniMPProcessor
from ..processing.pipelines_unimp import UniMPExplainPipeline, UniMPPipeline, UniMPRatePipeline, UniMPSelectPipeline
from .metrics import ranking_metrics, rating_metrics, selection_metrics, target_ranks
from .mixture import MixtureSettings, make_sample, read_sequence, usable_targets

logger = logging.getLogger(__name__)

Sample = dict[str, Any]
Metrics = dict[str, float]

HEADLINE_CUTOFF = 10

# What the figures of each split are measured on.
SPLITS = {"leave_one_out": "each person's last event", "user_holdout": "people never trained on"}


def describe_split(name: str) -> str:
    """A split's name and what is tested, to be written beside every figure."""
    return f"{name}: {SPLITS[name]}" if name in SPLITS else name


def headline(metrics: Metrics) -> Metrics:
    """The figures to show first: of those with a cutoff, the ones at 10."""
    return {name: value for name, value in metrics.items() if name.partition("@")[2] in ("", str(HEADLINE_CUTOFF))}


def held_out_samples(
    sequences: Dataset,
    task: str,
    item_ids: Sequence[str],
    seed: int = 0,
    settings: MixtureSettings | None = None,
) -> list[Sample]:
    """
    One request a person, with its `answer`: the last event is the target, everything before it the history. People
    whose last event has no answer to `task` are not asked. Every request uses the wording never trained with.

    What is drawn for a person (candidates) depends on `seed` and the person's id alone.
    """
    samples = []
    settings = settings or MixtureSettings()
    for row in sequences:
        events = read_sequence(row)
        target = len(events) - 1
        if target in usable_targets(events, task):
            rng = random.Random(f"{seed} {row[Columns.USER_ID]}")
            sample = make_sample(events, target, task, item_ids, rng, settings)
            samples.append(sample | {"instruction": TASKS[task].held_out_instruction})
    return samples


def _without_answer(sample: Sample) -> Sample:
    """The request as it would be asked: no `answer`, and of the item to be rated only which one it is."""
    request = {key: value for key, value in sample.items() if key != "answer"}
    if "item" in request:
        request["item"] = request["item"][Columns.ITEM_ID]
    return request


# Rankings


def evaluate_ranking(
    model: PreTrainedModel,
    processor: UniMPProcessor,
    samples: list[Sample],
    task: str,
    batch_size: int = 64,
    catalog_features: torch.Tensor | None = None,
) -> np.ndarray:
    """
    Rank of every sample's answer among the whole catalogue, `[samples]`; in recommend without the items of the history
    (an answer that is one of them has no rank: infinite), in search with them. `catalog_features` are those of
    [`UniMPProcessor.encode_pictures`], if they are at hand.
    """
    model.eval()
    ranks = []
    for start in tqdm(range(0, len(samples), batch_size), f"Evaluating {task}", leave=False):
        batch = samples[start : start + batch_size]
        inputs = processor([_without_answer(sample) for sample in batch], task=task, catalog_features=catalog_features)
        scores = model.score_items(**inputs.to(model.device)).cpu()
        ranks.append(_answer_ranks(scores, batch, task, processor))
    return np.concatenate(ranks)


def _answer_ranks(scores: torch.Tensor, samples: list[Sample], task: str, processor: UniMPProcessor) -> np.ndarray:
    """Ranks of the answers by `scores`, `[samples, items]`, which it may change."""
    position = processor.catalog.position
    if task == "recommend":
        for row, sample in zip(scores, samples, strict=True):
            row[[position(event[Columns.ITEM_ID]) for event in sample["history"]]] = -torch.inf
    return target_ranks(scores, torch.tensor([position(sample["answer"]) for sample in samples]))


def popularity_ranks(
    samples: list[Sample], train: Dataset, processor: UniMPProcessor, task: str = "recommend"
) -> np.ndarray:
    """Ranks as in [`evaluate_ranking`] when items are ordered by how often `train` has them."""
    counts = Counter(item_id for items in train[Columns.ITEM_ID] for item_id in items)
    popularity = torch.tensor([[float(counts[item_id]) for item_id in processor.catalog.item_ids]])
    return np.concatenate([_answer_ranks(popularity.clone(), [sample], task, processor) for sample in samples])


def random_ranks(
    samples: list[Sample], processor: UniMPProcessor, seed: int = 0, task: str = "recommend", draws: int = 100
) -> np.ndarray:
    """
    Ranks as in [`evaluate_ranking`] when items are ordered by chance, `[draws, samples]`: in a single order, whether
    any answer comes among the first 10 would itself be left to chance.
    """
    rng = np.random.default_rng(seed)
    left = []
    for sample in samples:  # by chance, an answer has each rank among the items that are not left out alike
        seen = {event[Columns.ITEM_ID] for event in sample["history"]} if task == "recommend" else set()
        left.append(0 if sample["answer"] in seen else len(processor.catalog) - len(seen))
    ranks = rng.integers(1, np.maximum(left, 1), size=(draws, len(samples)), endpoint=True)
    return np.where(np.array(left) > 0, ranks, np.inf)


# Text answers and selections


def _answers(pipe: UniMPPipeline, samples: list[Sample], batch_size: int) -> Iterator[Any]:
    answers = pipe((_without_answer(sample) for sample in samples), batch_size=batch_size)
    return tqdm(answers, f"Evaluating {pipe.task_name}", total=len(samples), leave=False)


def evaluate_ratings(
    model: PreTrainedModel,
    processor: UniMPProcessor,
    samples: list[Sample],
    fallback: float,
    task: str = "rate",
    batch_size: int = 64,
) -> Metrics:
    """
    RMSE and MAE. In explain also `bleu` (BLEU-4 of all explanations together) and `unreadable`: how often the text had
    no rating, which then counts as `fallback`.
    """
    pipeline_class = UniMPExplainPipeline if task == "explain" else UniMPRatePipeline
    answers = list(_answers(pipeline_class(model=model.eval(), processor=processor), samples, batch_size))
    items = [sample["item"] for sample in samples]
    ratings = [fallback if answer["rating"] is None else answer["rating"] for answer in answers]
    metrics = rating_metrics(ratings, [item[Columns.RATING] for item in items])
    if task == "explain":
        metrics["unreadable"] = sum(answer["rating"] is None for answer in answers) / len(answers)
        explanations = [answer["explanation"] or "" for answer in answers]
        metrics["bleu"] = bleu_score(explanations, [[item[Columns.EXPLANATION]] for item in items]).item()
    return metrics


def evaluate_selection(
    model: PreTrainedModel, processor: UniMPProcessor, samples: list[Sample], batch_size: int = 64
) -> Metrics:
    """Precision, recall and F1 of the chosen candidates."""
    answers = _answers(UniMPSelectPipeline(model=model.eval(), processor=processor), samples, batch_size)
    chosen = [{entry[Columns.ITEM_ID] for entry in answer} for answer in answers]
    return selection_metrics(chosen, [set(sample["answer"]) for sample in samples])


def random_selection(samples: list[Sample], seed: int = 0, draws: int = 100) -> Metrics:
    """Precision, recall and F1 when one candidate is chosen by chance, the mean of so many times."""
    rng = random.Random(seed)
    chosen = [{rng.choice(sample["candidates"])} for _ in range(draws) for sample in samples]
    return selection_metrics(chosen, [set(sample["answer"]) for sample in samples] * draws)


def mean_rating(train: Dataset, rating_range: Sequence[float]) -> float:
    """Mean rating of the training events; the middle of `rating_range` without any."""
    rows = [read_sequence(row) for row in train]
    ratings = [events[target][Columns.RATING] for events in rows for target in usable_targets(events, "rate")]
    return float(np.mean(ratings or rating_range))


# Everything


def evaluate(
    model: PreTrainedModel,
    processor: UniMPProcessor,
    test: Dataset,
    train: Dataset,
    tasks: Sequence[str],
    catalog_features: torch.Tensor | None = None,
) -> dict[str, dict[str, Metrics]]:
    """
    Every task on the rows of `test`, beside what needs no model. What the figures mean is up to the split: in
    user hold-out nothing of these people was trained on, in leave-one-out everything but their last two events.

    Args:
        test (`datasets.Dataset`): sequences whose last event is the target.
        train (`datasets.Dataset`): sequences that were trained on, for the baselines.
        tasks: which ones; a task that no person of `test` has an answer for is left out, and logged.
        catalog_features: see [`evaluate_ranking`].

    Returns:
        By task, by system (`model`, `popularity`, `random`, ...), by metric.
    """
    results = {}
    for task in tasks:
        samples = held_out_samples(test, task, processor.catalog.item_ids)
        if samples:
            results[task] = _evaluate_task(model, processor, samples, task, train, catalog_features)
        else:
            logger.info("Nobody's last event has an answer to %s: not evaluated.", task)
    return results


def _evaluate_task(
    model: PreTrainedModel,
    processor: UniMPProcessor,
    samples: list[Sample],
    task: str,
    train: Dataset,
    catalog_features: torch.Tensor | None,
) -> dict[str, Metrics]:
    if task == "select":
        return {"model": evaluate_selection(model, processor, samples), "random": random_selection(samples)}
    if TASKS[task].answer == "item":
        ranks = {
            "model": evaluate_ranking(model, processor, samples, task, catalog_features=catalog_features),
            "popularity": popularity_ranks(samples, train, processor, task),
            "random": random_ranks(samples, processor, task=task).ravel(),
        }
        return {system: ranking_metrics(values) for system, values in ranks.items()}
    mean = mean_rating(train, processor.rating_range)
    ratings = [sample["item"][Columns.RATING] for sample in samples]
    return {
        "model": evaluate_ratings(model, processor, samples, mean, task),
        "mean rating": rating_metrics([mean] * len(ratings), ratings),
    }
