"""Codebooks on points that a reader can follow, and a run whose items have semantic codes."""

import json
import logging
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import pipeline, set_seed

from unimp import Catalog
from unimp.processing.splits import make_split
from unimp.processing.store import Store
from unimp.training import evaluation
from unimp.training.continued import continue_with
from unimp.training.held_out import held_out_samples
from unimp.training.mixture import UniMPCollator
from unimp.training.recipe import ModelArguments, _code_sizes, _mean_rows, build, load
from unimp.training.run import _without_items, run
from unimp.training.semantic_codes import (
    MAX_ATOMIC_ITEMS,
    code_report,
    default_code_sizes,
    describe_codes,
    fit_codebooks,
)
from unimp.training.trainer import UniMPTrainer, UniMPTrainingConfig

from .conftest import TINY, TINY_RUN

# Three groups of items, and within each the same two directions.
GROUPS = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 20.0]])
POINTS = (GROUPS[:, None] + torch.tensor([[0.0, 1.0], [0.0, -1.0]])).flatten(0, 1)


def nearest(centroids, rows):
    return torch.cdist(rows, centroids).argmin(-1)


# Codebooks


def test_each_level_clusters_what_the_one_before_it_left():
    centroids = fit_codebooks(POINTS.repeat(4, 1), [3, 2, 9])
    assert centroids.shape == (2, 3, 2)
    first = nearest(centroids[0], POINTS)
    torch.testing.assert_close(centroids[0][first], GROUPS.repeat_interleave(2, dim=0), rtol=0, atol=1e-4)
    rest = POINTS - centroids[0][first]
    found = centroids[1][nearest(centroids[1, :2], rest)]
    torch.testing.assert_close(found, torch.tensor([[0.0, 1.0], [0.0, -1.0]]).repeat(3, 1), rtol=0, atol=1e-4)


def test_codes_that_no_item_needs_are_out_of_reach():
    centroids = fit_codebooks(POINTS[:2], [4, 2, 2])
    assert sorted(nearest(centroids[0], POINTS[:2]).tolist()) == [0, 1]
    assert (centroids[0, 2:] > 100).all()
    assert (centroids[1, 1:] > 100).all()  # nothing is left to tell apart


def test_the_same_seed_gives_the_same_codebooks():
    points = torch.randn(200, 6, generator=torch.Generator().manual_seed(0))
    assert torch.equal(fit_codebooks(points, [8, 8, 8], seed=1), fit_codebooks(points, [8, 8, 8], seed=1))


def test_very_many_items_are_sampled_and_clustered_in_batches(monkeypatch):
    monkeypatch.setattr("unimp.training.semantic_codes.MAX_FITTED_ITEMS", 300)
    monkeypatch.setattr("unimp.training.semantic_codes.MAX_FULL_BATCH", 100)
    centroids = fit_codebooks(POINTS.repeat(200, 1), [3, 2, 900])
    found = centroids[0][nearest(centroids[0], POINTS)]
    torch.testing.assert_close(found, GROUPS.repeat_interleave(2, dim=0), rtol=0, atol=0.5)


def test_sizes_for_any_number_of_items():
    assert default_code_sizes(1) == [16, 16, 16, 16]
    assert default_code_sizes(12_000) == [256] * 4
    assert default_code_sizes(1_000_000) == [2048] * 4
    for num_items in (1, 100, 5_000, 12_345, 1_000_000):
        sizes = default_code_sizes(num_items)
        assert sizes[-1] * sizes[-2] >= 2 * num_items  # room for items that nothing tells apart


def test_a_report_by_hand():
    """Codes 0, 0, 1, 1 of two: equally frequent. Codes 2, 2, 2, 0 of four: half of them used."""
    codes = torch.tensor([[0, 2, 0], [0, 2, 1], [1, 2, 0], [1, 0, 0]])
    item_codes = SimpleNamespace(codes=codes, code_sizes=[2, 4, 5], kept_variance=torch.tensor(0.75))
    report = code_report(item_codes)
    assert report["used"] == [1.0, 0.5]
    assert report["perplexity"] == pytest.approx([2.0, np.exp(-0.75 * np.log(0.75) - 0.25 * np.log(0.25))])
    assert (report["collision_rate"], report["largest_collision"]) == (0.5, 2)
    assert report["kept_variance"] == 0.75
    text = describe_codes(report)
    for part in ("[2, 4, 5]", "100%, 50% of the codes", "50.0% of the items", "at most 2", "75% of the variance"):
        assert part in text
    json.dumps(report)


