from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import set_seed

from unimp import UniMPForConditionalGeneration, UniMPProcessor
from unimp.processing.demo_store import build_demo_store
from unimp.processing.splits import Split, leave_one_out
from unimp.processing.store import Store, make_store
from unimp.training.recipe import ModelArguments, build
from unimp.training.trainer import UniMPTrainer, UniMPTrainingConfig

# A model whose every part is there, small enough for a step in milliseconds.
TINY = {
    "hidden_size": 32,
    "num_layers": 2,
    "num_heads": 2,
    "vocab_size": 400,
    "image_size": 32,
    "num_latents": 2,
    "full_chunks": 2,
    "item_text_length": 12,
    "dropout": 0.0,
    "item_dropout": 0.0,
}
# How a model looks at pictures.
WAYS = {"cross-attention": {}, "visual prompt": {"cross_attention_every": 0, "visual_prompt_tokens": 2}}
# A few steps that can be compared with each other.
TINY_RUN = {
    "num_passes": 1,
    "per_device_train_batch_size": 8,
    "max_steps": 4,
    "learning_rate": 1e-3,
    "lr_scheduler_type": "constant",
    "warmup_steps": 0,
    "logging_steps": 1,
    "save_strategy": "no",
    "disable_tqdm": True,
}


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Tiny tensors: a second thread only waits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def store() -> Store:
    return make_store(*build_demo_store(num_items=40, num_users=30))


@pytest.fixture(scope="session")
def split(store) -> Split:
    return leave_one_out(store.interactions)


Built = tuple[UniMPForConditionalGeneration, UniMPProcessor]


@pytest.fixture
def build_model(store) -> Callable[..., Built]:
    def make(**arguments) -> Built:
        set_seed(0)
        return build(store, ModelArguments(**(TINY | arguments)))

    return make


@pytest.fixture
def built(build_model) -> Built:
    return build_model()


@pytest.fixture(scope="session")
def processor(store) -> UniMPProcessor:
    """To write prompts with; not to be changed."""
    return build(store, ModelArguments(**TINY))[1]


@pytest.fixture
def make_trainer(tmp_path: Path, split, build_model) -> Callable[..., UniMPTrainer]:
    """A trainer on the tiny store; `model` holds model arguments, the rest are fields of the configuration."""

    def make(built=None, peft_config=None, model=None, eval_dataset=None, **fields) -> UniMPTrainer:
        fields = TINY_RUN | {"output_dir": str(tmp_path / "out")} | fields
        network, processor = built or build_model(**(model or {}))
        return UniMPTrainer(
            network,
            UniMPTrainingConfig(**fields),
            processor,
            split.train,
            eval_dataset=eval_dataset,
            peft_config=peft_config,
        )

    return make
