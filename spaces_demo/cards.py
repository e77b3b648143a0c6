"""What the page shows of items: HTML, of which every word that is not ours is escaped."""

import html
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from .shop import IMAGE, ITEM_ID, Entry, Shop, data_address
from .visitor import Visitor

# A component's HTML is a template in the browser, too, in which these would mean something.
_TEMPLATE_SIGNS = str.maketrans({"{": "&#123;", "}": "&#125;", "$": "&#36;", "`": "&#96;"})
# Two words or more, and then the same again, at most a word between: “never have never have”.
_REPEATED = re.compile(r"\b(\w+(?:\W+\w+)+)(?:\W+\w+)?\W+\1\b")
_NO_PICTURE = (
    '<svg viewBox="0 0 48 48" aria-hidden="true"><rect x="8" y="10" width="32" height="28" rx="3"/>'
    '<path d="M8 33l10-9 8 7 6-5 8 7"/><circle cx="31" cy="19" r="3"/></svg>'
)


def escape(value: Any) -> str:
    """Any text as HTML, and as a template, means it."""
    return html.escape(str(value), quote=True).translate(_TEMPLATE_SIGNS)


def notice(text: str, kind: str = "empty", title: str = "") -> str:
    """A place that has nothing to show yet (`empty`), something that went well (`good`) or did not (`bad`)."""
    head = f"<strong>{escape(title)}</strong>" if title else ""
    role = "alert" if kind == "bad" else "status"
    return f'<div class="u-notice u-{kind}" role="{role}">{head}<p>{escape(text)}</p></div>'


def heading(title: str, note: str) -> str:
    """What a part of the page is for."""
    return f'<h2 class="u-panel-title">{escape(title)}<small>{escape(note)}</small></h2>'


def percent(score: float) -> str:
    """A log-probability in per cent."""
    share = 100 * math.exp(score)
    return f"{share:.0f}%" if share >= 9.95 else f"{share:.1f}%" if share >= 0.05 else "<0.1%"


def _details(item: Mapping[str, Any]) -> str:
    known = [(name, value) for name, value in item.items() if name not in (ITEM_ID, IMAGE, "title", "name")]
    return " · ".join(_short(name, value) for name, value in known[:3])


def _short(name: str, value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.2f}" if name == "price" else f"{value:g}"
    return str(value)[:40]


def _face(shop: Shop, entry: Entry) -> str:
    """Picture, title and details of an item."""
    source = shop.thumbnail(entry)
    picture = f'<img src="{source}" alt="" width="192" height="192">' if source else _NO_PICTURE
    return (
        f'<span class="u-picture">{picture}</span><span class="u-title">{escape(shop.title(entry))}</span>'
        f'<span class="u-details">{escape(_details(shop.item(entry)))}</span>'
    )


def _button(action: str, item: str, label: str, inside: str, css: str = "main", pressed: bool | None = None) -> str:
    state = "" if pressed is None else f' aria-pressed="{str(pressed).lower()}"'
    return (
        f'<button type="button" class="u-{css}" data-action="{action}" data-id="{escape(item)}" '
        f'aria-label="{escape(label)}"{state}>{inside}</button>'
    )


def answers(shop: Shop, found: Sequence[Mapping[str, Any]], before: Mapping[str, int] | None = None) -> str:
    """
    Recommendations as cards: a click adds one to the history, another asks why; `before` are their places with
    pictures, where those are hidden.
    """
    if not found:
        return notice("There is nothing left to recommend: remove items from the history, or clear it.")
    best = found[0]["score"]
    cards = []
    for rank, answer in enumerate(found, start=1):
        item_id, title = answer[ITEM_ID], shop.title(answer[ITEM_ID])
        chance = percent(answer["score"])
        bar = f'<span class="u-bar" style="--share:{math.exp(answer["score"] - best):.3f}"></span>'
        score = f'<span class="u-score" title="log-probability {answer["score"]:.2f}">{escape(chance)}{bar}</span>'
        moved = "" if before is None else _moved(before.get(item_id), rank)
        label = f"{rank}. {title}, {chance}: add to the history"
        main = _button("add", item_id, label, _face(shop, item_id) + score + moved)
        cards.append(f'<li class="u-card">{main}{_button("why", item_id, f"Why {title}?", "Why?", "side")}</li>')
    return f'<ol class="u-cards" aria-label="Recommendations, best first">{"".join(cards)}</ol>'


