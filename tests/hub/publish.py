"""
What someone with a model does, each step through the libraries as they are: run by `test_hub.py` in a process of its
own, because they read `HF_ENDPOINT` when they are imported.

    python publish.py MODEL_FOLDER STORE_FOLDER

Writes a JSON object, from each step's name to its exit status and what it printed.
"""

import contextlib
import io
import json
import os
import sys
import urllib.request

MODEL, STORE = sys.argv[1:]
results = {}


def drop(method, path, times):
    """Tell the server to break off the next requests of this kind."""
    body = json.dumps({"method": method, "path": path, "times": times}).encode()
    urllib.request.urlopen(urllib.request.Request(os.environ["HF_ENDPOINT"] + "/test/drop", body)).read()


def run(name, *arguments, token="hf_owner"):
    from unimp.cli import main

    os.environ["HF_TOKEN"] = token
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        status = main(["push", *arguments])
    results[name] = {"status": status, "said": said.getvalue()}


def push(name, *arguments, **kwargs):
    run(name, "--model", MODEL, "--yes", *arguments, **kwargs)


# The command: the connection breaks at the very end, and once in the middle of a large file.
drop("PUT", "/lfs/", 1)
drop("POST", "/api/models/someone/unimp-demo/commit/", 1)
push("interrupted", "--repo_id", "someone/unimp-demo")
push("repeated", "--repo_id", "someone/unimp-demo")
push("unchanged", "--repo_id", "unimp-demo")
push("branch", "--repo_id", "someone/unimp-demo", "--revision", "v2")
push("private", "--repo_id", "someone/hidden", "--private")
push("private again", "--repo_id", "someone/hidden", "--private")
push("private over public", "--repo_id", "someone/unimp-demo", "--private", "--revision", "v3")
push("not mine", "--repo_id", "else/where")
push("wrong token", "--repo_id", "someone/unimp-demo", token="hf_none")
run("dataset", "--dataset", STORE, "--repo_id", "someone/store", "--yes")

# From Python, sharded.
os.environ["HF_TOKEN"] = "hf_owner"
from unimp import UniMPForConditionalGeneration, UniMPProcessor  # noqa: E402

model = UniMPForConditionalGeneration.from_pretrained(MODEL)
UniMPProcessor.from_pretrained(MODEL).push_to_hub("someone/from-python")
model.push_to_hub("someone/from-python", max_shard_size="40KB")
model.push_to_hub("someone/from-python", revision="whole")
push("over shards", "--repo_id", "someone/from-python")
sys.stdout.write(json.dumps(results))