# What to build


@pytest.mark.parametrize(
    ("arguments", "num_items", "sizes"),
    [
        ({}, MAX_ATOMIC_ITEMS, None),
        ({}, MAX_ATOMIC_ITEMS + 1, [512] * 4),
        ({"item_codes": "atomic"}, 10**6, None),
        ({"item_codes": "semantic"}, 100, [16] * 4),
        ({"code_sizes": [8, 4]}, 10, [8, 4]),
    ],
)
def test_what_items_are_by_default(arguments, num_items, sizes):
    assert _code_sizes(ModelArguments(**arguments), num_items) == sizes


def test_arguments_that_contradict_each_other_are_refused():
    with pytest.raises(ValueError, match="`item_codes` must be one of"):
        ModelArguments(item_codes="text")
    with pytest.raises(ValueError, match=r"`code_sizes` \[4, 4\] have no use with `item_codes` atomic"):
        ModelArguments(item_codes="atomic", code_sizes=[4, 4])


def test_codes_start_at_the_mean_of_their_items():
    """Items 0 and 1 share a first code; item 2 is not known. Scaled to a root mean square of 1."""
    config = SimpleNamespace(num_code_rows=5, code_levels=2, level_starts=[0, 2])
    rows = torch.tensor([[1.0, 3.0], [3.0, 1.0], [0.0, 0.0]])
    found = _mean_rows(rows, torch.tensor([[1, 0], [1, 1], [0, 2]], dtype=torch.int32), config)
    means = torch.tensor([[0.0, 0.0], [2.0, 2.0], [1.0, 3.0], [3.0, 1.0], [0.0, 0.0]])
    torch.testing.assert_close(found, means / means[1:4].square().mean().sqrt())


def test_building_is_repeatable_and_starts_at_cooccurrence(store, split):
    arguments = ModelArguments(**TINY, item_codes="semantic")
    built = []
    for _ in range(2):
        set_seed(0)
        built.append(build(store, arguments, split.train)[0])
    first, second = built
    assert torch.equal(first.model.item_codes.codes, second.model.item_codes.codes)
    torch.testing.assert_close(first.model.item_codes.centroids, second.model.item_codes.centroids)
    used = torch.zeros(first.config.num_code_rows, dtype=torch.bool)
    codes = first.model.item_codes.codes + torch.tensor(first.config.level_starts)
    used[codes.flatten().long()] = True
    rows = first.model.item_rows.learned[used]
    assert torch.equal(rows, second.model.item_rows.learned[used])
    set_seed(0)
    plain = build(store, replace(arguments, item_start="random"), split.train)[0]
    at_random = plain.model.item_rows.learned[used]
    assert (rows != at_random).any(-1).float().mean() > 0.9
    assert 0.8 < rows.square().mean().sqrt() / at_random.square().mean().sqrt() < 1.25


# Training and evaluation


@pytest.fixture(scope="module")
def semantic_run(store, split, tmp_path_factory):
    """A trained model, and where it is."""
    folder = tmp_path_factory.mktemp("semantic")
    config = UniMPTrainingConfig(
        **(TINY_RUN | {"output_dir": str(folder), "task_rates": {"recommend": 1.0, "select": 0.5}})
    )
    return run(store, split, ModelArguments(**TINY, item_codes="semantic"), config), folder


