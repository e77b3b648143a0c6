"""How good a model is on what a split holds out: people it was not trained on, or the last events of those it was."""

import logging
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow.compute as pc
import torch
from datasets import Dataset
from transformers import PreTrainedModel

from ..processing import TASKS, Catalog, Columns, UniMPProcessor
from ..processing.catalog_unimp import flatten_attributes
from ..processing.picture_store_unimp import NoPictures, PictureStore
from ..processing.pipelines_unimp import UniMPExplainPipeline, UniMPPipeline, UniMPRatePipeline, UniMPSelectPipeline
from ..processing.store import as_table
from ..processing.tasks_unimp import ANSWER_KEY, CANDIDATES, HISTORY, ITEM_TO_RATE
from .held_out import (
    ASIDE,
    HeldOutSamples,
    Sample,
    answer_in_batches,
    held_out_samples,
    seen_items,
    without_answer,
)
from .list_metrics import coverage, gini, intra_list_diversity, novelty, word_vectors
from .metrics import (
    Measured,
    chance_values,
    ranking_values,
    root_of_mean,
    selection_values,
    target_ranks,
    user_means,
)
from .mixture import MixtureSettings
from .text_metrics import distinct, text_measures

logger = logging.getLogger(__name__)

Metrics = dict[str, float]
# From requests to a score of every item of the catalogue, `[requests, items]`; or a [`ListScorer`].
Scorer = Callable[..., Any]

HEADLINE_CUTOFF = 10
LIST_LENGTH = 10
# Semantic codes: so many items are ranked, as recommending ranks them; an answer that is not among them is not found.
LIST_DEPTH = 50
# A window that no history fills.
ALL_EVENTS = np.iinfo(np.int32).max
# Of lists rather than of hits: not among the figures to show first.
LIST_METRICS = ("coverage", "gini", "novelty", "diversity")

# What the figures of each split are measured on.
SPLITS = {
    "leave_one_out": "each person's last event",
    "leave_last": "each person's last events, each from all before it",
    "user_holdout": "people never trained on",
    "cold_items": "items never trained on",
    "new_domain": "people and items never trained on",
}


def describe_split(name: str) -> str:
    """A split's name and what is tested, to be written beside every figure."""
    what = [text for split, text in SPLITS.items() if name.startswith(split)]
    return f"{name}: {what[0]}" if what else name


