"""Figures of imagined pictures, for `imagine.py` and `imagine_posters.py`: systems, measures, and their summary."""

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from attribute_classifier import AttributeClassifier
from perceptual_distance import Lpips, ssim
from PIL import Image

from unimp.modeling_unimp.preference_unimp import KINDS
from unimp.processing import Columns
from unimp.processing.image_pipeline_unimp import UniMPImagePipeline
from unimp.processing.imagine_unimp import UniMPImageOutput, to_pixels
from unimp.training.metrics import bootstrap_interval, paired_ratio_interval

logger = logging.getLogger(__name__)

BASE, KEYWORDS, SOFT, BOTH = "request only", "keywords only", "soft embeddings only", "keywords + soft"
PROMPT, START, COPY = "image prompt", "their start only", "copy of their start"
FULL, CHOSEN = "their start, keywords + soft", "their start, keywords + soft, chosen of 4"
SYSTEMS = (BASE, KEYWORDS, SOFT, BOTH, PROMPT, START, FULL, CHOSEN, COPY)
# What is compared, pair by pair, beside everything with the request alone.
PAIRS = ((BOTH, KEYWORDS), (BOTH, SOFT), (BOTH, PROMPT), (FULL, BOTH), (FULL, START))
ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0)
# The weighting of all systems but the chosen one.
TOGETHER = 0.5

Figures = dict[str, float]
Row = dict[str, Any]  # of a person: figures by system, and what each alpha chooses


class ImagePromptPipeline(UniMPImagePipeline):
    """
    The baseline: instead of soft preference embeddings, the mean of the visual latents of the history's pictures,
    through the same norm and projection into the same number of conditioning tokens.

    Latents are taken as deviations from the catalogue's mean, in units of their spread: in a model whose pictures act
    through the items' content, they hardly differ from item to item.
    """

    _latents: torch.Tensor | None = None

    def encode_preference(self, histories: Sequence[Sequence[Any]], **kwargs: Any) -> torch.Tensor:
        """See [`UniMPImagePipeline.encode_preference`]."""
        if self._latents is None:
            self._latents = self._read_catalog()
        catalog = self.processor.catalog
        codes = [[catalog.position(event[Columns.ITEM_ID]) for event in history] for history in histories]
        pictured = [[code for code in row if catalog.has_image(code)] for row in codes]
        nothing = torch.zeros(self._latents.shape[1:])
        means = torch.stack([self._latents[row].mean(0) if row else nothing for row in pictured])
        soft = self.preference.soft_projection(self.preference.soft_norm(means.to(self.preference.device)))
        return soft + self.preference.kinds.weight[KINDS.index("soft")]

    def _read_catalog(self) -> torch.Tensor:
        """`[items, num_latents, hidden_size]`; zeros for items without a picture."""
        catalog, pictures = self.processor.catalog, self.processor.encode_pictures(self.model, latents=True)
        codes = [code for code in range(len(catalog)) if catalog.has_image(code)]
        latents = pictures[[catalog.image_key(code) for code in codes]].float().cpu()
        standard = torch.zeros(len(catalog), *latents.shape[1:])
        standard[codes] = (latents - latents.mean(0)) / latents.std(0).clamp(min=1e-8)
        return standard


@dataclass(frozen=True)
class Request:
    """
    What is asked in someone's name.

    Attributes:
        history: their events.
        query: the words.
        item_id: the item that they chose.
        traits: what a picture must show to be what was asked, by the classifier's names.
    """

    history: list[dict[str, Any]]
    query: str
    item_id: str
    traits: Mapping[str, str]


