"""The tab that draws; one line where the model's folder has nothing to draw with."""

import random
from typing import TYPE_CHECKING, Any

import gradio as gr

from . import cards
from .look import CLICKS
from .shop import ITEM_ID
from .uploads import clean_text
from .visitor import Visitor

if TYPE_CHECKING:
    from .page import Page

HOW_TO_GET_IT = (
    "This model has nothing to draw with. Whoever runs this page can teach the demo store's by “unimp quickstart "
    "--imagine --resume”; for another, see “Imagine” in the project's README."
)
HOW_TO_READ_IT = (
    "Four new pictures: the first as asked, for each next one the model is told more of this person's taste. The bars "
    "measure what came out: how alike it is to what fits the request in the catalogue, and to what they chose."
)
NOTHING_ASKED = "Choose a person above, or write what you would like to see, or both; then press Draw."
# One at a time, and few in line: it is the one thing here that takes seconds.
LIMITS = {"concurrency_limit": 1, "concurrency_id": "imagine"}
SEEDS = 2**31


class ImagineTab:
    """
    Args:
        page ([`Page`]): whose person is drawn for.
    """

    def __init__(self, page: "Page") -> None:
        self.page, self.shelves = page, []  # of items to click
        if page.shop.drawer is None:
            gr.HTML(cards.notice(HOW_TO_GET_IT, title="This model cannot draw"))
            return
        gr.HTML(cards.heading("Draw for them", HOW_TO_READ_IT))
        with gr.Row(equal_height=True, elem_classes="u-line"):
            self.query = gr.Textbox(
                label="What shall be drawn?", placeholder="such as striped bag; empty for a surprise", max_length=200
            )
            self.draw = gr.Button("Draw", variant="primary", scale=0, min_width=140)
        self.alpha = gr.Slider(
            0,
            1,
            value=0.5,
            step=0.25,
            label="Which of the four is best? 0: the most like the request; 1: the most like their taste",
        )
        empty = cards.notice(NOTHING_ASKED, title="Nothing drawn yet")
        self.drawn = gr.HTML(empty, elem_id="drawn", js_on_load=CLICKS)
        self.shelves.append(self.drawn)

    def connect(self) -> None:
        """What happens on this tab."""
        page = self.page
        if page.shop.drawer is None:
            return
        gr.on(
            [self.draw.click, self.query.submit],
            self.imagine,
            [page.state, self.query, self.alpha],
            [page.state, self.drawn],
            api_visibility="private",
            **LIMITS,
        )
        self.alpha.input(
            self.choose,
            [page.state, self.alpha],
            self.drawn,
            api_visibility="private",
            show_progress="hidden",
            trigger_mode="always_last",
        )

    def imagine(
        self,
        state: Visitor | None,
        query: str,
        alpha: float,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> tuple[Visitor, str]:
        """Draw candidates, and choose one."""
        visitor, query = self.page.visitor(state), clean_text(query)
        if not visitor.history and not query:
            return visitor, cards.notice(NOTHING_ASKED, "bad", "There is nothing to draw yet")

        def steps(timesteps: Any) -> Any:
            return progress.tqdm(timesteps, desc="Drawing")

        try:
            visitor.imagined = visitor.shop.imagine(
                visitor.history, query, float(alpha), steps, random.randrange(SEEDS)
            )
        except ValueError as error:
            return visitor, cards.notice(str(error), "bad", "That could not be drawn")
        visitor.request = query
        return visitor, self.choose(visitor, alpha)

    def choose(self, state: Visitor | None, alpha: float) -> Any:
        """Another way of choosing; nothing is drawn for it."""
        visitor = self.page.visitor(state)
        if visitor.imagined is None:
            return gr.skip()
        found = [answer[ITEM_ID] for answer in visitor.imagined.retrieved]
        unknown = visitor.shop.unknown_words(visitor.request)
        drawn = cards.imagined(visitor.imagined, float(alpha), visitor.request, unknown)
        return drawn + (cards.grid(visitor.shop, found, "add") if found else "")