def headline(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The figures to show first: of those with a cutoff, the ones at 10 that tell of hits."""
    shown = {}
    for name, value in metrics.items():
        kind, _, cutoff = name.partition("@")
        if cutoff in ("", str(HEADLINE_CUTOFF)) and kind not in LIST_METRICS:
            shown[name] = value
    return shown


@dataclass(frozen=True)
class TaskResult:
    """
    What every system made of the requests of one task.

    Attributes:
        samples ([`HeldOutSamples`]): the requests.
        measured (`dict[str, dict[str, Measured]]`): by system, by metric: what every request adds to it.
        whole (`dict[str, dict[str, float]]`): by system, by metric: what only all answers together have.
        ranks (`dict[str, np.ndarray]`): by system, the answer's rank in every request; empty if nothing is ranked.
    """

    samples: HeldOutSamples
    measured: dict[str, dict[str, Measured]]
    whole: dict[str, Metrics] = field(default_factory=dict)
    ranks: dict[str, np.ndarray] = field(default_factory=dict)

    def values(self) -> dict[str, Metrics]:
        """The figures by system and metric; every person counts once."""
        return {
            system: {
                name: float(figure(user_means(figure.parts, self.samples.users).mean(0)))
                for name, figure in metrics.items()
            }
            | self.whole.get(system, {})
            for system, metrics in self.measured.items()
        }


# Rankings


@dataclass(frozen=True)
class Ranking:
    """
    Answers among items that were put in order.

    Attributes:
        ranks (`np.ndarray` of shape `(samples,)`): of the answers among all items; inf for one that is not among them.
        candidate_ranks (`np.ndarray` of shape `(samples,)`): among a sample's `others`, at most 100 items in all.
        lists (`np.ndarray` of shape `(samples, 10)`): positions of the first items, -1 where there are fewer.
        num_items (`np.ndarray` of shape `(samples,)`): items that were ranked, 0 if the answer is not among them.
        num_candidates (`np.ndarray` of shape `(samples,)`): as `num_items`, of `candidate_ranks`.
    """

    ranks: np.ndarray
    candidate_ranks: np.ndarray
    lists: np.ndarray
    num_items: np.ndarray
    num_candidates: np.ndarray


def rank_answers(
    scorers: Mapping[str, Scorer],
    samples: Sequence[Sample],
    task: str,
    catalog: Catalog,
    item_ids: Sequence[str] | None = None,
    batch_size: int = 64,
) -> dict[str, Ranking]:
    """
    Rank every sample's answer by each of several scorers.

    In recommend the items of the whole history are left out, also of what is too long ago to be shown (an answer that
    is one of them has no rank: infinite), in search they are not.

    Args:
        scorers: by system.
        samples: requests with their answers.
        task (`str`): theirs.
        catalog ([`Catalog`]): the items that are scored, in this order.
        item_ids (`Sequence[str]`, *optional*): the items that are ranked; the whole catalogue by default.
        batch_size (`int`): requests scored at once.
    """
    others = torch.ones(len(catalog), dtype=torch.bool)
    others[[catalog.position(item_id) for item_id in (catalog.item_ids if item_ids is None else item_ids)]] = False

    def answer(batch: list[Sample]) -> list[list[tuple]]:
        left_out = others.repeat(len(batch), 1)
        if task == "recommend":
            for row, sample in zip(left_out, batch, strict=True):
                row[[catalog.position(item_id) for item_id in seen_items(sample)]] = True
        columns = _columns(batch, catalog)
        ranked = []
        for scorer in scorers.values():
            if isinstance(scorer, ListScorer):
                scores, few = scorer(batch, left_out, columns)
            else:
                scores = scorer(batch).masked_fill(left_out, -torch.inf)
                few = scores.gather(1, columns.clamp(min=0)).masked_fill(columns < 0, -torch.inf)
            ranked.append(_rank(scores, few, columns, left_out))
        return list(zip(*ranked, strict=True))

    rows = answer_in_batches(samples, answer, batch_size, f"Evaluating {task}")
    return {
        system: Ranking(*(np.array(column) for column in zip(*own, strict=True)))
        for system, own in zip(scorers, zip(*rows, strict=True), strict=True)
    }


def _columns(samples: list[Sample], catalog: Catalog) -> torch.Tensor:
    """Positions of each sample's answer and, after it, its `others`, padded with -1."""
    rows = [[sample[ANSWER_KEY], *sample.get(ASIDE, {}).get("others", ())] for sample in samples]
    positions = [torch.tensor([catalog.position(item_id) for item_id in row]) for row in rows]
    return torch.nn.utils.rnn.pad_sequence(positions, batch_first=True, padding_value=-1)


def _rank(scores: torch.Tensor, few: torch.Tensor, columns: torch.Tensor, left_out: torch.Tensor) -> list[tuple]:
    """
    The fields of [`Ranking`] of each sample.

    Args:
        scores: `[samples, items]`.
        few: `[samples, columns]`, those of `columns` alone.
        columns: of [`_columns`].
        left_out: `[samples, items]`, what cannot be an answer.
    """
    best, lists = scores.topk(min(LIST_LENGTH, scores.shape[1]), dim=1)
    lists = torch.nn.functional.pad(
        lists.masked_fill(best == -torch.inf, -1), (0, LIST_LENGTH - lists.shape[1]), value=-1
    )
    counts = torch.stack([(~left_out).sum(1), (few > -torch.inf).sum(1)])
    counts *= ~left_out.gather(1, columns[:, :1])[:, 0]
    first = torch.zeros(len(few), dtype=torch.long)
    fields = (target_ranks(scores, columns[:, 0]), target_ranks(few, first), lists.numpy(), *counts.numpy())
    return list(zip(*fields, strict=True))


def model_scorer(
    model: PreTrainedModel,
    processor: UniMPProcessor,
    task: str,
    catalog_features: PictureStore | NoPictures | None = None,
) -> Scorer:
    """
    The model's log-probabilities; of semantic codes the lists that it answers with, see [`ListScorer`].
    `catalog_features` are those of [`UniMPProcessor.encode_pictures`], if they are at hand. Raises `ValueError` for a
    model that was not made for the processor.
    """
    processor.check_model(model)
    model.eval()

    def read(samples: list[Sample]) -> dict[str, torch.Tensor]:
        requests = [without_answer(sample) for sample in samples]
        return processor(requests, task=task, catalog_features=catalog_features).to(model.device)

    if model.config.code_sizes is not None:
        return ListScorer(model, read)

    @torch.inference_mode()
    def score(samples: list[Sample]) -> torch.Tensor:
        return model.score_items(**read(samples)).float().cpu()

    return score


@dataclass(frozen=True)
class ListScorer:
    """
    Scores of a model with semantic codes. To score every item takes a token for almost every one of them: of the whole
    catalogue only the first `LIST_DEPTH` items that beam search finds are scored, as whoever asks gets them.

    Attributes:
        model ([`UniMPForConditionalGeneration`]): the model.
        read (`Callable`): from requests to its inputs.
    """

    model: PreTrainedModel
    read: Callable[[list[Sample]], dict[str, torch.Tensor]]

    @torch.inference_mode()
    def __call__(
        self, samples: list[Sample], left_out: torch.Tensor, columns: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Args:
            samples: the requests.
            left_out (`torch.BoolTensor` of shape `(samples, items)`): what cannot be an answer.
            columns (`torch.LongTensor` of shape `(samples, columns)`): positions of items, padded with -1.

        Returns:
            Scores of all items, -inf for those that are not among the first, and exact ones of `columns`.
        """
        state = self.model.read_prompt(**self.read(samples))
        # Whichever of the two is shorter says what may be answered.
        exclude = left_out.sum(1).max() <= (~left_out).sum(1).max()
        listed = _positions(left_out if exclude else ~left_out).to(self.model.device)
        which = {"exclude": listed} if exclude else {"candidates": listed}
        best, items = (tensor.cpu() for tensor in self.model.rank_from(state, LIST_DEPTH, **which))
        scores = torch.full(left_out.shape, -torch.inf)
        scores.scatter_reduce_(1, items.clamp(min=0), best.float(), "amax")
        columns = columns.masked_fill(left_out.gather(1, columns.clamp(min=0)), -1)
        number = columns.shape[1]  # as many beams: none is lost
        best, items = (
            tensor.cpu()
            for tensor in self.model.rank_from(
                state, number, candidates=columns.to(self.model.device), beam_width=number
            )
        )
        found = (items[:, :, None] == columns[:, None]) & (items >= 0)[..., None]
        few = torch.where(found, best.float()[..., None], -torch.inf).amax(1)
        return scores, few


def _positions(chosen: torch.Tensor) -> torch.Tensor:
    """`[samples, items]` of true and false to positions of the true ones, padded with -1."""
    rows = [row.nonzero()[:, 0] for row in chosen]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-1)


def evaluate_ranking(
    model: PreTrainedModel,
    processor: UniMPProcessor,
    samples: Sequence[Sample],
    task: str,
    batch_size: int = 64,
    catalog_features: PictureStore | NoPictures | None = None,
) -> np.ndarray:
    """
    Rank of every sample's answer among the whole catalogue, `[samples]`; see [`rank_answers`]. Infinite for an answer
    that a model with semantic codes does not find among its first `LIST_DEPTH`.
    """
    scorers = {"model": model_scorer(model, processor, task, catalog_features)}
    return rank_answers(scorers, samples, task, processor.catalog, batch_size=batch_size)["model"].ranks


def train_counts(train: Dataset, item_ids: Sequence[str]) -> np.ndarray:
    """How often `train` has each item."""
    found = pc.value_counts(as_table(train)[Columns.ITEM_ID].combine_chunks().flatten())
    counts = dict(zip(found.field(0).to_pylist(), found.field(1).to_pylist(), strict=True))
    return np.array([counts.get(item_id, 0) for item_id in item_ids])


def popularity_scorer(train: Dataset, catalog: Catalog) -> Scorer:
    """How often `train` has each item."""
    counts = torch.tensor(train_counts(train, catalog.item_ids), dtype=torch.float64)
    return lambda samples: counts.repeat(len(samples), 1)


def words_scorer(processor: UniMPProcessor, task: str) -> Scorer:
    """How well an item has the words of what is searched for, or of the history's items; see [`WordIndex`]."""
    key, score = {
        "search": (Columns.QUERY, processor.query_matches),
        "recommend": (HISTORY, processor.word_similarities),
    }[task]
    return lambda samples: torch.stack([score(sample[key]) for sample in samples])


def random_scorer(catalog: Catalog, seed: int = 0) -> Scorer:
    """An order by chance, another one for every request."""

    def score(samples: list[Sample]) -> torch.Tensor:
        # Of the request alone, so that it is the same in whatever batch and process.
        keys = [
            f"{seed} {sample[ANSWER_KEY]} {len(seen_items(sample))} {seen_items(sample)[-3:]}" for sample in samples
        ]
        return torch.stack([torch.rand(len(catalog), generator=_generator(key)) for key in keys])

    return score


def _generator(key: str) -> torch.Generator:
    return torch.Generator().manual_seed(random.Random(key).getrandbits(62))


def popularity_ranks(
    samples: Sequence[Sample], train: Dataset, processor: UniMPProcessor, task: str = "recommend"
) -> np.ndarray:
    """Ranks as in [`evaluate_ranking`] when items are ordered by how often `train` has them."""
    scorers = {"popularity": popularity_scorer(train, processor.catalog)}
    return rank_answers(scorers, samples, task, processor.catalog)["popularity"].ranks


def random_ranks(
    samples: Sequence[Sample], processor: UniMPProcessor, seed: int = 0, task: str = "recommend", draws: int = 100
) -> np.ndarray:
    """
    Ranks as in [`evaluate_ranking`] when items are ordered by chance, `[draws, samples]`: in a single order, whether
    any answer comes among the first 10 would itself be left to chance.
    """
    rng = np.random.default_rng(seed)
    left = []
    for sample in samples:  # by chance, an answer has each rank among the items that are not left out alike
        seen = set(seen_items(sample)) if task == "recommend" else set()
        left.append(0 if sample[ANSWER_KEY] in seen else len(processor.catalog) - len(seen))
    ranks = rng.integers(1, np.maximum(left, 1), size=(draws, len(samples)), endpoint=True)
    return np.where(np.array(left) > 0, ranks, np.inf)


# Text answers and selections


def _answers(
    pipe: UniMPPipeline,
    samples: Sequence[Sample],
    batch_size: int,
    catalog_features: PictureStore | NoPictures | None,
    known: Callable[[Sample], Any],
) -> tuple[list[Any], list[Any]]:
    """What a pipeline answers to every sample, and what was `known` of it."""

    def answer(batch: list[Sample]) -> list[tuple[Any, Any]]:
        requests = [without_answer(sample) for sample in batch]
        inputs = pipe.processor(requests, task=pipe.task_name, catalog_features=catalog_features)
        prompt = {"codes": [pipe._codes(request) for request in requests], "model_inputs": inputs}
        return list(zip(pipe.postprocess(pipe.forward(prompt)), map(known, batch), strict=True))

    pairs = answer_in_batches(samples, answer, batch_size, f"Evaluating {pipe.task_name}")
    answers, truths = zip(*pairs, strict=True)
    return list(answers), list(truths)


def evaluate_ratings(
    model: PreTrainedModel,
    processor: UniMPProcessor,
    samples: Sequence[Sample],
    fallback: float,
    task: str = "rate",
    batch_size: int = 64,
    catalog_features: PictureStore | NoPictures | None = None,
) -> tuple[dict[str, Measured], Metrics]:
    """
    RMSE and MAE; in explain also `without_rating`, how often the text had none, which then counts as `fallback`, and
    the figures of [`text_measures`]. Apart, what only all texts together have: `distinct1` and `distinct2`.
    """
    pipeline_class = UniMPExplainPipeline if task == "explain" else UniMPRatePipeline
    pipe = pipeline_class(model=model.eval(), processor=processor, device=model.device)
    answers, items = _answers(pipe, samples, batch_size, catalog_features, lambda sample: sample[ITEM_TO_RATE])
    ratings = [fallback if answer["rating"] is None else answer["rating"] for answer in answers]
    measured = rating_measures(ratings, [item[Columns.RATING] for item in items])
    if task != "explain":
        return measured, {}
    texts = [answer["explanation"] or "" for answer in answers]
    measured["without_rating"] = Measured(np.array([float(answer["rating"] is None) for answer in answers]))
    measured |= text_measures(texts, [item[Columns.EXPLANATION] for item in items])
    different = {f"distinct{n}": distinct(texts, n) for n in (1, 2)}
    return measured, {name: value for name, value in different.items() if value is not None}


def rating_measures(predictions: Sequence[float], ratings: Sequence[float]) -> dict[str, Measured]:
    """RMSE and MAE, in stars."""
    errors = np.asarray(predictions, dtype=np.float64) - np.asarray(ratings, dtype=np.float64)
    return {"rmse": root_of_mean(errors**2), "mae": Measured(np.abs(errors))}


def evaluate_selection(
    model: PreTrainedModel,
    processor: UniMPProcessor,
    samples: Sequence[Sample],
    batch_size: int = 64,
    catalog_features: PictureStore | NoPictures | None = None,
) -> dict[str, Measured]:
    """Precision, recall and F1 of the chosen candidates."""
    pipe = UniMPSelectPipeline(model=model.eval(), processor=processor, device=model.device)
    answers, truths = _answers(pipe, samples, batch_size, catalog_features, lambda sample: set(sample[ANSWER_KEY]))
    values = selection_values([{entry[Columns.ITEM_ID] for entry in answer} for answer in answers], truths)
    return {name: Measured(own) for name, own in values.items()}


def chance_selection(samples: Sequence[Sample]) -> dict[str, Measured]:
    """Precision, recall and F1 when one candidate is chosen by chance: the mean over all that it may be."""
    means = []
    for sample in samples:
        chosen = [{candidate} for candidate in sample[CANDIDATES]]
        values = selection_values(chosen, [set(sample[ANSWER_KEY])] * len(chosen))
        means.append({name: own.mean() for name, own in values.items()})
    return {name: Measured(np.array([own[name] for own in means])) for name in ("precision", "recall", "f1")}


def mean_rating(train: Dataset, rating_range: Sequence[float]) -> float:
    """Mean rating of the training events; the middle of `rating_range` without any."""
    table = as_table(train)
    if Columns.RATING not in table.column_names:
        return float(np.mean(rating_range))
    ratings = table[Columns.RATING].combine_chunks().flatten().drop_null().to_numpy(zero_copy_only=False)
    ratings = ratings[~np.isnan(ratings.astype(np.float64))]
    return float(np.mean(ratings if len(ratings) else rating_range))


# Everything


def evaluate(
    model: PreTrainedModel,
    processor: UniMPProcessor,
    test: Dataset,
    train: Dataset,
    tasks: Sequence[str],
    catalog_features: PictureStore | NoPictures | None = None,
) -> dict[str, dict[str, Metrics]]:
    """
    [`evaluate_tasks`], figures alone.

    Returns:
        By task, by system (`model`, `popularity`, `words`, `random`, ...), by metric.
    """
    results = evaluate_tasks(model, processor, test, train, tasks, catalog_features=catalog_features)
    return {task: result.values() for task, result in results.items()}


def evaluate_tasks(
    model: PreTrainedModel,
    processor: UniMPProcessor,
    test: Dataset,
    train: Dataset,
    tasks: Sequence[str],
    item_ids: Sequence[str] | None = None,
    batch_size: int = 64,
    seed: int = 0,
    catalog_features: PictureStore | NoPictures | None = None,
) -> dict[str, TaskResult]:
    """
    Every task on the rows of `test`, beside what needs no model. What the figures mean is up to the split: in
    user hold-out nothing of these people was trained on, in leave-one-out everything but their last two events.

    Of a history the last `processor.history_window` events are shown; nothing in an older one is recommended either.
    With several processes each answers a part of the requests, and all get everything.

    Args:
        test (`datasets.Dataset`): sequences whose last event is the target.
        train (`datasets.Dataset`): sequences that were trained on, for the baselines.
        tasks: which ones; a task that no person of `test` has an answer for is left out, and logged.
        item_ids (`Sequence[str]`, *optional*): the items that answers are ranked among and candidates drawn from; the
            whole catalogue by default.
        batch_size (`int`): requests answered at once.
        seed (`int`): of what is drawn.
        catalog_features: see [`model_scorer`].

    Returns:
        By task.
    """
    results = {}
    settings = MixtureSettings(ALL_EVENTS if processor.history_window is None else processor.history_window)
    for task in tasks:
        samples = held_out_samples(test, task, item_ids or processor.catalog.item_ids, seed, settings)
        if not len(samples):
            logger.info("Nobody's last event has an answer to %s: not evaluated.", task)
        elif task == "select":
            measured = evaluate_selection(model, processor, samples, batch_size, catalog_features)
            results[task] = TaskResult(samples, {"model": measured, "random": chance_selection(samples)})
        elif TASKS[task].answer == "item":
            scorers = {
                "model": model_scorer(model, processor, task, catalog_features),
                "popularity": popularity_scorer(train, processor.catalog),
                "words": words_scorer(processor, task),
                "random": random_scorer(processor.catalog, seed),
            }
            rankings = rank_answers(scorers, samples, task, processor.catalog, item_ids, batch_size)
            results[task] = _ranking_result(samples, rankings, train, processor.catalog, item_ids)
        else:
            mean = mean_rating(train, processor.rating_range)
            measured, whole = evaluate_ratings(model, processor, samples, mean, task, batch_size, catalog_features)
            ratings = [samples[row][ITEM_TO_RATE][Columns.RATING] for row in range(len(samples))]
            baseline = rating_measures([mean] * len(ratings), ratings)
            results[task] = TaskResult(samples, {"model": measured, "mean rating": baseline}, {"model": whole})
    return results


def _ranking_result(
    samples: HeldOutSamples,
    rankings: dict[str, Ranking],
    train: Dataset,
    catalog: Catalog,
    item_ids: Sequence[str] | None,
) -> TaskResult:
    counts = train_counts(train, catalog.item_ids)
    vectors = word_vectors([flatten_attributes(catalog.attributes(code)) for code in range(len(catalog))])
    num_items = len(catalog if item_ids is None else item_ids)
    measured, whole, ranks = {}, {}, {}
    for system, ranking in rankings.items():
        if system == "random":  # what is true of all orders, not of the one that was drawn
            values, few = chance_values(ranking.num_items), chance_values(ranking.num_candidates)
        else:
            values, few = ranking_values(ranking.ranks), ranking_values(ranking.candidate_ranks)
            ranks[system] = ranking.ranks
        values |= {f"{name}_of_100": own for name, own in few.items()}
        values[f"novelty@{LIST_LENGTH}"] = novelty(ranking.lists, counts)
        if vectors is not None:
            values[f"diversity@{LIST_LENGTH}"] = intra_list_diversity(ranking.lists, vectors)
        measured[system] = {name: Measured(own) for name, own in values.items()}
        whole[system] = {
            f"coverage@{LIST_LENGTH}": coverage(ranking.lists, num_items),
            f"gini@{LIST_LENGTH}": gini(ranking.lists, num_items),
        }
    return TaskResult(samples, measured, whole, ranks)
