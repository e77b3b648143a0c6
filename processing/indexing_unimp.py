"""From a catalogue to what a model keeps of it: the items' codes and content."""

from collections.abc import Callable, Sequence
from math import prod

import torch
from transformers import PreTrainedModel

from .catalog_unimp import fingerprint
from .picture_store_unimp import NoPictures, PictureStore
from .pictures_unimp import PicturesMixin
from .tasks_unimp import check_prompt_length


def most_items(code_sizes: Sequence[int] | None) -> int | None:
    """How many items semantic codes of these sizes tell apart; `None` for atomic codes, of which there is no end."""
    return None if code_sizes is None else prod(code_sizes)


def check_room(code_sizes: Sequence[int] | None, num_items: int) -> None:
    """Raises `ValueError` where semantic codes of these sizes cannot tell so many items apart."""
    if code_sizes is not None and num_items > most_items(code_sizes):
        raise ValueError(
            f"`code_sizes` {list(code_sizes)} make {most_items(code_sizes)} codes, too few for {num_items} items: "
            f"make a model with larger ones, whose product is at least {num_items}."
        )


class IndexingMixin(PicturesMixin):
    """Indexing of [`UniMPProcessor`]."""

    def index_catalog(
        self,
        model: PreTrainedModel,
        codes: Sequence[int] | None = None,
        features: torch.Tensor | None = None,
        batch_size: int = 64,
        fit_codes: Callable[[torch.Tensor], torch.Tensor] | None = None,
        pictures: PictureStore | NoPictures | None = None,
    ) -> None:
        """
        Give `model` a code for every catalogue item that it does not have one for, and tell it what the items of
        `codes` have become. The catalogue keeps semantic codes too.

        Args:
            model ([`UniMPForConditionalGeneration`]): the model.
            codes (`Sequence[int]`, *optional*): positions of items that the model has but that were replaced since.
            features (`torch.Tensor` of shape `(items, config.item_feature_size)`, *optional*): embeddings of the
                replaced and then of the new items by any encoder.
            batch_size (`int`): pictures encoded at once.
            fit_codes (`Callable`, *optional*): makes the codebooks of semantic codes, once, of the model's first
                items: from what codes are made of, `[items, embedding size]`, to the centroids of all levels but the
                last, `[levels - 1, largest level, embedding size]`. Training has one that fits them.
            pictures ([`PictureStore`], *optional*): features that [`~UniMPProcessor.encode_pictures`] made: no picture
                is then encoded again.

        Raises:
            `ValueError`: the items that the model has are not the catalogue's first (`config.catalog_fingerprint`), or
                `codes` or `features` do not fit, or `fit_codes` is missing, or there are more items than the model's
                semantic codes tell apart. Nothing has then changed.
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
        sizes = model.config.code_sizes
        check_room(sizes, len(self.catalog))
        if sizes is not None and not num_items and fit_codes is None:
            raise ValueError("`fit_codes` is needed: `model` has no codebooks for its semantic codes yet.")
        if positions:
            embeddings = self.pooled_pictures(model, positions, pictures, batch_size)
            self._index(model, codes, positions, features, embeddings, None if num_items else fit_codes)
        model.config.catalog_fingerprint = self.catalog.fingerprint
        self.code_sizes = None if sizes is None else list(sizes)
        self.tokens_per_image = model.config.tokens_per_image
        self.catalog.most_items = most_items(sizes)
        self.catalog.set_codes(None if sizes is None else model.model.item_codes.codes.cpu().numpy())

    def check_model(self, model: PreTrainedModel) -> None:
        """Raises `ValueError` for a model that was not made for this processor: its answers would be nonsense."""
        config = model.config
        rows, items = config.num_items, len(self.catalog or ())
        if rows != items:
            raise ValueError(
                f"`model` has {rows} item codes, but the `processor`'s catalogue has {items} items: call "
                "`processor.index_catalog(model)` after adding items."
            )
        if not items:
            raise ValueError("`processor.catalog` is not set: an answer needs items, see `Catalog.from_items`.")
        if config.catalog_fingerprint not in (None, self.catalog.fingerprint):
            raise ValueError(
                f"`model` was made for another catalogue (`catalog_fingerprint` {config.catalog_fingerprint}) than "
                f"the `processor`'s ({self.catalog.fingerprint}), whose {items} item ids are others or in "
                "another order: load both from the same folder."
            )
        self._check_codes(model)
        if config.text_config.vocab_size != self.text_vocab_size:
            raise ValueError(
                f"`model` has a text vocabulary of {config.text_config.vocab_size} tokens, but the `processor` was "
                f"made for one of {self.text_vocab_size} (`text_vocab_size`): load both from the same folder."
            )
        if config.num_behaviors < self.num_behaviors:
            raise ValueError(
                f"`model` has {config.num_behaviors} behaviours (`num_behaviors`), but the `processor` writes "
                f"{self.num_behaviors}: load both from the same folder."
            )
        if config.item_text_length != self.item_text_length:
            raise ValueError(
                f"`model` knows items by {config.item_text_length} tokens of their text (`item_text_length`), but the "
                f"`processor` writes {self.item_text_length}: load both from the same folder."
            )
        if config.tokens_per_image != self.tokens_per_image:
            raise ValueError(
                f"`model` shows a picture as {config.tokens_per_image} tokens (`visual_prompt_tokens`), but the "
                f"`processor` writes {self.tokens_per_image}: load both from the same folder."
            )
        check_prompt_length(self.max_length, config.text_config)

    def _check_codes(self, model: PreTrainedModel) -> None:
        """Refuse semantic codes that are not the model's."""
        sizes, codes = model.config.code_sizes, self.catalog.codes
        if sizes != self.code_sizes:
            raise ValueError(
                f"`model` has item codes of sizes {sizes} (`code_sizes`), but the `processor` writes "
                f"{self.code_sizes}: load both from the same folder."
            )
        if sizes and (codes is None or (model.model.item_codes.codes.cpu().numpy() != codes).any()):
            raise ValueError(
                "`processor.catalog` has other codes than `model`, or none: call `processor.index_catalog(model)`, or "
                "load both from the same folder."
            )

    def _index(
        self,
        model: PreTrainedModel,
        codes: list[int],
        positions: list[int],
        features: torch.Tensor | None,
        embeddings: torch.Tensor,
        fit_codes: Callable[[torch.Tensor], torch.Tensor] | None,
    ) -> None:
        """What `positions` are: those of `codes` are replaced, the others added."""
        text_ids = torch.full((len(positions), self.item_text_length), -1)
        for code in codes:
            self._item_text.pop(code, None)
        for row, position in zip(text_ids, positions, strict=True):
            ids = self.item_text_ids(position)
            row[: len(ids)] = torch.tensor(ids, dtype=torch.long)
        text_ids = text_ids.to(model.device)
        split = len(codes)
        if codes:
            model.replace_items(
                codes, text_ids[:split], embeddings[:split], None if features is None else features[:split]
            )
        if len(positions) > split:
            added = text_ids[split:], embeddings[split:], None if features is None else features[split:]
            if model.config.code_sizes is not None and fit_codes is not None:
                model.make_codebooks(fit_codes, *added)
            model.add_items(*added)
