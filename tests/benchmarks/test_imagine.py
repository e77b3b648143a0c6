"""Figures of pictures, and the whole evaluation in miniature."""

import argparse

import imagine
import imagine_posters
import imagine_recommend
import numpy as np
import pytest
import torch
from attribute_classifier import SIDE, TRAITS, AttributeClassifier, drawn_items, load_or_train
from imagine import make_requests, named_traits, run
from imagine_figures import (
    ALPHAS,
    BASE,
    BOTH,
    CHOSEN,
    COPY,
    FULL,
    KEYWORDS,
    PAIRS,
    PROMPT,
    SOFT,
    START,
    SYSTEMS,
    Artists,
    ImagePromptPipeline,
    Journal,
    Judge,
    Request,
    markdown,
    summarise,
)
from perceptual_distance import LAYERS, WEIGHTS_FILE, Lpips, ssim
from PIL import Image
from safetensors.torch import save_file, save_model

from unimp import UniMPImagePipeline
from unimp.processing.demo_store import build_demo_store, demo_item_traits
from unimp.processing.splits import user_holdout
from unimp.processing.store import make_store
from unimp.training.imagine import ImagineTrainer, ImagineTrainingConfig, build_tiny_pipeline
from unimp.training.imagine_data import ImaginePairs
from unimp.training.recipe import ModelArguments, build

ITEMS, USERS = 40, 30


@pytest.fixture(scope="module")
def lpips_folder(tmp_path_factory):
    """Weights of the right shapes, drawn at random; weights of channels are not negative."""
    folder, generator = tmp_path_factory.mktemp("lpips"), torch.Generator().manual_seed(0)
    sizes, tensors = (3, *(layer[0] for layer in LAYERS)), {}
    for number, (channels, kernel, *_) in enumerate(LAYERS):
        shape = (channels, sizes[number], kernel, kernel)
        tensors[f"AlexNet_0.Conv_{number}.kernel"] = 0.05 * torch.randn(shape, generator=generator)
        tensors[f"AlexNet_0.Conv_{number}.bias"] = torch.zeros(channels)
        tensors[f"NetLinLayer_{number}.Conv_0.kernel"] = torch.rand(1, channels, 1, 1, generator=generator)
    save_file(tensors, folder / WEIGHTS_FILE)
    return folder


@pytest.fixture(scope="module")
def lpips(lpips_folder):
    return Lpips(lpips_folder)


def noise(seed, size=64):
    return torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


# LPIPS and SSIM


def test_lpips_is_a_distance_of_layers_brought_to_length_1(lpips):
    first, second = noise(0), noise(1)
    assert (lpips(first, first) == 0).all()
    torch.testing.assert_close(lpips(first, second), lpips(second, first))
    assert (lpips(first, second) > lpips(first, 0.9 * first + 0.1 * second)).all()
    for layer, (channels, *_) in zip(lpips.features(first), LAYERS, strict=True):
        assert layer.shape[1] == channels
        lengths = layer.square().sum(1)
        torch.testing.assert_close(lengths[lengths > 0], torch.ones_like(lengths[lengths > 0]))


def test_lpips_weighs_squared_differences_and_averages_positions(lpips):
    """Features made by hand: in the first layer, one of four positions differs, in channels 0 and 1."""
    first = [torch.zeros(1, layer[0], 2, 2) for layer in LAYERS]
    second = [layer.clone() for layer in first]
    first[0][0, 0, 0, 0], second[0][0, 1, 0, 0] = 1.0, 1.0
    weights = lpips.channel_weights_0.flatten()
    assert lpips.between(first, second).item() == pytest.approx((weights[0] + weights[1]).item() / 4)


def test_lpips_needs_its_weights_and_pictures_of_some_size(lpips, tmp_path):
    with pytest.raises(FileNotFoundError, match=f"has no {WEIGHTS_FILE}"):
        Lpips(tmp_path)
    with pytest.raises(ValueError, match="`pictures`"):
        lpips.features(torch.zeros(1, 3, 16, 64))