class Judge:
    """
    Figures of pictures.

    Args:
        pictures: the catalogue's, by item id.
        size: height and width at which pictures are compared.
        classifier ([`AttributeClassifier`], *optional*): of the traits of requests.
        lpips ([`Lpips`], *optional*): without it there are no figures of it.
    """

    def __init__(
        self,
        pictures: Mapping[str, Image.Image],
        size: tuple[int, int],
        classifier: AttributeClassifier | None = None,
        lpips: Lpips | None = None,
    ) -> None:
        self.size, self.classifier, self.lpips = size, classifier, lpips
        self.rows = {item_id: row for row, item_id in enumerate(pictures)}
        self.pixels = self._pixels(pictures.values())
        self.features: list[torch.Tensor] = []
        if lpips is not None:
            batches = [lpips.features(batch) for batch in self.pixels.split(128)]
            self.features = [torch.cat(layers) for layers in zip(*batches, strict=True)]

    def _pixels(self, pictures: Iterable[Image.Image]) -> torch.Tensor:
        return torch.stack([to_pixels(picture, self.size) for picture in pictures]).float() / 127.5 - 1

    def figures(self, picture: Image.Image, request: Request) -> Figures:
        """Of one picture: likeness to target and history, and whether it shows what was asked."""
        events = [event[Columns.ITEM_ID] for event in request.history]
        history = [self.rows[item_id] for item_id in events if item_id in self.rows]
        references = {"history": history, "target": [self.rows[request.item_id]]}
        pixels, figures = self._pixels([picture]), {}
        if self.lpips is not None:
            features = self.lpips.features(pixels)
            for name, rows in references.items():
                others = [layer[rows] for layer in self.features]
                figures[f"LPIPS to {name}"] = self._distance(features, others)
        for name, rows in references.items():
            figures[f"SSIM to {name}"] = float(ssim(pixels.expand(len(rows), -1, -1, -1), self.pixels[rows]).mean())
        if request.traits:
            read = self.classifier.read([picture])
            right = [read[name][0] == value for name, value in request.traits.items()]
            figures["attributes right"] = float(np.mean(right))
        return figures

    def _distance(self, features: Sequence[torch.Tensor], others: Sequence[torch.Tensor]) -> float:
        """Mean LPIPS of one picture to others."""
        repeated = [layer.expand(len(other), -1, -1, -1) for layer, other in zip(features, others, strict=True)]
        return float(self.lpips.between(repeated, list(others)).mean())

    def differences(self, pictures: Sequence[Image.Image]) -> list[float]:
        """Of each picture the mean LPIPS to the others."""
        features, rows = self.lpips.features(self._pixels(pictures)), range(len(pictures))
        return [
            self._distance(
                [layer[[row]] for layer in features], [layer[[n for n in rows if n != row]] for layer in features]
            )
            for row in rows
        ]


class Artists:
    """
    All systems. They draw with the same noise and the same keywords of the request. What knows a person by keywords,
    soft embeddings or an image prompt changes the picture of what the request finds for anybody; what has their start,
    the one that the pipeline begins with for them.

    Args:
        pipeline ([`UniMPImagePipeline`]): ours.
        image_prompt ([`ImagePromptPipeline`]): the baseline, trained equally.
        options: further arguments of every call: `num_inference_steps`, `guidance_scale`, `strength`.
    """

    def __init__(self, pipeline: UniMPImagePipeline, image_prompt: UniMPImagePipeline, **options: Any) -> None:
        self.pipeline, self.image_prompt, self.options = pipeline, image_prompt, options
        for each in (pipeline, image_prompt):
            each.set_progress_bar_config(disable=True)

    @torch.no_grad()
    def draw(self, history: Sequence[Any], query: str, seed: int) -> tuple[dict[str, Image.Image], UniMPImageOutput]:
        """A picture by every system that has one, and the full answer of ours."""
        ours, generator = self.pipeline, torch.Generator().manual_seed(seed)
        full = ours(history, query, generator=generator, **self.options)
        by_weighting = {candidate.weighting: candidate for candidate in full.candidates}
        base, together = by_weighting[0.0], by_weighting[TOGETHER]
        anybodys, theirs = (each.start and ours.picture_of(each.start) for each in (base, together))
        asked, likes = full.target_keywords, full.preference_keywords
        pictures = {BASE: base.image, FULL: together.image, CHOSEN: full.image}
        for name, pipeline, words, past in (
            (KEYWORDS, ours, likes, []),
            (SOFT, ours, [], history),
            (BOTH, ours, likes, history),
            (PROMPT, self.image_prompt, [], history),
        ):
            conditions = pipeline.three_conditions(asked, words, past)
            pictures[name] = self._generate(pipeline, conditions, TOGETHER, anybodys, seed)
        pictures[START] = self._generate(ours, ours.three_conditions(asked, [], []), 0.0, theirs, seed)
        return pictures if theirs is None else pictures | {COPY: theirs}, full

    def _generate(
        self,
        pipeline: UniMPImagePipeline,
        conditions: tuple[torch.Tensor, torch.Tensor],
        weighting: float,
        start: Image.Image | None,
        seed: int,
    ) -> Image.Image:
        guidance, steps, strength = (
            self.options[name] for name in ("guidance_scale", "num_inference_steps", "strength")
        )
        generator = torch.Generator().manual_seed(seed)
        return pipeline.generate(*conditions, [weighting], guidance, steps, generator, [start], strength)[0]


