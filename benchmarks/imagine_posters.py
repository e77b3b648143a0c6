"""
Imagining film posters, 64 x 96 pixels: a denoiser and the image prompt baseline, trained on what people of MovieLens
chose, and their pictures compared as in `imagine.py`.

    unimp data prepare movielens --raw ml-latest-small --output_dir movielens --pictures_only
    python benchmarks/imagine_posters.py --model MODEL --interactions movielens/interactions.parquet --lpips FOLDER

`MODEL` was trained on `leave_last_10` (`run_quality.py movielens`); it was never trained to search or to explain, so
what is retrieved for a request is what its words find among the first answers. The request is the words of the first
of the ten events. There is no classifier of posters: what was asked is judged by likeness to the target alone.

The default denoiser is for a GPU; `--channels 64 96 96 --layers 1 --batch_size 16` is the demo store's.
"""

import argparse
import json
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from diffusers import UNet2DConditionModel
from imagine_figures import (
    COPY,
    SYSTEMS,
    Artists,
    ImagePromptPipeline,
    Journal,
    Judge,
    Request,
    markdown,
    measure,
    summarise,
)
from perceptual_distance import Lpips
from PIL import Image, ImageDraw

from unimp.modeling_unimp import UniMPPreference
from unimp.processing import Columns
from unimp.processing.contact_sheet import contact_sheet, sheet_rows
from unimp.processing.image_pipeline_unimp import UniMPImagePipeline
from unimp.processing.imagine_unimp import UniMPImageOutput
from unimp.processing.splits import leave_last_n
from unimp.training.imagine import ImagineTrainer, ImagineTrainingConfig, build_tiny_denoiser
from unimp.training.imagine_data import ImaginePairs
from unimp.training.mixture import read_sequence
from unimp.training.recipe import load

logger = logging.getLogger(__name__)

RESULTS = Path(__file__).parent / "results" / "imagine_posters.json"
HEIGHT, WIDTH = 96, 64  # pixels
HELD_OUT = 10  # events of a person that the model was not trained on
HISTORY = 20  # events that a picture is drawn after, as in training
SHEET_PEOPLE = 8
KINDS = {"ours": UniMPImagePipeline, "image_prompt": ImagePromptPipeline}
SETTINGS = ("channels", "layers", "batch_size", "steps", "learning_rate")  # of the denoisers


def build(
    kind: type[UniMPImagePipeline], model: Any, processor: Any, options: argparse.Namespace
) -> UniMPImagePipeline:
    """An untrained pipeline of posters."""
    torch.manual_seed(0)
    tiny, scheduler = build_tiny_denoiser(image_size=(HEIGHT, WIDTH))
    config = dict(tiny.config) | {"block_out_channels": options.channels, "layers_per_block": options.layers}
    unet = UNet2DConditionModel.from_config(config)
    number = model.config.num_latents if kind is ImagePromptPipeline else 4
    preference = UniMPPreference.from_model(model, unet.config.cross_attention_dim, num_soft_tokens=number)
    return kind(model, processor, unet, scheduler, preference)


def train(
    kind: type[UniMPImagePipeline], model: Any, processor: Any, pairs: ImaginePairs, options: argparse.Namespace
) -> tuple[UniMPImagePipeline, float]:
    """A trained pipeline, or that of an earlier run, and the seconds that its training took."""
    folder, started = options.work / kind.__name__, time.perf_counter()
    if (folder / "model_index.json").is_file():
        return kind.from_pretrained(folder, model=model, processor=processor), 0.0
    config = ImagineTrainingConfig(
        str(folder),
        max_steps=options.steps,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        mixed_precision="bf16" if torch.cuda.is_available() else "no",
        disable_tqdm=True,
    )
    pipeline = build(kind, model, processor, options)
    ImagineTrainer(pipeline, config, pairs).train()
    return pipeline, time.perf_counter() - started


def make_requests(sequences: Iterable[Mapping[str, Any]], limit: int) -> list[Request]:
    """Of the first people: what they had chosen, and the words of the first event that was held out."""
    requests: dict[str, Request] = {}
    for row in sequences:  # a person has several, the earliest event first
        if len(requests) == limit:
            break
        if row[Columns.USER_ID] not in requests:
            *history, last = read_sequence(row)
            requests[row[Columns.USER_ID]] = Request(
                history[-HISTORY:], last[Columns.QUERY], last[Columns.ITEM_ID], {}
            )
    return list(requests.values())


