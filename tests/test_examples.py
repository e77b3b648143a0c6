"""Every example runs as it stands, on tiny models, and leaves what it says."""

import os

import pytest
from PIL import Image

from .workspace import REPOSITORY, hide_registered_pipelines, make_workspace, with_local_backbones

EXAMPLES = sorted((REPOSITORY / "examples").glob("*.py"))
# What is there afterwards, or what is said.
LEFT = {
    "finetune_with_lora": "my-lora-model/model.safetensors",
    "imagine": "imagined.png",
    "train_on_your_folder": "my-model/model.safetensors",
}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return make_workspace(tmp_path_factory.mktemp("workspace"))


@pytest.fixture
def run(workspace, monkeypatch, capsys):
    """Runs an example in the workspace; returns what it printed."""
    monkeypatch.chdir(workspace)
    hide_registered_pipelines(monkeypatch)

    def run(path):
        code = with_local_backbones(path.read_text(encoding="utf-8"))
        exec(compile(code, str(path), "exec"), {"__name__": "__main__"})
        return capsys.readouterr().out

    return run


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_it_runs(run, path):
    printed = run(path)
    assert printed.strip()
    if path.stem in LEFT:
        assert os.path.getsize(LEFT[path.stem]) > 0


def test_there_is_one_for_each_job():
    assert {path.stem for path in EXAMPLES} == {"recommend", "search", *LEFT}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_it_is_short_and_says_how_it_is_run(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 40
    assert f"python examples/{path.name}" in text


def test_another_alpha_chooses_among_the_same_pictures(run, workspace):
    run(REPOSITORY / "examples" / "imagine.py")
    sizes = {Image.open(workspace / name).size for name in ("imagined.png", "imagined-in-their-taste.png")}
    assert sizes == {(16, 16)}
