"""One training run from a store to a saved, evaluated model."""

import json
import logging
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import torch
from datasets import Dataset, DatasetInfo
from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, set_seed
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..processing import Columns, UniMPProcessor
from ..processing.indexing_unimp import check_room
from ..processing.splits import Split
from ..processing.store import Store, as_table
from .continued import continue_with
from .evaluation import describe_split, evaluate
from .pictures import training_pictures
from .recipe import ModelArguments, build, load
from .semantic_codes import code_report
from .trainer import NEW_LEARNING_RATE, UniMPTrainer, UniMPTrainingConfig

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Result:
    """
    What a run leaves: the trained model and its processor, seconds of training, figures by task and system, and what
    they were measured on.
    """

    model: PreTrainedModel
    processor: UniMPProcessor
    seconds: float
    metrics: dict[str, dict[str, dict[str, float]]]
    split: str


class StopOnInterrupt(TrainerCallback):
    """On Ctrl-C, finish the step, save a checkpoint and stop; a second Ctrl-C stops at once."""

    def __init__(self) -> None:
        self.interrupted = False

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Listen for Ctrl-C."""
        self._previous = signal.signal(signal.SIGINT, self._interrupt)

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Give Ctrl-C back."""
        signal.signal(signal.SIGINT, self._previous)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self.interrupted = True
        signal.signal(signal.SIGINT, self._previous)
        logger.warning("Interrupted: saving a checkpoint after this step ...")

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> TrainerControl:
        """Save and stop when interrupted; several processes stop after the same step."""
        if args.world_size > 1:
            interrupted = torch.tensor(int(self.interrupted), device=args.device)
            torch.distributed.all_reduce(interrupted, torch.distributed.ReduceOp.MAX)
            self.interrupted = bool(interrupted)
        if self.interrupted:
            control.should_save = control.should_training_stop = True
        return control


def run(
    store: Store,
    split: Split,
    model_arguments: ModelArguments,
    training: UniMPTrainingConfig,
    resume: bool = False,
    callbacks: Sequence[TrainerCallback] = (),
) -> Result | None:
    """
    Build, train, save and evaluate on what `split` holds out for test (see [`describe_split`]): weights, processor,
    catalogue, code, model card and `metrics.json`, all in `training.output_dir`.

    With `training.eval_strategy` the loss on `split.validation` is followed. Where that has histories whose earlier
    events were trained on (leave-one-out: only the last event of a row is new) it is no measure of what is new, but it
    still tells whether training goes well.

    Items that `split` holds out of training (`new_items`) join the catalogue after it, known by their content alone.

    Args:
        resume (`bool`): go on from the last checkpoint in `training.output_dir`, exactly.
        callbacks (`Sequence[TrainerCallback]`): told how the training goes.

    Returns:
        [`Result`], or `None` when interrupted; a checkpoint that `resume` continues is then in `training.output_dir`.
    """
    set_seed(training.seed)
    if training.learning_rate is None and not (model_arguments.model or model_arguments.text):
        training.learning_rate = NEW_LEARNING_RATE
    checkpoint = _last_checkpoint(training.output_dir) if resume else None
    if checkpoint is None:
        model, processor = build(_without_items(store, split.new_items), model_arguments, split.train, training)
    else:
        model, processor = load(checkpoint)
        _check_same_items(processor, store, split)
    check_room(model.config.code_sizes, len({*processor.catalog.item_ids, *split.new_items}))  # not after training
    stop = StopOnInterrupt()
    told = [stop, *callbacks]
    validation = None if training.eval_strategy == "no" else split.validation
    trainer = UniMPTrainer(model, training, processor, split.train, eval_dataset=validation, callbacks=told)
    trainer.store = store
    logger.info("Training on %s examples of %s people ...", f"{len(trainer.train_dataset):,}", f"{len(split.train):,}")
    start = time.perf_counter()
    trainer.train(resume_from_checkpoint=checkpoint)
    seconds = time.perf_counter() - start
    if stop.interrupted:
        logger.warning("Interrupted at step %d. Go on with --resume.", trainer.state.global_step)
        return None
    if trainer.is_fsdp_enabled:
        model, processor = _in_one_piece(trainer)
    if split.new_items:  # known from now on by their content alone
        continue_with(model, processor, store, model_arguments.item_encoder, training)
    if not trainer.is_fsdp_enabled:
        trainer.save_model()
    elif split.new_items and trainer.is_world_process_zero():
        model.save_pretrained(training.output_dir)
        processor.save_pretrained(training.output_dir)
    tasks, pictures = list(training.task_rates), training_pictures(model, processor, training, latents=True)
    metrics = evaluate(model, processor, split.test, split.train, tasks, pictures)
    trainer.evaluation_metrics = metrics
    trainer.evaluation_split = describe_split(split.name)
    trainer.create_model_card()
    if trainer.is_world_process_zero():
        report = {
            "split": trainer.evaluation_split,
            "test_people": len(split.test.unique(Columns.USER_ID)),
            "seconds": seconds,
        }
        if model.model.item_codes is not None:
            report["item_codes"] = code_report(model.model.item_codes)
        report["metrics"] = metrics
        Path(training.output_dir, "metrics.json").write_text(json.dumps(report, indent=2), encoding="utf-8")
    return Result(model, processor, seconds, metrics, trainer.evaluation_split)


def _in_one_piece(trainer: UniMPTrainer) -> tuple[PreTrainedModel, UniMPProcessor]:
    """What a sharded run (FSDP) leaves, saved and loaded: each process holds a part, which answers nothing."""
    trainer.save_model()
    trainer.accelerator.wait_for_everyone()
    model, processor = load(trainer.args.output_dir)
    return model.to(trainer.args.device), processor


def _check_same_items(processor: UniMPProcessor, store: Store, split: Split) -> None:
    if not {*processor.catalog.item_ids, *split.new_items}.issuperset(store.items[Columns.ITEM_ID]):
        raise ValueError(
            "`resume`: the checkpoint was trained on other items, of another `dataset` or `split`: go on with those, "
            "or start without it."
        )


def _without_items(store: Store, item_ids: Sequence[str]) -> Store:
    """Fewer items, but all events: their kinds and ratings are what the model must be able to read."""
    table = as_table(store.items)
    left = table.filter(pc.invert(pc.is_in(table[Columns.ITEM_ID], value_set=pa.array(item_ids, pa.string()))))
    items = Dataset(left, info=DatasetInfo(features=store.items.features))
    return Store(items, store.interactions, store.report)


def _last_checkpoint(folder: str) -> str:
    """The one that was written last, and whole: one of an earlier training may have more steps."""
    states = Path(folder).glob(f"{PREFIX_CHECKPOINT_DIR}-*/{TRAINER_STATE_NAME}")
    last = max(states, key=lambda path: path.stat().st_mtime_ns, default=None)
    if last is None:
        raise ValueError(f"`--resume`: there is no checkpoint in `output_dir` {folder}; start without it.")
    return str(last.parent)
