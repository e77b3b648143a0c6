"""What every model card says: what the model is, how to use it, its limits, what to cite."""

from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData
from transformers import PreTrainedModel

# Of the card that transformers writes where a repository has none: blanks to fill in.
NOTHING_SAID = "[More Information Needed]"

REQUESTS = {
    "recommend": ("`history`", "the next items, best first: `[{item_id, score, item}]`"),
    "search": ("`history`, `query`", "items that fit the words and the person, as above"),
    "rate": ("`history`, `item`", "`{rating}`"),
    "explain": ("`history`, `item`", "`{rating, explanation}`"),
    "select": ("`history`, `candidates`", "those that the person would choose"),
}

USAGE = """## How to use it

```python
from transformers import pipeline

recommend = pipeline("unimp-recommend", model="{name}", trust_remote_code=True)
item_ids = recommend.processor.catalog.item_ids
recommend({{"history": item_ids[:2]}}, top_k=5)
```

It needs `transformers` 5.23 or newer, `torch`, `pillow` and `pyarrow`, and no package of its own: the code is in this
repository, the files `*_unimp.py`. `trust_remote_code=True` runs it; pin the `revision` that you have read. A history
entry is an item id, a dictionary of what happened (`{{"item_id": ..., "rating": 4}}`), or an item that the catalogue
has never seen (`{{"title": ..., "image": "photo.jpg"}}`).

{requests}

Or the parts, with a score (log-probability) of every item of the catalogue:

```python
from transformers import AutoModel, AutoProcessor

model = AutoModel.from_pretrained("{name}", trust_remote_code=True)
processor = AutoProcessor.from_pretrained("{name}", trust_remote_code=True)
scores = model.score_items(**processor([{{"history": processor.catalog.item_ids[:2]}}]))
```
"""

LIMITS = """## Limits and bias

- It knows the people and items of its training data, and repeats what they preferred: what was popular there comes up
  more often, and groups that chose little there are served worse. Measure it on your own people before you rely on it.
- What it has learned of an item comes from what people did. Where few people chose an item, that may tell of them.
- A new item is known by its picture and attributes alone, and ranked worse than one that people have chosen.
- Explanations are generated text and can be wrong; a rating is an estimate. Both are in the languages of the data.
- The vision encoder's and the decoder's own biases remain. It is made to order a catalogue for someone, and not for
  decisions about people.
"""

CITATION = """## Citation

The architecture follows UniMP:

```bibtex
@inproceedings{wei2024unimp,
  title     = {Towards Unified Multi-Modal Personalization: Large Vision-Language Models for Generative Recommendation
               and Beyond},
  author    = {Wei, Tianxin and others},
  booktitle = {International Conference on Learning Representations},
  year      = {2024}
}
```
"""


def model_card(model: PreTrainedModel, name: str, sections: str = "", **data: Any) -> ModelCard:
    """
    A model card, to be saved as `README.md`.

    Args:
        model ([`UniMPForConditionalGeneration`]): of which it tells.
        name (`str`): folder or Hub id that the examples load.
        sections (`str`): what stands between how to use it and its limits: data, metrics, training.
        data: entries of the front matter, see [`~huggingface_hub.ModelCardData`].
    """
    metadata = ModelCardData(
        library_name="transformers",
        pipeline_tag="image-text-to-text",
        tags=["unimp", "recommendation", "personalization", "multimodal"],
        base_model=_backbones(model) or None,
        **data,
    )
    front, usage = f"---\n{metadata.to_yaml()}\n---\n", USAGE.format(name=name, requests=_requests(model))
    parts = [front, _about(model, name), usage, sections.strip() + "\n", LIMITS, CITATION]
    return ModelCard("\n".join(part for part in parts if part.strip()))


def complete_card(path: Path, model: PreTrainedModel, repo_id: str) -> None:
    """Replace the card that transformers writes where a repository has none: it says nothing."""
    if path.is_file() and NOTHING_SAID in path.read_text(encoding="utf-8"):
        model_card(model, repo_id).save(path)


def _about(model: PreTrainedModel, name: str) -> str:
    config = model.config
    parameters = sum(parameter.numel() for parameter in model.parameters())
    tasks = ", ".join(task for task in _tasks(model) if task in REQUESTS)
    if config.cross_attention_every:
        how = "reach a language model through the items' codes and gated cross-attention"
    elif config.visual_prompt_tokens:
        how = "are tokens that a language model reads"
    else:
        how = "are known to a language model through the items' codes"
    return f"""# {name}

A UniMP model: it reads what a person has chosen so far, each item a picture with any attributes, and answers for that
person: {tasks}.

Pictures {how}, items are tokens of their own, and an item that it names
is always one of the catalogue, which travels with the weights. {parameters:,} parameters, {config.num_items:,} items,
a {config.text_config.model_type} decoder and a {config.vision_config.model_type} vision encoder.
"""


def _tasks(model: PreTrainedModel) -> list[str]:
    """Names of the pipelines that the checkpoint brings, without what they have in common."""
    return [pipeline.removeprefix("unimp-") for pipeline in model.config.custom_pipelines]


def _requests(model: PreTrainedModel) -> str:
    rows = [f"| `unimp-{task}` | {' | '.join(REQUESTS[task])} |" for task in _tasks(model) if task in REQUESTS]
    return "\n".join(["| pipeline | request | answer |", "|---|---|---|", *rows])


def _backbones(model: PreTrainedModel) -> list[str]:
    """Hub ids of the pretrained parts, where it was made of some."""
    names = (part._name_or_path for part in (model.config.vision_config, model.config.text_config))
    return [name for name in names if name.count("/") == 1 and not name.startswith((".", "/"))]