def test_ssim_of_flat_pictures_is_that_of_their_means():
    """No variance: (2ab + c) / (a^2 + b^2 + c) of the means in 0..1."""
    a, b = torch.full((1, 3, 16, 16), 0.0), torch.full((1, 3, 16, 16), 1.0)
    expected = (2 * 0.5 * 1 + 1e-4) / (0.25 + 1 + 1e-4)
    assert ssim(a, b).item() == pytest.approx(expected, abs=1e-4)
    torch.testing.assert_close(ssim(noise(0), noise(0)), torch.ones(2))
    assert (ssim(noise(0), noise(1)) < 0.2).all()


# The classifier


def test_the_classifier_reads_what_it_was_shown():
    torch.manual_seed(0)
    pixels, labels = drawn_items(40, seed=3)
    assert pixels.shape[1:] == (3, SIDE, SIDE)
    traits = demo_item_traits(40, seed=3)
    assert TRAITS["garment"][labels["garment"][0]] in {item.garment for item in traits.values()}
    network = AttributeClassifier()
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    for _ in range(40):
        logits = network(pixels)
        sum(torch.nn.functional.cross_entropy(logits[name], labels[name]) for name in TRAITS).backward()
        optimizer.step()
        optimizer.zero_grad()
    pictures = [Image.fromarray(((p + 1) * 127.5).byte().permute(1, 2, 0).numpy()) for p in pixels]
    read = network.read(pictures)
    right = [
        TRAITS[name][label] == value for name in TRAITS for label, value in zip(labels[name], read[name], strict=True)
    ]
    assert np.mean(right) > 0.9


# Requests and figures


def test_a_request_asks_for_the_traits_that_it_names():
    item = next(iter(demo_item_traits(ITEMS).values()))
    assert named_traits(f"{item.colour} {item.garment} for work", item) == {
        "colour": item.colour, "garment": item.garment,
    }  # fmt: skip
    assert set(named_traits(item.garment, item)) == {"garment"}


def test_requests_are_of_people_with_pictures():
    items, interactions = build_demo_store(ITEMS, USERS)
    split = user_holdout(interactions)
    pictured = {row["item_id"] for row in items if row["image"] is not None}
    requests = make_requests(split.test, demo_item_traits(ITEMS), pictured, limit=2)
    assert {kind: len(rows) for kind, rows in requests.items()} == {"own": 2, "garment": 2}
    for own, garment in zip(requests["own"], requests["garment"], strict=True):
        assert own.history == garment.history
        assert garment.query == own.traits["garment"]
        assert own.item_id in pictured
    everyone = {row["item_id"] for row in items}
    assert make_requests(split.test, demo_item_traits(ITEMS), set(), 9)["own"] == []
    assert len(make_requests(split.test, demo_item_traits(ITEMS), everyone, 99)["own"]) == len(split.test)


class Knowing(AttributeClassifier):
    """Reads a red plain dress in whatever it sees."""

    def read(self, pictures):
        return {name: [value] * len(pictures) for name, value in zip(TRAITS, ("dress", "red", "plain"), strict=True)}


def test_figures_of_a_picture(lpips):
    shown = [Image.new("RGB", (64, 64), colour) for colour in ("red", "blue", "green")]
    pictures = dict(zip(("asked", "one", "two"), shown, strict=True))
    events = [{"item_id": "one"}, {"item_id": "bare"}, {"item_id": "two"}]
    traits = {"garment": "dress", "colour": "blue"}
    request = Request(events, "blue dress", "asked", traits)
    judge = Judge(pictures, (64, 64), Knowing(), lpips)
    figures = judge.figures(shown[0], request)
    assert figures["attributes right"] == 0.5  # the dress, not the colour
    assert figures["LPIPS to target"] == pytest.approx(0, abs=1e-6)
    assert figures["SSIM to target"] == pytest.approx(1)
    to_one, to_two = (judge.figures(shown[0], Request([event], "dress", "asked", traits)) for event in events[::2])
    for name in ("LPIPS to history", "SSIM to history"):
        assert figures[name] == pytest.approx((to_one[name] + to_two[name]) / 2)
    assert judge.differences([shown[0], shown[0], shown[1]])[0] == pytest.approx(to_one["LPIPS to history"] / 2)
    bare = Judge(pictures, (64, 64)).figures(shown[0], Request(events, "", "asked", {}))
    assert set(bare) == {"SSIM to history", "SSIM to target"}


