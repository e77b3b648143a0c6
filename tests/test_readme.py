"""Every block of the README, run from top to bottom in one folder as a reader would: tiny models, and no network."""

import ast
import re
import shlex
import textwrap
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from unimp.cli import QuickstartArguments, main, parse

from .workspace import REPOSITORY, TINY, hide_registered_pipelines, make_workspace, with_local_backbones

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
# What makes training quick; the last of two equal options counts.
SMALL = [f"--{name}={value}" for name, value in {**TINY, "max_steps": 2, "disable_tqdm": True}.items()]


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, and the line of the README that it begins on."""

    kind: str
    text: str
    line: int

    def __str__(self):
        return f"line {self.line}, {self.kind or 'plain'}"


def read_blocks(text):
    """The fenced blocks of a text; those of a list are indented."""
    fences = re.finditer(r"^( *)```(\w*)\n(.*?)^\1```$", text, re.DOTALL | re.MULTILINE)
    return [Block(f[2], textwrap.dedent(f[3]), text.count("\n", 0, f.start()) + 1) for f in fences]


BLOCKS = read_blocks(README)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    folder = make_workspace(tmp_path_factory.mktemp("readme"))
    (folder / "benchmarks").symlink_to(REPOSITORY / "benchmarks")
    return folder


@pytest.fixture(scope="module")
def names():
    """What the Python blocks have named so far."""
    return {}


# Commands


def run_unimp(monkeypatch, command, *options):
    """`unimp ...`, made quick; what takes an answer, a browser or the Hub is taken as far as that."""
    if command == "quickstart":
        parse(list(options), QuickstartArguments)  # the fixture made what it leaves; tests/test_imagine.py runs it
    elif command == "train":
        assert main([command, *options, *SMALL]) == 0
    elif command == "push":
        uploads = []
        monkeypatch.setattr("unimp.push.push", lambda upload, *where: uploads.append(upload) or "there")
        assert main([command, *options, "--yes"]) == 0
        assert uploads[0].files
    elif command == "demo":
        serve_nothing(monkeypatch)
        assert main([command, *options]) == 0
    else:
        assert main([command, *options]) == 0


def serve_nothing(monkeypatch):
    gradio = pytest.importorskip("gradio", reason="the page needs gradio: `pip install 'unimp[demo]'`")
    monkeypatch.setattr("unimp.spaces_demo.server.serve", lambda page, *where, **how: "nowhere")
    monkeypatch.setattr(gradio.Blocks, "block_thread", lambda page: None)


def check_make(monkeypatch, *targets):
    makefile = (REPOSITORY / "Makefile").read_text()
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"the Makefile has no {target}"


def check_pip(monkeypatch, install, *options):
    assert install == "install"
    [extra] = [match[1] for option in options if (match := re.fullmatch(r"\.\[(\w+)\]", option))]
    setup = ast.parse((REPOSITORY / "setup.py").read_text())
    [extras] = [word.value for word in ast.walk(setup) if getattr(word, "arg", None) == "extras_require"]
    assert extra in ast.literal_eval(extras)


COMMANDS = {"unimp": run_unimp, "make": check_make, "pip": check_pip}


def run_bash(text, monkeypatch):
    lines = [line for line in text.replace("\\\n", " ").splitlines() if line.strip() and not line.startswith("#")]
    for line in lines:
        command, *options = shlex.split(line, comments=True)
        if command not in COMMANDS:
            pytest.fail(f"no test knows how to run `{line}`")
        COMMANDS[command](monkeypatch, *options)


# Python, file trees, citations


def run_python(text, names, monkeypatch):
    """Where it ends in a request, the answer."""
    hide_registered_pipelines(monkeypatch)
    code = ast.parse(with_local_backbones(text))
    ends_in_value = isinstance(code.body[-1], ast.Expr)
    last = ast.Expression(code.body.pop().value) if ends_in_value else None
    exec(compile(code, "README.md", "exec"), names)
    if last is not None:
        return eval(compile(last, "README.md", "eval"), names)
    return None


def tree_paths(text):
    """What a drawn file tree names, with the folders it is in."""
    folders = []
    for line in text.splitlines():
        drawn, name = re.match(r"((?:[│ ]   )*(?:[├└]── )?)(\S+)", line).groups()
        depth = len(drawn) // 4
        folders[depth:] = [name]
        yield "/".join(part.strip("/") for part in folders), name.endswith("/")


def check_tree(text, workspace):
    root = workspace if text.startswith("store/") else REPOSITORY
    paths = list(tree_paths(text))
    assert len(paths) > 3
    for path, is_folder in paths:
        found = list(root.glob(path))
        assert found, f"there is no {path}"
        assert all(place.is_dir() for place in found) or not is_folder, f"{path} is no folder"


def check_bibtex(text):
    entries = re.findall(r"^@\w+\{(\w+),\n(.*?)^\}", text, re.DOTALL | re.MULTILINE)
    assert entries
    for _, fields in entries:
        assert {"title", "author", "year"} <= set(re.findall(r"^  (\w+) +=", fields, re.MULTILINE))
        assert fields.count("{") == fields.count("}")


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_block(block, workspace, names, monkeypatch):
    monkeypatch.chdir(workspace)
    run = {
        "bash": partial(run_bash, monkeypatch=monkeypatch),
        "python": partial(run_python, names=names, monkeypatch=monkeypatch),
        "bibtex": check_bibtex,
        "": partial(check_tree, workspace=workspace),
    }.get(block.kind)
    assert run is not None, f"no test knows how to run a block of {block.kind!r}"
    run(block.text)


# What the blocks say of themselves


def test_there_are_blocks_of_every_kind():
    assert {block.kind for block in BLOCKS} == {"bash", "python", "bibtex", ""}
    assert len(BLOCKS) == len(re.findall(r"^ *```", README, re.MULTILINE)) / 2


def test_a_new_kind_of_block_is_not_passed_over(monkeypatch):
    with pytest.raises(pytest.fail.Exception, match="curl"):
        run_bash("curl https://example.org\n", monkeypatch)
    with pytest.raises(AssertionError, match="no nothing"):
        run_bash("make nothing\n", monkeypatch)
    assert read_blocks("a\n\n- b\n\n  ```rust\n  fn\n  ```\n") == [Block("rust", "fn\n", 5)]


def test_a_path_that_is_not_there_is_noticed(tmp_path):
    (tmp_path / "store").mkdir()
    assert list(tree_paths("a/   b\n├── c.py   d\n└── e/\n    └── f")) == [
        ("a", True),
        ("a/c.py", False),
        ("a/e", True),
        ("a/e/f", False),
    ]
    with pytest.raises(AssertionError, match="there is no store/gone"):
        check_tree("store/\n├── gone.csv\n├── x\n└── y", tmp_path)


def test_links_lead_somewhere():
    links = re.findall(r"\]\((?!http)([^)#]+)", README)
    assert "benchmarks/README.md" in links
    for link in links:
        assert Path(REPOSITORY, link).exists(), link


def test_a_recommendation_of_the_readme_is_five_items(workspace, monkeypatch):
    monkeypatch.chdir(workspace)
    first = next(block for block in BLOCKS if block.kind == "python")
    assert len(run_python(first.text, {}, monkeypatch)) == 5
