"""The page while a model is being made."""

import json
import socket
import urllib.error
import urllib.request

import pytest
from transformers import TrainerControl, TrainerState

from unimp.demo import TellPage
from unimp.spaces_demo.waiting import WaitingPage


def get(address, path=""):
    with urllib.request.urlopen(address + path) as answer:
        return answer.headers["Content-Type"], answer.read()


def test_it_tells_how_far_it_is(tmp_path):
    picture = tmp_path / "store.png"
    with WaitingPage("127.0.0.1", picture=picture) as waiting:
        kind, page = get(waiting.address, "/?__theme=light")
        assert kind.startswith("text/html")
        assert b"<progress" in page
        waiting.tell("Learning", 0.25, 130)
        expected = {"step": "Learning", "share": 0.25, "left": "about 2 minutes left", "picture": False}
        assert json.loads(get(waiting.address, "/progress.json")[1]) == expected
        waiting.tell("Learning", 0.9, 20)
        assert json.loads(get(waiting.address, "/progress.json")[1])["left"] == "less than a minute left"
        picture.write_bytes(b"a picture")
        assert json.loads(get(waiting.address, "/progress.json")[1])["picture"]
        assert get(waiting.address, "/store.png") == ("image/png", b"a picture")


def test_the_demo_is_not_there_yet_and_no_other_file_ever(tmp_path):
    with WaitingPage("127.0.0.1", picture=tmp_path / "gone.png") as waiting:
        for path in ("/gradio_api/info", "/store.png", "/../secret", "/etc/passwd"):
            with pytest.raises(urllib.error.HTTPError, match="503") as error:
                get(waiting.address, path)
            assert error.value.headers["Retry-After"]


def test_the_address_is_free_afterwards_and_a_taken_port_is_told():
    with WaitingPage("127.0.0.1") as waiting:
        with pytest.raises(OSError, match=r"`port`: none of .* is free"):
            WaitingPage("127.0.0.1", waiting.port)
        with WaitingPage("127.0.0.1") as another:
            assert another.port > waiting.port
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", waiting.port))


class Told:
    """What a page was told."""

    def __init__(self):
        self.steps = []

    def tell(self, step, share, seconds_left=None):
        self.steps.append((step, round(share, 3), seconds_left))


def test_training_is_told_step_by_step_and_only_goes_forward():
    page = Told()
    callback, control = TellPage(page), TrainerControl()
    state = TrainerState(global_step=100, max_steps=400)  # one that was interrupted goes on
    callback.on_train_begin(None, state, control)
    for step in range(101, 401):
        state.global_step = step
        callback.on_step_end(None, state, control)
    callback.on_train_end(None, state, control)
    assert page.steps[1][0] == "Learning, step 101 of 400"
    shares = [share for _, share, _ in page.steps]
    assert shares == sorted(shares)
    assert shares[-1] == shares[-2] == 0.92
    assert page.steps[-2][2] == 0