class Journal:
    """
    Rows that are finished, a line each, so that a run that was interrupted goes on.

    Args:
        path: the file; anew if there is none.
        settings: what the rows were made with; a file of other settings is refused.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self.path = path
        lines = (
            path.read_text(encoding="utf-8").splitlines() if path.is_file() else [json.dumps({"settings": settings})]
        )
        if json.loads(lines[0]) != json.loads(json.dumps({"settings": settings})):
            raise ValueError(f"{path} is of a run with other settings: move it away, or choose another `--work`.")
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(lines[0] + "\n", encoding="utf-8")
        self.rows = {row["key"]: row for row in map(json.loads, lines[1:])}

    def add(self, key: str, row: Row) -> None:
        """Keep a row."""
        self.rows[key] = {"key": key, **row}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(self.rows[key]) + "\n")


def measure(artists: Artists, judge: Judge, kind: str, requests: Sequence[Request], journal: Journal) -> list[Row]:
    """Of every person the figures of all systems, and `d_p` and `d_t` of the candidate that each alpha chooses."""
    for seed, request in enumerate(requests):
        key = f"{kind} {seed}"
        if key in journal.rows:
            continue
        pictures, full = artists.draw(request.history, request.query, seed)
        figures = {system: judge.figures(picture, request) for system, picture in pictures.items()}
        chosen = [full.choose(alpha) for alpha in ALPHAS]
        dial = {name: [getattr(candidate, name) for candidate in chosen] for name in ("d_p", "d_t")}
        journal.add(key, {"figures": figures, "dial": dial})
        if (seed + 1) % 20 == 0:
            logger.info("%s: %d of %d people", kind, seed + 1, len(requests))
    return [journal.rows[f"{kind} {seed}"] for seed in range(len(requests))]


def measure_diversity(
    artists: Artists, judge: Judge, histories: Sequence[Any], queries: Sequence[str], journal: Journal
) -> dict[str, dict[str, float]]:
    """How different (LPIPS) each person's picture is from the others' for the same request and noise, by system."""
    for query in queries:
        if f"diversity {query}" not in journal.rows:
            drawn = [artists.draw(history, query, seed=0)[0] for history in histories]
            by_system = {name: [pictures[name] for pictures in drawn if name in pictures] for name in SYSTEMS}
            differences = {name: judge.differences(pictures) for name, pictures in by_system.items() if pictures}
            journal.add(f"diversity {query}", {"differences": differences})
    rows = [journal.rows[f"diversity {query}"]["differences"] for query in queries]
    numbers = {name: [number for row in rows for number in row[name]] for name in rows[0]}
    return {name: {"value": float(np.mean(n))} | _interval(bootstrap_interval(n)) for name, n in numbers.items()}


def summarise(rows: Sequence[Row]) -> dict[str, Any]:
    """Means with intervals over people, comparisons paired, and the dial."""
    names = list(rows[0]["figures"][BASE])
    table = {
        system: {name: [row["figures"].get(system, {}).get(name, np.nan) for row in rows] for name in names}
        for system in SYSTEMS
        if any(system in row["figures"] for row in rows)  # drawn from noise, there is no start to copy
    }
    systems = {
        system: {
            name: _entry(name, values, None if system == BASE else table[BASE][name])
            for name, values in columns.items()
        }
        for system, columns in table.items()
    }
    report = {"people": len(rows), "systems": systems, "dial": _dial(rows)}
    report["versus"] = {
        f"{one} / {other}": {
            name: _versus(name, table[one][name], table[other][name]) for name in names if name.startswith("LPIPS")
        }
        for one, other in PAIRS
    }
    return report


def _entry(name: str, values: Sequence[float], base: Sequence[float] | None) -> dict[str, Any]:
    own = np.array(values)[~np.isnan(values)]
    entry = {"value": float(own.mean()), "people": len(own)} | _interval(bootstrap_interval(own))
    return entry if base is None else entry | {f"versus {BASE}": _versus(name, values, base)}


def _versus(name: str, values: Sequence[float], others: Sequence[float]) -> dict[str, float]:
    """A ratio of distances; a difference of what may be 0. Paired, over the people who have both."""
    pairs = np.array([values, others])
    own, other = pairs[:, ~np.isnan(pairs).any(0)]
    if name.startswith("LPIPS"):
        return {"ratio": float(own.mean() / other.mean())} | _interval(paired_ratio_interval(own, other))
    return {"difference": float((own - other).mean())} | _interval(bootstrap_interval(own - other))


def _interval(ends: tuple[float, float]) -> dict[str, float]:
    return dict(zip(("low", "high"), map(float, ends), strict=True))


def _dial(rows: Sequence[Row]) -> dict[str, list[float]]:
    """Means over people by alpha."""
    dials = [row["dial"] for row in rows if None not in row["dial"]["d_p"] + row["dial"]["d_t"]]
    means = {name: np.mean([dial[name] for dial in dials], axis=0).tolist() for name in ("d_p", "d_t")}
    return {"alpha": list(ALPHAS)} | means


def markdown(systems: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """The table as it stands in `README.md`; in brackets the interval, then what it is to "request only"."""
    names = list(systems[BASE])
    lines = [f"| | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for system, figures in systems.items():
        lines.append(f"| {system} | {' | '.join(_cell(figures[name]) for name in names)} |")
    return "\n".join(lines)


def _cell(figure: Mapping[str, Any]) -> str:
    cell = "{value:.3f} [{low:.3f}, {high:.3f}]".format(**figure)
    versus = figure.get(f"versus {BASE}", {})
    if "ratio" in versus:
        return cell + " (x {ratio:.3f} [{low:.3f}, {high:.3f}])".format(**versus)
    return cell + (" ({difference:+.3f} [{low:+.3f}, {high:+.3f}])".format(**versus) if versus else "")
