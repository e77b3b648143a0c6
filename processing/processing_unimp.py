"""Processor of UniMP: histories and requests to tensors, answers back to items and text."""

import numbers
import shutil
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import BatchFeature, ProcessorMixin
from transformers.utils import cached_file, logging

from .catalog_unimp import AVAILABLE, KEPT, Catalog, flatten_value, image_source, is_missing, shown
from .chunks_unimp import (
    END_OF_CHUNK,
    FIRST_KIND,
    ITEM,
    ITEM_ROLE,
    NO_BEHAVIOR,
    NO_ROLE,
    QUERY_ANSWER_ROLE,
    ChunkFormat,
    Event,
    Tokens,
    check_periods,
    rating_scale,
)
from .columns_unimp import Columns
from .indexing_unimp import IndexingMixin, most_items
from .picture_store_unimp import PICTURE_FILES, NoPictures, PictureStore
from .pipelines_unimp import UniMPPipeline  # noqa: F401 - so that the pipelines travel with a checkpoint
from .requests_unimp import Batch, Entry, match_tasks, most_recent, seconds
from .scores_unimp import CHOICE_SIMILARITY, WORD_SIMILARITY, ItemScoresMixin, Remembered
from .tasks_unimp import (
    ANSWER_KEY,
    CANDIDATES,
    HISTORY,
    INSTRUCTION,
    ITEM_TO_RATE,
    Task,
    check_request,
    get_task,
    is_list,
    read_answer,
    write_answer,
)

logger = logging.get_logger(__name__)

CATALOG_FILE = "catalog.parquet"
EVENT_KEYS = (Columns.TIMESTAMP, Columns.RATING, Columns.EXPLANATION, Columns.QUERY, Columns.BEHAVIOR)
NO_ATTRIBUTES = (Columns.ITEM_ID, Columns.IMAGE, AVAILABLE, *KEPT, *EVENT_KEYS)


