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
    "This model has nothing to draw with. The quickstart's learns to draw by “unimp quickstart --imagine --resume”; "
    "for another, train a denoiser and save its UniMPImagePipeline in the folder “imagine” beside the model's weights."
)
HOW_TO_READ_IT = (
    "Four pictures that do not exist yet, from the request alone to mostly this person's taste. “request” and “taste” "
    "say how alike each is to what was asked and to what they chose (1 is most). The score joins the two as the dial "
    "says, and the highest one (nearest 0) is “this one”: moving the dial chooses anew and draws nothing."
)
# One at a time, and few in line: it is the one thing here that takes seconds.
LIMITS = {"concurrency_limit": 1, "concurrency_id": "imagine"}
SEEDS = 2**31


class ImagineTab:
    """
    Args:
        page ([`Page`]): whose person is drawn for.
    """

    def __init__(self, page: "Page") -> None:
        self.page = page
        if page.shop.drawer is None:
            gr.HTML(cards.notice(HOW_TO_GET_IT, title="Not with this model"))
            return
        gr.HTML(cards.heading("Draw for them", HOW_TO_READ_IT))
        with gr.Row(equal_height=True, elem_classes="u-line"):
            self.query = gr.Textbox(label="What shall be drawn?", placeholder="such as striped bag", max_length=200)
            self.draw = gr.Button("Draw", variant="primary", scale=0, min_width=140)
        self.alpha = gr.Slider(
            0, 1, value=0.5, step=0.05, label="True to the request (0) … true to this person's taste (1)"
        )
        empty = cards.notice("A request, a person, or both; then press Draw.", title="Nothing drawn yet")
        self.drawn = gr.HTML(empty, elem_id="drawn", js_on_load=CLICKS)

    def connect(self, person: list[Any]) -> None:
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
        self.alpha.release(
            self.choose, [page.state, self.alpha], self.drawn, api_visibility="private", show_progress="hidden"
        )
        self.drawn.click(
            page.click,
            [page.state, page.top_k],
            [*person, page.why],
            api_visibility="private",
            show_progress="hidden",
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

        def steps(timesteps: Any) -> Any:
            return progress.tqdm(timesteps, desc="Drawing")

        try:
            visitor.imagined = visitor.shop.imagine(
                visitor.history, query, float(alpha), steps, random.randrange(SEEDS)
            )
        except ValueError as error:
            return visitor, cards.notice(str(error), "bad", "That could not be drawn")
        return visitor, self.choose(visitor, alpha)

    def choose(self, state: Visitor | None, alpha: float) -> Any:
        """Another alpha chooses anew; nothing is drawn for it."""
        visitor = self.page.visitor(state)
        if visitor.imagined is None:
            return gr.skip()
        found = [answer[ITEM_ID] for answer in visitor.imagined.retrieved]
        return cards.imagined(visitor.shop, visitor.imagined, float(alpha)) + cards.grid(visitor.shop, found, "add")
