"""The trainer: TRL's supervised fine-tuning with a token-weighted multi-task loss."""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import PeftConfig
from transformers import PreTrainedModel
from trl import SFTConfig, SFTTrainer

from ..processing import TASKS, UniMPProcessor
from .card import write_model_card
from .loss import token_weighted_loss
from .mixture import MixtureSettings, UniMPCollator, lay_out_examples


logger = logging.getLogger(__name__)

# Modules that UniMP adds to its backbones; under PEFT they train in full and are saved with the adapter.
NEW_MODULES = ("resampler", "cross_attention", "markers", "behaviors", "item_rows", "item_head")


@dataclass
class UniMPTrainingConfig(SFTConfig):
    """[`~trl.SFTConfig`] and what UniMP's multi-task training adds. The command `unimp train` has the same fields."""

    tasks: list[str] = field(
        default_factory=lambda: list(TASKS), metadata={"help": "Tasks to train; those the data has no answers for are left out."}
    )
    task_weights: dict[str, float] | str = field(
        default_factory=lambda: {"recommend": 2.0},
        metadata={"help": "Weight of each task's tokens in the loss, 1 where not given (paper: 2 for recommend)."},
    )
    role_weights: dict[str, float] | str = field(
        default_factory=dict,
        metadata={"help": "Weight of `item`, `rating` and `explanation` tokens in the loss, 1 where not given."},
    )
    focal_gamma: float = field(
        default=2.0, metadata={"help": "Exponent of the token re-weighting (1 - p)^gamma; 0 turns it off."}
    )
    train_policy: str = field(
        default="all",
        metadata={
            "help": "What trains: `all` (everything but the vision encoder) or `new` (resampler, cross-attention, item "
            "rows). With `peft_config`: `new` and the adapters."
        },
    )
    num_passes: int = field(
        default=10,
        metadata={
            "help": "Passes over the people. All of them are laid out in advance, each with its own windows, wordings and "
            "candidates: leave `num_train_epochs` at 1."
        },
    )
    history_window: int = field(default=50, metadata={"help": "Most events of a history in one example."})
    behavior_dropout: float = field(
        default=0.2, metadata={"help": "How often ratings, kinds and times are hidden from an example with an item answer."}
    )
    num_train_epochs: float = field(default=1.0, metadata={"help": "Leave at 1, see `num_passes`."})
    learning_rate: float = field(default=2e-4, metadata={"help": "Peak learning rate (paper: 2e-4)."})
    warmup_steps: float = field(default=0.01, metadata={"help": "Warm-up steps, or their share if below 1 (paper: 1%)."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Learning rate schedule (paper: cosine)."})
    max_length: int | None = field(default=None, metadata={"help": "Unused: the processor's `max_length` decides."})
    remove_unused_columns: bool = field(default=False, metadata={"help": "The collator needs every column."})
    gradient_checkpointing: bool = field(default=False, metadata={"help": "Trade speed for memory."})
    bf16: bool | None = field(default=False, metadata={"help": "Mixed precision."})
    report_to: None | str | list[str] = field(default="none", metadata={"help": "Where metrics are reported to."})

    def __post_init__(self) -> None:
        self.dataset_kwargs = {"skip_prepare_dataset": True}
        super().__post_init__()
        if unknown := set(self.tasks) - set(TASKS):
            raise ValueError(f"`tasks` must be among {list(TASKS)}, got {sorted(unknown)}.")
        if self.train_policy not in ("all", "new"):
            raise ValueError(f"`train_policy` must be 'all' or 'new', got {self.train_policy!r}.")
        if self.focal_gamma < 0:
            raise ValueError(f"`focal_gamma` must not be negative, got {self.focal_gamma}.")


class UniMPTrainer(SFTTrainer):
    """
    Trains a [`UniMPForConditionalGeneration`] on sequences of events.

    Args:
        model ([`UniMPForConditionalGeneration`]): with a code row for every item of the processor's catalogue.
        args ([`UniMPTrainingConfig`]): settings.
        processing_class ([`UniMPProcessor`]): the model's processor, with its catalogue.
        train_dataset (`datasets.Dataset`): sequences, a row a person (see [`sequences`]); all their events are
            trained on.
        eval_dataset (`datasets.Dataset`, *optional*): further sequences, for the loss.
        peft_config (`peft.PeftConfig`, *optional*): adapters; what UniMP adds to its backbones trains in full beside.
        kwargs: as for [`~trl.SFTTrainer`].
    """

    _tag_names = ["unimp", "recommendation", "personalization", "trl", "sft"]

    def __init__(
        self,
        model: PreTrainedModel,
        args: UniMPTrainingConfig,
        processing_class: UniMPProcessor,
        train_dataset: Dataset,
        eval_dataset: Dataset | None = None,
        peft_config: PeftConfig | None = None,
        **kwargs: Any,
    ) -> None:
        if model.config.num_items != len(processing_class.catalog or ()):
            raise ValueError(
                f"`model` has {model.config.num_items} item codes, the catalogue of `processing_class` "
                f"{len(processing_class.catalog or ())} items: call `processor.index_catalog(model)` first."
            )
        trained = model.set_trainable(args.train_policy)
        if peft_config is not None and peft_config.modules_to_save is None:
            peft_config.modules_to_save = new_module_names(model)
        collator = UniMPCollator(
            processing_class, args.task_weights, args.role_weights, processing_class.encode_pictures(model)
        )
        super().__init__(
            model=model,
            args=args,
            data_collator=collator,
            train_dataset=self._examples(train_dataset, args, processing_class, args.num_passes),
            eval_dataset=eval_dataset and self._examples(eval_dataset, args, processing_class, 1),
            processing_class=processing_class,
            peft_config=peft_config,
            **kwargs,
        )
        self.evaluation_metrics: dict[str, Any] = {}
        logger.info("%d parameter tensors train (policy %r).", len(trained), args.train_policy)

    @staticmethod
    def _examples(
        sequences: Dataset, args: UniMPTrainingConfig, processor: UniMPProcessor, num_passes: int
    ) -> Dataset:
        settings = MixtureSettings(args.history_window, args.behavior_dropout)
        examples = lay_out_examples(sequences, processor.catalog.item_ids, args.tasks, num_passes, args.seed, settings)
        if not len(examples):
            raise ValueError(f"`train_dataset` has no example of {args.tasks}: histories need at least two events.")
        return examples

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, Any]:
        """
        The token-weighted loss, exact under gradient accumulation and several processes.

        [`~trl.SFTTrainer`] would score every token alike with its own head and ignore the model's.
        """
        inputs = dict(inputs)
        roles, weights = inputs.pop("roles"), inputs.pop("loss_weights")
        outputs = model(**inputs, use_cache=False)
        count = (inputs["labels"][:, 1:] != -100).sum() if num_items_in_batch is None else num_items_in_batch
        loss = token_weighted_loss(outputs.log_probs, weights, self.args.focal_gamma, count)
        if self.args.average_tokens_across_devices and num_items_in_batch is not None:
            loss = loss * self.accelerator.num_processes  # averaged over processes, counted over all of them
        self._log_surprise(outputs.log_probs.detach(), roles)
        return (loss, outputs) if return_outputs else loss

    def _log_surprise(self, log_probs: torch.Tensor, roles: torch.Tensor) -> None:
        """Mean negative log-probability of each kind of answer, for the logs."""
        mode = "train" if self.model.training else "eval"
        for role, name in enumerate(UniMPCollator.ROLES):
            chosen = log_probs[roles == role]
            if role and chosen.numel():
                self._metrics[mode][f"surprise_{name}"].append(-chosen.mean().item())

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write the model card, with `evaluation_metrics` once they are there."""
        if self.is_world_process_zero():
            write_model_card(Path(self.args.output_dir), self.model, self.args, self.evaluation_metrics)


def new_module_names(model: PreTrainedModel) -> list[str]:
    """Names of the modules that UniMP adds to its backbones, as `modules_to_save` of a PEFT configuration."""
    names = []
    for name, module in model.named_modules():
        leaf = name.rpartition(".")[2]
        if leaf in NEW_MODULES and not isinstance(module, torch.nn.ModuleList):
            names.append(leaf)
        elif leaf in NEW_MODULES:
            names += [f"{leaf}.{number}" for number in range(len(module))]
    return names
