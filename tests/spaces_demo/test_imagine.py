"""The tab that draws, where the model's folder has a denoiser."""

import pytest
from gradio_client import Client

from unimp import UniMPImagePipeline
from unimp.spaces_demo.page import Page
from unimp.spaces_demo.server import make_page, serve
from unimp.spaces_demo.shop import Shop

from ..processing.conftest import make_model, make_processor
from ..processing.test_image_pipeline import make_preference, make_scheduler, make_unet


@pytest.fixture(scope="module")
def drawing_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawing")
    processor = make_processor()
    model = make_model(processor)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    UniMPImagePipeline(model, processor, make_unet(), make_scheduler(), make_preference(model)).save_pretrained(
        folder / "imagine"
    )
    return str(folder)


@pytest.fixture(scope="module")
def drawing_shop(drawing_folder):
    return Shop.load(drawing_folder)


def test_every_step_is_told_and_a_seed_draws_the_same(drawing_shop):
    steps = []

    def count(timesteps):
        for step in timesteps:
            steps.append(step)
            yield step

    first = drawing_shop.imagine(["hat"], "warm hat", 0.5, count, seed=3)
    assert len(steps) == 17  # of 20, as it begins with a picture that is not all noise
    second = drawing_shop.imagine(["hat"], "warm hat", 0.5, iter, seed=3)
    assert first.image.tobytes() == second.image.tobytes()
    own = drawing_shop.with_items([{"item_id": "yours-1", "title": "Green scarf"}])
    assert own.drawer.unet is drawing_shop.drawer.unet
    assert own.imagine(["yours-1"], "", 1.0, iter, seed=3).image.size == first.image.size


class Progress:
    """What a test has in the place of `gradio.Progress`."""

    def tqdm(self, steps, desc):
        return iter(steps)


def test_the_tab_draws_and_another_alpha_chooses_anew(drawing_shop):
    page = Page(drawing_shop, {}, "tiny")
    page.build()
    assert "draws for them" in page._head()
    visitor = page.visitor(None)
    visitor.set_history(["hat", "socks"])
    _, drawn = page.imagine.imagine(visitor, "warm <b>hat</b>", 0.0, progress=Progress())
    assert "data:image/webp" in drawn
    assert "<b>" not in drawn
    for alpha, why in ((0.0, "what fits the request"), (1.0, "what they chose")):
        scores = visitor.imagined.scores(alpha)
        told = f"Picture {1 + scores.index(max(scores))} is best: it is most like {why}."
        assert told in page.imagine.choose(visitor, alpha)
    assert page.imagine.choose(visitor, 0.0) == drawn


def test_what_is_missing_is_told_in_a_visitors_words(drawing_shop):
    page = Page(drawing_shop, {}, "tiny")
    page.build()
    _, told = page.imagine.imagine(page.visitor(None), " ", 0.5, progress=Progress())
    assert "Choose a person above, or write what you would like to see" in told
    _, told = page.imagine.imagine(page.visitor(None), "warm hat", 1.0, progress=Progress())
    assert "most like what fits the request. Nobody was chosen above" in told
    visitor = page.visitor(None)
    visitor.set_history(["hat", "socks"])
    _, told = page.imagine.imagine(visitor, "", 0.5, progress=Progress())
    assert "most like what fits them and what they chose." in told


def test_it_is_an_endpoint(drawing_folder):
    page = make_page(drawing_folder)
    client = Client(serve(page, block=False), verbose=False)
    answer = client.predict("warm hat", ["hat"], 0.5, 1, api_name="/imagine")
    page.close(verbose=False)
    assert answer["picture"].startswith("data:image/webp;base64,")
    assert answer["target_keywords"] == ["warm", "hat"]
