"""The model card that every checkpoint carries."""

from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from transformers import PreTrainedModel

METRIC_NAMES = {"hr": "Hit rate", "ndcg": "NDCG", "mrr": "MRR", "rmse": "RMSE", "mae": "MAE", "f1": "F1"}


def write_model_card(
    folder: Path,
    model: PreTrainedModel,
    args: Any,
    metrics: dict[str, dict[str, float]],
    split: str = "held-out events",
) -> None:
    """
    Write `README.md`.

    Args:
        folder (`Path`): where.
        model: its sizes are stated.
        args ([`UniMPTrainingConfig`]): its settings are stated.
        metrics (`dict[str, dict[str, float]]`): by task and metric; may be empty.
        split (`str`): what they were measured on, see [`describe_split`].
    """
    name = folder.absolute().name
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="image-text-to-text",
        tags=["unimp", "recommendation", "personalization", "multimodal"],
        model_name=name,
        eval_results=_results(metrics, split) or None,
    )
    folder.mkdir(parents=True, exist_ok=True)
    ModelCard(f"---\n{data.to_yaml()}\n---\n\n{_text(name, model, args, metrics, split)}").save(folder / "README.md")


def _results(metrics: dict[str, dict[str, float]], split: str) -> list[EvalResult]:
    return [
        EvalResult(
            task_type=f"unimp-{task}",
            dataset_type="custom",
            dataset_name=split,
            metric_type=name,
            metric_name=METRIC_NAMES.get(name.partition("@")[0], name),
            metric_value=round(value, 4),
        )
        for task, values in metrics.items()
        for name, value in values.items()
    ]


def _text(name: str, model: PreTrainedModel, args: Any, metrics: dict[str, dict[str, float]], split: str) -> str:
    parameters = sum(parameter.numel() for parameter in model.parameters())
    config = model.config
    rows = [
        f"| {task} | {metric} | {value:.4f} |" for task, values in metrics.items() for metric, value in values.items()
    ]
    table = "\n".join([f"On {split}.\n", "| task | metric | value |", "|---|---|---|", *rows])
    table = table if rows else "Not evaluated yet."
    return f"""# {name}

A UniMP model: it reads what a person has chosen so far, each item with its picture and attributes, and recommends,
searches, rates, explains and selects. {parameters:,} parameters, {config.num_items:,} items,
a {config.text_config.model_type} decoder and a {config.vision_config.model_type} vision encoder.

```python
from transformers import pipeline

recommend = pipeline("unimp-recommend", model="{name}", trust_remote_code=True)
recommend({{"history": ["ITEM_ID", "ITEM_ID"]}}, top_k=5)
```

## Metrics

{table}

## Training

Tasks {", ".join(args.task_rates)}; {args.num_passes} passes, learning rate {args.learning_rate:g}, focal gamma
{args.focal_gamma:g}, what trained: `{args.train_policy}`, seed {args.seed}.

## Limits

It knows only the people and items of its training data and repeats their preferences and biases. Explanations are
generated text: they can be wrong.
"""