def person(base, full, nearest=None):
    """A row of a person: distance to the history, attributes right, and a dial."""
    names = ("LPIPS to history", "attributes right")
    of_all = dict.fromkeys((BASE, KEYWORDS, SOFT, BOTH, PROMPT, START, CHOSEN), base) | {FULL: full}
    of_all |= {} if nearest is None else {COPY: nearest}
    figures = {system: dict(zip(names, values, strict=True)) for system, values in of_all.items()}
    return {"figures": figures, "dial": {"d_p": [0.1, 0.2], "d_t": [0.4, full[1]]}}


def test_systems_are_compared_with_the_request_alone():
    rows = [person((0.4, 1.0), (0.2, 1.0)), person((0.6, 1.0), (0.3, 0.5), (0.1, 0.0))]
    report = summarise(rows)
    distance, right = (report["systems"][FULL][name] for name in ("LPIPS to history", "attributes right"))
    assert (distance["value"], distance["people"]) == (pytest.approx(0.25), 2)
    assert distance["versus request only"] == pytest.approx({"ratio": 0.5, "low": 0.5, "high": 0.5})
    assert right["versus request only"]["difference"] == pytest.approx(-0.25)
    assert "versus request only" not in report["systems"][BASE]["LPIPS to history"]
    nearest = report["systems"][COPY]["LPIPS to history"]
    assert nearest["people"] == 1  # the other's nearest item has no picture
    assert nearest["versus request only"]["ratio"] == pytest.approx(0.1 / 0.6)  # paired with the same person
    assert set(report["versus"]) == {f"{one} / {other}" for one, other in PAIRS}
    full_beside_parts = report["versus"][f"{FULL} / {BOTH}"]
    assert set(full_beside_parts) == {"LPIPS to history"}
    assert full_beside_parts["LPIPS to history"]["ratio"] == pytest.approx(0.5)
    assert report["dial"]["d_p"] == pytest.approx([0.1, 0.2])
    assert report["dial"]["d_t"] == pytest.approx([0.4, 0.75])
    table = markdown(report["systems"]).splitlines()
    assert table[0] == "| | LPIPS to history | attributes right |"
    assert table[2 + SYSTEMS.index(FULL)].count("(x 0.500 [0.500, 0.500])") == 1
    assert "(-0.250 [-0.500, +0.000])" in table[2 + SYSTEMS.index(FULL)]


def test_a_system_that_drew_for_nobody_is_left_out():
    report = summarise([person((0.4, 1.0), (0.2, 1.0)), person((0.6, 1.0), (0.3, 0.5))])
    assert list(report["systems"]) == [system for system in SYSTEMS if system != COPY]


def test_what_is_finished_is_not_done_again(tmp_path):
    journal = Journal(tmp_path / "work" / "rows.jsonl", {"steps": 3})
    journal.add("own 0", {"figures": 1})
    again = Journal(tmp_path / "work" / "rows.jsonl", {"steps": 3})
    assert again.rows == {"own 0": {"key": "own 0", "figures": 1}}
    with pytest.raises(ValueError, match="other settings"):
        Journal(tmp_path / "work" / "rows.jsonl", {"steps": 4})


# All of it


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("out")
    store = make_store(*build_demo_store(ITEMS, USERS))
    tiny = ModelArguments(hidden_size=32, num_layers=1, num_heads=2, vocab_size=400, image_size=32, full_chunks=1)
    train = user_holdout(store.interactions, seed=0).train
    torch.manual_seed(0)
    model, processor = build(store, tiny, train)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    config = ImagineTrainingConfig(str(folder / "imagine"), max_steps=1, batch_size=4, disable_tqdm=True)
    ImagineTrainer(build_tiny_pipeline(model, processor), config, ImaginePairs(train, processor.catalog)).train()
    return folder