def grid(shop: Shop, item_ids: Sequence[str], action: str, chosen: Sequence[str] = ()) -> str:
    """Items to click."""
    if not item_ids:
        return notice(
            "No item's words have all of these; what only a picture shows is not among them. Try fewer, or others.",
            title="Nothing found",
        )
    verb = "Choose as a candidate" if action == "candidate" else "Add to the history"
    cards = [
        '<li class="u-card u-small">'
        + _button(
            action,
            item_id,
            f"{verb}: {shop.title(item_id)}",
            _face(shop, item_id),
            pressed=item_id in chosen if action == "candidate" else None,
        )
        + "</li>"
        for item_id in item_ids
    ]
    return f'<ul class="u-cards u-small" aria-label="Items of the catalogue">{"".join(cards)}</ul>'


def strip(visitor: Visitor, best: Mapping[str, Any] | None = None, falls: Mapping[int, float] | None = None) -> str:
    """The history, oldest first; with how likely the first recommendation is without each picture, if asked for."""
    shop, falls = visitor.shop, falls or {}
    if not visitor.history:
        return notice(
            "Choose a person, or click items in the catalogue below. Until then you see what people begin with.",
            title="Nobody yet",
        )
    most = max([1e-6, *map(abs, falls.values())])
    cards = []
    for place, (number, entry) in enumerate(zip(visitor.numbers, visitor.history, strict=True)):
        heat = _heat(best["score"], falls[place], most) if place in falls else ""
        inside = _face(shop, entry) + heat + '<span class="u-cross" aria-hidden="true">×</span>'
        button = _button("remove", str(number), f"Remove {shop.title(entry)} from the history", inside)
        cards.append(f'<li class="u-card u-tiny">{button}</li>')
    legend = _legend(visitor, best, falls)
    return f'<ol class="u-strip" aria-label="History">{"".join(cards)}</ol><p class="u-legend">{legend}</p>'


def _heat(score: float, fall: float, most: float) -> str:
    kind = "for" if fall >= 0 else "against"
    without = escape(percent(score - fall))
    return f'<span class="u-heat u-{kind}" style="--heat:{abs(fall) / most:.2f}"><span>{without}</span></span>'


def _legend(visitor: Visitor, best: Mapping[str, Any] | None, falls: Mapping[int, float]) -> str:
    if visitor.hide_pictures:
        return (
            "Pictures are hidden from the model, on all tabs but Imagine, so there are none that it looked at. On the "
            "tab Recommend, each item says where it was with pictures."
        )
    if best is None:
        return "Oldest first; click one to take it back."
    if not falls:
        return "No item of this history has a picture to look at."
    return (
        f"First recommended is <b>{escape(visitor.shop.title(best[ITEM_ID]))}</b>, "
        f"{escape(percent(best['score']))} likely. On the latest pictures: what that becomes when the model does not "
        "see that one. Orange: it falls, so the picture spoke for it; blue: it rises."
    )


def rating_text(shop: Shop, rating: float | None) -> str:
    """A rating and what it is out of."""
    if rating is None:
        return "no rating"
    return f"{rating:.1f} of {shop.processor.rating_range[1]:g}"


def why(visitor: Visitor, item_id: str, answer: Mapping[str, Any]) -> str:
    """The rating the model expects for an item, and its words."""
    shop, who = visitor.shop, "this person" if visitor.history else "somebody it knows nothing of"
    words, rating = answer["explanation"], rating_text(shop, answer["rating"])
    said = f"<q>{escape(words)}</q>" if words else "<em>The model has no words for this one.</em>"
    if words and _REPEATED.search(words.lower()):
        said = "<em>The model's words repeat themselves here, and are left out.</em>"
    return (
        f'<div class="u-why" role="status"><span class="u-picture">{_picture(shop, item_id)}</span><div>'
        f"<strong>{escape(shop.title(item_id))}</strong><p>{said}</p>"
        f"<small>What the model guesses {who} would say; the rating it expects: {escape(rating)}. It can be wrong."
        "</small></div></div>"
    )


def _picture(shop: Shop, entry: Entry) -> str:
    source = shop.thumbnail(entry)
    return f'<img src="{source}" alt="" width="192" height="192">' if source else _NO_PICTURE


def ranking(
    shop: Shop, title: str, about: str, found: Sequence[Mapping[str, Any]], before: Mapping[str, int] | None = None
) -> str:
    """Found items, one below the other, with what there is to say of them; `before` are their ranks for anyone."""
    rows = []
    for rank, answer in enumerate(found, start=1):
        item_id = answer[ITEM_ID]
        moved = ""
        if before is not None:
            moved = _moved(before.get(item_id), rank)
        inside = (
            f'<span class="u-rank">{rank}</span>{_face(shop, item_id)}'
            f'<span class="u-score">{escape(percent(answer["score"]))}</span>{moved}'
        )
        label = f"{rank}. {shop.title(item_id)}: add to the history"
        rows.append(f'<li class="u-row">{_button("add", item_id, label, inside)}</li>')
    heading = f'<h3>{escape(title)}</h3><p class="u-legend">{escape(about)}</p>'
    return f'<section class="u-ranking">{heading}<ol>{"".join(rows)}</ol></section>'


