"""
Do generated pictures help to recommend (PMG's downstream claim)? On people of the demo store whom nothing was trained
on: items are ranked by the recommender, by how alike their pictures are to pictures that were drawn in the person's
taste, and by both together; beside it the same with the pictures of what the person had chosen, which need no
drawing.

    unimp quickstart --imagine --output_dir outputs/quickstart
    python benchmarks/imagine_recommend.py --model outputs/quickstart

The pictures of a person are drawn of the taste alone, without a request. Both rankings' scores are standardised over
the items; how much the pictures count beside the recommender is chosen by NDCG@10 on the people of validation.
Intervals are 95% bootstrap over people, differences are paired with the recommender alone.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from unimp.processing.demo_store import build_demo_store
from unimp.processing.image_pipeline_unimp import TASTE_GUIDANCE, UniMPImagePipeline
from unimp.processing.imagine_pipeline_unimp import IMAGINE_FOLDER
from unimp.processing.imagine_unimp import PictureSimilarity
from unimp.processing.splits import make_split
from unimp.processing.store import make_store
from unimp.processing.tasks_unimp import ANSWER_KEY
from unimp.training.evaluation import model_scorer
from unimp.training.held_out import Sample, held_out_samples, seen_items
from unimp.training.metrics import bootstrap_interval, ranking_values, target_ranks
from unimp.training.recipe import load

RESULTS = Path(__file__).parent / "results" / "imagine_recommend.json"
WEIGHTS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0)
BATCH = 64
GUIDANCE = 1.5


def standardise(scores: torch.Tensor) -> torch.Tensor:
    """Each row to mean 0 and spread 1."""
    return (scores - scores.mean(1, keepdim=True)) / scores.std(1, keepdim=True)


class Part:
    """
    The people of validation or test.

    Args:
        pipeline ([`UniMPImagePipeline`]): recommends and draws.
        samples: requests of people with their answers.
        drawn (`int`): pictures a person.
        steps (`int`): of drawing each.
    """

    def __init__(self, pipeline: UniMPImagePipeline, samples: Sequence[Sample], drawn: int, steps: int) -> None:
        self.pipeline = pipeline
        catalog = pipeline.processor.catalog
        self.answers = torch.tensor([catalog.position(sample[ANSWER_KEY]) for sample in samples])
        self.left_out = torch.zeros(len(samples), len(catalog), dtype=torch.bool)
        for row, sample in zip(self.left_out, samples, strict=True):
            row[[catalog.position(item_id) for item_id in seen_items(sample)]] = True
        score = model_scorer(pipeline.model, pipeline.processor, "recommend")
        self.recommender = torch.cat(
            [score(samples[start : start + BATCH]) for start in range(0, len(samples), BATCH)]
        )
        histories = [[pipeline.picture_of(event) for event in sample["history"]] for sample in samples]
        self.chosen = self._alike([[picture for picture in row if picture is not None] for row in histories])
        self.drawn = self._alike([self._draw(sample["history"], drawn, steps, n) for n, sample in enumerate(samples)])

    @torch.no_grad()
    def _draw(self, history: Sequence[Any], number: int, steps: int, seed: int) -> list[Image.Image]:
        """Pictures in someone's taste, where nothing was asked, guided as far as a request would be."""
        conditions = self.pipeline.three_conditions([], self.pipeline.keywords_of_taste(history), history)
        weightings, generator = [GUIDANCE / TASTE_GUIDANCE] * number, torch.Generator().manual_seed(seed)
        return self.pipeline.generate(*conditions, weightings, GUIDANCE, steps, generator)

    def _alike(self, pictures: Sequence[Sequence[Image.Image]]) -> torch.Tensor:
        """How alike every item's picture is to those of each person; items without one are as the mean item."""
        catalog = self.pipeline.processor.catalog
        similarity = PictureSimilarity(self.pipeline.model, self.pipeline.processor)
        codes = [code for code in range(len(catalog)) if catalog.has_image(code)]
        items = similarity.embed([catalog.image(code) for code in codes])
        scores = torch.zeros(len(pictures), len(catalog))
        for row, own in zip(scores, pictures, strict=True):
            if own:
                row[codes] = items @ similarity.embed(own).mean(0)
        return scores

    def values(self, pictures: torch.Tensor | None, weight: float) -> np.ndarray:
        """NDCG@10 of every person, by the recommender's scores and, as much as `weight`, those of pictures."""
        scores = standardise(self.recommender) * (1 - weight)
        if pictures is not None:
            scores = scores + weight * pictures / pictures.std(1, keepdim=True).clamp(min=1e-6)
        return ranking_values(target_ranks(scores.masked_fill(self.left_out, -torch.inf), self.answers))["ndcg@10"]


def compare(validation: Part, test: Part) -> dict[str, Any]:
    """NDCG@10 on test of the recommender, of pictures alone, and of both as is best on validation."""
    alone = test.values(None, 0.0)
    report: dict[str, Any] = {"people": len(alone), "recommender": _figure(alone)}
    for name in ("drawn", "chosen"):
        known, own = getattr(validation, name), getattr(test, name)
        tried = {weight: float(validation.values(known, weight).mean()) for weight in WEIGHTS}
        best = max(tried, key=tried.get)
        report[f"pictures {name}"] = _figure(test.values(own, 1.0), alone)
        report[f"recommender and pictures {name}"] = _figure(test.values(own, best), alone) | {
            "weight": best,
            "validation": tried,
        }
    return report


def _figure(values: np.ndarray, base: np.ndarray | None = None) -> dict[str, Any]:
    figure: dict[str, Any] = {"ndcg@10": float(values.mean()), "interval": bootstrap_interval(values)}
    if base is not None:
        figure |= {
            "difference": float((values - base).mean()),
            "difference interval": bootstrap_interval(values - base),
        }
    return figure


def run(options: argparse.Namespace) -> dict[str, Any]:
    """All figures."""
    split = make_split(make_store(*build_demo_store(options.num_items, options.num_users)), "user_holdout")
    model, processor = load(options.model)
    pipeline = UniMPImagePipeline.from_pretrained(
        Path(options.model, IMAGINE_FOLDER), model=model, processor=processor
    )
    pipeline.set_progress_bar_config(disable=True)
    parts = [
        Part(pipeline, held_out_samples(part, "recommend", processor.catalog.item_ids), options.drawn, options.steps)
        for part in (split.validation, split.test)
    ]
    return {"drawn": options.drawn, "steps": options.steps, **compare(*parts)}


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="outputs/quickstart", help="What `unimp quickstart --imagine` left.")
    parser.add_argument("--drawn", type=int, default=4, help="Pictures a person.")
    parser.add_argument("--steps", type=int, default=20, help="Of drawing each.")
    parser.add_argument("--num_items", type=int, default=600, help="Of the store that the model was trained on.")
    parser.add_argument("--num_users", type=int, default=1000)
    parser.add_argument("--output", type=Path, default=RESULTS)
    return parser.parse_args(arguments)


def main() -> None:
    """Print the figures, write them to `results/`."""
    options = parse()
    report = run(options)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