def test_the_image_prompt_is_the_mean_of_the_pictures(trained):
    pipe = build_tiny_pipeline(*_load(trained), num_soft_tokens=4)
    pipe = ImagePromptPipeline(pipe.model, pipe.processor, pipe.unet, pipe.scheduler, pipe.preference)
    catalog = pipe.processor.catalog
    ids = [item_id for code, item_id in enumerate(catalog.item_ids) if catalog.has_image(code)][:2]
    bare = [item_id for code, item_id in enumerate(catalog.item_ids) if not catalog.has_image(code)][:1]
    histories = [[{"item_id": item_id} for item_id in some] for some in (ids, ids[::-1], [*ids, *bare], ids[:1])]
    with torch.no_grad():
        both, turned, with_bare, one = pipe.encode_preference(histories)
    assert both.shape == (4, pipe.unet.config.cross_attention_dim)
    torch.testing.assert_close(both, turned)
    torch.testing.assert_close(both, with_bare)
    assert not torch.allclose(both, one, atol=0.1)  # however alike the latents are
    latents = pipe._latents[[code for code in range(len(catalog)) if catalog.has_image(code)]]
    torch.testing.assert_close(latents.std(0), torch.ones_like(latents[0]), atol=1e-3, rtol=0)


def _load(folder):
    from unimp.training.recipe import load

    return load(str(folder))


def options_of(module, *arguments, **values):
    options = module.parse(list(arguments))
    return argparse.Namespace(**(vars(options) | values))


def test_in_miniature(trained, lpips_folder, tmp_path, monkeypatch, capsys):
    torch.manual_seed(0)
    work = tmp_path / "work"
    work.mkdir()
    save_model(AttributeClassifier(), work / "attribute_classifier.safetensors")
    assert not load_or_train(work).training
    options = options_of(
        imagine, model=str(trained), work=work, lpips=lpips_folder, people=2, diversity_people=2,
        num_inference_steps=1, num_items=ITEMS, num_users=USERS,
    )  # fmt: skip
    report = run(options, max_steps=1, batch_size=4, disable_tqdm=True)
    assert (work / "image_prompt" / "model_index.json").is_file()
    assert set(report["classifier"]) == {"values", *TRAITS}
    for kind in ("own", "garment"):
        systems = report[kind]["systems"]
        assert set(systems) == set(SYSTEMS)
        assert all(len(figures) == 5 for figures in systems.values())
        assert set(report[kind]["versus"]) == {f"{one} / {other}" for one, other in PAIRS}
        dial = report[kind]["dial"]
        assert dial["alpha"] == list(ALPHAS)
        assert dial["d_p"] == sorted(dial["d_p"])
        assert dial["d_t"] == sorted(dial["d_t"], reverse=True)
    assert set(report["diversity"]) == set(SYSTEMS)
    assert report["diversity"][BASE]["value"] == pytest.approx(0, abs=1e-6)  # one request and noise: one picture
    assert report["diversity"][FULL]["value"] > 0
    printed = capsys.readouterr().out
    assert CHOSEN in printed
    assert COPY in printed
    monkeypatch.setattr(Artists, "draw", lambda *arguments: pytest.fail("it is drawn again"))
    assert run(options) == report


def test_parts_are_what_the_pipeline_draws_with_one_of_them(trained):
    pipe = UniMPImagePipeline.from_pretrained(trained / "imagine")
    options = {"guidance_scale": 1.5, "num_inference_steps": 2, "strength": 0.5}
    history = [{"item_id": item_id} for item_id in pipe.processor.catalog.item_ids[:3]]
    pictures, full = Artists(pipe, pipe, **options).draw(history, "red hat", seed=5)
    known = {"preference_keywords": full.preference_keywords, "target_keywords": full.target_keywords}
    by_weighting = {candidate.weighting: candidate for candidate in full.candidates}
    anybodys, theirs = (by_weighting[weighting].start for weighting in (0.0, 0.5))
    for name, start, change in (
        (BASE, anybodys, {"weightings": [0.0]}),
        (KEYWORDS, anybodys, {"use_soft": False}),
        (SOFT, anybodys, {"preference_keywords": []}),
        (BOTH, anybodys, {}),
        (START, theirs, {"weightings": [0.0]}),
        (FULL, theirs, {}),
    ):
        way = options | known | {"weightings": [0.5], "num_candidates": 1, "target": start} | change
        expected = pipe(history, None, generator=torch.Generator().manual_seed(5), **way).image
        np.testing.assert_allclose(np.asarray(pictures[name], int), np.asarray(expected, int), atol=2)
    assert not np.allclose(np.asarray(pictures[KEYWORDS], int), np.asarray(pictures[SOFT], int), atol=2)


