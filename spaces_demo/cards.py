"""What the page shows of items: HTML, of which every word that is not ours is escaped."""

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

from .shop import IMAGE, ITEM_ID, Entry, Shop, data_address

# A component's HTML is a template in the browser, too, in which these would mean something.
_TEMPLATE_SIGNS = str.maketrans({"{": "&#123;", "}": "&#125;", "$": "&#36;", "`": "&#96;"})
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


def answers(shop: Shop, found: Sequence[Mapping[str, Any]]) -> str:
    """Recommendations as cards: a click adds one to the history, another asks why."""
    if not found:
        return notice("There is nothing left to recommend: remove items from the history, or clear it.")
    best = found[0]["score"]
    cards = []
    for rank, answer in enumerate(found, start=1):
        item_id, title = answer[ITEM_ID], shop.title(answer[ITEM_ID])
        chance = percent(answer["score"])
        bar = f'<span class="u-bar" style="--share:{math.exp(answer["score"] - best):.3f}"></span>'
        score = f'<span class="u-score" title="log-probability {answer["score"]:.2f}">{escape(chance)}{bar}</span>'
        main = _button("add", item_id, f"{rank}. {title}, {chance}: add to the history", _face(shop, item_id) + score)
        cards.append(f'<li class="u-card">{main}{_button("why", item_id, f"Why {title}?", "Why?", "side")}</li>')
    return f'<ol class="u-cards" aria-label="Recommendations, best first">{"".join(cards)}</ol>'


def grid(shop: Shop, item_ids: Sequence[str], action: str, chosen: Sequence[str] = ()) -> str:
    """Items to click."""
    if not item_ids:
        return notice("No item has all of these words: try fewer, or others.", title="Nothing found")
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


def strip(shop: Shop, history: Sequence[Entry], falls: Mapping[int, float] | None = None, best: str = "") -> str:
    """The history, oldest first; with what each picture contributed to the first recommendation, if that is known."""
    if not history:
        return notice(
            "Choose a person, or click items in the catalogue below. Until then you see what people begin with.",
            title="Nobody yet",
        )
    most = max([1e-6, *map(abs, (falls or {}).values())])
    cards = []
    for place, entry in enumerate(history):
        heat = ""
        if falls is not None and place in falls:
            kind = "for" if falls[place] >= 0 else "against"
            heat = (
                f'<span class="u-heat u-{kind}" style="--heat:{abs(falls[place]) / most:.2f}">'
                f"<span>{falls[place]:+.2f}</span></span>"
            )
        inside = _face(shop, entry) + heat + '<span class="u-cross" aria-hidden="true">×</span>'
        button = _button("remove", str(place), f"Remove {shop.title(entry)} from the history", inside)
        cards.append(f'<li class="u-card u-tiny">{button}</li>')
    legend = "Oldest first; click one to take it back."
    if falls:
        title = f"<b>{escape(shop.title(best))}</b>"
        legend = f"What the log-probability of {title} loses when that one picture is hidden."
    elif falls is not None:
        legend = "No item of this history has a picture to look at."
    return f'<ol class="u-strip" aria-label="History">{"".join(cards)}</ol><p class="u-legend">{legend}</p>'


def rating_text(shop: Shop, rating: float | None) -> str:
    """A rating and what it is out of."""
    if rating is None:
        return "no rating"
    return f"{rating:.1f} of {shop.processor.rating_range[1]:g}"


def why(shop: Shop, item_id: str, answer: Mapping[str, Any]) -> str:
    """The rating the model expects for an item, and its words."""
    words = answer["explanation"]
    said = f"<q>{escape(words)}</q>" if words else "<em>The model gives a rating, but no words for it.</em>"
    return (
        f'<div class="u-why" role="status"><span class="u-picture">{_picture(shop, item_id)}</span><div>'
        f"<strong>{escape(shop.title(item_id))}: {escape(rating_text(shop, answer['rating']))}</strong>"
        f"<p>{said}</p><small>What the model expects this person to give and to say. Generated text: it can be wrong."
        "</small></div></div>"
    )


def _picture(shop: Shop, entry: Entry) -> str:
    source = shop.thumbnail(entry)
    return f'<img src="{source}" alt="" width="192" height="192">' if source else _NO_PICTURE


def ranking(
    shop: Shop, title: str, found: Sequence[Mapping[str, Any]], before: Mapping[str, int] | None = None
) -> str:
    """Found items, one below the other; `before` are their ranks without the person's taste."""
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
    return f'<section class="u-ranking"><h3>{escape(title)}</h3><ol>{"".join(rows)}</ol></section>'


def _moved(before: int | None, rank: int) -> str:
    if before is None:
        return '<span class="u-moved u-up">from far below</span>'
    if before == rank:
        return '<span class="u-moved">same place</span>'
    return f'<span class="u-moved u-{"up" if before > rank else "down"}">was {before}</span>'


def candidates(
    shop: Shop, item_ids: Sequence[str], chosen: Sequence[str] = (), ratings: Mapping[str, float | None] | None = None
) -> str:
    """The candidates; once asked, which are chosen, and how each would be rated."""
    if not item_ids:
        return notice("Draw three, or click up to three items below.", title="No candidates yet")
    cards = []
    for item_id in item_ids:
        rated = (
            "" if ratings is None else f'<span class="u-score">{escape(rating_text(shop, ratings[item_id]))}</span>'
        )
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


def imagined(shop: Shop, output: Any, alpha: float) -> str:
    """Drawn candidates with their scores, the one chosen first, and what they were made of."""
    scores = output.scores(alpha)
    order = sorted(range(len(scores)), key=lambda number: -scores[number])
    drawn = "".join(_drawn(output.candidates[number], scores[number], number == order[0]) for number in order)
    words = "".join(
        f'<p class="u-words">{escape(name)}: {"".join(f"<span>{escape(word)}</span>" for word in found) or "none"}</p>'
        for name, found in (("What was asked", output.target_keywords), ("What they like", output.preference_keywords))
    )
    said = f"<p>The model says: <q>{escape(output.answer)}</q></p>" if output.answer else ""
    found = "<p>Items of the catalogue that fit best:</p>" if output.retrieved else ""
    return f'<ol class="u-imagined" aria-label="Drawn, best first">{drawn}</ol>{words}{said}{found}'


def _drawn(candidate: Any, score: float, is_chosen: bool) -> str:
    likeness = " · ".join(
        f"{name} {value:.2f}"
        for name, value in (("taste", candidate.d_p), ("request", candidate.d_t))
        if value is not None
    )
    badge = '<span class="u-badge">This one</span>' if is_chosen else ""
    source = data_address(candidate.image)
    return (
        f'<li class="u-card{" u-chosen" if is_chosen else ""}"><span class="u-picture">'
        f'<img src="{source}" alt="A drawn candidate" width="192" height="192"></span>{badge}'
        f'<span class="u-title">score {score:.2f}</span><span class="u-details">{escape(likeness)}</span>'
        f'<span class="u-details">made of {candidate.weighting:.0%} taste</span></li>'
    )
