"""The files that travel with a checkpoint use only imports that work there."""

import ast
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = [ROOT / "modeling_unimp", ROOT / "processing"]
TRAVELLING = sorted(path for folder in FOLDERS for path in folder.glob("*_unimp.py"))
THERE = {
    "torch",
    "transformers",
    "huggingface_hub",
    "PIL",
    "pyarrow",
    "numpy",
    "safetensors",
    "filelock",
    *sys.stdlib_module_names,
}


def failing_imports(code: str, siblings: set[str]) -> list[str]:
    """Descriptions of what would fail in a travelling file next to `siblings`."""
    tree = ast.parse(code)
    guarded = {node for block in ast.walk(tree) if isinstance(block, ast.Try) for node in ast.walk(block)}
    failures = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            if node.level > 1 or node.module not in siblings:
                failures.append(f"line {node.lineno}: {'.' * node.level}{node.module or ''} is no flat sibling")
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            for package in {name.partition(".")[0] for name in names} - THERE:
                if node not in guarded or package in ("unimp", "modeling_unimp", "processing", "training"):
                    failures.append(f"line {node.lineno}: {package} may be missing")
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            failures += [f"line {node.lineno}: text read as an import" for _ in TEXT_IMPORT.finditer(node.value)]
    return failures


# transformers finds the files to copy with regular expressions, in docstrings too.
TEXT_IMPORT = re.compile(r"^\s*(?:from\s+\.\S+\s+import|import\s+\.\S+)", re.MULTILINE)


@pytest.mark.parametrize("path", TRAVELLING, ids=lambda path: path.name)
def test_every_import_works_where_the_file_travels(path):
    assert failing_imports(path.read_text(), {sibling.stem for sibling in path.parent.glob("*_unimp.py")}) == []


def test_no_file_overwrites_another():
    names = [path.name for path in TRAVELLING]
    assert len(names) == len(set(names))
    assert {path.parent for path in TRAVELLING} == set(FOLDERS)


def test_classes_are_marked_to_travel():
    text = {path.name: path.read_text() for path in TRAVELLING}
    assert "UniMPConfig.register_for_auto_class" in text["configuration_unimp.py"]
    assert "UniMPForConditionalGeneration.register_for_auto_class" in text["modeling_unimp.py"]


@pytest.mark.parametrize(
    "code",
    [
        "import unimp",
        "from unimp.processing import Catalog",
        "from modeling_unimp.items_unimp import UniMPItemRows",
        "def f():\n    from unimp import UniMPConfig",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from unimp import UniMPConfig",
        "try:\n    from unimp import UniMPConfig\nexcept ImportError:\n    pass",
        "from ..processing import Catalog",
        "from ..processing.catalog_unimp import Catalog",
        "from .other.deep_unimp import x",
        "from . import sibling_unimp",
        "from .not_there_unimp import x",
        "import datasets",
        "def f():\n    import datasets",
        'def f():\n    """Say:\n\n    from .x import y\n    """',
    ],
)
def test_the_check_finds_what_fails(code):
    assert failing_imports(code, {"sibling_unimp"})


@pytest.mark.parametrize(
    "code",
    [
        "from .sibling_unimp import X",
        "from .sibling_unimp import (\n    X,\n    Y,\n)",
        "import math\nimport torch\nfrom transformers import AutoModel\nfrom PIL import Image",
        "try:\n    import datasets\nexcept ImportError:\n    datasets = None",
        '"""What comes from .x imports nothing."""',
    ],
)
def test_the_check_accepts_what_works(code):
    assert failing_imports(code, {"sibling_unimp"}) == []
