"""A shop: a trained model and its catalogue, ready to answer, and copies of it that share its weights."""

import base64
import copy
import io
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import pyarrow as pa
import torch
from PIL import Image
from transformers import Pipeline, pipeline

from unimp import Catalog, UniMPForConditionalGeneration, UniMPProcessor
from unimp.processing.keywords_unimp import find_words

logger = logging.getLogger(__name__)

ITEM_ID, IMAGE = "item_id", "image"
# Of a catalogue that was saved without latents, pictures are read when the page starts; a larger one would keep
# visitors waiting, and its pictures are read when they are needed.
MOST_PICTURES_AT_START = 5000
# Pictures of the history, the most recent ones, that are hidden in turn to see what the answer looked at.
NUM_LOOKED_AT = 6
THUMBNAIL_SIZE, NUM_THUMBNAILS = 192, 4000

Entry = str | Mapping[str, Any]  # of a history: an item's id, or a description of one


class Shop:
    """
    Answers requests; one at a time, whoever asks.

    Args:
        model ([`UniMPForConditionalGeneration`]), processor ([`UniMPProcessor`]): as loaded from one folder.
        parent (`Shop`, *optional*): of which this one is a copy.
    """

    def __init__(
        self, model: UniMPForConditionalGeneration, processor: UniMPProcessor, parent: "Shop | None" = None
    ) -> None:
        self.model, self.processor, self.catalog = model, processor, processor.catalog
        self.own_ids: list[str] = []  # of a visitor's own items
        self._pipelines: dict[str, Pipeline] = {}
        self._thumbnails: dict[str, str] = {}
        self._lock = threading.RLock() if parent is None else parent._lock
        # Drawing takes seconds, during which others are answered all the same.
        self._drawing = threading.Lock() if parent is None else parent._drawing
        self.parent = parent
        self._pictures = self._read_pictures() if parent is None else parent._pictures

    @classmethod
    def load(cls, name: str, device: str = "cpu") -> "Shop":
        """From a folder or a Hub id. No code of the checkpoint is run: this package's own is used."""
        model = UniMPForConditionalGeneration.from_pretrained(name).to(device)
        return cls(model, UniMPProcessor.from_pretrained(name))

    def _read_pictures(self) -> Any:
        """What the model makes of the catalogue's pictures."""
        pictures = self.pipeline("recommend").pictures
        if pictures is None and len(self.catalog) <= MOST_PICTURES_AT_START:
            pictures = self.processor.encode_pictures(self.model, latents=True)
            self._pipelines.clear()
        return pictures

    def pipeline(self, task: str) -> Pipeline:
        """`unimp-{task}` on this shop."""
        if task not in self._pipelines:
            answer = pipeline(f"unimp-{task}", model=self.model, processor=self.processor)
            answer.pictures = getattr(self, "_pictures", answer.pictures)
            self._pipelines[task] = answer
        return self._pipelines[task]

    # What it knows of items

    def item(self, entry: Entry) -> dict[str, Any]:
        """`item_id` and attributes of an item of a request; raises `ValueError` for one that is not here."""
        if isinstance(entry, Mapping):
            return {name: value for name, value in entry.items() if name != IMAGE}
        if entry not in self.catalog:
            raise ValueError(f"There is no item {str(entry)[:80]!r} in this catalogue.")
        return self.catalog.item(self.catalog.position(entry))

    def title(self, entry: Entry) -> str:
        """What an item is called."""
        item = self.item(entry)
        return str(item.get("title") or item.get("name") or item.get(ITEM_ID) or "Your picture")

    def thumbnail(self, entry: Entry) -> str:
        """An item's picture as a data address; empty where there is none. It never gets an address of its own."""
        if isinstance(entry, Mapping):
            return data_address(Image.open(io.BytesIO(entry[IMAGE]))) if entry.get(IMAGE) else ""
        if entry not in self._thumbnails:
            if len(self._thumbnails) >= NUM_THUMBNAILS:
                self._thumbnails.clear()
            try:
                picture = self.catalog.image(self.catalog.position(entry))
            except ValueError:  # a picture that cannot be read
                picture = None
            self._thumbnails[entry] = "" if picture is None else data_address(picture)
        return self._thumbnails[entry]

    @cached_property
    def _words(self) -> list[str]:
        items = map(self.catalog.item, range(len(self.catalog)))
        return [" ".join(map(str, item.values())).lower() for item in items]

    def find(self, text: str = "") -> list[str]:
        """Ids of the available items whose attributes have all of these words, a visitor's own first."""
        words, available = text.lower().split(), self.catalog.available
        found = [
            item_id
            for item_id, known, offered in zip(self.catalog.item_ids, self._words, available, strict=True)
            if offered and all(word in known for word in words)
        ]
        own = set(self.own_ids)
        return [item_id for item_id in found if item_id in own] + [i for i in found if i not in own]

    def unknown_words(self, text: str) -> list[str]:
        """Words that can mean little to the model: no item has them, and its tokenizer writes them in pieces."""
        unnamed = [word for word in find_words(text) if not self.find(word)]
        return [word for word in unnamed if len(self.processor.format.text(f" {word}")) > 1]

    # Requests

    def ask(self, task: str, request: Mapping[str, Any], **parameters: Any) -> Any:
        """One request to `unimp-{task}`."""
        with self._lock:
            return self.pipeline(task)(dict(request), **parameters)

    def start_session(self, history: Sequence[Entry]) -> Any:
        """A live session for someone who clicks."""
        with self._lock:
            return self.pipeline("recommend").start_session(history)

    def append(self, session: Any, entry: Entry) -> None:
        """Go on with a live session."""
        with self._lock:
            session.append(entry)

    def recommend(self, session: Any, top_k: int, own_only: bool = False) -> list[dict[str, Any]]:
        """The next items of a live session; of a visitor's own ones alone, if asked."""
        with self._lock:
            return session.recommend(top_k=top_k, candidates=self.own_ids if own_only else None)

    def why(self, history: Sequence[Entry], item: Entry) -> dict[str, Any]:
        """The rating the model expects, and its explanation (`None` where it gives none)."""
        request = {"history": list(history), "item": item}
        explained, rated = self.ask("explain", request), self.ask("rate", request)
        return {"rating": rated["rating"], "explanation": explained["explanation"]}

    @cached_property
    def drawer(self) -> Any:
        """The `UniMPImagePipeline` in the model's folder; `None` where there is none."""
        if self.parent is not None:
            parts = {"model": self.model, "processor": self.processor}
            drawer = self.parent.drawer
            return None if drawer is None else type(drawer)(**drawer.components | parts)
        try:
            return pipeline("unimp-imagine", model=self.model, processor=self.processor).image_pipeline
        except (ValueError, ImportError, OSError) as error:
            logger.info(f"Nothing will be drawn: {error}")
            return None

    def imagine(
        self, history: Sequence[Entry], query: str, alpha: float, steps: Callable[[Any], Any], seed: int
    ) -> Any:
        """
        Draw for a person: a `UniMPImageOutput`.

        Args:
            history, query: one of them may be empty.
            alpha: from 0, true to the query, to 1, true to the taste.
            steps: given the denoiser's steps, goes through them, and may tell how far it is.
            seed: the same one draws the same.
        """
        if self.drawer is None:
            raise ValueError("This model has nothing to draw with.")
        request = {"history": list(history), "query": query or None, "alpha": alpha}
        with self._drawing:
            self.drawer.progress_bar = steps
            return self.drawer(**request, generator=torch.Generator(self.model.device).manual_seed(seed))

    def looked_at(self, history: Sequence[Entry], own_only: bool = False) -> tuple[dict[str, Any], dict[int, float]]:
        """
        What the pictures of a history contribute to the first recommendation: how far its log-probability falls when
        one picture is hidden from the model, here and in the row that the item is known by.

        Returns:
            The recommendation (`item_id`, `score`), and of each of the `NUM_LOOKED_AT` most recent entries with a
            picture, by its place, the fall; negative where the picture speaks against the recommendation.
        """
        history = list(history)
        if not history:
            raise ValueError("`history` is empty: there is no picture to look at.")
        found = self.ask("recommend", {"history": history}, top_k=1, candidates=self.own_ids if own_only else None)
        if not found:
            raise ValueError("`history` has every item there is: nothing is left to recommend.")
        best = found[0]
        pictured = [place for place, entry in enumerate(history) if self._has_picture(entry)][-NUM_LOOKED_AT:]
        falls = {}
        for place in pictured:
            shop, hidden = self._hiding(history, place)
            answer = shop.ask(
                "recommend", {"history": hidden}, top_k=1, candidates=[best[ITEM_ID]], exclude_seen=False
            )
            falls[place] = best["score"] - answer[0]["score"]
        return best, falls

    def _has_picture(self, entry: Entry) -> bool:
        if isinstance(entry, Mapping):
            return entry.get(IMAGE) is not None
        return self.catalog.has_image(self.catalog.position(entry))

    def _hiding(self, history: list[Entry], place: int) -> tuple["Shop", list[Entry]]:
        entry = history[place]
        if isinstance(entry, Mapping):
            return self, [*history[:place], self.item(entry), *history[place + 1 :]]
        position = self.catalog.position(entry)
        return self._copy(_without_picture(self.catalog, position), [position]), history

    # Copies

    @cached_property
    def blind(self) -> "Shop":
        """The same shop with every picture hidden from the model: from histories, and from what items are known by."""
        table = self.catalog.table
        table = table.drop_columns([IMAGE] if IMAGE in table.column_names else [])
        shop = self._copy(Catalog(table), range(len(self.catalog)))
        shop.own_ids = self.own_ids
        return shop

    def with_items(self, items: Sequence[Mapping[str, Any]]) -> "Shop":
        """A copy that has these items, too; nothing is trained, and this shop stays as it is."""
        if self.model.config.item_feature_size:
            raise ValueError("This model also knows items by embeddings of an encoder that this page does not have.")
        catalog = copy.copy(self.catalog)
        catalog.add(items)
        shop = self._copy(catalog, [])
        shop.own_ids = [*self.own_ids, *(item[ITEM_ID] for item in items)]
        return shop

    def _copy(self, catalog: Catalog, changed: Sequence[int]) -> "Shop":
        """With another catalogue, of which items at `changed` are others. Weights are shared, item rows are not."""
        with self._lock:
            model = copy.deepcopy(self.model, {id(weight): weight for weight in self.model.parameters()})
            processor = copy.copy(self.processor)
            processor.catalog, processor.picture_file = catalog, None
            features = model.model.item_content.features[list(changed)] if model.config.item_feature_size else None
            processor.index_catalog(model, changed, features)
            return Shop(model, processor, parent=self)


def _without_picture(catalog: Catalog, position: int) -> Catalog:
    table = catalog.table
    row = table.slice(position, 1)
    row = row.set_column(table.column_names.index(IMAGE), IMAGE, pa.nulls(1, table.schema.field(IMAGE).type))
    # Slices are not copied, however large the catalogue is.
    return Catalog(pa.concat_tables([table.slice(0, position), row, table.slice(position + 1)]), catalog.root)


def data_address(picture: Image.Image) -> str:
    """A picture as an address that holds it, at the size of a card."""
    picture = picture.convert("RGB")
    picture.thumbnail((THUMBNAIL_SIZE, THUMBNAIL_SIZE))
    buffer = io.BytesIO()
    picture.save(buffer, format="WEBP", quality=82)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
