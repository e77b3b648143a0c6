"""Processor of UniMP: histories and requests to tensors, answers back to items and text."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import BatchFeature, PreTrainedModel, ProcessorMixin
from transformers.utils import cached_file, logging

from .catalog_unimp import Catalog, flatten_value
from .chunks_unimp import END_OF_CHUNK, FIRST_KIND, ITEM, ITEM_ROLE, NO_BEHAVIOR, NO_ROLE, ChunkFormat, Event, Tokens
from .columns_unimp import Columns
from .images_unimp import load_image
from .pipelines_unimp import UniMPPipeline  # so that the pipelines travel with a checkpoint
from .tasks_unimp import Task, get_task, read_answer


logger = logging.get_logger(__name__)

CATALOG_FILE = "catalog.parquet"
HISTORY = "history"
ITEM_KEY = "item"
CANDIDATES = "candidates"
ANSWER_KEY = "answer"
INSTRUCTION = "instruction"

EVENT_KEYS = (Columns.TIMESTAMP, Columns.RATING, Columns.EXPLANATION, Columns.QUERY, Columns.BEHAVIOR)


class _Batch:
    """The distinct pictures and never-seen items of one batch."""

    def __init__(self) -> None:
        self.images: list[Image.Image | int] = []  # a picture, or the code of the catalogue item it belongs to
        self.new_items: list[tuple[list[int], int | None]] = []
        self._numbers: dict[int, int] = {}

    def catalog_image(self, position: int) -> int:
        if position not in self._numbers:
            self._numbers[position] = len(self.images)
            self.images.append(position)
        return self._numbers[position]

    def new_image(self, image: Image.Image) -> int:
        self.images.append(image)
        return len(self.images) - 1

    def new_item(self, text_ids: list[int], image: int | None) -> int:
        self.new_items.append((text_ids, image))
        return len(self.new_items) - 1


class UniMPProcessor(ProcessorMixin):
    r"""
    Turns requests into the keyword arguments of [`UniMPForConditionalGeneration.forward`], and its answers back.

    A request (sample) is a dictionary: `history`, a list of item ids of the catalogue or dictionaries; an entry's
    dictionary has an `item_id` and what is known of the event (`rating`, `explanation`, `behavior`, `timestamp`), or
    describes an item the catalogue does not have (`{"image": ..., "title": ..., any attribute: ...}`). Beside it
    `query` (search), `item` (rate, explain: an entry) or `candidates` (select: item ids), and optionally `instruction`.

    Args:
        image_processor: of the vision encoder.
        tokenizer: of the decoder.
        text_vocab_size (`int`): `config.text_config.vocab_size` of the model.
        order (`"code_first"` or `"code_last"`, defaults to `"code_first"`): see [`ChunkFormat`].
        full_chunks (`int`, *optional*, defaults to 5): most recent history items shown with picture and attributes,
            the older ones as their code alone; `None` for all.
        max_length (`int`, defaults to 1024): tokens of a prompt. Of a longer history the oldest chunks are left out.
        rating_range, behavior_kinds, max_words, item_text_length: see [`ChunkFormat`].
    """

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        text_vocab_size: int | None = None,
        order: str = "code_first",
        full_chunks: int | None = 5,
        max_length: int = 1024,
        rating_range: Sequence[float] = (1.0, 5.0),
        behavior_kinds: Sequence[str] = (),
        max_words: int = 20,
        item_text_length: int = 64,
    ) -> None:
        super().__init__(image_processor, tokenizer)
        if tokenizer.eos_token_id is None:
            raise ValueError("`tokenizer` needs an end-of-sequence token: set `tokenizer.eos_token`.")
        self.text_vocab_size = len(tokenizer) if text_vocab_size is None else text_vocab_size
        self.order = order
        self.full_chunks = full_chunks
        self.max_length = max_length
        self.rating_range = list(rating_range)
        self.behavior_kinds = list(behavior_kinds)
        self.max_words = max_words
        self.item_text_length = item_text_length
        self.catalog: Catalog | None = None
        self._item_text: dict[int, list[int]] = {}

    @property
    def format(self) -> ChunkFormat:
        """How events are written; the settings above decide."""
        return ChunkFormat(
            self.tokenizer,
            self.text_vocab_size,
            self.order,
            self.rating_range,
            self.behavior_kinds,
            self.max_words,
            self.item_text_length,
        )

    # Saving and loading

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> list[str]:
        """Write the processor and its catalogue."""
        files = super().save_pretrained(save_directory, **kwargs)
        if self.catalog is not None:
            self.catalog.save(Path(save_directory, CATALOG_FILE))
        return files

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **kwargs: Any) -> "UniMPProcessor":
        """Read the processor and its catalogue, from a folder or the Hub."""
        processor = super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        names = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")
        hub_kwargs = {name: kwargs[name] for name in names if name in kwargs}
        path = cached_file(
            pretrained_model_name_or_path, CATALOG_FILE, _raise_exceptions_for_missing_entries=False, **hub_kwargs
        )
        if path is not None:
            processor.catalog = Catalog.load(path)
        return processor

    # Catalogue

    def item_text_ids(self, position: int) -> list[int]:
        """Token ids of a catalogue item's attributes, remembered."""
        if position not in self._item_text:
            self._item_text[position] = self.format.item_text(self.catalog.attributes(position))
        return self._item_text[position]

    def index_catalog(self, model: PreTrainedModel, features: torch.Tensor | None = None, batch_size: int = 64) -> None:
        """
        Give `model` a code row for every catalogue item that it does not have one for.

        Args:
            model ([`UniMPForConditionalGeneration`]): the model.
            features (`torch.Tensor` of shape `(new items, config.item_feature_size)`, *optional*): embeddings of these
                items by any encoder.
            batch_size (`int`): pictures encoded at once.
        """
        positions = range(model.config.num_items, len(self.catalog))
        if not positions:
            return
        text_ids = torch.full((len(positions), self.item_text_length), -1)
        for row, position in zip(text_ids, positions, strict=True):
            ids = self.item_text_ids(position)
            row[: len(ids)] = torch.tensor(ids, dtype=torch.long)
        embeddings = torch.zeros(len(positions), model.config.vision_hidden_size)
        for start, pooled in self._encode_pictures(model, positions, batch_size, lambda states: states.mean(1)):
            embeddings[torch.tensor(start) - positions.start] = pooled
        model.add_items(text_ids.to(model.device), embeddings, features)

    def encode_pictures(self, model: PreTrainedModel, batch_size: int = 64) -> torch.Tensor:
        """
        The vision encoder's features of the whole catalogue, `[items, positions, vision_hidden_size]`, zeros where an
        item has no picture. The encoder is frozen: what it says of a picture now, it will say in every step to come.
        """
        features = None
        for batch, states in self._encode_pictures(model, range(len(self.catalog)), batch_size, lambda states: states):
            if features is None:
                features = states.new_zeros(len(self.catalog), *states.shape[1:])
            features[torch.tensor(batch)] = states
        return torch.zeros(len(self.catalog), 1, model.config.vision_hidden_size) if features is None else features

    def _encode_pictures(self, model: Any, positions: Iterable[int], batch_size: int, read: Any) -> Iterable[tuple]:
        pictured = [position for position in positions if self.catalog.has_image(position)]
        starts = range(0, len(pictured), batch_size)
        for start in logging.tqdm(starts, desc="Encoding pictures", disable=len(pictured) <= 500):
            batch = pictured[start : start + batch_size]
            pixel_values = self._pixel_values([self.catalog.image(position) for position in batch])
            yield batch, read(model.get_image_features(pixel_values.to(model.device))).float().cpu()

    # Requests to tensors

    def __call__(
        self,
        samples: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        task: str | Sequence[str] = "recommend",
        training: bool = False,
        catalog_features: torch.Tensor | None = None,
    ) -> BatchFeature:
        """
        Args:
            samples: one request or several, see the class.
            task (`str` or a sequence of them, one a sample): the request.
            training (`bool`): write the samples' `answer` too (recommend, search: an item id; select: a list of them;
                rate, explain: the rating and explanation of `item` itself), and return `labels` and `roles`.
            catalog_features (`torch.Tensor`, *optional*): [`~UniMPProcessor.encode_pictures`] of the catalogue; the
                batch then has `image_features` instead of `pixel_values`.

        Returns:
            `BatchFeature`: left-padded `input_ids`, `attention_mask` (`[batch, tokens]`), `behavior_ids`
            (`[batch, tokens, 3]`), the distinct pictures and `image_index` (`[batch, images]`) where there are any, and
            never-seen items where there are any.
        """
        samples = [samples] if isinstance(samples, Mapping) else list(samples)
        if not samples:
            raise ValueError("`samples` must not be empty.")
        tasks = [task] * len(samples) if isinstance(task, str) else list(task)
        batch, chunk_format = _Batch(), self.format
        rows = [
            self._encode(sample, get_task(name), training, batch, chunk_format)
            for sample, name in zip(samples, tasks, strict=True)
        ]
        return BatchFeature(
            self._pad(rows, training) | self._picture_tensors(rows, batch, catalog_features) | self._new_items(batch)
        )

    def _encode(
        self, sample: Mapping[str, Any], task: Task, training: bool, batch: _Batch, chunk_format: ChunkFormat
    ) -> Tokens:
        _check_sample(sample, task)
        instruction = sample.get(INSTRUCTION) or task.instructions[0]
        prompt = Tokens().add(chunk_format.text(instruction)).add(chunk_format.marker(END_OF_CHUNK))
        ending = self._ending(sample, task, training, batch, chunk_format)
        room = self.max_length - len(prompt) - len(ending)
        if room < 0:
            raise ValueError(
                f"`max_length` is {self.max_length} tokens, but the request alone takes {len(prompt) + len(ending)}: "
                "raise `max_length`, or shorten `item_text_length` or the number of candidates."
            )
        history = self._events(sample[HISTORY], batch, chunk_format)
        history = history[-task.max_history :] if task.max_history else history
        labelled = training and task.reconstructs
        chunks: list[Tokens] = []
        for age, event in enumerate(reversed(history)):
            full = task.full_history or self.full_chunks is None or age < self.full_chunks
            is_new = event.code >= len(self.catalog)  # has no code to predict
            chunk = chunk_format.chunk(event, task, full=full, labelled=labelled and not (is_new and not task.shows))
            if len(chunk) > room:
                break  # this chunk and everything older is left out; never half a chunk
            room -= len(chunk)
            chunks.append(chunk)
        for chunk in reversed(chunks):
            prompt.extend(chunk)
        return prompt.extend(ending)

    def _ending(
        self, sample: Mapping[str, Any], task: Task, training: bool, batch: _Batch, chunk_format: ChunkFormat
    ) -> Tokens:
        """What follows the history: what is asked, and in training the answer."""
        if task.answer == "text":
            event = self._events([sample[ITEM_KEY]], batch, chunk_format)[0]
            return chunk_format.chunk(event, task, full=True, labelled=training, ask=not training)
        ending = Tokens()
        if task.asks == Columns.QUERY:
            ending.add(chunk_format.text(f"query: {flatten_value(sample[Columns.QUERY], self.max_words)}"))
        elif task.asks == CANDIDATES:
            ending.add(chunk_format.text("candidates:"))
            for event in self._events(sample[CANDIDATES], batch, chunk_format):
                ending.extend(chunk_format.chunk(event, task, full=True, labelled=False))
        if task.asks or self.order == "code_last":
            ending.add(chunk_format.marker(ITEM))
        if training:
            answer = sample[ANSWER_KEY]
            for item_id in [answer] if isinstance(answer, str) else answer:
                ending.add(chunk_format.code(self._position(item_id)), ITEM_ROLE)
            if task.asks == CANDIDATES:
                ending.add(chunk_format.marker(END_OF_CHUNK), ITEM_ROLE)
        return ending

    def _position(self, item_id: Any) -> int:
        if not isinstance(item_id, str) or item_id not in self.catalog:
            raise ValueError(
                f"`item_id` must be one of the catalogue's {len(self.catalog)} item ids (`processor.catalog.item_ids`), "
                f"got {item_id!r}. Describe an item that is not in it as a dictionary of its attributes and `image`."
            )
        return self.catalog.position(item_id)

    def _events(self, entries: Any, batch: _Batch, chunk_format: ChunkFormat) -> list[Event]:
        if isinstance(entries, str | Mapping) or not isinstance(entries, Iterable):
            raise ValueError(f"`{HISTORY}` and `{CANDIDATES}` must be lists of items, got {entries!r:.80}.")
        events, before = [], None
        for entry in entries:
            entry = {Columns.ITEM_ID: entry} if not isinstance(entry, Mapping) else entry
            time = entry.get(Columns.TIMESTAMP)
            gap = None if time is None or before is None else float(time) - float(before)
            before = time if time is not None else before
            events.append(self._event(entry, gap, batch, chunk_format))
        return events

    def _event(self, entry: Mapping[str, Any], gap: float | None, batch: _Batch, chunk_format: ChunkFormat) -> Event:
        item_id = entry.get(Columns.ITEM_ID)
        attributes = {
            key: value for key, value in entry.items() if key not in (Columns.ITEM_ID, Columns.IMAGE, *EVENT_KEYS)
        }
        known = isinstance(item_id, str) and item_id in self.catalog
        if known or not (attributes or entry.get(Columns.IMAGE) is not None):
            code = self._position(item_id)
            text_ids = self.item_text_ids(code)
            image = batch.catalog_image(code) if self.catalog.has_image(code) else None
        else:
            source = entry.get(Columns.IMAGE)
            image = None if source is None else batch.new_image(load_image(source))
            text_ids = chunk_format.item_text(attributes)
            code = len(self.catalog) + batch.new_item(text_ids, image)
        return Event(code, text_ids, image, gap=gap, **self._what_happened(entry, chunk_format))

    def _what_happened(self, entry: Mapping[str, Any], chunk_format: ChunkFormat) -> dict[str, Any]:
        rating = entry.get(Columns.RATING)
        if rating is not None:
            if not isinstance(rating, int | float) or not (math.isnan(rating) or chunk_format.valid_rating(rating)):
                raise ValueError(f"`rating` must be a number within {self.rating_range} or missing, got {rating!r}.")
            rating = None if math.isnan(rating) else float(rating)
        behavior = entry.get(Columns.BEHAVIOR)
        if behavior is not None and behavior not in self.behavior_kinds:
            raise ValueError(f"`behavior` must be one of {self.behavior_kinds} or missing, got {behavior!r}.")
        explanation = flatten_value(entry.get(Columns.EXPLANATION), self.max_words) or None
        return {"rating": rating, "explanation": explanation, "behavior": behavior}

    # Tensors

    def _pad(self, rows: list[Tokens], training: bool) -> dict[str, torch.Tensor]:
        length = max(map(len, rows))
        # Left: the next token of every row is then the last column's.
        pads = [length - len(row) for row in rows]
        pad_id = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else self.tokenizer.eos_token_id

        def padded(name: str, value: Any) -> torch.Tensor:
            return torch.tensor([[value] * pad + getattr(row, name) for pad, row in zip(pads, rows, strict=True)])

        tensors = {"input_ids": padded("ids", pad_id), "behavior_ids": padded("behaviors", NO_BEHAVIOR)}
        tensors["attention_mask"] = (torch.arange(length) >= torch.tensor(pads)[:, None]).long()
        if training:
            tensors["roles"] = padded("roles", NO_ROLE)
            tensors["labels"] = tensors["input_ids"].masked_fill(tensors["roles"] == NO_ROLE, -100)
        return tensors

    def _picture_tensors(
        self, rows: list[Tokens], batch: _Batch, catalog_features: torch.Tensor | None
    ) -> dict[str, torch.Tensor]:
        if not batch.images:
            return {}
        most = max(1, *(len(row.images) for row in rows))
        index = torch.tensor([row.images + [-1] * (most - len(row.images)) for row in rows])
        if catalog_features is not None:
            return {"image_features": catalog_features[torch.tensor(batch.images)], "image_index": index}
        pictures = [self.catalog.image(image) if isinstance(image, int) else image for image in batch.images]
        return {"pixel_values": self._pixel_values(pictures), "image_index": index}

    def _pixel_values(self, pictures: list[Image.Image]) -> torch.Tensor:
        return self.image_processor(images=pictures, return_tensors="pt")["pixel_values"]

    def _new_items(self, batch: _Batch) -> dict[str, torch.Tensor]:
        if not batch.new_items:
            return {}
        text_ids = torch.full((len(batch.new_items), self.item_text_length), -1)
        for row, (ids, _) in zip(text_ids, batch.new_items, strict=True):
            row[: len(ids)] = torch.tensor(ids, dtype=torch.long)
        images = torch.tensor([-1 if image is None else image for _, image in batch.new_items])
        return {"new_item_text_ids": text_ids, "new_item_image_index": images}

    # Answers back

    def item_ids_of(self, token_ids: Iterable[int]) -> list[str]:
        """Item ids of the item codes among `token_ids`."""
        codes = (int(token) - self.format.first_item_id for token in token_ids)
        return [self.catalog.item_ids[code] for code in codes if 0 <= code < len(self.catalog)]

    def read_answer(self, token_ids: Iterable[int]) -> tuple[float | None, str | None]:
        """Rating and explanation of a text answer; `None` for a part that is not there or makes no sense."""
        text_ids = [int(token) for token in token_ids if int(token) < self.text_vocab_size]
        text = self.tokenizer.decode(text_ids, skip_special_tokens=True)
        return read_answer(text, self.format.valid_rating)

    @property
    def num_behaviors(self) -> int:
        """Rows that the model's behaviour table needs."""
        return FIRST_KIND + len(self.behavior_kinds)


def _check_sample(sample: Any, task: Task) -> None:
    if not isinstance(sample, Mapping):
        raise ValueError(f"A sample must be a dictionary with `{HISTORY}`, got {type(sample).__name__}.")
    allowed = [HISTORY, INSTRUCTION, ANSWER_KEY, *([task.asks] if task.asks else [])]
    if unknown := set(sample) - set(allowed):
        raise ValueError(f"`{sorted(unknown)[0]}` is not part of a {task.name} request: it may have {allowed}.")
    for key in (HISTORY, task.asks):
        if key and (key not in sample or sample[key] is None):
            raise ValueError(f"A {task.name} request needs `{key}`, got only {sorted(sample)}.")
    if task.asks == Columns.QUERY and not flatten_value(sample[Columns.QUERY]):
        raise ValueError(f"`{Columns.QUERY}` must not be empty: say what to search for, or use recommend.")
    if task.asks == CANDIDATES and not sample[CANDIDATES]:
        raise ValueError(f"`{CANDIDATES}` must not be empty.")


UniMPProcessor.register_for_auto_class("AutoProcessor")
