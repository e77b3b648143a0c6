"""Embeddings of items by a named text encoder, for their codes' content."""

from collections.abc import Sequence

import torch
from tqdm.auto import tqdm
from transformers import AutoModel, AutoTokenizer

from ..processing import Catalog
from ..processing.catalog_unimp import flatten_attributes


def item_features(encoder: str, catalog: Catalog, codes: Sequence[int]) -> torch.Tensor:
    """[`encode_texts`] of the attributes of the items of `codes`, `[items, hidden_size]`."""
    return encode_texts(encoder, [flatten_attributes(catalog.attributes(code)) for code in codes])


@torch.no_grad()
def encode_texts(encoder: str, texts: Sequence[str], batch_size: int = 64) -> torch.Tensor:
    """
    Mean of a text encoder's last hidden states, `[texts, hidden_size]`; zeros for an empty text or one of no tokens.

    Args:
        encoder (`str`): folder or Hub id.
        texts (`Sequence[str]`): cut to the encoder's length.
        batch_size (`int`): texts encoded at once.

    Raises:
        `ValueError`: its tokenizer has nothing to pad with.
    """
    tokenizer, model = AutoTokenizer.from_pretrained(encoder), AutoModel.from_pretrained(encoder).eval()
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token is None:
        raise ValueError(f"`item_encoder` {encoder!r} has neither a padding nor an end-of-sequence token: set one.")
    settings = {"truncation": True, "max_length": 256}
    rows = torch.zeros(len(texts), model.config.get_text_config().hidden_size)
    tokens = tokenizer(list(texts), **settings)["input_ids"] if len(texts) else []
    # Attention over nothing is not a number; and what an encoder adds to every text tells nothing of an empty one.
    positions = [position for position, ids in enumerate(tokens) if ids and texts[position]]
    for start in tqdm(range(0, len(positions), batch_size), "Encoding texts", leave=False):
        batch = positions[start : start + batch_size]
        inputs = tokenizer([texts[position] for position in batch], padding=True, return_tensors="pt", **settings)
        mask = inputs["attention_mask"][..., None]
        rows[batch] = (model(**inputs).last_hidden_state * mask).sum(1).float() / mask.sum(1).clamp(min=1)
    return rows