def test_first_codes_of_later_items_are_expected(semantic_run):
    processor = semantic_run[0].processor
    ids = processor.catalog.item_ids
    sample = {"history": [{"item_id": ids[3]}, {"item_id": ids[8]}], "answer": ids[1]}
    batch = UniMPCollator(processor, {}, {}, num_later=2)([{"task": "recommend", "sample": sample}])
    first, levels = processor.format.first_item_id, len(processor.code_sizes)
    codes = [first + processor.item_code(position)[0] for position in (3, 8, 1)]
    labelled = (batch["labels"][0] != -100).nonzero()[:, 0]
    assert len(labelled) == 3 * levels
    expected = torch.full((3, levels, 2), -100)
    expected[0, 0], expected[1, 0, 0] = torch.tensor(codes[1:]), codes[2]
    assert torch.equal(batch["later_labels"][0][labelled], expected.flatten(0, 1))


def test_a_run_with_semantic_codes(semantic_run, store):
    result, folder = semantic_run
    assert result.model.config.code_sizes == [16] * 4
    assert len(result.model.model.item_codes.codes.unique(dim=0)) == len(store.items) == 40
    report = json.loads((folder / "metrics.json").read_text())
    assert report["item_codes"]["code_sizes"] == [16] * 4
    assert 0.3 < report["item_codes"]["kept_variance"] <= 1
    assert describe_codes(report["item_codes"]) in (folder / "README.md").read_text()
    assert 0 <= report["metrics"]["recommend"]["model"]["hr@10"] <= 1
    model, processor = load(str(folder))
    assert torch.equal(model.model.item_codes.codes, result.model.model.item_codes.codes)
    assert processor.code_sizes == [16] * 4
    recommend = pipeline("unimp-recommend", model=str(folder), trust_remote_code=True)
    ids = processor.catalog.item_ids
    answers = recommend({"history": ids[:3]}, top_k=40)
    assert sorted(answer["item_id"] for answer in answers) == sorted(ids[3:])
    select = pipeline("unimp-select", model=str(folder), trust_remote_code=True)
    chosen = [entry["item_id"] for entry in select({"history": ids[:3], "candidates": ids[5:9]})]
    assert chosen
    assert set(chosen) <= set(ids[5:9])


def test_training_moves_the_codes(semantic_run, store, split):
    set_seed(UniMPTrainingConfig(**TINY_RUN, output_dir="unused").seed)
    before = build(store, ModelArguments(**TINY, item_codes="semantic"), split.train)[0]
    after = semantic_run[0].model
    torch.testing.assert_close(before.model.item_codes.centroids, after.model.item_codes.centroids)
    codes = after.model.item_codes.codes + torch.tensor(after.config.level_starts)
    for level in range(after.config.code_levels):
        rows = codes[:, level].unique().long()
        assert not torch.equal(before.model.item_rows.learned[rows], after.model.item_rows.learned[rows])


def test_rankings_are_those_of_exact_scores_within_the_depth(semantic_run, split, monkeypatch):
    """With as many beams as items; of a shorter list what comes after it is not found."""
    model, processor = semantic_run[0].model, semantic_run[0].processor
    asked = held_out_samples(split.test, "recommend", processor.catalog.item_ids)

    @torch.inference_mode()
    def exact(samples):
        requests = [evaluation.without_answer(sample) for sample in samples]
        return model.score_items(**processor(requests, task="recommend")).float()

    def rank():
        scorers = {"model": evaluation.model_scorer(model, processor, "recommend"), "exact": exact}
        found = evaluation.rank_answers(scorers, asked, "recommend", processor.catalog, batch_size=7)
        return found["model"], found["exact"]

    ranking, expected = rank()
    for field in ("ranks", "candidate_ranks", "lists", "num_items", "num_candidates"):
        np.testing.assert_array_equal(getattr(ranking, field), getattr(expected, field), err_msg=field)
    finite = expected.ranks[np.isfinite(expected.ranks)]
    assert finite.max() > 5
    monkeypatch.setattr(evaluation, "LIST_DEPTH", 5)
    monkeypatch.setattr(type(model), "rank_from", _with_all_beams(type(model).rank_from))
    short, _ = rank()
    np.testing.assert_array_equal(short.ranks, np.where(expected.ranks > 5, np.inf, expected.ranks))
    np.testing.assert_array_equal(short.candidate_ranks, expected.candidate_ranks)
    np.testing.assert_array_equal(short.num_items, expected.num_items)