class UniMPProcessor(IndexingMixin, ItemScoresMixin, ProcessorMixin):
    r"""
    Turns requests into the keyword arguments of [`UniMPForConditionalGeneration.forward`], and its answers back.

    A request (sample) is a dictionary: `history`, a list of item ids of the catalogue or dictionaries; an entry's
    dictionary has an `item_id` and what is known of the event (`rating`, `explanation`, `behavior`, `timestamp`), or
    describes an item the catalogue does not have (`{"image": ..., "title": ..., any attribute: ...}`). Beside it
    `query` (search), `item` (rate, explain: an entry) or `candidates` (select: item ids); optionally `instruction`.

    Args:
        image_processor: of the vision encoder.
        tokenizer: of the decoder.
        text_vocab_size (`int`): `config.text_config.vocab_size` of the model.
        order (`"code_first"` or `"code_last"`, defaults to `"code_first"`): see [`ChunkFormat`].
        full_chunks (`int`, *optional*, defaults to 5): most recent history items shown with picture and attributes,
            the older ones as their code alone; `None` for all. With 0 an item to be rated is its code alone, too.
        max_length (`int`, defaults to 1024): tokens of a prompt. Of a longer history the oldest chunks are left out.
        history_window (`int`, *optional*): most events of a history that are shown, the most recent ones; `None` for
            as many as fit. Training sets it to its own: a model that is shown more than it was trained with answers
            worse.
        rating_range, behavior_kinds, periods, max_words, item_text_length: see [`ChunkFormat`].
        rating_levels (`Sequence[float]`, *optional*): ratings that people give; by default the whole numbers within
            `rating_range`, or its two ends where there is none.
        code_sizes (`Sequence[int]`, *optional*): of the model's semantic codes, see [`UniMPConfig`]; set by
            [`~UniMPProcessor.index_catalog`]. `None`: a token an item.
        tokens_per_image (`int`, defaults to 1): `<image>` tokens that show a picture, see `visual_prompt_tokens` of
            [`UniMPConfig`]; set by [`~UniMPProcessor.index_catalog`].
        word_similarity (`float`, defaults to 4.0): how much it adds to an item's score, when items are recommended,
            that it has words of the history's items ([`WordIndex`]); 0 for nothing. Atomic codes only.
        choice_similarity (`float`, defaults to 12.0): the same of how often people choose it close to those
            ([`Neighbours`]).
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
        rating_levels: Sequence[float] | None = None,
        behavior_kinds: Sequence[str] = (),
        periods: Sequence[float] = (),
        max_words: int = 20,
        item_text_length: int = 64,
        code_sizes: Sequence[int] | None = None,
        history_window: int | None = None,
        tokens_per_image: int = 1,
        word_similarity: float = WORD_SIMILARITY,
        choice_similarity: float = CHOICE_SIMILARITY,
    ) -> None:
        super().__init__(image_processor, tokenizer)
        if tokenizer.eos_token_id is None:
            raise ValueError("`tokenizer` needs an end-of-sequence token: set `tokenizer.eos_token`.")
        self.text_vocab_size = len(tokenizer) if text_vocab_size is None else text_vocab_size
        if len(tokenizer) > self.text_vocab_size:  # its last tokens would be taken for markers and item codes
            raise ValueError(
                f"`text_vocab_size` is {self.text_vocab_size}, but the `tokenizer` has {len(tokenizer)} tokens: give "
                "the size of the decoder's embeddings, and resize those first if they are too few."
            )
        self.order = order
        self.full_chunks = full_chunks
        self.max_length = max_length
        self.history_window = history_window
        self.rating_range, self.rating_levels = rating_scale(rating_range, rating_levels)
        self.behavior_kinds = list(behavior_kinds)
        self.periods = check_periods(periods)
        self.max_words = max_words
        self.item_text_length = item_text_length
        self.code_sizes = None if code_sizes is None else list(code_sizes)
        self.tokens_per_image = tokens_per_image
        self.word_similarity, self.choice_similarity = word_similarity, choice_similarity
        self._words = Remembered()
        self.catalog = None
        self.check_settings()

    def check_settings(self) -> None:
        """Refuse settings that cannot work, here and not at the first request."""
        least = {"max_length": 1, "max_words": 1, "item_text_length": 1, "tokens_per_image": 1}
        least |= {"full_chunks": 0, "history_window": 0}
        for name, minimum in least.items():
            value, may_be_none = getattr(self, name), name in ("full_chunks", "history_window")
            if not (isinstance(value, int) and value >= minimum) and not (may_be_none and value is None):
                raise ValueError(f"`{name}` must be a whole number of at least {minimum}, got {value!r}.")
        for name in ("word_similarity", "choice_similarity"):
            value = getattr(self, name)
            if not isinstance(value, numbers.Real) or not 0 <= value < float("inf"):
                raise ValueError(f"`{name}` must be a number of at least 0, got {value!r}.")
        _ = self.format  # checks `order`

    @property
    def catalog(self) -> Catalog | None:
        """The items that answers may name; set it, or load it with the processor."""
        return self._catalog

    @catalog.setter
    def catalog(self, catalog: Catalog | None) -> None:
        if (
            catalog is not None and type(catalog).__name__ != Catalog.__name__
        ):  # of another copy of this file it is fine
            raise ValueError(
                f"`catalog` must be a Catalog, got {type(catalog).__name__}: see `Catalog.from_items`, `Catalog.load`."
            )
        if catalog is not None:
            catalog.most_items = most_items(self.code_sizes)
        self._catalog = catalog
        self._item_text = Remembered()

    def _require_catalog(self) -> Catalog:
        if self._catalog is None:
            raise ValueError(
                "`processor.catalog` is not set: give the processor a catalogue, see `Catalog.from_items`."
            )
        return self._catalog

    @property
    def format(self) -> ChunkFormat:
        """How events are written; the settings above decide."""
        return ChunkFormat(
            self.tokenizer,
            self.text_vocab_size,
            self.order,
            self.rating_range,
            self.behavior_kinds,
            self.periods,
            self.max_words,
            self.item_text_length,
            self.tokens_per_image,
        )

    # Saving and loading

    def save_pretrained(self, save_directory: str | Path, push_to_hub: bool = False, **kwargs: Any) -> list[str]:
        """
        Write the processor, its catalogue and latents of that; with `push_to_hub`, upload them. Raises [`ImageError`]
        or `FileNotFoundError`, before anything is written, where a picture or the file of latents is gone.
        """
        if self.catalog is not None:
            self.catalog.require_images()
        if self.picture_file is not None and not Path(self.picture_file).is_file():
            raise FileNotFoundError(
                f"`processor.picture_file` {self.picture_file} is gone, which holds the latents of the catalogue's "
                "pictures: make it again with `processor.encode_pictures(model, folder, latents=True)`, or set "
                "`processor.picture_file = None` to save without it."
            )
        files = super().save_pretrained(save_directory)
        if self.catalog is not None:
            path = Path(save_directory, CATALOG_FILE)
            self.catalog.save(path)
            files.append(str(path))
        if self.picture_file is not None:
            path = Path(save_directory, PICTURE_FILES["latents"])
            if not path.exists() or not path.samefile(self.picture_file):
                shutil.copyfile(self.picture_file, path)
            files.append(str(path))
        if push_to_hub:  # not before the catalogue is written
            self.push_to_hub(kwargs.pop("repo_id", Path(save_directory).name), **kwargs)
        return files

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **kwargs: Any) -> "UniMPProcessor":
        """Read the processor and its catalogue, from a folder or the Hub."""
        processor = super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        names = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")
        hub_kwargs = {name: kwargs[name] for name in names if name in kwargs}
        catalog, pictures = (
            cached_file(pretrained_model_name_or_path, name, _raise_exceptions_for_missing_entries=False, **hub_kwargs)
            for name in (CATALOG_FILE, PICTURE_FILES["latents"])
        )
        if catalog is not None:
            processor.catalog = Catalog.load(catalog)
        processor.picture_file = pictures
        return processor

    # Catalogue

    def item_text_ids(self, position: int) -> list[int]:
        """Token ids of a catalogue item's attributes, remembered."""
        if position not in self._item_text:
            self._item_text[position] = self.format.item_text(self._require_catalog().attributes(position))
        return self._item_text[position]

    @property
    def level_sizes(self) -> list[int]:
        """Codes of each level of an item's code, as the model's `config.level_sizes`."""
        return [len(self._require_catalog())] if self.code_sizes is None else self.code_sizes

    def item_code(self, position: int) -> list[int]:
        """Rows of the code tokens of a catalogue item, one a level."""
        if self.code_sizes is None:
            return [position]
        codes = self._require_catalog().codes
        if codes is None or codes[position, 0] < 0:
            raise ValueError(
                f"`catalog` has no codes for item {self.catalog.item_ids[position]!r}: call "
                "`processor.index_catalog(model)` after setting a catalogue or adding items."
            )
        starts = [0, *accumulate(self.code_sizes)]
        return [start + code for start, code in zip(starts, codes[position].tolist(), strict=False)]

    def _new_item_code(self, number: int) -> list[int]:
        """Rows of the code tokens of the n-th never-seen item of a batch."""
        first, levels = sum(self.level_sizes), len(self.level_sizes)
        return list(range(first + number * levels, first + (number + 1) * levels))

    # Requests to tensors

    def __call__(
        self,
        samples: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        task: str | Sequence[str] = "recommend",
        training: bool = False,
        catalog_features: PictureStore | NoPictures | None = None,
    ) -> BatchFeature:
        """
        Args:
            samples: one request or several, see the class.
            task (`str` or a sequence of them, one a sample): the request.
            training (`bool`): write the samples' `answer` too (recommend, search: an item id; select: a list of them;
                rate, explain: the rating and explanation of `item` itself), and return `labels` and `roles`.
            catalog_features ([`PictureStore`], *optional*): [`~UniMPProcessor.encode_pictures`] of the catalogue; of
                the pictures that it has, the batch then has `image_features` or `image_latents` instead of
                `pixel_values`.

        Returns:
            `BatchFeature`: `input_ids`, padded on the left (in training on the right), `attention_mask` (`[batch,
            tokens]`), `behavior_ids` (`[batch, tokens, 4]`), the distinct pictures and `image_index` (`[batch,
            images]`) and never-seen items where there are any; for a search `query_matches` (`[batch,
            items]`), see [`WordIndex`]; for a recommendation that is not trained `history_scores` (`[batch, items]`),
            what its history adds to each item's score.
        """
        samples, tasks = match_tasks(samples, task)
        self._require_catalog()
        batch, chunk_format = Batch(self._pixel_values), self.format
        encoded = [
            self._encode(sample, get_task(name), training, batch, chunk_format)
            for sample, name in zip(samples, tasks, strict=True)
        ]
        rows = [row for row, _ in encoded]
        return BatchFeature(
            self._pad(rows, training)
            | self._scores_of_items(samples, [shown for _, shown in encoded], tasks, training)
            | self._new_items(batch)
            | self._picture_tensors(rows, batch, catalog_features)
        )

    def _encode(
        self, sample: Mapping[str, Any], task: Task, training: bool, batch: Batch, chunk_format: ChunkFormat
    ) -> tuple[Tokens, Sequence[Entry]]:
        """A request as tokens, and what of its history they show."""
        check_request(sample, task)
        # All of them are checked, shown or not: a mistake is told wherever it is.
        history = self._entries(sample[HISTORY], HISTORY, chunk_format)
        prompt, ending, room = self._frame(sample, task, training, batch, chunk_format)
        labelled = training and task.reconstructs
        shown = most_recent(history, self._window(task))
        chunks = list(self._history(shown, task, labelled, room, batch, chunk_format))
        for stretch in (*chunks, ending):
            prompt.extend(stretch)
        return prompt, most_recent(history, len(chunks))

    def _frame(
        self, sample: Mapping[str, Any], task: Task, training: bool, batch: Batch, chunk_format: ChunkFormat
    ) -> tuple[Tokens, Tokens, int]:
        """What stands before the history and what after it, and how many tokens are left for the history."""
        instruction = sample.get(INSTRUCTION) or task.instructions[0]
        prompt = Tokens().add(chunk_format.text(instruction)).add(chunk_format.marker(END_OF_CHUNK))
        ending, num_asked = self._ending(sample, task, training, batch, chunk_format)
        # The answer is not counted: the same history is shown when it is trained on and when it is asked for.
        room = self.max_length - len(prompt) - num_asked
        if room < 0:
            raise ValueError(
                f"`max_length` is {self.max_length} tokens, but the request alone takes {len(prompt) + num_asked}: "
                "raise `max_length`, or shorten `item_text_length` or the number of candidates."
            )
        return prompt, ending, room

    def _window(self, task: Task) -> int | None:
        """Most events that a request of a task shows; `None` for as many as fit."""
        windows = [window for window in (self.history_window, task.max_history) if window is not None]
        return min(windows, default=None)

    def _in_full(self, age: int, task: Task) -> bool:
        """Whether a history item is shown in full, with so many more recent ones."""
        return task.full_history or self.full_chunks is None or age < self.full_chunks

    def _history(
        self,
        entries: list[Entry],
        task: Task,
        labelled: bool,
        room: int,
        batch: Batch,
        chunk_format: ChunkFormat,
    ) -> Iterable[Tokens]:
        """The most recent chunks that fit into `room`, oldest first. What is older than these is not looked up."""
        chunks: list[Tokens] = []
        for age, entry in enumerate(reversed(entries)):
            full = self._in_full(age, task)
            is_new = entry.position is None  # has no code to predict
            event = self._event(entry, full, batch, chunk_format)
            chunk = chunk_format.chunk(
                event, task, full=full, labelled=labelled and not (is_new and task.answer == "item")
            )
            if len(chunk) > room:
                break  # this chunk and everything older is left out; never half a chunk
            room -= len(chunk)
            chunks.append(chunk)
        return reversed(chunks)

    def _ending(
        self, sample: Mapping[str, Any], task: Task, training: bool, batch: Batch, chunk_format: ChunkFormat
    ) -> tuple[Tokens, int]:
        """What follows the history: what is asked (so many tokens), and in training the answer."""
        if task.answer == "text":
            return self._text_ending(sample, task, training, batch, chunk_format)
        ending, candidates = Tokens(), []
        if task.asks == Columns.QUERY:
            ending.add(chunk_format.text(f"query: {flatten_value(sample[Columns.QUERY], self.max_words)}"))
        elif task.asks == CANDIDATES:
            candidates = self._entries(sample[CANDIDATES], CANDIDATES, chunk_format)
            ending.add(chunk_format.text("candidates:"))
            for entry in candidates:
                event = self._event(entry, True, batch, chunk_format)
                ending.extend(chunk_format.chunk(event, task, full=True, labelled=False))
        if task.asks or self.order == "code_last":
            ending.add(chunk_format.marker(ITEM))
        num_asked = len(ending)
        if training:
            role = QUERY_ANSWER_ROLE if task.asks == Columns.QUERY else ITEM_ROLE
            for position in self._answers(sample, task, candidates):
                ending.add(chunk_format.code(self.item_code(position)), role)
            if task.asks == CANDIDATES:
                ending.add(chunk_format.marker(END_OF_CHUNK), role)
        return ending, num_asked

    def _text_ending(
        self, sample: Mapping[str, Any], task: Task, training: bool, batch: Batch, chunk_format: ChunkFormat
    ) -> tuple[Tokens, int]:
        """The chunk of the item in question, up to where the answer begins; in training with it."""
        entry = self._entries([sample[ITEM_TO_RATE]], ITEM_TO_RATE, chunk_format)[0]
        # As the most recent item of a history: a model that has learnt to rate codes is not asked about texts.
        full = self._in_full(0, task)
        event = self._event(entry, full, batch, chunk_format)
        asked = chunk_format.chunk(event, task, full=full, labelled=False, ask=True)
        if not training:
            return asked, len(asked)
        if event.rating is None:
            raise ValueError(f"`{ITEM_TO_RATE}` needs a `{Columns.RATING}` to train {task.name} with, got none.")
        return chunk_format.chunk(event, task, full=full, labelled=True), len(asked)

    def _answers(self, sample: Mapping[str, Any], task: Task, candidates: list[Entry]) -> list[int]:
        """Positions of the items of the answer to train with."""
        answer = sample.get(ANSWER_KEY)
        if task.asks != CANDIDATES:
            if not isinstance(answer, str):
                raise ValueError(f"`{ANSWER_KEY}` must be an item id to train {task.name} with, got {shown(answer)}.")
            return [self._position(answer, ANSWER_KEY)]
        if not is_list(answer) or not len(answer):
            raise ValueError(f"`{ANSWER_KEY}` must list the chosen candidates to train with, got {shown(answer)}.")
        codes = [self._position(item_id, ANSWER_KEY) for item_id in answer]
        if not set(codes) <= {entry.position for entry in candidates} or len(set(codes)) < len(codes):
            raise ValueError(f"`{ANSWER_KEY}` must be among the `{CANDIDATES}`, each once, got {shown(answer)}.")
        return codes

    def _position(self, item_id: Any, where: str = HISTORY) -> int:
        if item_id not in self._require_catalog():
            if isinstance(item_id, int) and str(item_id) in self.catalog:
                raise ValueError(f"`item_id` must be text, got the number {item_id} in `{where}`: give '{item_id}'.")
            raise ValueError(
                f"`item_id` must be one of the catalogue's {len(self.catalog)} item ids "
                f"(`processor.catalog.item_ids`), got {shown(item_id)} in `{where}`. Describe an item that is not "
                "in it as a dictionary of its attributes and `image`."
            )
        return self.catalog.position(item_id)

    def _entries(self, entries: Any, name: str, chunk_format: ChunkFormat) -> list[Entry]:
        """Check the items of a request, in the order of time."""
        if not is_list(entries):
            raise ValueError(f"`{name}` must be a list of items, got {shown(entries)}.")
        checked, before = [], None
        for entry in entries:
            entry = entry if isinstance(entry, Mapping) else {Columns.ITEM_ID: entry}
            time = seconds(entry.get(Columns.TIMESTAMP))
            gap = None if time is None or before is None else time - before
            before = before if time is None else time
            checked.append(self._entry(entry, name, {"time": time, "gap": gap}, chunk_format))
        return checked

    def _entry(self, entry: Mapping[str, Any], where: str, when: dict, chunk_format: ChunkFormat) -> Entry:
        item_id = entry.get(Columns.ITEM_ID)
        event = self._what_happened(entry, chunk_format) | when
        if item_id in self.catalog:
            return Entry(self.catalog.position(item_id), {}, None, event)
        names = dict.fromkeys((*self.catalog.attribute_names, *entry))  # in the order that the catalogue's texts have
        attributes = {name: entry[name] for name in names if name in entry and name not in NO_ATTRIBUTES}
        attributes = {name: value for name, value in attributes.items() if flatten_value(value)}
        image = image_source(entry.get(Columns.IMAGE))
        if not attributes and image is None:
            self._position(item_id, where)  # neither known nor described
        return Entry(None, attributes, image, event)

    def _event(self, entry: Entry, full: bool, batch: Batch, chunk_format: ChunkFormat) -> Event:
        """Look up what a chunk shows: of a code alone, nothing."""
        position, text_ids, image = entry.position, (), None
        if position is None:
            image = None if entry.image is None else batch.new_image(entry.image)
            text_ids = chunk_format.item_text(entry.attributes)
            return Event(self._new_item_code(batch.new_item(text_ids, image)), text_ids, image, **entry.event)
        if full:
            text_ids = self.item_text_ids(position)
            image = batch.catalog_image(position) if self.catalog.has_image(position) else None
        return Event(self.item_code(position), text_ids, image, **entry.event)

    def _what_happened(self, entry: Mapping[str, Any], chunk_format: ChunkFormat) -> dict[str, Any]:
        rating, behavior = (
            None if is_missing(entry.get(column)) else entry[column] for column in (Columns.RATING, Columns.BEHAVIOR)
        )
        if rating is not None:
            is_number = isinstance(rating, numbers.Real) and not isinstance(rating, bool)
            if not is_number or not chunk_format.valid_rating(rating):
                raise ValueError(
                    f"`rating` must be a number within {self.rating_range} or missing, got {shown(rating)}."
                )
            rating = float(rating)
        if behavior is not None and (not isinstance(behavior, str) or behavior not in self.behavior_kinds):
            raise ValueError(f"`behavior` must be one of {self.behavior_kinds} or missing, got {shown(behavior)}.")
        explanation = flatten_value(entry.get(Columns.EXPLANATION), self.max_words) or None
        return {"rating": rating, "explanation": explanation, "behavior": behavior}

    # Tensors

    def _pad(self, rows: list[Tokens], training: bool) -> dict[str, torch.Tensor]:
        """
        Padded on the left, so that what follows each prompt follows the last column; in training on the right, so that
        padding has something to attend to: kernels of GPUs give gradients of NaN where a token has nothing.
        """
        length = max(map(len, rows))
        pads = [length - len(row) for row in rows]
        pad_id = (
            self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else self.tokenizer.eos_token_id
        )

        def padded(name: str, value: Any) -> torch.Tensor:
            values = [(getattr(row, name), [value] * pad) for pad, row in zip(pads, rows, strict=True)]
            return torch.tensor([own + padding if training else padding + own for own, padding in values])

        tensors = {"input_ids": padded("ids", pad_id), "behavior_ids": padded("behaviors", NO_BEHAVIOR)}
        columns = torch.arange(length).flip(0) if training else torch.arange(length)
        tensors["attention_mask"] = (columns >= torch.tensor(pads)[:, None]).long()
        if training:
            tensors["roles"] = padded("roles", NO_ROLE)
            tensors["labels"] = tensors["input_ids"].masked_fill(tensors["roles"] == NO_ROLE, -100)
        return tensors

    def _picture_tensors(
        self, rows: list[Tokens], batch: Batch, catalog_features: PictureStore | NoPictures | None
    ) -> dict[str, torch.Tensor]:
        """The batch's distinct pictures: first those that were encoded before, then the others."""
        if isinstance(catalog_features, torch.Tensor):
            raise ValueError("`catalog_features` must be what `processor.encode_pictures` returns, got a tensor.")
        if not batch.images:
            return {}
        known = {}
        if catalog_features is not None:
            keys = {code: self.catalog.image_key(code) for code in batch.images if isinstance(code, int)}
            known = {code: key for code, key in keys.items() if key in catalog_features}
        is_known = [isinstance(image, int) and image in known for image in batch.images]
        order = sorted(range(len(is_known)), key=lambda number: not is_known[number])
        numbers = {old: new for new, old in enumerate(order)}
        most = max(1, *(len(row.images) for row in rows))
        index = [[numbers[image] for image in row.images] + [-1] * (most - len(row.images)) for row in rows]
        tensors = {"image_index": torch.tensor(index)}
        if known:
            tensors[f"image_{catalog_features.kind}"] = catalog_features[list(known.values())]
        pixels = [
            self._pixel_values(self.catalog.image(image)) if isinstance(image, int) else image
            for image in (batch.images[number] for number in order[len(known) :])
        ]
        if pixels:
            tensors["pixel_values"] = torch.cat(pixels)
        if batch.new_items:
            tensors["new_item_image_index"] = torch.tensor([numbers.get(image, -1) for _, image in batch.new_items])
        return tensors

    def _pixel_values(self, picture: Image.Image) -> torch.Tensor:
        # One at a time: at its own size, a batch of photographs may not fit into memory.
        return self.image_processor(images=[picture], return_tensors="pt")["pixel_values"]

    def _new_items(self, batch: Batch) -> dict[str, torch.Tensor]:
        if not batch.new_items:
            return {}
        text_ids = torch.full((len(batch.new_items), self.item_text_length), -1)
        for row, (ids, _) in zip(text_ids, batch.new_items, strict=True):
            row[: len(ids)] = torch.tensor(ids, dtype=torch.long)
        return {"new_item_text_ids": text_ids, "new_item_image_index": torch.full((len(text_ids),), -1)}

    # Answers back

    def rating_answers(self) -> tuple[torch.Tensor, list[list[int]]]:
        """The ratings that an answer may give, `[levels]`, and each as the tokens of a whole answer."""
        end = [self.tokenizer.eos_token_id]
        texts = [self.format.text(text) + end for level in self.rating_levels for _, text in write_answer(level, None)]
        return torch.tensor(self.rating_levels), texts

    def read_answer(self, token_ids: Iterable[int]) -> tuple[float | None, str | None]:
        """Rating and explanation of a text answer; `None` for a part that is not there or makes no sense."""
        text_ids = [int(token) for token in token_ids if int(token) < self.text_vocab_size]
        text = self.tokenizer.decode(text_ids, skip_special_tokens=True)
        return read_answer(text, self.format.valid_rating)

    @property
    def num_behaviors(self) -> int:
        """Rows that the model's behaviour table needs."""
        return FIRST_KIND + len(self.behavior_kinds)


UniMPProcessor.register_for_auto_class("AutoProcessor")
