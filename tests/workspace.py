"""A folder as a reader of the README has it: a shop, raw files of MovieLens, pictures, and the quickstart's result."""

import csv
from pathlib import Path

import torch
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    SiglipConfig,
    SiglipModel,
    ViTImageProcessorPil,
    set_seed,
)
from transformers.pipelines import PIPELINE_REGISTRY

from unimp import UniMPImagePipeline
from unimp.processing.demo_store import build_demo_store
from unimp.processing.store import make_store
from unimp.training.recipe import ModelArguments, build

from .processing.conftest import byte_tokenizer, draw_picture
from .processing.test_image_pipeline import make_preference, make_scheduler, make_unet

REPOSITORY = Path(__file__).parents[1]
TINY = {"hidden_size": 32, "num_layers": 1, "num_heads": 2, "vocab_size": 400, "image_size": 32, "num_latents": 2}
# What the README names, of the tiny shop.
NAMES = {"item-0003": "old-3", "item-0007": "sold-out-7", "user-0001": "alice"}
# Pretrained parts that the README and the examples name, and the tiny local ones that take their place.
BACKBONES = {
    "google/siglip-base-patch16-224": "backbones/vision",
    "HuggingFaceTB/SmolLM2-135M": "backbones/text",
}
_SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}


def with_local_backbones(code: str) -> str:
    """Code in which every Hub id of a pretrained part is that of a tiny local folder."""
    for hub_id, folder in BACKBONES.items():
        code = code.replace(f'"{hub_id}"', f'"{folder}"')
    return code


def hide_registered_pipelines(monkeypatch) -> None:
    """Whoever has only a model's folder has no task that this package registers."""
    tasks = PIPELINE_REGISTRY.supported_tasks
    for name in [name for name in tasks if name.startswith("unimp-")]:
        monkeypatch.delitem(tasks, name)


def make_workspace(folder: Path) -> Path:
    """All of it, of random weights; nothing is downloaded."""
    write_shop(folder / "store")
    write_movielens(folder / "ml-latest-small")
    write_backbones(folder / "backbones")
    for number, name in enumerate(("coat.jpg", "photo.jpg")):
        draw_picture(number, (64, 64)).save(folder / name)
    write_quickstart(folder / "outputs" / "quickstart")
    return folder


def write_shop(folder: Path) -> None:
    """The demo store as csv files and pictures, with a licence."""
    items, interactions = build_demo_store(num_items=40, num_users=8)
    people = {person: f"user-{number:04d}" for number, person in enumerate(dict.fromkeys(interactions["user_id"]), 1)}
    (folder / "images").mkdir(parents=True)
    rows = [{**item, "item_id": NAMES.get(item["item_id"], item["item_id"])} for item in items]
    for row in rows:
        if (picture := row.pop("image")) is not None:
            picture.save(folder / "images" / f"{row['item_id']}.jpg")
    events = [
        {
            **event,
            "item_id": NAMES.get(event["item_id"], event["item_id"]),
            "user_id": NAMES.get(people[event["user_id"]], people[event["user_id"]]),
        }
        for event in interactions
    ]
    _write_csv(folder / "items.csv", rows)
    _write_csv(folder / "interactions.csv", events)
    (folder / "README.md").write_text("---\nlicense: cc0-1.0\n---\n\n# A shop\n")


def write_movielens(folder: Path) -> None:
    """Ratings as MovieLens has them, enough for the loader's fewest events."""
    folder.mkdir()
    movies = [{"movieId": n, "title": f"Film number {n} (199{n % 10})", "genres": "Drama|War"} for n in range(24)]
    pairs = [(user, (user + step) % 24) for user in range(12) for step in range(14)]
    ratings = [
        {"userId": user, "movieId": movie, "rating": 1 + (user + movie) % 5, "timestamp": 978300760 + 60 * n}
        for n, (user, movie) in enumerate(pairs)
    ]
    _write_csv(folder / "movies.csv", movies)
    _write_csv(folder / "ratings.csv", ratings)


def write_backbones(folder: Path) -> None:
    """A picture encoder with a text tower beside it, and a decoder, as the Hub's are."""
    torch.manual_seed(0)
    towers = {
        "text_config": {**_SIZES, "vocab_size": 64},
        "vision_config": {**_SIZES, "image_size": 32, "patch_size": 16},
    }
    SiglipModel(SiglipConfig(**towers)).save_pretrained(folder / "vision")
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder / "vision")
    tokenizer = byte_tokenizer()
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    config = LlamaConfig(**_SIZES, vocab_size=len(tokenizer), num_key_value_heads=4, tie_word_embeddings=True, **ends)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder / "text")
    tokenizer.save_pretrained(folder / "text")


def write_quickstart(folder: Path) -> None:
    """What `unimp quickstart --imagine` leaves, of random weights."""
    set_seed(0)
    store = make_store(*build_demo_store(num_items=60, num_users=8))
    model, processor = build(store, ModelArguments(**TINY, full_chunks=2))
    model.eval().save_pretrained(folder)
    processor.save_pretrained(folder)
    parts = make_unet(12), make_scheduler(), make_preference(model)
    UniMPImagePipeline(model, processor, *parts).save_pretrained(folder / "imagine")


def _write_csv(path: Path, rows: list[dict]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
