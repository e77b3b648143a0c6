"""Everything the page does, as functions without memory: the endpoints of the API, and the tools of the MCP server."""

import re
import secrets
import threading
import time
from collections import OrderedDict
from typing import Any

import gradio as gr

from .shop import ITEM_ID, Shop, data_address
from .uploads import clean_text, read_item, read_upload
from .visitor import MAX_HISTORY

MAX_TOP_K = 50
MAX_SHOPS, SECONDS_KEPT = 24, 3600


class Shelf:
    """Visitors' own shops, each known to whoever has its key alone; the oldest ones are forgotten."""

    def __init__(self) -> None:
        self._shops: OrderedDict[str, tuple[float, Shop]] = OrderedDict()
        self._lock = threading.Lock()

    def put(self, shop: Shop) -> str:
        """Keep a shop for an hour; returns its key."""
        key = secrets.token_urlsafe(24)
        with self._lock:
            self._forget_old(MAX_SHOPS - 1)
            self._shops[key] = time.monotonic(), shop
        return key

    def get(self, key: str) -> Shop:
        """Raises `ValueError` where there is none, or no longer."""
        with self._lock:
            self._forget_old(MAX_SHOPS)
            if key not in self._shops:
                raise ValueError("`catalogue` is not known, or was forgotten after an hour: call add_items again.")
            return self._shops[key][1]

    def drop(self, key: str) -> bool:
        """Whether there was one to forget."""
        with self._lock:
            return self._shops.pop(key, None) is not None

    def _forget_old(self, most: int) -> None:
        while self._shops and (
            len(self._shops) > most or time.monotonic() - next(iter(self._shops.values()))[0] > SECONDS_KEPT
        ):
            self._shops.popitem(last=False)


class Api:
    """The endpoints. A wrong request raises [`gradio.Error`], which reaches the caller."""

    def __init__(self, shop: Shop) -> None:
        self.shop, self.shelf = shop, Shelf()

    def find_items(self, text: str = "", limit: int = 24, catalogue: str = "") -> list[dict]:
        """
        Find items of the catalogue by words; the ids are what the other tools take.

        Args:
            text: Words that all must be in an item's attributes; empty for the first items.
            limit: How many items at most, 1 to 50.
            catalogue: Key of a catalogue of your own, from add_items; empty for the shop's.

        Returns:
            The items, each with item_id and attributes.
        """
        with _told():
            shop = self._shop(catalogue)
            found = shop.find(clean_text(text))[: _bounded("limit", limit)]
            return [_plain(shop.item(item_id)) for item_id in found]

    def recommend(
        self, history: list[str], top_k: int = 8, hide_pictures: bool = False, catalogue: str = ""
    ) -> list[dict]:
        """
        Recommend the next items for a person, best first.

        Args:
            history: Ids of the items the person chose, oldest first; may be empty.
            top_k: How many items, 1 to 50.
            hide_pictures: Hide all pictures from the model, to see what they contribute.
            catalogue: Key of a catalogue of your own, from add_items; empty for the shop's.

        Returns:
            Items with item_id, score (a log-probability over the catalogue) and attributes.
        """
        with _told():
            shop = self._shop(catalogue)
            shop = shop.blind if hide_pictures else shop
            return self._answers(shop, "recommend", {"history": _history(shop, history)}, top_k)

    def recommend_for_picture(
        self, picture: str | None = None, title: str = "", history: list[str] | None = None
    ) -> list[dict]:
        """
        Recommend items to someone who just chose an item that the catalogue has never seen.

        Args:
            picture: A picture of that item (PNG, JPEG, WebP, GIF or BMP, at most 8 MB).
            title: What the item is called.
            history: Ids of the items the person chose before it, oldest first.

        Returns:
            The eight best items with item_id, score and attributes.
        """
        with _told():
            entries = [*_history(self.shop, history or []), read_item(picture, title or "")]
            return self._answers(self.shop, "recommend", {"history": entries}, 8)

    def why(self, history: list[str], item_id: str, catalogue: str = "") -> dict:
        """
        Ask the model how a person would rate an item, and what they would say.

        Args:
            history: Ids of the items the person chose, oldest first.
            item_id: The item to be rated.
            catalogue: Key of a catalogue of your own, from add_items; empty for the shop's.

        Returns:
            A dictionary with rating (a number) and explanation (text, or null).
        """
        with _told():
            shop = self._shop(catalogue)
            shop.item(item_id)
            return shop.why(_history(shop, history), item_id)

    def what_it_looked_at(self, history: list[str], catalogue: str = "") -> dict:
        """
        Measure what each picture of a history contributes to the first recommendation.

        Args:
            history: Ids of the items the person chose, oldest first, at least one.
            catalogue: Key of a catalogue of your own, from add_items; empty for the shop's.

        Returns:
            The recommended item_id, and looked_at: for each of the most recent items with a picture how much the
            recommendation's log-probability falls when that picture alone is hidden.
        """
        with _told():
            shop = self._shop(catalogue)
            entries = _history(shop, history)
            best, falls = shop.looked_at(entries)
            looked_at = [{ITEM_ID: entries[place], "fall": fall} for place, fall in falls.items()]
            return {ITEM_ID: best[ITEM_ID], "looked_at": looked_at}

    def search(self, query: str, history: list[str] | None = None, top_k: int = 8, catalogue: str = "") -> dict:
        """
        Search the catalogue twice: for anyone, and with a person's taste in mind.

        Args:
            query: What is searched for.
            history: Ids of the items the person chose, oldest first.
            top_k: How many items, 1 to 50.
            catalogue: Key of a catalogue of your own, from add_items; empty for the shop's.

        Returns:
            A dictionary with for_anyone and for_this_person, each a list of items, best first.
        """
        with _told():
            shop, query = self._shop(catalogue), clean_text(query)
            entries = _history(shop, history or [])
            answers = {
                name: self._answers(shop, "search", {"history": part, "query": query}, top_k)
                for name, part in (("for_anyone", []), ("for_this_person", entries))
            }
            return answers

    def select(self, history: list[str], candidates: list[str], catalogue: str = "") -> dict:
        """
        Choose among a few items for a person, and say why.

        Args:
            history: Ids of the items the person chose, oldest first.
            candidates: Ids of two to ten items to choose among.
            catalogue: Key of a catalogue of your own, from add_items; empty for the shop's.

        Returns:
            A dictionary with chosen (item ids), ratings (of every candidate) and explanation (of the first chosen).
        """
        with _told():
            shop = self._shop(catalogue)
            return select(shop, _history(shop, history), candidates)

    def imagine(self, query: str = "", history: list[str] | None = None, alpha: float = 0.5, seed: int = 0) -> dict:
        """
        Draw a picture of what is asked, in a person's taste.

        Args:
            query: What shall be drawn; may be empty where there is a history.
            history: Ids of the items the person chose, oldest first.
            alpha: From 0, true to the query, to 1, true to the person's taste.
            seed: The same seed draws the same picture.

        Returns:
            A dictionary with picture (a data address), target_keywords, preference_keywords and retrieved (item ids).
        """
        with _told():
            if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**31:
                raise ValueError(f"`seed` must be a whole number from 0 to {2**31 - 1}, got {str(seed)[:80]}.")
            drawn = self.shop.imagine(_history(self.shop, history or []), clean_text(query), alpha, iter, seed)
            return {
                "picture": data_address(drawn.image),
                "target_keywords": drawn.target_keywords,
                "preference_keywords": drawn.preference_keywords,
                "retrieved": [answer[ITEM_ID] for answer in drawn.retrieved],
            }

    def add_items(self, file: str | None) -> dict:
        """
        Make a catalogue of your own: the shop's and your items, which join it without any training.

        Args:
            file: A .csv with a line an item (item_id, title and more), a picture, or a .zip of a table and pictures.

        Returns:
            A dictionary with catalogue (a key for the other tools, good for an hour), items (those added) and notes.
        """
        with _told():
            upload = read_upload([file] if file else [], self.shop.catalog)
            shop = self.shop.with_items(upload.items)
            items = [_plain(shop.item(item_id)) for item_id in shop.own_ids]
            return {"catalogue": self.shelf.put(shop), "items": items, "notes": upload.notes}

    def forget_items(self, catalogue: str) -> bool:
        """
        Forget a catalogue of your own at once.

        Args:
            catalogue: Its key, from add_items.

        Returns:
            Whether there was one.
        """
        return self.shelf.drop(str(catalogue))

    def _shop(self, catalogue: str) -> Shop:
        return self.shelf.get(str(catalogue)) if catalogue else self.shop

    def _answers(self, shop: Shop, task: str, request: dict[str, Any], top_k: int) -> list[dict]:
        found = shop.ask(task, request, top_k=_bounded("top_k", top_k))
        return [
            {ITEM_ID: answer[ITEM_ID], "score": answer["score"], "item": _plain(answer["item"])} for answer in found
        ]


