"""A live session gives the pipeline's answers, and a click costs the same however long the history is."""

import pytest
import torch

from unimp import Catalog
from unimp.processing.images_unimp import ImageError
from unimp.processing.live_unimp import KEPT_SHARE
from unimp.processing.neighbours_unimp import Neighbours
from unimp.processing.pipelines_unimp import UniMPRecommendPipeline, UniMPSearchPipeline

from .conftest import ITEMS, draw_picture, make_model, make_processor
from .test_semantic_codes import first_rows, semantic_model

ITEM_IDS = [item["item_id"] for item in ITEMS]


def make_pipe(scope="last", **settings):
    processor = make_processor(**settings)
    random = torch.rand(len(ITEMS), len(ITEMS), generator=torch.Generator().manual_seed(1))
    pairs = random.fill_diagonal_(0).nonzero().T.numpy()
    neighbours = Neighbours.heaviest(*pairs, random[tuple(pairs)].numpy() / 4, len(ITEMS))
    processor.catalog.set_neighbours(neighbours)
    model = make_model(processor)
    model.config.visual_scope = scope
    return UniMPRecommendPipeline(model=model, processor=processor)


def open_gates(model):
    for block in model.model.cross_attention:
        block.attention_gate.data.fill_(0.8)
        block.feed_forward_gate.data.fill_(-0.6)


def clicks(number, seed=0):
    """A history of events of every kind: ids, events with all that may be known, items that no catalogue has."""
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randint(0, 840, (number, 3), generator=generator).tolist()
    pictured = [{"title": "Cap", "image": draw_picture(50)}, {"image": draw_picture(51), "rating": 2}]
    events = []
    for place, (which, kind, some) in enumerate(draws):
        event = {"item_id": ITEM_IDS[which % len(ITEM_IDS)]}
        if kind % 4 == 1:
            event |= {"rating": 1 + some % 5, "behavior": ["purchase", "view"][some % 2]}
        if kind % 3 == 1:
            event["timestamp"] = 1_000_000 * place + some
        if kind % 7 == 1:
            event = pictured[some % 2] if some % 3 else {"title": "Bag", "timestamp": 1_000_000 * place}
        events.append(event if len(event) > 1 or kind % 2 else event["item_id"])
    return events


def check(answer, expected):
    assert [entry["item"] for entry in answer] == [entry["item"] for entry in expected]
    scores = [entry["score"] for entry in expected]
    assert [entry["score"] for entry in answer] == pytest.approx(scores, abs=1e-5)


@pytest.mark.parametrize("full_chunks", [None, 0, 2])
@pytest.mark.parametrize("scope", ["last", "all"])
def test_every_click_is_answered_as_by_the_pipeline(scope, full_chunks, order):
    pipe = make_pipe(scope, full_chunks=full_chunks, order=order)
    events = clicks(30)
    session = pipe.start_session(events[:3])
    for number in range(3, 31):
        expected = pipe({"history": events[:number]}, exclude_seen=False)
        assert len(expected) == 8
        check(session.recommend(exclude_seen=False), expected)
        check(session.recommend(top_k=2), pipe({"history": events[:number]}, top_k=2))
        if number < 30:
            session.append(events[number])
    assert session.history == session.shown == events


def test_a_session_may_begin_with_nothing():
    pipe = make_pipe()
    session = pipe.start_session()
    assert session.history == []
    check(session.recommend(), pipe({"history": []}))
    session.append("hat")
    check(session.recommend(), pipe({"history": ["hat"]}))


def test_clicks_may_come_before_the_next_question():
    pipe, events = make_pipe(), clicks(12)
    session = pipe.start_session()
    for event in events:
        session.append(event)
    check(session.recommend(), pipe({"history": events}))


def fed(pipe):
    """Tokens that the decoder and pictures that the vision encoder gets from now on, a number each time."""
    tokens, pictures = [], []
    model = pipe.model.model
    model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: tokens.append(kwargs["inputs_embeds"].shape[1]), with_kwargs=True
    )
    model.vision_encoder.register_forward_pre_hook(
        lambda module, args, kwargs: pictures.append(len(kwargs["pixel_values"])), with_kwargs=True
    )
    return tokens, pictures


