"""
What someone else does with it, who has nothing of this project installed: run by `test_hub.py` in a process of its
own, with a fresh cache, and again offline with what is then in it.

    python read.py online|offline

Writes a JSON object of what was answered.
"""

import json
import os
import re
import sys
from pathlib import Path

ONLINE = sys.argv[1] == "online"
# As if it were not there: what answers is the code in the repository.
sys.modules["unimp"] = None

from huggingface_hub import hf_hub_download  # noqa: E402
from transformers import AutoModel, AutoProcessor, pipeline  # noqa: E402

REQUEST = {"history": ["shirt", {"title": "Red scarf"}]}
results = {}


def error(function, *arguments, **kwargs):
    try:
        function(*arguments, **kwargs)
    except (OSError, ValueError) as problem:
        return f"{type(problem).__name__}: {problem}"
    return None


recommend = pipeline("unimp-recommend", model="someone/unimp-demo", trust_remote_code=True)
results["recommend"] = recommend(REQUEST, top_k=3)
results["module"] = type(recommend.model).__module__
results["picture"] = recommend.processor.catalog.image(1).size
model = AutoModel.from_pretrained("someone/from-python", revision="whole", trust_remote_code=True)
processor = AutoProcessor.from_pretrained("someone/from-python", trust_remote_code=True)
results["scores"] = model.score_items(**processor([REQUEST]))[0].topk(3).values.tolist()
card = Path(hf_hub_download("someone/from-python", "README.md", revision="whole")).read_text()
for number, block in enumerate(re.findall(r"```python\n(.*?)```", card, re.DOTALL)):
    exec(block, names := {})
    results[f"block {number}"] = sorted(set(names) - {"__builtins__"})
results["no such revision"] = error(AutoModel.from_pretrained, "someone/unimp-demo", revision="v9")
for token in ("", "hf_stranger"):
    os.environ["HF_TOKEN"] = token
    results[f"gated {token}".strip()] = error(
        pipeline, "unimp-recommend", model="someone/gated", trust_remote_code=True
    )
if ONLINE:
    os.environ["HF_TOKEN"] = "hf_owner"
    gated = AutoProcessor.from_pretrained("someone/gated", trust_remote_code=True)
    results["catalogue of the gated"] = gated.catalog.item_ids[:2]
sys.stdout.write(json.dumps(results))
