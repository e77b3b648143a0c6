"""`unimp quickstart`: the whole job on the built-in demo store."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from transformers import PreTrainedModel, TrainerCallback
from transformers.trainer_utils import get_last_checkpoint

from .processing import UniMPProcessor
from .processing.demo_store import DATA_CARD, build_demo_store, draw_sheet
from .processing.pipelines_unimp import UniMPRecommendPipeline
from .processing.splits import Split, make_split
from .processing.store import make_store
from .report import print_metrics, print_recommendations, say
from .training.evaluation import held_out_samples
from .training.recipe import ModelArguments, load
from .training.run import run
from .training.trainer import NEW_LEARNING_RATE, UniMPTrainingConfig


def model_arguments() -> ModelArguments:
    """The model of the quickstart: a tiny one, with one gated cross-attention block, to see what it looks at."""
    # Codes start at random as they did when its figures in benchmarks/README.md were measured.
    return ModelArguments(cross_attention_every=3, full_chunks=2, item_start="random")


def training_config(output_dir: Path, seed: int) -> UniMPTrainingConfig:
    """How the quickstart trains: a few minutes on two cores."""
    return UniMPTrainingConfig(
        output_dir=str(output_dir),
        seed=seed,
        task_rates={"recommend": 1.5, "search": 1.7, "rate": 0.4, "explain": 1.0, "select": 0.5},
        role_weights={},  # the default was not measured here
        learning_rate=NEW_LEARNING_RATE,
        logging_steps=0.1,
        save_strategy="no",
    )


def quickstart(
    output_dir: Path,
    seed: int = 0,
    resume: bool = False,
    imagine: bool = False,
    callbacks: Sequence[TrainerCallback] = (),
) -> int:
    """
    Build the demo store, train, evaluate, recommend, save, and with `imagine` learn to draw; returns the exit status.
    `callbacks` are told how the recommender's training goes.
    """
    say("Opening the demo store ...")
    items, interactions = build_demo_store(seed=seed)
    output_dir.mkdir(parents=True, exist_ok=True)
    draw_sheet(items, output_dir / "store.png")
    store = replace(make_store(items, interactions), card=DATA_CARD)
    split = make_split(store, "user_holdout")
    if imagine and resume and _is_trained(output_dir):
        return _imagine(*load(str(output_dir)), split, output_dir, seed)
    result = run(store, split, model_arguments(), training_config(output_dir, seed), resume, callbacks)
    if result is None:
        return 130
    print_metrics(result)
    person = held_out_samples(split.test, "recommend", result.processor.catalog.item_ids)[0]
    recommend = UniMPRecommendPipeline(model=result.model, processor=result.processor)
    catalog = result.processor.catalog
    history = [catalog.item(catalog.position(event["item_id"])) for event in person["history"]]
    print_recommendations(history, recommend({"history": person["history"]}, top_k=5))
    say(f"\nThe shop's items are drawn in {output_dir / 'store.png'}. To use the model anywhere:\n")
    say("    from transformers import pipeline")
    say(f'    recommend = pipeline("unimp-recommend", model="{output_dir.resolve()}", trust_remote_code=True)')
    examples = ", ".join(f'"{item["item_id"]}"' for item in history[:2])
    say(f'    recommend({{"history": [{examples}]}}, top_k=5)\n')
    return _imagine(result.model, result.processor, split, output_dir, seed) if imagine else 0


def _is_trained(output_dir: Path) -> bool:
    """Whether the recommender there is finished: there is nothing of it to go on with, or drawing had begun."""
    from .imagine import is_interrupted

    finished = (output_dir / "metrics.json").is_file() and get_last_checkpoint(str(output_dir)) is None
    return finished or is_interrupted(output_dir)


def _imagine(model: PreTrainedModel, processor: UniMPProcessor, split: Split, output_dir: Path, seed: int) -> int:
    from .imagine import learn_to_draw

    return 130 if learn_to_draw(model, processor, split, output_dir, seed) is None else 0
