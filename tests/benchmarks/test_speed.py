"""The speed scripts on a miniature model: what is timed beside each other must give the same answers."""

from argparse import Namespace

import pytest
import speed_catalog
import speed_pictures
import speed_recommend
import speed_session
import torch
from speed_common import Size, compare, item_codes, make_model, make_prompt, picture_inputs, random_codes

ITEMS = 40
MINIATURE = Size(
    hidden_size=64,
    intermediate_size=96,
    num_layers=2,
    text_vocab_size=96,
    vision_size=64,
    vision_layers=1,
    image_size=32,
    num_latents=3,
    pictures=2,
    tokens=32,
    code_sizes=(5, 4, 3, 8),
)
OPTIONS = Namespace(
    threads=1, dtype="float32", device="cpu", items=ITEMS, excluded=30, beams=10, batches=[3], repetitions=1
)


@pytest.fixture(params=[True, False], ids=["semantic", "atomic"])
def model(request):
    return make_model(MINIATURE, ITEMS, semantic=request.param)


def test_random_codes_differ_and_fit():
    codes = random_codes(300, (5, 4, 60))
    assert len({tuple(row) for row in codes.tolist()}) == 300
    assert (codes < torch.tensor([5, 4, 60])).all()
    # The last level numbers the items of a cell without a gap.
    cell = codes[(codes[:, :2] == codes[0, :2]).all(-1)]
    assert sorted(cell[:, 2].tolist()) == list(range(len(cell)))
    with pytest.raises(ValueError, match=r"\(5, 4, 2\) are too small for 300 items"):
        random_codes(300, (5, 4, 2))


def test_every_way_finds_the_best_items_of_the_whole_catalogue(model):
    latents = picture_inputs(model, MINIATURE, MINIATURE.pictures)["image_latents"]
    best = model.score_items(**make_prompt(model, MINIATURE), image_latents=latents)[0].argsort(descending=True)
    runs = speed_recommend.one_person(model, MINIATURE, beams=ITEMS)
    assert len(runs) == 7
    for name, run in runs.items():
        assert run().tolist() == best.tolist(), name


def test_other_answers_are_noticed(model):
    runs = speed_recommend.one_person(model, MINIATURE, beams=ITEMS)
    runs["backwards"] = lambda: runs[speed_recommend.OURS]().flip(0)
    assert set(speed_recommend.differences(runs).items()) >= {("backwards", ITEMS), (speed_recommend.ORIGINAL, 0)}


def test_the_original_reads_every_picture_for_every_beam(model):
    number = []
    model.model.vision_encoder.register_forward_pre_hook(
        lambda _, args, kwargs: number.append(len(kwargs["pixel_values"])), with_kwargs=True
    )
    runs = speed_recommend.one_person(model, MINIATURE, beams=4)
    number.clear()
    runs[speed_recommend.ORIGINAL]()
    assert number == [4 * MINIATURE.pictures]
    for name in (speed_recommend.OURS, speed_recommend.STOCK):
        runs[name]()
    assert len(number) == 1


@pytest.mark.parametrize("in_full", speed_session.KINDS.values(), ids=speed_session.KINDS)
@pytest.mark.parametrize("clicks", [3, 8])
def test_a_session_answers_as_if_all_were_read_anew(model, clicks, in_full):
    in_session, anew = speed_session.requests(model, MINIATURE, ITEMS, clicks, in_full)
    for _ in range(2):
        assert in_session().tolist() == anew().tolist()


def test_a_catalogue_is_ranked_within_what_is_allowed(model):
    runs = speed_catalog.requests(model, MINIATURE, beams=4, excluded=30)
    everything, without, among = (run()[0].tolist() for run in runs.values())
    assert len(everything) == len(without) == len(among) == 4
    order = torch.randperm(ITEMS, generator=torch.Generator().manual_seed(3)).tolist()
    assert set(without) <= set(order[30:])
    assert set(among) == set(order[:4])
    seconds, item_bytes = speed_catalog.trie_costs(item_codes(model).int())
    assert seconds > 0
    assert item_bytes < 100


def test_times_are_of_all_but_the_first_call():
    calls = []
    times = compare({"first": lambda: calls.append(1), "second": lambda: calls.append(2)}, repetitions=2)
    assert calls == [1, 2] * 3
    assert list(times) == ["first", "second"]


def test_what_the_scripts_print(capsys):
    speed_recommend.report(OPTIONS, MINIATURE)
    speed_catalog.report(OPTIONS, MINIATURE, semantic=True, counts=(ITEMS, 60))
    speed_session.report(Namespace(**vars(OPTIONS), clicks=2, more_clicks=8), MINIATURE)
    printed = capsys.readouterr().out
    assert "another place" not in printed
    assert "batch 3: " in printed
    assert "| 60 items, 30 excluded |" in printed
    assert "| 8 clicks, the last five in full: all read anew |" in printed


@pytest.mark.parametrize("way", speed_pictures.WAYS)
def test_every_way_to_show_pictures_trains_what_it_names(way):
    config, adapters = speed_pictures.WAYS[way]
    step, model = speed_pictures.make_step(MINIATURE, 2, config, adapters)
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    losses = [step() for _ in range(3)]
    assert losses[0] > losses[-1]
    moved = {name for name, weight in model.named_parameters() if not torch.equal(weight, before[name])}
    assert not any("vision_encoder" in name for name in moved)
    in_decoder = {name for name in moved if "language_model" in name}
    assert in_decoder
    assert all("lora_" in name for name in in_decoder) == adapters
    part = "visual_prompt" if "tokens" in way else "cross_attention"
    assert any(part in name for name in moved) == (way != "no pictures")