@pytest.mark.parametrize("full_chunks", [None, 0, 1, 3])
def test_a_click_feeds_what_it_changes_and_no_more(full_chunks, order):
    pipe = make_pipe(full_chunks=full_chunks, order=order, max_length=1900)
    in_full = make_processor(full_chunks=None, order=order)
    one, two = (in_full({"history": ["hat"] * number})["input_ids"].shape[1] for number in (1, 2))
    length, ending = two - one, 1 if order == "code_last" else 0
    session = pipe.start_session(["hat"] * 5)
    tokens, pictures = fed(pipe)
    for _ in range(25):
        session.append("hat")
        session.recommend()
    # The new chunk; or those in full once more, and the code of the one that no longer is.
    new = {None: length, 0: 1, 1: 1 + length, 3: 1 + 3 * length}[full_chunks]
    assert tokens == [new + ending] * 25
    assert pictures == []  # the hat's was read before, and stays


def test_pictures_are_opened_and_encoded_once(monkeypatch):
    pipe = make_pipe(full_chunks=3)
    image, opened = Catalog.image, []
    monkeypatch.setattr(Catalog, "image", lambda self, position: opened.append(position) or image(self, position))
    session = pipe.start_session(["shirt", "hat"])
    _, pictures = fed(pipe)
    for item_id in ("shoes", "coat", "scarf"):
        session.append(item_id)
    assert opened == [1, 2, 3]
    assert pictures == [1, 1]


def test_saved_pictures_are_used(tmp_path):
    pipe, events = make_pipe("all", full_chunks=3), clicks(10)
    pipe.processor.encode_pictures(pipe.model, tmp_path, latents=True)
    saved = UniMPRecommendPipeline(model=pipe.model, processor=pipe.processor)
    _, pictures = fed(saved)
    session = saved.start_session(ITEM_IDS)
    for item_id in ITEM_IDS:
        session.append(item_id)
    assert pictures == []
    for number, event in enumerate(events):
        session.append(event)
        check(
            session.recommend(exclude_seen=False),
            pipe({"history": ITEM_IDS * 2 + events[: number + 1]}, exclude_seen=False),
        )


@pytest.mark.parametrize("full_chunks", [None, 2])
def test_items_of_several_tokens(full_chunks, order):
    processor = make_processor(full_chunks=full_chunks, order=order)
    model = semantic_model(processor)
    open_gates(model)
    processor.index_catalog(model, fit_codes=first_rows)
    pipe, events = UniMPRecommendPipeline(model=model, processor=processor), clicks(12)
    session = pipe.start_session(events[:2])
    for number, event in enumerate(events[2:], start=3):
        session.append(event)
        check(session.recommend(top_k=8), pipe({"history": events[:number]}, top_k=8))


# The window


def longest(pipe, events):
    """Tokens of the longest chunk."""
    empty, *lengths = (
        pipe.processor({"history": history})["input_ids"].shape[1] for history in ([], *([event] for event in events))
    )
    return empty, max(lengths) - empty


@pytest.mark.parametrize(("full_chunks", "max_length", "least"), [(None, 260, 3), (1, 110, 1)])
def test_a_full_window_drops_its_oldest_quarter(full_chunks, max_length, least, order):
    pipe = make_pipe(full_chunks=full_chunks, order=order, max_length=max_length)
    events = [event for event in clicks(80) if isinstance(event, str) or "timestamp" not in event]
    request, chunk = longest(pipe, events)
    room = max_length - request
    session = pipe.start_session(events[:1])
    tokens, _ = fed(pipe)
    before, dropped = 1, 0
    for number, event in enumerate(events[1:], start=2):
        tokens.clear()
        session.append(event)
        assert session.history == events[:number]
        assert session.shown == events[number - len(session.shown) : number]
        (read,) = tokens
        if len(session.shown) < before + 1:
            dropped += 1
            assert KEPT_SHARE * room - chunk <= read - request <= KEPT_SHARE * room
        before = len(session.shown)
        answer = session.recommend(exclude_seen=False)
        check(answer, pipe({"history": session.shown}, exclude_seen=False))
    assert least <= dropped <= number / 3