def test_pictures_beside_the_recommender(trained):
    options = options_of(
        imagine_recommend, model=str(trained), drawn=1, steps=1, num_items=ITEMS, num_users=USERS
    )  # fmt: skip
    report = imagine_recommend.run(options)
    assert report["people"] == round(USERS / 10)
    for name in ("drawn", "chosen"):
        both = report[f"recommender and pictures {name}"]
        assert both["weight"] == max(both["validation"], key=both["validation"].get)
        assert 0 <= report[f"pictures {name}"]["ndcg@10"] <= 1


class Known(imagine_recommend.Part):
    """Four items of which the last was seen; two people whose answer is item 1."""

    def __init__(self, recommender):
        self.recommender = torch.tensor(recommender)
        self.answers, self.left_out = torch.tensor([1, 1]), torch.tensor([[False, False, False, True]] * 2)
        self.drawn = torch.tensor([[0.0, 1.0, 0.0, 9.0]] * 2)  # pictures tell the answer
        self.chosen = torch.tensor([[1.0, 0.0, 0.0, 9.0]] * 2)


def test_pictures_count_as_much_as_is_best_on_validation():
    part = Known([[1.0, 0.9, 0.0, 5.0], [0.0, 1.0, 0.5, 5.0]])
    report = imagine_recommend.compare(part, part)
    assert report["recommender"]["ndcg@10"] == pytest.approx((1 / np.log2(3) + 1) / 2)
    assert report["pictures drawn"]["ndcg@10"] == pytest.approx(1)
    assert report["recommender and pictures drawn"]["ndcg@10"] == pytest.approx(1)
    assert report["recommender and pictures chosen"]["weight"] == 0.0  # they only harm
    assert report["recommender and pictures chosen"]["difference"] == 0


# Posters


def test_posters_in_miniature(trained, lpips_folder, tmp_path):
    interactions = tmp_path / "interactions.parquet"
    build_demo_store(ITEMS, USERS)[1].to_parquet(str(interactions))
    options = options_of(
        imagine_posters, "--model", str(trained), "--interactions", str(interactions), lpips=lpips_folder,
        work=tmp_path / "work", people=2, steps=1, batch_size=2, channels=[8, 8, 16], layers=1,
    )  # fmt: skip
    options.num_inference_steps, options.train_only = 1, "image_prompt"
    assert set(imagine_posters.run(options)) == {"seconds of training"}
    assert [path.name for path in (tmp_path / "work").iterdir()] == ["ImagePromptPipeline"]
    options.train_only = None
    report = imagine_posters.run(options)
    assert report["people"] == 2
    assert set(report["systems"]) == set(SYSTEMS)
    assert "attributes right" not in report["systems"][BASE]
    assert Image.open(tmp_path / "work" / "posters_systems.png").size[0] == len(SYSTEMS) * 72
    assert (tmp_path / "work" / "posters.png").is_file()
    assert imagine_posters.run(options)["seconds of training"] == 0  # what was trained is kept


def test_a_poster_is_asked_for_with_the_words_of_the_first_event_held_out():
    rows = [
        {"user_id": "a", "item_id": ["x", "y"], "timestamp": [1, 2], "query": ["old", "first"]},
        {"user_id": "a", "item_id": ["x", "y", "z"], "timestamp": [1, 2, 3], "query": ["old", "first", "second"]},
        {"user_id": "b", "item_id": ["z", "x"], "timestamp": [1, 2], "query": ["old", "third"]},
        {"user_id": "c", "item_id": ["z", "x"], "timestamp": [1, 2], "query": ["old", "fourth"]},
    ]
    requests = imagine_posters.make_requests(rows, limit=2)
    assert [(request.query, request.item_id) for request in requests] == [("first", "y"), ("third", "x")]
    assert [[event["item_id"] for event in request.history] for request in requests] == [["x"], ["z"]]
