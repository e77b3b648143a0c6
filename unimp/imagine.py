"""Pictures for people: what `unimp quickstart --imagine` adds, and `unimp imagine`."""

from itertools import islice
from pathlib import Path

from datasets import Dataset
from transformers import PreTrainedModel

from .processing import Columns, UniMPProcessor
from .processing.contact_sheet import contact_sheet, sheet_rows
from .processing.image_pipeline_unimp import UniMPImagePipeline
from .processing.imagine_pipeline_unimp import IMAGINE_FOLDER
from .processing.splits import Split
from .report import say
from .training.imagine import CHECKPOINT, ImagineTrainer, ImagineTrainingConfig, build_tiny_pipeline
from .training.imagine_data import ImaginePairs
from .training.mixture import read_sequence

SHEET = "imagine.png"
# The first two people ask for what they did ask for last, then two at a time for the same: what differs is the person.
SHEET_REQUESTS = (None, "dress", "bag", "blue t-shirt")
SHEET_PEOPLE = 2 * len(SHEET_REQUESTS)


def training_config(output_dir: Path, seed: int) -> ImagineTrainingConfig:
    """How the quickstart learns to draw: a few minutes on two cores."""
    return ImagineTrainingConfig(str(output_dir / IMAGINE_FOLDER), seed=seed)


def is_interrupted(output_dir: Path) -> bool:
    """Whether learning to draw was interrupted there."""
    return (output_dir / IMAGINE_FOLDER / CHECKPOINT).is_file()


def learn_to_draw(
    model: PreTrainedModel, processor: UniMPProcessor, split: Split, output_dir: Path, seed: int = 0
) -> UniMPImagePipeline | None:
    """
    Train the small denoiser for a trained recommender, save it in `output_dir/imagine`, and write the contact sheet
    of held-out people, `output_dir/imagine.png`. An interrupted run goes on.

    Returns:
        [`UniMPImagePipeline`], or `None` when interrupted.
    """
    say("\nLearning to draw what was asked, in the taste of who asked ...")
    pipe = build_tiny_pipeline(model, processor, seed=seed)
    trainer = ImagineTrainer(pipe, training_config(output_dir, seed), ImaginePairs(split.train, processor.catalog))
    if not trainer.train(resume=is_interrupted(output_dir)):
        return None
    pipe.set_progress_bar_config(disable=True)
    draw_contact_sheet(pipe, split, output_dir / SHEET)
    say(f"What it draws for {SHEET_PEOPLE} people it was not trained on: {output_dir / SHEET}")
    return pipe


def draw_contact_sheet(pipe: UniMPImagePipeline, split: Split, path: Path) -> None:
    """The contact sheet of held-out people, drawn by the defaults."""
    contact_sheet(sheet_rows(pipe, sheet_requests(split.test)), path)


def sheet_requests(sequences: Dataset) -> list[dict]:
    """Requests of people with a history, the first ones, as `SHEET_REQUESTS` says."""
    events = ([past, last] for *past, last in map(read_sequence, sequences) if past)
    return [
        {"history": past, "query": last.get(Columns.QUERY) if query is None else query}
        for query in SHEET_REQUESTS
        for past, last in islice(events, 2)
    ]