def _moved(before: int | None, rank: int) -> str:
    if before is None:
        return '<span class="u-moved u-up">was far below</span>'
    if before == rank:
        return '<span class="u-moved">same place</span>'
    return f'<span class="u-moved u-{"up" if before > rank else "down"}">was {before}</span>'


def candidates(
    shop: Shop, item_ids: Sequence[str], chosen: Sequence[str] = (), ratings: Mapping[str, float | None] | None = None
) -> str:
    """The candidates; once asked, which are chosen, and how each would be rated."""
    if not item_ids:
        return notice("Press “Pick three”, or click up to three items below.", title="No candidates yet")
    given = {item_id: rating_text(shop, rating) for item_id, rating in (ratings or {}).items()}
    cards = []
    for item_id in item_ids:
        # Ratings that are all the same tell nothing of a choice.
        rated = f'<span class="u-score">{escape(given[item_id])}</span>' if len(set(given.values())) > 1 else ""
        badge = '<span class="u-badge">This one</span>' if item_id in chosen else ""
        label = f"Take {shop.title(item_id)} away from the candidates"
        main = _button("candidate", item_id, label, _face(shop, item_id) + rated + badge)
        cards.append(f'<li class="u-card{" u-chosen" if item_id in chosen else ""}">{main}</li>')
    return f'<ul class="u-cards u-three" aria-label="Candidates">{"".join(cards)}</ul>'


def report(title: str, lines: Sequence[str], kind: str = "good") -> str:
    """What became of an upload."""
    shown = "".join(f"<li>{escape(line)}</li>" for line in lines[:8])
    more = f"<li>and {len(lines) - 8} more</li>" if len(lines) > 8 else ""
    role = "alert" if kind == "bad" else "status"
    return f'<div class="u-notice u-{kind}" role="{role}"><strong>{escape(title)}</strong><ul>{shown}{more}</ul></div>'


def unknown(words: Sequence[str]) -> str:
    """What to say of words of a request that mean little to the model; nothing if there are none."""
    return f" The model hardly knows {', '.join(f'“{word}”' for word in words)}." if words else ""


def imagined(output: Any, alpha: float, request: str, unknown_words: Sequence[str]) -> str:
    """Drawn pictures, from the request alone to mostly taste; the one that `alpha` chooses is marked."""
    scores = output.scores(alpha)
    best = scores.index(max(scores))
    names = ("what fits the request" if request else "what fits them"), "what they chose"
    by, note = {0: names[:1], 1: names[1:]}.get(alpha, names), ""
    if not any(candidate.weighting for candidate in output.candidates):
        by, note = names[:1], " Nobody was chosen above, so all are as asked."
    drawn = "".join(_drawn(number, one, names, number == best) for number, one in enumerate(output.candidates))
    asked = ("Words that it drew what was asked from", output.target_keywords if request else ())
    liked = ("Words that it drew their taste from", output.preference_keywords)
    words = "".join(
        f'<p class="u-words">{name}: {"".join(f"<span>{escape(word)}</span>" for word in found)}</p>'
        for name, found in (asked, liked)
        if found
    )
    fitting = f"<p>{names[0].capitalize()} in the catalogue; click one to add it to the history:</p>"
    return (
        f'<p role="status">Picture {best + 1} is best: it is most like {" and ".join(by)}.{note}'
        f"{escape(unknown(unknown_words))}</p>"
        f'<ol class="u-imagined" aria-label="Drawn">{drawn}</ol>{words}{fitting if output.retrieved else ""}'
    )


def _drawn(number: int, candidate: Any, names: tuple[str, str], is_best: bool) -> str:
    bars = "".join(
        f'<span class="u-details">{value:.1%} like {name}'
        f'<span class="u-bar" style="--share:{value:.3f}"></span></span>'
        for name, value in zip(names, (candidate.d_t, candidate.d_p), strict=True)
        if value is not None
    )
    badge = '<span class="u-badge">Best</span>' if is_best else ""
    source = data_address(candidate.image)
    return (
        f'<li class="u-card{" u-chosen" if is_best else ""}"><span class="u-picture">'
        f'<img src="{source}" alt="Drawn picture {number + 1}" width="192" height="192"></span>{badge}'
        f'<span class="u-title">{number + 1}</span>{bars}</li>'
    )
