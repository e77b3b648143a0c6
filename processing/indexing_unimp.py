"""From a catalogue to what a model keeps of it: code rows, and what the vision encoder sees in the pictures."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.utils import logging

from .catalog_unimp import fingerprint


class IndexingMixin:
    """Indexing of [`UniMPProcessor`]."""

    def index_catalog(
        self,
        model: PreTrainedModel,
        codes: Sequence[int] | None = None,
        features: torch.Tensor | None = None,
        batch_size: int = 64,
    ) -> None:
        """
        Give `model` a code row for every catalogue item that it does not have one for, and tell it what the items of
        `codes` have become.

        Args:
            model ([`UniMPForConditionalGeneration`]): the model.
            codes (`Sequence[int]`, *optional*): items that the model has but that were replaced since.
            features (`torch.Tensor` of shape `(items, config.item_feature_size)`, *optional*): embeddings of the
                replaced and then of the new items by any encoder.
            batch_size (`int`): pictures encoded at once.

        Raises:
            `ValueError`: the items that the model has are not the catalogue's first (`config.catalog_fingerprint`), or
                `codes` or `features` do not fit.
        """
        num_items, codes = model.config.num_items, list(codes or ())
        if num_items > len(self._require_catalog()):
            raise ValueError(
                f"`model` has {num_items} item codes, but the catalogue only {len(self.catalog)} items: "
                "it was made for another catalogue."
            )
        known = model.config.catalog_fingerprint
        if num_items and known not in (None, fingerprint(self.catalog.item_ids[:num_items])):
            raise ValueError(
                f"`model` was made for another catalogue (`catalog_fingerprint` {known}): the catalogue's first "
                f"{num_items} item ids are not those that its codes stand for, or in another order."
            )
        if unknown := [code for code in codes if not 0 <= code < num_items]:
            raise ValueError(f"`codes` must be items that `model` has ({num_items}), got {unknown[:3]}.")
        positions = [*codes, *range(num_items, len(self.catalog))]
        if features is not None and len(features) != len(positions):
            raise ValueError(f"`features` must have a row for each of {len(positions)} items, got {len(features)}.")
        if positions:
            self._index(model, codes, positions, features, batch_size)
        model.config.catalog_fingerprint = self.catalog.fingerprint

    def _index(
        self,
        model: PreTrainedModel,
        codes: list[int],
        positions: list[int],
        features: torch.Tensor | None,
        batch_size: int,
    ) -> None:
        """Rows of `positions`: those of `codes` are replaced, the others added."""
        text_ids = torch.full((len(positions), self.item_text_length), -1)
        for code in codes:
            self._item_text.pop(code, None)
        for row, position in zip(text_ids, positions, strict=True):
            ids = self.item_text_ids(position)
            row[: len(ids)] = torch.tensor(ids, dtype=torch.long)
        embeddings = torch.zeros(len(positions), model.config.vision_hidden_size)
        rows = {position: row for row, position in enumerate(positions)}
        for batch, pooled in self._encode_pictures(model, positions, batch_size, lambda states: states.mean(1)):
            embeddings[[rows[position] for position in batch]] = pooled
        text_ids = text_ids.to(model.device)
        split = len(codes)
        if codes:
            model.replace_items(
                codes, text_ids[:split], embeddings[:split], None if features is None else features[:split]
            )
        if len(positions) > split:
            model.add_items(text_ids[split:], embeddings[split:], None if features is None else features[split:])

    def encode_pictures(self, model: PreTrainedModel, batch_size: int = 64) -> torch.Tensor:
        """
        The vision encoder's features of the whole catalogue, `[items, positions, vision_hidden_size]`, zeros where an
        item has no picture. The encoder is frozen: what it says of a picture now, it will say in every step to come.
        A model without cross-attention never looks: all zeros, and no picture is opened.
        """
        if not model.config.cross_attention_every:
            return torch.zeros(1, 1, model.config.vision_hidden_size).expand(len(self._require_catalog()), -1, -1)
        features = None
        for batch, states in self._encode_pictures(
            model, range(len(self._require_catalog())), batch_size, lambda x: x
        ):
            if features is None:
                features = states.new_zeros(len(self.catalog), *states.shape[1:])
            features[torch.tensor(batch)] = states
        return torch.zeros(len(self.catalog), 1, model.config.vision_hidden_size) if features is None else features

    def _encode_pictures(self, model: Any, positions: Iterable[int], batch_size: int, read: Any) -> Iterable[tuple]:
        pictured = [position for position in positions if self.catalog.has_image(position)]
        starts = range(0, len(pictured), batch_size)
        for start in logging.tqdm(starts, desc="Encoding pictures", disable=len(pictured) <= 500):
            batch = pictured[start : start + batch_size]
            pixel_values = torch.cat([self._pixel_values(self.catalog.image(position)) for position in batch])
            yield batch, read(model.get_image_features(pixel_values.to(model.device))).float().cpu()