@pytest.mark.parametrize(("window", "least"), [(0, 0), (1, 1), (2, 2), (6, 5)])
def test_a_window_of_events_drops_its_oldest_quarter(window, least):
    pipe, ids = make_pipe(history_window=window), [ITEM_IDS[number % len(ITEM_IDS)] for number in range(20)]
    session, lengths = pipe.start_session(), []
    for item in ids:
        session.append(item)
        lengths.append(len(session.shown))
        check(session.recommend(exclude_seen=False), pipe({"history": session.shown}, exclude_seen=False))
    assert session.history == ids
    assert session.shown == ids[20 - lengths[-1] :]
    assert lengths[:window] == list(range(1, window + 1))
    assert set(lengths[window:]) == set(range(least, window + 1))
    begun = pipe.start_session(ids)
    check(begun.recommend(exclude_seen=False), pipe({"history": begun.shown}, exclude_seen=False))


def test_what_left_the_window_is_still_seen_and_timed():
    pipe = make_pipe(full_chunks=None, max_length=220)
    events = [{"item_id": ITEM_IDS[number % 5], "timestamp": 4_000 * 2**number} for number in range(20)]
    narrow = UniMPRecommendPipeline(
        model=pipe.model, processor=make_processor(pipe.processor.catalog, full_chunks=None)
    )
    session = pipe.start_session(events[:9])
    for number, event in enumerate(events[9:], start=10):
        session.append(event)
        # As by a pipeline whose window ends where the session's does: it knows the time before its first event.
        narrow.processor.max_length = pipe.processor({"history": session.shown})["input_ids"].shape[1]
        check(session.recommend(), narrow({"history": events[:number]}))
        assert len(session.shown) < 8
        assert {entry["item_id"] for entry in session.recommend()} == {"socks", "belt", "gloves"}


def test_a_window_of_one_long_chunk():
    pipe = make_pipe(full_chunks=None)
    events = ["coat", "shirt", "belt", "coat", "belt", "shirt"]
    empty, one = (pipe.processor({"history": history})["input_ids"].shape[1] for history in ([], ["shirt"]))
    for length, most in ((one, 1), (one - 1, 0), (empty, 0)):
        pipe.processor.max_length = length
        session = pipe.start_session()
        for number, event in enumerate(events, start=1):
            session.append(event)
            check(session.recommend(exclude_seen=False), pipe({"history": session.shown}, exclude_seen=False))
            assert session.history == events[:number]
        assert len(session.shown) == most


# What goes wrong, and what changes


@pytest.mark.parametrize(
    ("event", "message"),
    [
        ("trousers", "`item_id` must be one of the catalogue's 8 item ids .* got 'trousers' in `history`"),
        (None, "`item_id` must be one of"),
        ({"item_id": "hat", "rating": 9}, "`rating` must be a number within"),
        ({"item_id": "hat", "behavior": "theft"}, "`behavior` must be one of"),
        ({"item_id": "hat", "timestamp": "now"}, "`timestamp` must be seconds"),
        ({"title": "Cap", "image": b"no picture"}, "`image` of a never-seen item: "),
        ("gloves", "cannot be read"),
    ],
)
def test_a_wrong_event_leaves_the_session_as_it_was(event, message, monkeypatch):
    pipe, image = make_pipe(), Catalog.image
    session = pipe.start_session(["hat", "coat"])
    expected = session.recommend()

    def unreadable(catalog, position):
        if position == ITEM_IDS.index("gloves"):
            raise ImageError("this picture cannot be read")
        return image(catalog, position)

    monkeypatch.setattr(Catalog, "image", unreadable)
    tokens, _ = fed(pipe)
    for history in (["hat", "coat", event], ["hat", event]):
        with pytest.raises(ValueError, match=message):
            pipe({"history": history})
    with pytest.raises(ValueError, match=message):
        session.append(event)
    assert session.history == ["hat", "coat"]
    assert session.recommend() == expected
    assert tokens == []
    session.append("belt")
    check(session.recommend(), pipe({"history": ["hat", "coat", "belt"]}))
    with pytest.raises(ValueError, match=message):
        pipe.start_session(["hat", event])


