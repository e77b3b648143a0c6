"""A contact sheet of imagined pictures: rows are people, columns are alpha from what was asked to what they like."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image, ImageDraw, ImageFont

from .imagine_unimp import UniMPImageOutput

if TYPE_CHECKING:
    from .image_pipeline_unimp import UniMPImagePipeline

TILE, SMALL, GAP, MARGIN, HEADER, CAPTION = 112, 52, 10, 28, 190, 30  # pixels
HISTORY_TILES = 8  # pictures of a history shown, in two rows
LEGEND_SIZE = 13
TITLE = "Drawn for a request and a taste"
LEGEND = (
    "For each request several pictures are drawn, with no taste, some and much, and alpha chooses among them: at 0",
    "the one most like what was asked, at 1 the one most like what the person had chosen, in between by both. Where",
    "the words of a request say everything, nothing is left to taste and all are alike.",
)
PAPER, CARD, INK, GREY = (250, 248, 244), (236, 233, 227), (44, 42, 48), (130, 124, 120)


@dataclass(frozen=True)
class SheetRow:
    """
    A person on the sheet.

    Attributes:
        title: who, and what they asked for.
        history: pictures of what they had chosen, oldest first; the most recent ones are shown.
        result: the answer of [`UniMPImagePipeline`].
    """

    title: str
    history: Sequence[Image.Image]
    result: UniMPImageOutput


def sheet_rows(
    pipeline: "UniMPImagePipeline", requests: Iterable[Mapping[str, Any]], seed: int = 0, **parameters: Any
) -> list[SheetRow]:
    """
    Answer requests for a contact sheet.

    Args:
        pipeline ([`UniMPImagePipeline`]): what draws.
        requests: dictionaries with `history` and `query`, such as [`ImaginePairs`] of people held out has them.
        seed (`int`): of the noise; the same for everybody, so that what differs is the person and the request.
        parameters: of [`UniMPImagePipeline.__call__`].
    """
    rows = []
    for request in requests:
        history, query = request["history"], request["query"]
        generator = torch.Generator().manual_seed(seed)
        result = pipeline(history, query, generator=generator, **parameters)
        pictures = (pipeline.picture_of(entry) for entry in history[-HISTORY_TILES:])
        title = f"asked for: {query}" if query else "asked for nothing in particular"
        rows.append(SheetRow(title, [picture for picture in pictures if picture is not None], result))
    return rows


def contact_sheet(
    rows: Sequence[SheetRow], path: str | Path, alphas: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0)
) -> None:
    """
    Write one PNG: per person what they had chosen, what they asked for, and the candidate that each alpha chooses.

    Args:
        rows (`Sequence[SheetRow]`): the people.
        path (`str` or `Path`): where the PNG goes.
        alphas (`Sequence[float]`): the columns.

    Raises:
        `ValueError`: there are no rows or no columns, or an alpha is outside [0, 1].
    """
    if not rows or not alphas:
        raise ValueError(f"`rows` and `alphas` must not be empty, got {len(rows)} and {len(alphas)}.")
    left = MARGIN + HISTORY_TILES // 2 * (SMALL + GAP // 2) + 2 * GAP
    right = left + len(alphas) * (TILE + GAP) - GAP
    font = ImageFont.load_default(size=LEGEND_SIZE)
    width = max(right, *(MARGIN + math.ceil(font.getlength(line)) for line in LEGEND)) + MARGIN
    sheet = Image.new("RGB", (width, HEADER + len(rows) * (TILE + CAPTION + GAP) + MARGIN), PAPER)
    pen = ImageDraw.Draw(sheet)
    _draw_header(pen, left, right, width, alphas)
    for number, row in enumerate(rows):
        top = HEADER + number * (TILE + CAPTION + GAP)
        pen.text((MARGIN, top + 4), row.title, INK, font=ImageFont.load_default(size=13))
        _draw_row(sheet, row, left, top + CAPTION - 6, alphas)
    sheet.save(path, format="PNG")


def _draw_header(pen: ImageDraw.ImageDraw, left: int, right: int, width: int, alphas: Sequence[float]) -> None:
    title, large, small = (ImageFont.load_default(size=size) for size in (22, 17, LEGEND_SIZE))
    pen.text((MARGIN, 22), TITLE, INK, font=title)
    pen.text((MARGIN, 54), "\n".join(LEGEND), INK, font=small)
    pen.text((MARGIN, HEADER - 62), "had chosen", INK, font=large)
    pen.text((left, HEADER - 62), "what was asked", INK, font=large)
    pen.text((right, HEADER - 62), "what they like", INK, font=large, anchor="ra")
    for column, alpha in enumerate(alphas):
        place = (left + column * (TILE + GAP) + TILE // 2, HEADER - 34)
        pen.text(place, f"alpha {alpha:g}", GREY, font=small, anchor="ma")
    pen.line([(MARGIN, HEADER - 10), (width - MARGIN, HEADER - 10)], CARD, width=2)


def _draw_row(sheet: Image.Image, row: SheetRow, left: int, top: int, alphas: Sequence[float]) -> None:
    for number, picture in enumerate(row.history[-HISTORY_TILES:]):
        down, across = divmod(number, HISTORY_TILES // 2)
        place = (MARGIN + across * (SMALL + GAP // 2), top + down * (SMALL + TILE - 2 * SMALL))
        _paste(sheet, picture, place, SMALL)
    for column, alpha in enumerate(alphas):
        _paste(sheet, row.result.choose(alpha).image, (left + column * (TILE + GAP), top), TILE)


def _paste(sheet: Image.Image, picture: Image.Image, place: tuple[int, int], side: int) -> None:
    """A picture in the middle of a square card, at its own proportions."""
    ImageDraw.Draw(sheet).rectangle((*place, place[0] + side - 1, place[1] + side - 1), fill=CARD)
    scale = side / max(picture.size)
    size = tuple(max(1, round(length * scale)) for length in picture.size)
    corner = tuple(place[axis] + (side - size[axis]) // 2 for axis in range(2))
    sheet.paste(picture.convert("RGB").resize(size, Image.Resampling.LANCZOS), corner)
