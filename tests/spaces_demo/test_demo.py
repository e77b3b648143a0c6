"""`unimp demo`."""

from functools import partial
from pathlib import Path

import yaml

from unimp import demo
from unimp.cli import main
from unimp.processing import Catalog, Columns
from unimp.processing.demo_store import build_demo_store
from unimp.processing.store import write_store

SPACE = Path(__file__).parents[2] / "spaces_demo"


class Page:
    def block_thread(self):
        self.waited = True


def test_the_command_makes_the_quickstart_first_where_there_is_none(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    from unimp.spaces_demo import server

    page, calls = Page(), []
    monkeypatch.setattr(demo, "quickstart", lambda folder: calls.append(("quickstart", str(folder))) or 0)
    monkeypatch.setattr(demo, "find_people", lambda model, dataset: {"Ada": ["a"]})
    monkeypatch.setattr(server, "make_page", lambda model, people: calls.append((model, people)) or page)
    monkeypatch.setattr(server, "serve", lambda page, host, port, block: f"http://{host}:{port}")
    assert main(["demo", "--port", "7999"]) == 0
    assert calls == [("quickstart", "outputs/quickstart"), ("outputs/quickstart", {"Ada": ["a"]})]
    assert page.waited
    assert "http://127.0.0.1:7999" in capsys.readouterr().out
    calls.clear()
    assert main(["demo", "--model", "mine"]) == 0
    assert calls == [("mine", {"Ada": ["a"]})]
    monkeypatch.setattr(demo, "quickstart", lambda folder: 130)
    assert main(["demo"]) == 130


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
