"""The page: its layout, and what happens on every click."""

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from tempfile import TemporaryDirectory
from typing import Any

import gradio as gr

from . import cards
from .api import Api, select
from .imagine import LIMITS, ImagineTab
from .look import CLICKS, INTO_VIEW
from .sample import write_sample
from .shop import ITEM_ID, Shop
from .uploads import MAX_ITEMS, clean_text, read_item, read_upload
from .visitor import DEEPEST_RANK, Visitor

NUM_FOUND, NUM_SEARCHED = 24, 6
# What may wait for an answer at a time, and how long a visitor who went away is remembered.
QUEUE_SIZE, CONCURRENT, SECONDS_KEPT = 48, 8, 3600
# Reading what somebody sends takes seconds at worst: most of what may run at a time is left to everybody else.
UPLOADS = {"concurrency_limit": 2, "concurrency_id": "uploads"}
# Every click inside a component; no endpoint, since the functions of `Api` do the same without a page.
PRIVATE = {"api_visibility": "private", "show_progress": "hidden"}
# Of clicks while an answer is pending, which Gradio drops by default: each counts, or the last one does.
EVERY = PRIVATE | {"trigger_mode": "multiple"}
LATEST = PRIVATE | {"trigger_mode": "always_last"}
NOBODY = "Nobody yet"
WORDS, ANY_WORDS = "Words in the item", "such as coat, or leave empty"
NOTHING_OWN = "Your items appear here, and can then be chosen, found and recommended."
WHERE_OWN_ARE = (
    "Click one below to add it to the history. They also come first in the catalogue on the tabs Recommend and "
    "Select, and Search can find them."
)
FOR_ANYONE = (
    "What the words alone find. In per cent: how likely it is what they mean. Click one to add it to the history."
)
FOR_PERSON = "The same words, with what they chose so far in mind. “was 5”: fifth on the list for anyone."
ASK_WHY = "Press “Why?” on a recommendation: the model says what this person would say of it."


def _in_turn(action: Callable[..., Any]) -> Callable[..., Any]:
    """Of what a visitor does, one thing after the other, however fast they click; different ones do not wait."""

    @wraps(action)
    def run(page: "Page", visitor: Visitor | None, *args: Any) -> Any:
        visitor = page.visitor(visitor)
        with visitor.lock:
            return action(page, visitor, *args)

    return run


