"""What a request asks for and what a person likes, in items, pictures and words, for [`UniMPImagePipeline`]."""

from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image
from torch import nn

from .catalog_unimp import flatten_value, is_missing, shown
from .columns_unimp import Columns
from .images_unimp import load_image
from .imagine_unimp import start_scores
from .keywords_unimp import find_words, item_words, preference_keywords, target_keywords
from .pipelines_unimp import UniMPExplainPipeline, UniMPPipeline, UniMPRecommendPipeline, UniMPSearchPipeline
from .processing_unimp import NO_ATTRIBUTES

# Most recent events of a history that keywords are counted in and candidates are compared with.
HISTORY_LENGTH = 20
# First items of a search among which it is chosen what is retrieved and what candidates begin with.
SEARCH_DEPTH = 30


def as_mapping(entry: Any) -> Mapping[str, Any]:
    """An item of a request, of which the id alone may be given."""
    return entry if isinstance(entry, Mapping) else {Columns.ITEM_ID: entry}


class TasteMixin:
    """The part of [`UniMPImagePipeline`] that reads catalogue and recommender, and no denoiser."""

    _item_words: tuple[Any, dict[str, str]] = (None, {})  # the table that they are of, and by item id

    def _pipeline(self, kind: type[UniMPPipeline]) -> UniMPPipeline:
        return kind(model=self.model, processor=self.processor, device=self.model.device)

    def _find(
        self, history: Sequence[Any], query: str | None, target: Any, num_items: int, weightings: Sequence[float]
    ) -> tuple[list[dict[str, Any]], list[Any], list[Any], list[Any]]:
        """
        What is retrieved; the items that stand for what was asked, for the person; the one that does for anybody, if
        it has a picture; what each candidate begins with.
        """
        if target is not None:
            return [], [target], [target], [target] * len(weightings)
        depth = max(SEARCH_DEPTH, num_items)
        found = self.retrieve(history, query, depth)
        # What was asked is in nobody's taste.
        asked = self.retrieve([], query, depth) if history and query else found
        wanted = [row["item_id"] for row in found[:num_items]]
        tasteless, *starts = self.begin_with(asked, found, query, history, [0.0, *weightings])
        return found[:num_items], wanted, [] if tasteless is None else [tasteless], starts

    def retrieve(self, history: Sequence[Any], query: str | None, num_items: int) -> list[dict[str, Any]]:
        """
        Items that fit request and person (UniMP), as `unimp-search` answers, or `unimp-recommend` without one. Of
        what the search finds, those come first whose attributes have most words of the request.
        """
        if query is None:
            return self._pipeline(UniMPRecommendPipeline)({"history": history}, top_k=num_items)
        found = self._pipeline(UniMPSearchPipeline)({"history": history, "query": query}, top_k=num_items)
        num_words = self._num_words(query, [row["item_id"] for row in found])
        return [found[n] for n in sorted(range(len(found)), key=lambda n: -num_words[n])]

    def _num_words(self, query: str | None, item_ids: Sequence[str]) -> list[int]:
        """How many words of a request the attributes of each item have."""
        words = set(find_words(query or ""))
        return [len(words.intersection(find_words(self._words_of_item({Columns.ITEM_ID: i})))) for i in item_ids]

    def begin_with(
        self,
        asked: Sequence[Mapping[str, Any]],
        found: Sequence[Mapping[str, Any]],
        query: str | None,
        history: Sequence[Any],
        weightings: Sequence[float],
    ) -> list[str | None]:
        """
        The item of the catalogue that is changed into what is wanted, a weighting: of those with most words of the
        request the one with the largest [`start_scores`]; where there is taste, one that they had not chosen already,
        if there is any.

        Args:
            asked, found: of [`~UniMPImagePipeline.retrieve`], for anybody and for the person.
            query: the request.
            history: the person's.
            weightings: as much taste is in the choice.

        Returns:
            Ids, or `None` where no item has a picture.
        """
        catalog = self.processor.catalog
        by_request, by_person = ({row["item_id"]: row["score"] for row in rows} for rows in (asked, found))
        pictured = [item_id for item_id in by_person | by_request if catalog.has_image(catalog.position(item_id))]
        # Of what only one of the two found, the other thinks less than of all that it did find.
        known = [
            [scores.get(item_id, min(scores.values(), default=0.0)) for item_id in pictured]
            for scores in (by_request, by_person)
        ]
        likeness, starts = self.likeness(history, pictured), []
        words = self._num_words(query, pictured)
        seen = {as_mapping(event).get(Columns.ITEM_ID) for event in history}
        for weighting in weightings:
            is_new = [not weighting or item_id not in seen for item_id in pictured]
            ratings = zip(words, is_new, start_scores(*known, likeness, weighting), strict=True)
            by_rating = dict(zip(pictured, ratings, strict=True))
            pool = [item_id for item_id in pictured if weighting or item_id in by_request]  # 0 is nobody's taste
            starts.append(max(pool, key=by_rating.__getitem__, default=None))
        return starts

    def likeness(self, history: Sequence[Any], item_ids: Sequence[str]) -> list[float | None]:
        """
        How alike items of the catalogue are to those of a history: the cosine of their rows in the recommender, as
        deviations from the mean row, averaged over what they did not rate low and brought to 0..1. Rows know of how
        people choose and of what items show. `None` where no such item is in the catalogue.
        """
        catalog, ids = self.processor.catalog, [event.get(Columns.ITEM_ID) for event in self._liked(history)]
        liked = [catalog.position(item_id) for item_id in ids if item_id in catalog]
        if not liked:
            return [None] * len(item_ids)
        rows, _ = self.model.compute_item_rows()
        if (semantic := self.model.model.item_codes) is not None:
            rows = rows[semantic.codes + semantic.codes.new_tensor(self.model.config.level_starts)].mean(1)
        rows = nn.functional.normalize((rows - rows.mean(0)).float(), dim=-1)
        cosines = rows[[catalog.position(item_id) for item_id in item_ids]] @ rows[liked].mean(0)
        return ((1 + cosines.clamp(-1, 1)) / 2).tolist()

    def ask(self, history: Sequence[Any], item: Any) -> str | None:
        """What the model says a person likes about an item; `None` where it says nothing, or that they do not."""
        answer = self._pipeline(UniMPExplainPipeline)({"history": history, "item": item})
        return answer["explanation"] if self._is_liked(answer) else None

    def _liked(self, history: Sequence[Any]) -> list[Mapping[str, Any]]:
        """The last events of a history that were not rated low."""
        return [event for event in map(as_mapping, history[-HISTORY_LENGTH:]) if self._is_liked(event)]

    def _is_liked(self, event: Mapping[str, Any]) -> bool:
        """Whether its rating, if there is one, is in the upper half."""
        rating = event.get(Columns.RATING)
        return is_missing(rating) or rating >= sum(self.processor.rating_range) / 2

    def picture_of(self, entry: Any) -> Image.Image | None:
        """The picture of an item of a request, if it has one."""
        entry, catalog = as_mapping(entry), self.processor.catalog
        if entry.get(Columns.ITEM_ID) in catalog:
            return catalog.image(catalog.position(entry[Columns.ITEM_ID]))
        if not self._words_of_item(entry) and entry.get(Columns.IMAGE) is None:
            raise ValueError(
                f"`history` and `target` must be items of the catalogue (`item_id`), or describe others, got "
                f"{shown(dict(entry))}."
            )
        return None if entry.get(Columns.IMAGE) is None else load_image(entry[Columns.IMAGE])

    def _words_of_item(self, entry: Mapping[str, Any]) -> str:
        catalog, item_id = self.processor.catalog, entry.get(Columns.ITEM_ID)
        if item_id in catalog:
            if self._item_words[0] is not catalog.table:  # every change of a catalogue is a new table
                self._item_words = catalog.table, {}
            words = self._item_words[1]
            if item_id not in words:
                words[item_id] = item_words(catalog.attributes(catalog.position(item_id)))
            return words[item_id]
        return item_words({name: value for name, value in entry.items() if name not in NO_ATTRIBUTES})

    def keywords_of_taste(self, history: Sequence[Any], answer: str | None = None) -> list[str]:
        """
        Keywords of what a person likes: of the model's answer, and counted over the attributes of the items that they
        did not rate low, what they searched for and what they said of them.
        """
        return preference_keywords([self._words_of(event) for event in self._liked(history)], answer)

    def _words_of(self, event: Mapping[str, Any]) -> str:
        """What was searched for, what the item is, what was said of it."""
        query, explanation = (flatten_value(event.get(name)) for name in (Columns.QUERY, Columns.EXPLANATION))
        return "; ".join(filter(None, (query, self._words_of_item(event), explanation)))

    def keywords_of_request(self, query: str | None, items: Sequence[Any]) -> list[str]:
        """Keywords of what was asked: of the query, and counted over the attributes of items that fit, best first."""
        return target_keywords(query, [self._words_of_item(as_mapping(item)) for item in reversed(items)])