def test_an_event_is_not_changed_from_outside():
    pipe, event = make_pipe(), {"item_id": "hat", "timestamp": 5}
    session = pipe.start_session([event])
    session.append(event)
    event["timestamp"] = "never"
    session.append("coat")
    session.history.append("nothing")
    assert session.history == [{"item_id": "hat", "timestamp": 5}] * 2 + ["coat"]


def test_after_an_error_of_the_decoder_all_is_read_again():
    pipe = make_pipe()
    session = pipe.start_session(["hat", "coat"])
    failing = pipe.model.model.language_model.layers[1].register_forward_pre_hook(lambda module, args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        session.append("belt")
    failing.remove()
    assert session.history == ["hat", "coat"]
    check(session.recommend(), pipe({"history": ["hat", "coat"]}))
    session.append("belt")
    check(session.recommend(), pipe({"history": ["hat", "coat", "belt"]}))


def test_a_catalogue_that_changes_is_followed():
    pipe = make_pipe()
    catalog, history = pipe.processor.catalog, ["hat", {"item_id": "cap", "title": "Cap"}, "coat"]
    session = pipe.start_session(history)
    tokens, _ = fed(pipe)
    catalog.remove(["gloves"])
    assert "gloves" not in {entry["item_id"] for entry in session.recommend()}
    assert tokens == []
    catalog.add([{"item_id": "cap", "title": "Cap", "image": draw_picture(70)}])
    for call in (session.recommend, lambda: session.append("belt")):
        with pytest.raises(ValueError, match=r"`processor\.index_catalog"):
            call()
    pipe.processor.index_catalog(pipe.model)
    answer = session.recommend()
    check(answer, pipe({"history": history}))
    assert "cap" not in {entry["item_id"] for entry in answer}  # once it has a code, it was seen
    codes = catalog.replace([{"item_id": "coat", "title": "Blue coat", "image": draw_picture(71)}])
    pipe.processor.index_catalog(pipe.model, codes)
    session.append("belt")
    check(session.recommend(), pipe({"history": [*history, "belt"]}))
    codes = catalog.replace([{"item_id": "coat", "title": "Torn coat"}])
    session.append("socks")  # before the model knows
    pipe.processor.index_catalog(pipe.model, codes)
    check(session.recommend(), pipe({"history": [*history, "belt", "socks"]}))


def test_parameters_are_those_of_the_pipeline():
    pipe = make_pipe()
    short = UniMPRecommendPipeline(model=pipe.model, processor=pipe.processor, top_k=2, exclude_seen=False)
    session = short.start_session(["hat"])
    assert len(session.recommend()) == 2
    assert len(session.recommend(top_k=8)) == 8
    assert len(session.recommend(top_k=8, exclude_seen=True)) == 7
    answer = session.recommend(candidates=["coat", "belt", "hat"], exclude_seen=True, top_k=5)
    assert {entry["item_id"] for entry in answer} == {"coat", "belt"}
    with pytest.raises(ValueError, match="`top_k` must be"):
        session.recommend(top_k=0)
    with pytest.raises(ValueError, match="`limit` is not a parameter of unimp-recommend"):
        session.recommend(limit=3)
    with pytest.raises(ValueError, match="`history` must be a list of items, got 'hat'"):
        pipe.start_session("hat")


def test_a_search_has_no_session():
    pipe = make_pipe()
    search = UniMPSearchPipeline(model=pipe.model, processor=pipe.processor)
    with pytest.raises(ValueError, match="A session is for `unimp-recommend`: each search request"):
        search.start_session(["hat"])
