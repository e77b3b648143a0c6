"""`unimp demo`."""

import json
import socket
import urllib.error
import urllib.request
from functools import partial
from pathlib import Path

import pytest
import yaml

from unimp import demo, quickstart
from unimp.cli import main
from unimp.processing import Catalog, Columns
from unimp.processing.demo_store import build_demo_store
from unimp.processing.store import write_store
from unimp.spaces_demo import server

SPACE = Path(__file__).parents[2] / "spaces_demo"


class Page:
    def block_thread(self):
        pass


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


@pytest.fixture
def calls(monkeypatch, tmp_path):
    """What `unimp demo` did, in a folder without a model."""
    monkeypatch.chdir(tmp_path)
    page, calls = Page(), []
    monkeypatch.setattr(demo, "find_people", lambda model, dataset: {"Ada": ["a"]})
    monkeypatch.setattr(server, "make_page", lambda model, people: calls.append((model, people)) or page)
    monkeypatch.setattr(server, "serve", lambda page, host, port, block: f"http://{host}:{port}")
    monkeypatch.setattr(quickstart, "quickstart", lambda folder, **options: pytest.fail("there is a model"))
    return calls


def test_the_command_makes_the_quickstart_first_where_there_is_none(calls, monkeypatch, capsys):
    port = free_port()
    address = f"http://127.0.0.1:{port}"

    def make(folder, resume, callbacks):
        with urllib.request.urlopen(f"{address}/progress.json") as answer:  # the page is there already
            calls.append((str(folder), resume, json.load(answer)["step"]))
        assert [callback.waiting.address for callback in callbacks] == [address]
        return 0

    monkeypatch.setattr(quickstart, "quickstart", make)
    assert main(["demo", "--port", str(port)]) == 0
    folder = str(Path("outputs", "quickstart"))
    assert calls == [(folder, False, "Drawing the demo store"), (folder, {"Ada": ["a"]})]
    assert capsys.readouterr().out.count(address) == 2
    with pytest.raises(urllib.error.URLError, match="refused"):  # its address is the demo's now
        urllib.request.urlopen(address)


def test_a_model_that_is_there_is_opened(calls):
    assert main(["demo", "--model", "me/mine"]) == 0
    Path("outputs/quickstart").mkdir(parents=True)
    Path("outputs/quickstart/config.json").touch()
    assert main(["demo"]) == 0
    assert [model for model, _ in calls] == ["me/mine", "outputs/quickstart"]


def test_without_gradio_it_says_what_to_install_before_anything_is_made(calls, monkeypatch, capsys):
    monkeypatch.setattr(demo, "find_spec", lambda name: None)
    assert main(["demo"]) == 1
    assert "pip install 'unimp[demo]'" in capsys.readouterr().err
    assert not Path("outputs").exists()


def test_an_interrupted_quickstart_ends_it_and_is_gone_on_with(calls, monkeypatch):
    resumed = []
    monkeypatch.setattr(quickstart, "quickstart", lambda folder, resume, callbacks: resumed.append(resume) or 130)
    assert main(["demo", "--port", str(free_port())]) == 130
    Path("outputs/quickstart/checkpoint-3").mkdir(parents=True)
    assert main(["demo", "--port", str(free_port())]) == 130
    assert resumed == [False, True]
    assert calls == []


def test_people_are_those_of_the_data_set(tmp_path, folder):
    items, interactions = build_demo_store(num_items=40, num_users=3)
    write_store(items, interactions, tmp_path)
    people = demo.find_people(folder, str(tmp_path))
    assert len(people) == 3
    assert all(1 <= len(history) <= demo.LONGEST_HISTORY for history in people.values())
    last = [row[Columns.ITEM_ID] for row in interactions if row[Columns.USER_ID] == next(iter(people))][-1]
    assert next(iter(people.values()))[-1] == last


def test_people_of_the_demo_store_are_for_its_own_model_alone(monkeypatch, folder):
    assert demo.find_people(folder, None) == {}  # another catalogue
    items, _ = build_demo_store(num_items=40, num_users=1)
    monkeypatch.setattr(demo, "build_demo_store", partial(build_demo_store, num_users=20))

    def people(rows):
        class Loaded:
            catalog = Catalog.from_items(rows)

        monkeypatch.setattr(demo.UniMPProcessor, "from_pretrained", lambda model: Loaded)
        return demo.find_people("model", None)

    rows = [{"item_id": row["item_id"], "title": row["title"]} for row in items]
    assert people(rows)
    assert people([{**row, "title": "Something else"} for row in rows]) == {}


def test_the_space_is_complete():
    _, front_matter, text = (SPACE / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    card = yaml.safe_load(front_matter)
    assert card["sdk"] == "gradio"
    assert (SPACE / card["app_file"]).is_file()
    assert "unimp[demo]" in (SPACE / "requirements.txt").read_text()
    assert "screenshot.png" in text
    assert (SPACE / "screenshot.png").stat().st_size < 300_000
