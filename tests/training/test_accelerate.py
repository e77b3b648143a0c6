"""The configurations of `accelerate launch`: taken as they are, and what a sharded run leaves."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from transformers import pipeline

import unimp.training
from unimp.processing.splits import make_split
from unimp.training.recipe import ModelArguments, load
from unimp.training.run import run
from unimp.training.trainer import UniMPTrainingConfig

from .conftest import TINY, TINY_RUN, WAYS

FOLDER = Path(unimp.training.__file__).with_name("accelerate")
SGD = {"optim": "sgd", "learning_rate": 0.1, "max_steps": 2, "max_grad_norm": 0.0, "task_rates": {"recommend": 1.0}}


@pytest.mark.parametrize(("name", "fields"), [("ddp", {"multi_gpu": True}), ("fsdp2", {"use_fsdp": True})])
def test_configurations_are_taken(name, fields):
    path = str(FOLDER / f"{name}.yaml")
    args = launch_command_parser().parse_args(["--config_file", path, "--num_processes", "8", "script.py"])
    args, defaults, _ = _validate_launch_command(args)  # refuses unknown keys
    assert {key: getattr(args, key) for key in ("multi_gpu", "use_fsdp") if getattr(args, key)} == fields
    assert args.num_processes == 8
    assert args.mixed_precision == "no"  # an option of training
    if name == "fsdp2":
        assert args.fsdp_version == 2
        assert args.fsdp_state_dict_type == "FULL_STATE_DICT"
        assert defaults.fsdp_config["fsdp_auto_wrap_policy"] == "TRANSFORMER_BASED_WRAP"


@pytest.mark.parametrize("way", WAYS)
def test_a_sharded_run_leaves_what_a_plain_one_does(store, tmp_path, way):
    plain = UniMPTrainingConfig(
        **(TINY_RUN | SGD | {"output_dir": str(tmp_path / "plain"), "per_device_train_batch_size": 8})
    )
    run(store, make_split(store, "cold_items"), ModelArguments(**TINY | WAYS[way]), plain)
    script = str(Path(__file__).with_name("sharded_run.py"))
    launch = ["-m", "accelerate.commands.launch", "--config_file", str(FOLDER / "fsdp2.yaml"), "--num_processes", "2"]
    settings = json.dumps({"per_device_train_batch_size": 4, "save_strategy": "steps", "save_steps": 2, **SGD})
    settings = [settings, json.dumps(WAYS[way])]
    done = subprocess.run(
        [sys.executable, *launch, "--main_process_port", "0", script, str(tmp_path / "parts"), *settings],
        env=os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (model, processor), (expected, _) = (load(str(tmp_path / name)) for name in ("parts", "plain"))
    assert model.config.num_items == len(processor.catalog) == 40
    torch.testing.assert_close(model.state_dict(), expected.state_dict(), rtol=1e-4, atol=1e-6)
    results = [json.loads((tmp_path / name / "metrics.json").read_text())["metrics"] for name in ("parts", "plain")]
    assert results[0]["recommend"]["model"] == pytest.approx(results[1]["recommend"]["model"], abs=1e-4)
    for folder in (tmp_path / "parts", tmp_path / "parts" / "checkpoint-2"):
        assert json.loads((folder / "config.json").read_text())["auto_map"] == expected.config.auto_map
        assert {path.name for path in folder.glob("*.py")} == {path.name for path in (tmp_path / "plain").glob("*.py")}
        answers = pipeline("unimp-recommend", model=str(folder), trust_remote_code=True)({"history": []}, top_k=3)
        assert len(answers) == 3