def _with_all_beams(rank_from):
    def ranked(self, state, top_k, beam_width=None, **which):
        return rank_from(self, state, top_k, beam_width=self.config.num_items, **which)

    return ranked


def test_few_items_of_many_are_ranked_as_candidates(semantic_run, split):
    model, processor = semantic_run[0].model, semantic_run[0].processor
    ids = processor.catalog.item_ids[::4]
    asked = [sample for sample in held_out_samples(split.test, "recommend", ids) if sample["answer"] in ids]
    scorers = {"model": evaluation.model_scorer(model, processor, "recommend")}
    ranking = evaluation.rank_answers(scorers, asked, "recommend", processor.catalog, ids)["model"]
    listed = {code for row in ranking.lists for code in row if code >= 0}
    assert listed
    assert listed <= set(range(0, 40, 4))
    assert (ranking.num_items <= 10).all()


def test_too_small_code_sizes_are_refused_before_pictures_are_read_and_codebooks_made(store, monkeypatch):
    monkeypatch.setattr(Catalog, "embed_images", lambda catalog: 1 / 0)
    with pytest.raises(
        ValueError, match=r"`code_sizes` \[3, 3, 4\] make 36 codes, too few for 40 items: .*at least 40"
    ):
        build(store, ModelArguments(**TINY, code_sizes=[3, 3, 4]))


def test_code_sizes_too_small_for_items_to_come_are_refused_before_training(store, tmp_path, monkeypatch):
    monkeypatch.setattr(UniMPTrainer, "train", lambda *_args, **_kwargs: 1 / 0)
    config = UniMPTrainingConfig(**(TINY_RUN | {"output_dir": str(tmp_path), "task_rates": {"recommend": 1.0}}))
    with pytest.raises(ValueError, match=r"`code_sizes` \[3, 3, 4\] make 36 codes, too few for 40 items"):
        run(store, make_split(store, "cold_items"), ModelArguments(**TINY, code_sizes=[3, 3, 4]), config)


def test_a_store_of_more_items_than_codes_leaves_model_and_catalogue_as_they_are(store):
    known = _without_items(store, store.items["item_id"][30:])
    model, processor = build(known, ModelArguments(**TINY, code_sizes=[2, 2, 8]))
    changed = known.items.to_list()[0] | {"title": "something else"}
    others = Dataset.from_list([changed, *store.items.to_list()[1:]], features=store.items.features)
    with pytest.raises(ValueError, match=r"`items` are 10, too many to join 30: .* at most 32 items apart"):
        continue_with(model, processor, Store(others, store.interactions, store.report))
    assert len(processor.catalog) == model.config.num_items == 30
    assert processor.catalog.item(0)["title"] == known.items[0]["title"]


def test_building_logs_how_codes_are_used(store, caplog):
    with caplog.at_level(logging.INFO, logger="unimp.training.recipe"):
        model, _ = build(store, ModelArguments(**TINY, code_sizes=[4, 8, 40]))
    assert model.config.code_sizes == [4, 8, 40]
    assert "Semantic codes of sizes [4, 8, 40]" in caplog.text


def test_items_that_come_after_training_get_codes_without_refitting(store, tmp_path):
    cold = make_split(store, "cold_items")
    config = UniMPTrainingConfig(**(TINY_RUN | {"output_dir": str(tmp_path), "task_rates": {"recommend": 1.0}}))
    fitted = []

    def fit(embeddings, code_sizes):
        fitted.append(len(embeddings))
        return fit_codebooks(embeddings, code_sizes)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("unimp.training.recipe.fit_codebooks", fit)
        result = run(store, cold, ModelArguments(**TINY, item_codes="semantic"), config)
    assert cold.new_items
    assert fitted == [40 - len(cold.new_items)]
    codes = result.processor.catalog.codes
    assert codes.shape == (40, 4)
    assert len(np.unique(codes, axis=0)) == 40
    model, processor = load(str(tmp_path))
    assert processor.catalog.codes.tolist() == codes.tolist() == model.model.item_codes.codes.tolist()