def select(shop: Shop, history: list[Any], candidates: list[str]) -> dict[str, Any]:
    """Which of the candidates they would take, how they would rate each, and why they would take the first."""
    if not isinstance(candidates, list) or not 2 <= len(set(map(str, candidates))) == len(candidates) <= 10:
        raise ValueError(f"`candidates` must be two to ten different item ids, got {str(candidates)[:80]}.")
    for item_id in candidates:
        shop.item(item_id)
    chosen = [answer[ITEM_ID] for answer in shop.ask("select", {"history": history, "candidates": candidates})]
    ratings = {item_id: shop.ask("rate", {"history": history, "item": item_id})["rating"] for item_id in candidates}
    explanation = shop.ask("explain", {"history": history, "item": chosen[0]})["explanation"]
    return {"chosen": chosen, "ratings": ratings, "explanation": explanation}


class _told:
    """Turns what is wrong with a request into an error that the caller sees: text as it is, without any markup."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type | None, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, ValueError):
            text = " ".join(str(error).split())[:400]
            raise gr.Error(re.sub("[<>]", "", text), print_exception=False) from error


def _history(shop: Shop, history: list[str]) -> list[str]:
    if not isinstance(history, list) or len(history) > MAX_HISTORY:
        raise ValueError(f"`history` must be a list of at most {MAX_HISTORY} item ids, got {str(history)[:80]}.")
    for item_id in history:
        if not isinstance(item_id, str):
            raise ValueError(f"`history` must be item ids, got {str(item_id)[:80]}.")
        shop.item(item_id)
    return history


def _bounded(name: str, number: Any) -> int:
    if not isinstance(number, int) or isinstance(number, bool) or not 1 <= number <= MAX_TOP_K:
        raise ValueError(f"`{name}` must be a whole number from 1 to {MAX_TOP_K}, got {str(number)[:80]}.")
    return number


def _plain(item: dict[str, Any]) -> dict[str, Any]:
    """What JSON can hold."""
    return {name: value if isinstance(value, str | int | float | bool) else str(value) for name, value in item.items()}
