"""One of the processes of `test_a_sharded_run_leaves_what_a_plain_one_does`: CPUs that FSDP2 takes for GPUs."""

import json
import sys

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType
from conftest import TINY, TINY_RUN  # its folder is where the interpreter starts
from torch.distributed.fsdp import FSDPModule

from unimp.processing.demo_store import build_demo_store
from unimp.processing.splits import make_split
from unimp.processing.store import make_store
from unimp.training import run as runs
from unimp.training.recipe import ModelArguments
from unimp.training.trainer import UniMPTrainer, UniMPTrainingConfig

start = PartialState.__init__


def start_as_if_on_gpus(state: PartialState, *args: object, **kwargs: object) -> None:
    """accelerate shards nothing on several CPUs, though torch can."""
    start(state, *args, **kwargs)
    if state.distributed_type == DistributedType.MULTI_CPU:  # and not when it has been settled before
        state.distributed_type = DistributedType.MULTI_GPU


class ShardedTrainer(UniMPTrainer):
    """Makes sure that the model was in parts."""

    def train(self, *args: object, **kwargs: object) -> object:
        """Train."""
        result = super().train(*args, **kwargs)
        if not isinstance(self.model, FSDPModule):
            raise RuntimeError("The model was not sharded.")
        return result


PartialState.__init__ = start_as_if_on_gpus
runs.UniMPTrainer = ShardedTrainer
torch.set_num_threads(1)
store = make_store(*build_demo_store(num_items=40, num_users=30))
args = UniMPTrainingConfig(**(TINY_RUN | {"output_dir": sys.argv[1]} | json.loads(sys.argv[2])))
arguments = ModelArguments(**TINY | json.loads(sys.argv[3]))
runs.run(store, make_split(store, "cold_items"), arguments, args)
