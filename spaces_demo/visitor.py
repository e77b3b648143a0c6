"""One visitor: what they chose so far, the live session that follows it, and the shop they are in."""

import itertools
import random
import threading
from collections.abc import Sequence
from typing import Any

from .shop import IMAGE, ITEM_ID, Entry, Shop

MAX_HISTORY = 40
NUM_CANDIDATES = 3
DEEPEST_RANK = 50  # an item that comes later than this was “far below”


class Visitor:
    """
    Args:
        shop ([`Shop`]): that all visitors share; a visitor's own items are in a copy of it.
    """

    def __init__(self, shop: Shop) -> None:
        self.shared = self.shop = shop
        self.history: list[Entry] = []
        self.numbers: list[int] = []  # of the entries: another one that goes changes an entry's place, not its number
        self._count = itertools.count()
        self.hide_pictures = False
        self.own_only = False
        self.candidates: list[str] = []
        self.imagined: Any = None
        self.request = ""  # that it was drawn for
        self.lock = threading.RLock()
        self._session: Any = None

    @property
    def answering(self) -> Shop:
        """The shop, or the one in which pictures are hidden."""
        return self.shop.blind if self.hide_pictures else self.shop

    def shown_history(self) -> list[Entry]:
        """The history as the model may see it."""
        return [self._shown(entry) for entry in self.history]

    def _shown(self, entry: Entry) -> Entry:
        if isinstance(entry, str) or not self.hide_pictures or len(entry) == 1:
            return entry
        return {name: value for name, value in entry.items() if name != IMAGE}

    def set_history(self, history: Sequence[Entry]) -> None:
        """Begin with another history."""
        self.history, self._session = list(history)[-MAX_HISTORY:], None
        self.numbers = [next(self._count) for _ in self.history]

    def add(self, entry: Entry) -> None:
        """They chose something; the live session reads it at once."""
        if isinstance(entry, str):
            self.shop.item(entry)  # refuses what is not there
        if len(self.history) >= MAX_HISTORY:
            raise ValueError(f"A history here has at most {MAX_HISTORY} items: remove some, or clear it.")
        if self._session is not None:
            self.answering.append(self._session, self._shown(entry))
        self.history.append(entry)
        self.numbers.append(next(self._count))

    def remove(self, number: int) -> None:
        """Take an entry back, by its number; one that is gone already changes nothing."""
        if number in self.numbers:
            place = self.numbers.index(number)
            del self.history[place], self.numbers[place]
            self._session = None

    def set_hide_pictures(self, hide: bool) -> None:
        """Hide pictures from the model, or show them again."""
        self.hide_pictures, self._session = bool(hide), None

    def enter(self, shop: Shop) -> None:
        """Go on in another shop, with what it has of the history."""
        self.shop, self.imagined = shop, None
        self.own_only = self.own_only and bool(shop.own_ids)
        self.set_history([entry for entry in self.history if not isinstance(entry, str) or entry in shop.catalog])
        self.candidates = [item_id for item_id in self.candidates if item_id in shop.catalog]

    def recommend(self, top_k: int) -> list[dict[str, Any]]:
        """What comes next."""
        if self._session is None:
            self._session = self.answering.start_session(self.shown_history())
        return self.answering.recommend(self._session, top_k, self.own_only)

    def ranks_with_pictures(self) -> dict[str, int]:
        """Places in what is recommended when no picture is hidden, by item id."""
        candidates = self.shop.own_ids if self.own_only else None
        seen = self.shop.ask("recommend", {"history": self.history}, top_k=DEEPEST_RANK, candidates=candidates)
        return {answer[ITEM_ID]: rank for rank, answer in enumerate(seen, start=1)}

    def pick_candidates(self) -> None:
        """Three items to select among: one that is recommended, and two others; seen ones where no more are left."""
        likely = [answer["item_id"] for answer in self.recommend(12)]
        offered = self.shop.find()
        unseen = [item_id for item_id in offered if item_id not in self.history]
        others = unseen if len(unseen) >= NUM_CANDIDATES else offered
        first = random.choice(likely or others)
        rest = [item_id for item_id in others if item_id != first]
        self.candidates = [first, *random.sample(rest, min(NUM_CANDIDATES - 1, len(rest)))]
        random.shuffle(self.candidates)

    def toggle_candidate(self, item_id: str) -> None:
        """Put an item among the candidates, the oldest one leaving, or take it away."""
        self.shop.item(item_id)
        if item_id in self.candidates:
            self.candidates.remove(item_id)
        else:
            self.candidates = [*self.candidates, item_id][-NUM_CANDIDATES:]
