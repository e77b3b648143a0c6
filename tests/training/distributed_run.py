"""One of the processes of `test_two_processes_give_what_one_with_the_doubled_batch_gives`."""

import json
import sys

import torch
from conftest import TINY, TINY_RUN  # its folder is where the interpreter starts
from transformers import set_seed

from unimp.processing.demo_store import build_demo_store
from unimp.processing.splits import leave_one_out
from unimp.processing.store import make_store
from unimp.training.recipe import ModelArguments, build
from unimp.training.trainer import UniMPTrainer, UniMPTrainingConfig

torch.set_num_threads(1)
store = make_store(*build_demo_store(num_items=40, num_users=30))
set_seed(0)
model, processor = build(store, ModelArguments(**TINY))
args = UniMPTrainingConfig(**(TINY_RUN | {"output_dir": sys.argv[1]} | json.loads(sys.argv[2])))
trainer = UniMPTrainer(model, args, processor, leave_one_out(store.interactions).train)
trainer.train()
if trainer.is_world_process_zero():
    weights = {name: parameter.detach() for name, parameter in model.named_parameters()}
    log = {"processes": args.world_size, **trainer.state.log_history[0]}
    torch.save((weights, log), f"{sys.argv[1]}/weights.pt")
