"""A tiny shop, and its page served."""

import pytest

pytest.importorskip("gradio", reason="the page needs gradio: `pip install 'unimp[demo]'`")

from ..processing.conftest import make_model, make_processor


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A checkpoint of random weights."""
    folder = tmp_path_factory.mktemp("model")
    processor = make_processor()
    make_model(processor).save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def shop(folder):
    """One that no test changes."""
    from unimp.spaces_demo.shop import Shop

    return Shop.load(folder)


@pytest.fixture(scope="session")
def address(folder):
    """Where the page is served."""
    from unimp.spaces_demo.server import make_page, serve

    page = make_page(folder, {"Ada": ["shirt", "hat"], "Ben": ["coat", "not there"]})
    yield serve(page, block=False)
    page.close(verbose=False)