class Page:
    """
    Args:
        shop ([`Shop`]): what everybody sees.
        people: histories to begin with, by name; item ids, oldest first.
        name: what the model is called.
    """

    def __init__(self, shop: Shop, people: Mapping[str, Sequence[str]], name: str) -> None:
        self.shop, self.name, self.api = shop, name, Api(shop)
        self._folder = TemporaryDirectory(prefix="unimp-sample-")
        self.sample_files = write_sample(self._folder.name, shop)
        self.people = {who: [entry for entry in history if entry in shop.catalog] for who, history in people.items()}

    def build(self) -> gr.Blocks:
        """The whole page."""
        with gr.Blocks(
            title="UniMP: it knows your taste", analytics_enabled=False, delete_cache=(600, SECONDS_KEPT)
        ) as blocks:
            self.state = gr.State(None, time_to_live=SECONDS_KEPT)
            gr.HTML(self._head(), elem_id="head")
            self._person()
            with gr.Tabs():
                with gr.Tab("Recommend", id="recommend"):
                    self._recommend_tab()
                with gr.Tab("Search", id="search"):
                    self._search_tab()
                with gr.Tab("Select", id="select"):
                    self._select_tab()
                with gr.Tab("Your items", id="own"):
                    self._own_tab()
                with gr.Tab("Imagine", id="imagine"):
                    self.imagine = ImagineTab(self)
            self._endpoints()  # first: an endpoint has the name of its function
            self._connect(blocks)
        return blocks.queue(max_size=QUEUE_SIZE, default_concurrency_limit=CONCURRENT)

    def visitor(self, state: Visitor | None) -> Visitor:
        """Who is there: someone known, or someone new (or back after they were forgotten)."""
        return Visitor(self.shop) if state is None else state

    # Layout

    def _head(self) -> str:
        count = f"{len(self.shop.catalog):,} items"
        does = "explains and chooses" if self.shop.drawer is None else "explains, chooses and draws"
        return (
            "<h1>What would they like?</h1><p>One model looks at the pictures and words of what somebody chose, and "
            f"recommends, searches, {does} for them. Everything below runs live.</p>"
            f"<small>{cards.escape(self.name)} · {count}</small>"
        )

    def _person(self) -> None:
        with gr.Column(elem_id="person"):
            with gr.Row(equal_height=True, elem_classes="u-line"):
                gr.HTML(cards.heading("Who is it?", "What they chose so far is all that the model knows of them."))
                self.who = gr.Dropdown(
                    [NOBODY, *self.people], value=NOBODY, label="Begin with a person", visible=bool(self.people)
                )
                self.clear = gr.Button("Clear history", scale=0, min_width=140)
            self.strip = gr.HTML(cards.strip(Visitor(self.shop)), elem_id="strip", js_on_load=CLICKS)
            with gr.Row(elem_classes="u-checks"):
                self.hide = gr.Checkbox(label="Hide all pictures from the model")
                self.heat = gr.Checkbox(label="Show which pictures it looked at")

    def _recommend_tab(self) -> None:
        with gr.Row(equal_height=True, elem_classes="u-line"):
            about = "In per cent: how likely each comes next. Click one to add it, and they follow at once."
            gr.HTML(cards.heading("They may like next", about))
            self.top_k = gr.Slider(8, 24, value=8, step=8, label="How many")
        self.why = gr.HTML(cards.notice(ASK_WHY), elem_id="why", js_on_load=INTO_VIEW)
        self.results = gr.HTML(elem_id="results", js_on_load=CLICKS)
        with gr.Accordion("Choose from the catalogue", open=True):
            self.words = gr.Textbox(label=WORDS, placeholder=ANY_WORDS, max_length=100)
            first = cards.grid(self.shop, self.shop.find()[:NUM_FOUND], "add")
            self.grid = gr.HTML(first, elem_id="grid", js_on_load=CLICKS)
        with (
            gr.Accordion("Add something the catalogue has never seen", open=False),
            gr.Row(equal_height=True, elem_classes="u-line"),
        ):
            self.own_title = gr.Textbox(label="What is it?", placeholder="such as Red wool scarf", max_length=120)
            self.picture = gr.UploadButton("Upload its picture", file_types=["image"], type="filepath")
            self.add_titled = gr.Button("Add without a picture")
        self.added = gr.HTML(elem_id="added")

    def _search_tab(self) -> None:
        with gr.Row(equal_height=True, elem_classes="u-line"):
            self.query = gr.Textbox(
                label="What are they looking for?", placeholder="such as striped scarf", max_length=200
            )
            self.find = gr.Button("Search", variant="primary", scale=0, min_width=140)
        anyone = cards.notice(FOR_ANYONE, title="For anyone")
        person = cards.notice(FOR_PERSON, title="For this person")
        with gr.Row(elem_classes="u-sides"):
            self.anyone = gr.HTML(anyone, elem_id="anyone", js_on_load=CLICKS)
            self.person_found = gr.HTML(person, elem_id="person-found", js_on_load=CLICKS)

    def _select_tab(self) -> None:
        with gr.Row(equal_height=True, elem_classes="u-line"):
            gr.HTML(cards.heading("Which of the three?", "Have three picked, or click items below."))
            self.pick = gr.Button("Pick three", scale=0, min_width=140)
            self.choose = gr.Button("Which one, and why?", variant="primary", scale=0, min_width=210)
        self.candidates = gr.HTML(cards.candidates(self.shop, []), elem_id="candidates", js_on_load=CLICKS)
        self.select_why = gr.HTML(elem_id="select-why")
        self.select_words = gr.Textbox(label=WORDS, placeholder=ANY_WORDS, max_length=100)
        first = cards.grid(self.shop, self.shop.find()[:NUM_FOUND], "candidate")
        self.select_grid = gr.HTML(first, elem_id="select-grid", js_on_load=CLICKS)

    def _own_tab(self) -> None:
        gr.HTML(
            cards.heading(
                "Add items of your own",
                "Pictures, a .csv table (“Take a sample” shows how it looks), both, or a .zip of them. They can be "
                f"recommended at once. At most {MAX_ITEMS} items; only you see them, and they are forgotten when you "
                "leave.",
            )
        )
        self.files = gr.File(
            label="Your files",
            file_count="multiple",
            file_types=[".csv", ".zip", "image"],
            height=160,
            elem_id="files",
        )
        with gr.Row():
            self.sample = gr.Button("Take a sample")
            self.join = gr.Button("Add these to the catalogue", variant="primary")
            self.forget = gr.Button("Forget my items")
        self.own_report = gr.HTML(elem_id="own-report")
        self.own_only = gr.Checkbox(label="On the tab Recommend, recommend my items only", interactive=False)
        empty = cards.notice(NOTHING_OWN, title="Nothing of yours yet")
        self.own_grid = gr.HTML(empty, elem_id="own-grid", js_on_load=CLICKS)

    # What happens

    def _connect(self, blocks: gr.Blocks) -> None:
        person = [self.state, self.strip, self.results]
        shown = [self.state, self.top_k]
        blocks.load(self.draw_all, shown, person, **PRIVATE)
        self.imagine.connect()
        shelves = [self.strip, self.results, self.grid, self.anyone, self.person_found, self.own_grid]
        clicks = [shelf.click for shelf in [*shelves, *self.imagine.shelves]]
        own = [*person, self.own_report, self.own_grid, self.own_only, self.grid, self.select_grid, self.files]
        # What follows a click is drawn at once; the heat, which takes a request a picture, comes after it.
        for event in (
            self.who.input(self.choose_person, [*shown, self.who], [*person, self.why], **PRIVATE),
            self.clear.click(self.clear_history, shown, [*person, self.why, self.who], **PRIVATE),
            self.hide.input(self.hide_pictures, [*shown, self.hide], [*person, self.why], **PRIVATE),
            gr.on(clicks, self.click, self.state, [self.state, self.why], **EVERY).then(
                self.draw_all, shown, person, **LATEST
            ),
            self.picture.upload(
                self.add_unknown, [*shown, self.picture, self.own_title], [*person, self.added], **PRIVATE
            ),
            self.add_titled.click(
                self.add_unknown, [*shown, gr.State(None), self.own_title], [*person, self.added], **PRIVATE
            ),
            self.join.click(
                self.join_items,
                [*shown, self.files],
                own,
                api_visibility="private",
                show_progress="minimal",
                **UPLOADS,
            ),
            self.forget.click(self.forget_items, shown, own, **PRIVATE),
            self.own_only.input(self.recommend_own, [*shown, self.own_only], person, **PRIVATE),
            self.top_k.change(self.draw_all, shown, person, **LATEST),
            self.heat.input(lambda: None, **PRIVATE),
        ):
            event.then(self.look, [self.state, self.heat], [self.strip], **LATEST)
        self.sample.click(lambda: self.sample_files, None, self.files, **PRIVATE)
        self.words.change(self.find_to_add, [self.state, self.words], self.grid, **LATEST)
        self.select_words.change(self.find_candidates, [self.state, self.select_words], self.select_grid, **LATEST)
        found = [self.state, self.anyone, self.person_found]
        gr.on(
            [self.find.click, self.query.submit],
            self.search,
            [self.state, self.query],
            found,
            api_visibility="private",
            show_progress="minimal",
        )
        chosen = [self.state, self.candidates, self.select_grid, self.select_why]
        with_words = [self.state, self.select_words]
        self.pick.click(self.pick_three, with_words, chosen, **PRIVATE)
        self.choose.click(self.select_one, self.state, [self.state, self.candidates, self.select_why], **PRIVATE)
        gr.on([self.candidates.click, self.select_grid.click], self.click_candidate, with_words, chosen, **EVERY)

    def _endpoints(self) -> None:
        """The API, which is also the MCP server's tools. Files come through components, which check where they are."""
        api = self.api
        for function in (
            api.find_items,
            api.recommend,
            api.why,
            api.what_it_looked_at,
            api.search,
            api.select,
            api.forget_items,
        ):
            gr.api(function, api_name=function.__name__)
        if self.shop.drawer is not None:
            gr.api(api.imagine, api_name="imagine", **LIMITS)
        with gr.Column(visible=False):
            file, picture = gr.File(label="file"), gr.File(label="picture")
            title, history = gr.Textbox(label="title", value=""), gr.JSON(label="history", value=[])
            answer, button = gr.JSON(label="answer"), gr.Button()
        # What JSON says of itself, `{"type": {}}`, is no schema: a tool that has it refuses every call.
        history.api_info = lambda: {"type": "array", "items": {"type": "string"}}
        button.click(api.add_items, file, answer, api_name="add_items", **UPLOADS)
        button.click(api.recommend_for_picture, [picture, title, history], answer, api_name="recommend_for_picture")

    @_in_turn
    def draw_all(self, visitor: Visitor, top_k: float) -> tuple[Visitor, str, str]:
        """History and recommendations, as they are now."""
        before = visitor.ranks_with_pictures() if visitor.hide_pictures else None
        results = cards.answers(visitor.shop, visitor.recommend(int(top_k)), before)
        return visitor, cards.strip(visitor), results

    @_in_turn
    def choose_person(self, visitor: Visitor, top_k: float, who: str) -> tuple[Any, ...]:
        """Begin with somebody's history."""
        visitor.set_history(self.people.get(who, []))
        return *self.draw_all(visitor, top_k), cards.notice(ASK_WHY)

    @_in_turn
    def clear_history(self, visitor: Visitor, top_k: float) -> tuple[Any, ...]:
        """Begin with nobody."""
        visitor.set_history([])
        return *self.draw_all(visitor, top_k), cards.notice(ASK_WHY), NOBODY

    @_in_turn
    def hide_pictures(self, visitor: Visitor, top_k: float, hide: bool) -> tuple[Any, ...]:
        """Hide pictures from the model, or show them again."""
        visitor.set_hide_pictures(hide)
        return *self.draw_all(visitor, top_k), cards.notice(ASK_WHY)

    @_in_turn
    def click(self, visitor: Visitor, event: gr.EventData) -> tuple[Visitor, str]:
        """
        A card: added, taken back, or asked about. What follows is drawn by a request of its own, one at a time:
        answers to clicks reach a browser in any order, and an older one must not be what is seen last.
        """
        action, item = _clicked(event)
        told = cards.notice(ASK_WHY)
        try:
            if action == "why":
                told = cards.why(visitor, item, visitor.answering.why(visitor.shown_history(), item))
            elif action == "add":
                visitor.add(item)
            elif action == "remove" and item.isdigit():
                visitor.remove(int(item))
        except ValueError as error:
            told = cards.notice(str(error), "bad", "That did not work")
        return visitor, told

    @_in_turn
    def add_unknown(self, visitor: Visitor, top_k: float, path: str | None, title: str) -> tuple[Any, ...]:
        """An item the catalogue has never seen."""
        try:
            entry = read_item(path, title or "")
            visitor.add(entry)
            told = cards.notice(f"{visitor.shop.title(entry)} is now the latest of the history.", "good", "Added")
        except ValueError as error:
            told = cards.notice(str(error), "bad", "That could not be added")
        return *self.draw_all(visitor, top_k), told

    @_in_turn
    def look(self, visitor: Visitor, heat: bool) -> Any:
        """What each picture of the history contributed."""
        if not heat or visitor.hide_pictures or not visitor.history:
            return cards.strip(visitor)
        try:
            return cards.strip(visitor, *visitor.shop.looked_at(visitor.history, visitor.own_only))
        except ValueError:  # nothing is left to recommend, as is said there
            return cards.strip(visitor)

    @_in_turn
    def find_to_add(self, visitor: Visitor, words: str) -> str:
        """Items that have these words, for the history."""
        return self._find(visitor, words, "add")

    @_in_turn
    def find_candidates(self, visitor: Visitor, words: str) -> str:
        """Items that have these words, for the candidates."""
        return self._find(visitor, words, "candidate")

    def _find(self, visitor: Visitor, words: str, action: str) -> str:
        found = visitor.shop.find(clean_text(words))[:NUM_FOUND]
        return cards.grid(visitor.shop, found, action, visitor.candidates)

    @_in_turn
    def search(self, visitor: Visitor, query: str) -> tuple[Visitor, str, str]:
        """For anyone, and with the person's taste."""
        query = clean_text(query)
        if not query:
            return visitor, cards.notice("Say what they are looking for.", "bad", "Nothing is asked yet"), ""
        shop = visitor.answering
        anyone = shop.ask("search", {"history": [], "query": query}, top_k=DEEPEST_RANK)
        about = FOR_ANYONE + cards.unknown(visitor.shop.unknown_words(query))
        left = cards.ranking(visitor.shop, "For anyone", about, anyone[:NUM_SEARCHED])
        if not visitor.history:
            empty = "Choose a person above, or some items, and search again: then this side is in their taste."
            return visitor, left, cards.notice(empty, title="For this person")
        person = shop.ask("search", {"history": visitor.shown_history(), "query": query}, top_k=NUM_SEARCHED)
        before = {answer[ITEM_ID]: rank for rank, answer in enumerate(anyone, start=1)}
        return visitor, left, cards.ranking(visitor.shop, "For this person", FOR_PERSON, person, before)

    @_in_turn
    def pick_three(self, visitor: Visitor, words: str) -> tuple[Any, ...]:
        """Three candidates."""
        visitor.pick_candidates()
        return self._draw_candidates(visitor, words)

    @_in_turn
    def click_candidate(self, visitor: Visitor, words: str, event: gr.EventData) -> tuple[Any, ...]:
        """A candidate more, or one less."""
        try:
            visitor.toggle_candidate(_clicked(event)[1])
        except ValueError as error:
            return visitor, gr.skip(), gr.skip(), cards.notice(str(error), "bad", "That did not work")
        return self._draw_candidates(visitor, words)

    def _draw_candidates(self, visitor: Visitor, words: str) -> tuple[Any, ...]:
        shown = cards.candidates(visitor.shop, visitor.candidates)
        return visitor, shown, self._find(visitor, words, "candidate"), ""

    @_in_turn
    def select_one(self, visitor: Visitor) -> tuple[Any, ...]:
        """Which one, and why."""
        if len(visitor.candidates) < 2:
            few = "Press “Pick three”, or click at least two items."
            return visitor, gr.skip(), cards.notice(few, "bad", "Too few")
        answer = select(visitor.answering, visitor.shown_history(), visitor.candidates)
        shown = cards.candidates(visitor.shop, visitor.candidates, answer["chosen"], answer["ratings"])
        first = answer["chosen"][0]
        told = {"rating": answer["ratings"].get(first), "explanation": answer["explanation"]}
        return visitor, shown, cards.why(visitor, first, told)

    @_in_turn
    def join_items(self, visitor: Visitor, top_k: float, paths: list[str] | None) -> tuple[Any, ...]:
        """A visitor's items join a copy of the catalogue that is theirs alone."""
        notes = [WHERE_OWN_ARE]
        if visitor.shop.own_ids:
            notes.append("They took the place of those that you had added before.")
        try:
            upload = read_upload(paths or [], visitor.shared.catalog)
            visitor.enter(visitor.shared.with_items(upload.items))
        except ValueError as error:
            told = cards.notice(str(error), "bad", "Nothing was added")
            return visitor, *[gr.skip()] * 2, told, *[gr.skip()] * 5
        number = len(visitor.shop.own_ids)
        title = f"{number} item{'' if number == 1 else 's'} joined the catalogue"
        return self._draw_shop(visitor, top_k, cards.report(title, [*notes, *upload.notes]))

    @_in_turn
    def forget_items(self, visitor: Visitor, top_k: float) -> tuple[Any, ...]:
        """Back to the catalogue that everybody sees."""
        visitor.enter(visitor.shared)
        return self._draw_shop(visitor, top_k, cards.notice("Only the shop's own items are left.", title="Forgotten"))

    def _draw_shop(self, visitor: Visitor, top_k: float, told: str) -> tuple[Any, ...]:
        own, has_own = visitor.shop.own_ids, bool(visitor.shop.own_ids)
        empty = cards.notice(NOTHING_OWN, title="Nothing of yours yet")
        own_grid = cards.grid(visitor.shop, own, "add") if has_own else empty
        switch = gr.Checkbox(interactive=has_own, value=visitor.own_only)
        grids = [self._find(visitor, "", action) for action in ("add", "candidate")]
        return *self.draw_all(visitor, top_k), told, own_grid, switch, *grids, None

    @_in_turn
    def recommend_own(self, visitor: Visitor, top_k: float, own_only: bool) -> tuple[Visitor, str, str]:
        """Recommend a visitor's own items alone, or all."""
        visitor.own_only = bool(own_only) and bool(visitor.shop.own_ids)
        return self.draw_all(visitor, top_k)


def _clicked(event: gr.EventData) -> tuple[str, str]:
    """What a click says it is; it comes from a browser, and may say anything."""
    data = event._data if isinstance(event._data, Mapping) else {}
    return str(data.get("action", "")), str(data.get("id", ""))