class PosterArtists(Artists):
    """All systems; what is copied is what search finds first, as posters are drawn from noise and have no start."""

    def draw(self, history: Sequence[Any], query: str, seed: int) -> tuple[dict[str, Image.Image], UniMPImageOutput]:
        """See [`Artists.draw`]."""
        pictures, full = super().draw(history, query, seed)
        found = (self.pipeline.picture_of(row[Columns.ITEM_ID]) for row in full.retrieved)
        nearest = next(filter(None, found), None)
        return pictures if nearest is None else pictures | {COPY: nearest}, full


def draw_systems(artists: Artists, requests: Sequence[Request], path: Path) -> None:
    """A PNG: a row a person, the picture of each system in the order of `SYSTEMS`."""
    sheet = Image.new("RGB", (len(SYSTEMS) * (WIDTH + 8), len(requests) * (HEIGHT + 22)), "white")
    pen = ImageDraw.Draw(sheet)
    for number, request in enumerate(requests):
        pictures, top = artists.draw(request.history, request.query, seed=number)[0], number * (HEIGHT + 22)
        pen.text((2, top + 2), request.query, "black")
        for column, system in enumerate(name for name in SYSTEMS if name in pictures):
            sheet.paste(pictures[system].resize((WIDTH, HEIGHT)), (column * (WIDTH + 8), top + 16))
    sheet.save(path)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """All figures."""
    model, processor = load(options.model)
    split = leave_last_n(Dataset.from_parquet(str(options.interactions)), HELD_OUT)
    pairs = ImaginePairs(split.train, processor.catalog, history_window=HISTORY)
    if options.train_only is not None:
        return {"seconds of training": round(train(KINDS[options.train_only], model, processor, pairs, options)[1])}
    ours, seconds = train(UniMPImagePipeline, model, processor, pairs, options)
    image_prompt, _ = train(ImagePromptPipeline, model, processor, pairs, options)
    drawing = {name: getattr(options, name) for name in ("guidance_scale", "num_inference_steps")} | {
        "use_answer": False,
        "strength": 1.0,  # a poster is nothing to make another one of
    }
    device = "cuda" if torch.cuda.is_available() else "cpu"
    artists = PosterArtists(ours.to(device), image_prompt.to(device), **drawing)
    requests, catalog = make_requests(split.test, options.people), processor.catalog
    events = [event for request in requests for event in request.history]
    wanted = dict.fromkeys([*(event[Columns.ITEM_ID] for event in events), *(request.item_id for request in requests)])
    pictures = {item_id: catalog.image(catalog.position(item_id)) for item_id in wanted}
    judge = Judge(pictures, (HEIGHT, WIDTH), lpips=None if options.lpips is None else Lpips(options.lpips))
    rows = [{"history": request.history, "query": request.query} for request in requests[:SHEET_PEOPLE]]
    contact_sheet(sheet_rows(ours, rows, **drawing), options.work / "posters.png")
    draw_systems(artists, requests[:SHEET_PEOPLE], options.work / "posters_systems.png")
    settings = {name: getattr(options, name) for name in SETTINGS}
    about = settings | {"lpips": options.lpips is not None} | drawing
    journal = Journal(options.work / "posters.jsonl", about)
    report = summarise(measure(artists, judge, "posters", requests, journal))
    print(markdown(report["systems"]))
    return about | {"pairs": len(pairs), "seconds of training": round(seconds), "device": device} | report


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="Trained on the events before each person's last ten.")
    parser.add_argument("--interactions", type=Path, required=True)
    parser.add_argument("--lpips", help="Folder of LPIPS's weights.")
    parser.add_argument(
        "--work", type=Path, default=Path("outputs/imagine_posters"), help="What takes long is kept here."
    )
    parser.add_argument("--train_only", choices=tuple(KINDS), help="Train this one, and stop: both at a time, say.")
    parser.add_argument("--people", type=int, default=100)
    parser.add_argument("--steps", type=int, default=1000, help="Of training, each of the two denoisers.")
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--learning_rate", type=float, default=1e-3)
    parser.add_argument("--channels", type=int, nargs=3, default=[128, 256, 384])
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--guidance_scale", type=float, default=2.0)
    parser.add_argument("--num_inference_steps", type=int, default=20)
    parser.add_argument("--output", type=Path, default=RESULTS)
    return parser.parse_args(arguments)


def main() -> None:
    """Print the table, write it to `results/`, and two sheets of pictures to `--work`."""
    options = parse()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    report = run(options)
    if options.train_only is not None:
        logger.info("%s", report)
        return
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
