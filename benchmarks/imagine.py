"""
Does imagining follow a person's taste, and does it stay true to what was asked? On people of the demo store whom
nothing was trained on, beside drawing without taste, parts of it, an image prompt and no drawing at all.

    unimp quickstart --imagine --output_dir outputs/quickstart
    python benchmarks/imagine.py --model outputs/quickstart --lpips FOLDER

Two requests a person: `own`, the words with which they found what they chose last, and `garment`, that item's garment
alone, which leaves colour and pattern to taste. `FOLDER` has LPIPS's published weights (`alexnet_lpips.safetensors`);
without `--lpips` there are no figures of it. What takes long is kept in `--work`: the image prompt baseline, trained
as ours is, the classifier of garment, colour and pattern, and every person's figures, so that a run that was
interrupted goes on. All systems draw one picture from the same noise, except those that choose among four or draw
nothing. Intervals are 95% bootstrap over people; ratios and differences are paired with "request only".
"""

import argparse
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from attribute_classifier import TRAITS, load_or_train, own_accuracy
from imagine_figures import (
    Artists,
    ImagePromptPipeline,
    Journal,
    Judge,
    Request,
    markdown,
    measure,
    measure_diversity,
    summarise,
)
from perceptual_distance import Lpips

from unimp.processing import Columns
from unimp.processing.demo_pictures import PICTURE_SIZE
from unimp.processing.demo_store import PATTERNS, DemoItem, build_demo_store, demo_item_traits
from unimp.processing.image_pipeline_unimp import MOST_TASTE, TASTE_GUIDANCE, UniMPImagePipeline
from unimp.processing.imagine_pipeline_unimp import IMAGINE_FOLDER
from unimp.processing.imagine_unimp import LIKENESS
from unimp.processing.keywords_unimp import find_words
from unimp.processing.splits import make_split
from unimp.processing.store import make_store
from unimp.training.imagine import ImagineTrainer, ImagineTrainingConfig, build_tiny_pipeline
from unimp.training.imagine_data import ImaginePairs
from unimp.training.mixture import read_sequence
from unimp.training.recipe import load

logger = logging.getLogger(__name__)

RESULTS = Path(__file__).parent / "results" / "imagine.json"
# The same for several people: how much do the answers differ?
SHARED_REQUESTS = ("dress", "red t-shirt")


def named_traits(query: str, item: DemoItem) -> dict[str, str]:
    """Of the item's traits those that the words of a request name."""
    words = find_words(query)
    named = {"garment": item.garment, "colour": item.colour, "pattern": PATTERNS[item.pattern][0]}
    return {name: getattr(item, name) for name, word in named.items() if word in words}


def make_requests(
    sequences: Iterable[Mapping[str, Any]], traits: Mapping[str, DemoItem], pictured: set[str], limit: int
) -> dict[str, list[Request]]:
    """Both requests of people, the first ones, whose last item and one before it have a picture."""
    requests: dict[str, list[Request]] = {"own": [], "garment": []}
    for *history, last in map(read_sequence, sequences):
        item_id = last[Columns.ITEM_ID]
        if item_id in pictured and any(event[Columns.ITEM_ID] in pictured for event in history):
            item = traits[item_id]
            for kind, query in (("own", last[Columns.QUERY]), ("garment", item.garment)):
                requests[kind].append(Request(history, query, item_id, named_traits(query, item)))
    return {kind: rows[:limit] for kind, rows in requests.items()}


def open_image_prompt(
    folder: Path, model: Any, processor: Any, pairs: ImaginePairs, **settings: Any
) -> ImagePromptPipeline:
    """The baseline of an earlier run, or a new one, trained as ours is."""
    if (folder / "model_index.json").is_file():
        return ImagePromptPipeline.from_pretrained(folder, model=model, processor=processor)
    logger.info("Training the image prompt baseline ...")
    tiny = build_tiny_pipeline(model, processor, num_soft_tokens=model.config.num_latents)
    pipeline = ImagePromptPipeline(model, processor, tiny.unet, tiny.scheduler, tiny.preference)
    ImagineTrainer(pipeline, ImagineTrainingConfig(str(folder), **settings), pairs).train()
    return pipeline


def run(options: argparse.Namespace, **settings: Any) -> dict[str, Any]:
    """All figures; `settings` are of the baseline's training."""
    items, interactions = build_demo_store(options.num_items, options.num_users)
    split = make_split(make_store(items, interactions), "user_holdout")
    model, processor = load(options.model)
    pairs = ImaginePairs(split.train, processor.catalog)
    image_prompt = open_image_prompt(options.work / "image_prompt", model, processor, pairs, **settings)
    ours = UniMPImagePipeline.from_pretrained(Path(options.model, IMAGINE_FOLDER), model=model, processor=processor)
    drawing = {name: getattr(options, name) for name in ("alpha", "guidance_scale", "num_inference_steps", "strength")}
    artists = Artists(ours, image_prompt, **drawing)
    classifier = load_or_train(options.work)
    pictures = {row[Columns.ITEM_ID]: row[Columns.IMAGE] for row in items if row[Columns.IMAGE] is not None}
    lpips = None if options.lpips is None else Lpips(options.lpips)
    judge = Judge(pictures, (PICTURE_SIZE, PICTURE_SIZE), classifier, lpips)
    requests = make_requests(
        getattr(split, options.part), demo_item_traits(options.num_items), set(pictures), options.people
    )
    taste = {"taste_guidance": TASTE_GUIDANCE, "most_taste": MOST_TASTE, "likeness": LIKENESS}
    about = {"model": options.model, "part": options.part, "lpips": lpips is not None, **drawing, **taste}
    journal = Journal(options.work / f"{options.part}-{options.strength:g}.jsonl", about)
    report: dict[str, Any] = about | {
        "classifier": {"values": {name: len(values) for name, values in TRAITS.items()}}
        | own_accuracy(classifier, options.num_items)
    }
    for kind, rows in requests.items():
        report[kind] = summarise(measure(artists, judge, kind, rows, journal))
        print(f"\n{kind}\n\n{markdown(report[kind]['systems'])}\n\n{json.dumps(report[kind]['dial'])}")
    if lpips is not None:
        histories = [request.history for request in requests["own"][: options.diversity_people]]
        report["diversity"] = measure_diversity(artists, judge, histories, SHARED_REQUESTS, journal)
    return report


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="outputs/quickstart", help="What `unimp quickstart --imagine` left.")
    parser.add_argument("--work", type=Path, default=Path("outputs/imagine"), help="What takes long is kept here.")
    parser.add_argument("--lpips", help="Folder of LPIPS's weights.")
    parser.add_argument("--part", choices=("test", "validation"), default="test", help="Whose requests.")
    parser.add_argument("--people", type=int, default=100, help="Most people.")
    parser.add_argument("--diversity_people", type=int, default=20)
    parser.add_argument("--alpha", type=float, default=0.5)
    parser.add_argument("--guidance_scale", type=float, default=1.5)
    parser.add_argument("--num_inference_steps", type=int, default=12)
    parser.add_argument("--strength", type=float, default=0.85)
    parser.add_argument("--num_items", type=int, default=600, help="Of the store that the model was trained on.")
    parser.add_argument("--num_users", type=int, default=1000)
    parser.add_argument("--output", type=Path, default=RESULTS)
    return parser.parse_args(arguments)


def main() -> None:
    """Print the tables, write them to `results/`."""
    options = parse()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    report = run(options)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({name: report.get(name) for name in ("classifier", "diversity")}, indent=1))


if __name__ == "__main__":
    main()
