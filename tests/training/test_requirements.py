"""What is imported is declared."""

import ast
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = {"PIL": "pillow", "rouge_score": "rouge-score", "sklearn": "scikit-learn", "yaml": "pyyaml"}


def imported() -> set[str]:
    names = set()
    for folder in ("unimp", "modeling_unimp", "processing", "training"):
        for path in (ROOT / folder).glob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    names |= {alias.name for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and not node.level:
                    names.add(node.module)
    tops = {name.partition(".")[0] for name in names} - set(sys.stdlib_module_names) - {"unimp"}
    return {PACKAGES.get(name, name) for name in tops}


def test_every_import_is_declared_and_pinned():
    declared = set(re.findall(r'^        "([\w-]+)>=', (ROOT / "setup.py").read_text(), re.MULTILINE))
    pinned = set(re.findall(r"^([\w-]+)==", (ROOT / "requirements.txt").read_text(), re.MULTILINE))
    assert declared >= imported()
    assert pinned >= imported()
