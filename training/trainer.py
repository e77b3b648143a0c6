"""The trainer: TRL's supervised fine-tuning with a token-weighted multi-task loss."""

import copy
import json
import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import PeftConfig
from transformers import PreTrainedModel
from trl import SFTConfig, SFTTrainer

from ..processing import TASKS, UniMPProcessor
from ..processing.picture_store_unimp import PICTURE_FILES
from ..processing.store import Store
from .card import write_model_card
from .loss import token_weighted_loss
from .mixture import AlikeBatchesSampler, MixtureSettings, UniMPCollator, lay_out_examples
from .pictures import training_pictures

logger = logging.getLogger(__name__)


# Options of SFT that UniMP's own layout, collator and loss would pass over in silence, and what to use instead.
_OWN_LAYOUT = "the processor lays out requests, one a row, see `per_device_train_batch_size` and `prompt_length`"
_OWN_LABELS = "`task_weights` and `role_weights` say what is trained on"
NOT_USED = {
    "max_length": "use `prompt_length` of the model (`max_length` of its processor)",
    "loss_type": "the loss is the token-weighted one, see `focal_gamma`, `task_weights` and `role_weights`",
    "num_train_epochs": "use `num_passes`",
    "packing": _OWN_LAYOUT,
    "eval_packing": _OWN_LAYOUT,
    "padding_free": _OWN_LAYOUT,
    "assistant_only_loss": _OWN_LABELS,
    "completion_only_loss": _OWN_LABELS,
}
PRETRAINED_LEARNING_RATE, NEW_LEARNING_RATE = 2e-4, 2e-3


@dataclass
class UniMPTrainingConfig(SFTConfig):
    """[`~trl.SFTConfig`] and what UniMP's multi-task training adds. The command `unimp train` has the same fields."""

    task_rates: dict[str, float] | str | None = field(
        default_factory=lambda: dict.fromkeys(TASKS, 1.0),
        metadata={
            "help": "Tasks to train, and examples of each a person and pass, as JSON. Tasks that the data has no "
            "answers to are left out."
        },
    )
    task_weights: dict[str, float] | str | None = field(
        default_factory=lambda: {"recommend": 2.0},
        metadata={"help": "Weight of each task's tokens, as JSON; 1 where not given (paper: 2 for recommend)."},
    )
    # Not in the paper, which weighs tasks: beside its history's items, the one answer of a query was learned late.
    role_weights: dict[str, float] | str | None = field(
        default_factory=lambda: {"query_answer": 8.0},
        metadata={
            "help": "Weight of `item`, `query_answer`, `rating` and `explanation` tokens, as JSON; 1 where not given "
            "(by default 8 for `query_answer`: a query has one answer, beside which its history's items are many)."
        },
    )
    focal_gamma: float = field(
        default=2.0, metadata={"help": "Exponent of the token re-weighting (1 - p)^gamma; 0 turns it off."}
    )
    later_weights: list[float] = field(
        default_factory=lambda: [0.4, 0.16],
        metadata={
            "help": "Weights of the items after the next one: each step of a history learns to expect those too. One "
            "weight an item; none turns it off."
        },
    )
    train_policy: str = field(
        default="all",
        metadata={
            "help": "What trains: `all` (everything but the vision encoder) or `new` (what UniMP adds to its "
            "backbones). With `peft_config`: `new` and the adapters."
        },
    )
    num_passes: int = field(
        default=10,
        metadata={
            "help": "Passes over the people. All of them are laid out in advance, each with its own windows, wordings "
            "and candidates: leave `num_train_epochs` at 1."
        },
    )
    history_window: int = field(default=50, metadata={"help": "Most events of a history in one example; 0 for none."})
    behavior_dropout: float = field(
        default=0.2,
        metadata={"help": "How often ratings, kinds and times of its history are hidden from an example."},
    )
    cache_pictures: bool = field(
        default=True,
        metadata={
            "help": "Encode the catalogue's pictures once and keep what that gives in `output_dir`, where training "
            "and pipelines read what they need. Turned off, each batch encodes its own."
        },
    )
    num_train_epochs: float = field(default=1.0, metadata={"help": "Leave at 1, see `num_passes`."})
    learning_rate: float | None = field(
        default=None,
        metadata={
            "help": "Peak learning rate; by default 2e-4 as in the paper, and 2e-3 where `unimp train` makes a small "
            "new decoder, which learns little at the former."
        },
    )
    # These four were chosen on the demo store and MovieLens.
    warmup_steps: float = field(
        default=0.05, metadata={"help": "Warm-up steps, or their share if below 1 (paper: 0.01)."}
    )
    weight_decay: float = field(default=0.05, metadata={"help": "Weight decay of AdamW."})
    adam_beta2: float = field(default=0.98, metadata={"help": "The second momentum of AdamW."})
    per_device_train_batch_size: int = field(default=16, metadata={"help": "Examples a step and device."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Learning rate schedule (paper: cosine)."})
    max_length: int | None = field(default=None, metadata={"help": "Leave it out, see `prompt_length`."})
    remove_unused_columns: bool = field(default=False, metadata={"help": "The collator needs every column."})
    # TRL sets this deprecated name, which warns; `activation_checkpointing` is the one to use.
    gradient_checkpointing: bool | None = field(
        default=None, metadata={"help": "Deprecated, see `activation_checkpointing`."}
    )
    bf16: bool | None = field(default=False, metadata={"help": "Mixed precision."})
    report_to: str = field(default="none", metadata={"help": "Where metrics are reported to."})

    def __post_init__(self) -> None:
        for name, advice in NOT_USED.items():
            default = type(self).__dataclass_fields__[name].default
            if (value := getattr(self, name)) != default:
                raise ValueError(f"`{name}` has no effect here and must stay {default!r}, got {value!r}: {advice}.")
        self.dataset_kwargs = {"skip_prepare_dataset": True}
        self.use_cpu |= not torch.accelerator.is_available()  # said outright, mixed precision works there as well
        super().__post_init__()
        self.dataloader_pin_memory &= torch.accelerator.is_available()  # without one, torch warns of it
        self.task_rates = _read_weights("task_rates", self.task_rates, TASKS)
        self.task_weights = _read_weights("task_weights", self.task_weights, TASKS)
        self.role_weights = _read_weights("role_weights", self.role_weights, UniMPCollator.ROLES.values())
        if self.train_policy not in ("all", "new"):
            raise ValueError(f"`train_policy` must be 'all' or 'new', got {self.train_policy!r}.")
        if not all(0 <= weight < float("inf") for weight in self.later_weights):
            raise ValueError(f"`later_weights` must be numbers of at least 0, got {self.later_weights}.")
        if self.focal_gamma < 0:
            raise ValueError(f"`focal_gamma` must not be negative, got {self.focal_gamma}.")
        if not 0 <= self.behavior_dropout <= 1:
            raise ValueError(f"`behavior_dropout` must lie between 0 and 1, got {self.behavior_dropout}.")
        for name, least in (("num_passes", 1), ("history_window", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"`{name}` must be at least {least}, got {getattr(self, name)}.")


def _read_weights(name: str, weights: dict[str, float] | str | None, allowed: Collection[str]) -> dict[str, float]:
    """A field of numbers by name, which the command line gives as JSON."""
    if isinstance(weights, str):
        try:
            weights = json.loads(weights)
        except json.JSONDecodeError:
            example = json.dumps({next(iter(allowed)): 1})
            raise ValueError(f"`{name}` must be JSON such as '{example}', got {weights!r}.") from None
    weights = weights or {}
    if not isinstance(weights, dict) or not set(weights) <= set(allowed):
        raise ValueError(f"`{name}` must give numbers to some of {', '.join(allowed)}, got {weights}.")
    for key, value in weights.items():
        if not isinstance(value, int | float) or not 0 <= value < float("inf"):
            raise ValueError(f"`{name}` must be numbers of at least 0, got {value!r} for {key}.")
    return weights


class UniMPTrainer(SFTTrainer):
    """
    Trains a [`UniMPForConditionalGeneration`] on sequences of events.

    Args:
        model ([`UniMPForConditionalGeneration`]): with a code row for every item of the processor's catalogue.
        args ([`UniMPTrainingConfig`]): settings.
        processing_class ([`UniMPProcessor`]): the model's processor, with its catalogue.
        train_dataset (`datasets.Dataset`): sequences, a row a person (see [`sequences`]); all their events are
            trained on.
        eval_dataset (`datasets.Dataset`, *optional*): further sequences, for the loss; all their events count.
        peft_config (`peft.PeftConfig`, *optional*): adapters; what UniMP adds to its backbones trains in full beside.
            What is then saved is an adapter, of no use without the very model that it was trained on, which may be
            nowhere but in memory. For a folder that a pipeline opens:
            `trainer.model.merge_and_unload().save_pretrained(folder)` and `processor.save_pretrained(folder)`.
        kwargs: as for [`~trl.SFTTrainer`].
    """

    _tag_names = ["unimp", "recommendation", "personalization", "trl", "sft"]
    loss_is_scaled_for_ga = True

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
        processing_class.check_model(model)
        if model.config.feature_similarity and args.task_rates.get("select"):
            logger.warning(
                "`feature_similarity` takes the candidates of `select` for a part of the history: leave the task out "
                "of `task_rates`, or `feature_similarity` where selecting matters."
            )
        if peft_config is not None:
            peft_config = copy.copy(peft_config)
            peft_config.modules_to_save = [*(peft_config.modules_to_save or ()), *new_module_names(model)]
        if args.learning_rate is None:
            args.learning_rate = PRETRAINED_LEARNING_RATE
        model.set_trainable(args.train_policy)
        lay_out = _layout(args, processing_class)
        train_examples = lay_out(train_dataset, num_passes=args.num_passes)
        if not len(train_examples):
            raise ValueError(
                f"`train_dataset` has no example of {', '.join(args.task_rates)}: recommend needs people with two "
                "events, the other tasks need events with answers."
            )
        eval_examples = None if eval_dataset is None else lay_out(eval_dataset, num_passes=1)
        if eval_examples is not None and not len(eval_examples):
            raise ValueError(f"`eval_dataset` has no example of {', '.join(args.task_rates)}: leave it out.")
        super().__init__(
            model=model,
            args=args,
            data_collator=UniMPCollator(
                processing_class, args.task_weights, args.role_weights, len(args.later_weights)
            ),
            train_dataset=train_examples,
            eval_dataset=eval_examples,
            processing_class=processing_class,
            peft_config=peft_config,
            **kwargs,
        )
        processing_class.history_window = args.history_window  # answers read what training showed
        processing_class.picture_file = None  # of latents that will not be this model's any more
        self.data_collator.catalog_features = training_pictures(model, processing_class, args)
        self.evaluation_metrics: dict[str, Any] = {}
        self.evaluation_split = "held-out events"
        self.store: Store | None = None  # whose data it is, for the model card
        trained = sum(parameter.numel() for parameter in self.model.parameters() if parameter.requires_grad)
        logger.info("%s parameters train.", f"{trained:,}")

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> AlikeBatchesSampler:
        examples, args = (train_dataset or self.train_dataset).with_format(None), self.args
        # Of the global batch, so that it holds the same examples however it is accumulated and spread.
        batch_size = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
        return AlikeBatchesSampler(examples["task"], examples["length"], batch_size, args.seed)

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
        if outputs.later_log_probs is not None:
            later_weights = weights[..., None] * weights.new_tensor(self.args.later_weights)
            loss = loss + token_weighted_loss(outputs.later_log_probs, later_weights, self.args.focal_gamma, count)
        if self.args.average_tokens_across_devices and num_items_in_batch is not None:
            loss = loss * self.accelerator.num_processes  # averaged over processes, counted over all of them
        self._log_surprise(outputs.log_probs.detach(), roles)
        return (loss, outputs) if return_outputs else loss

    def _log_surprise(self, log_probs: torch.Tensor, roles: torch.Tensor) -> None:
        """Mean negative log-probability of each kind of answer, for the logs."""
        surprise = torch.zeros(1 + len(UniMPCollator.ROLES), device=roles.device)  # and of what is no answer
        surprise.index_add_(0, roles.flatten(), -log_probs.flatten())
        count = roles.flatten().bincount(minlength=len(surprise)).to(surprise)
        surprise, count = self.accelerator.reduce(torch.stack([surprise, count])).tolist()
        metrics = self._metrics["train" if self.model.training else "eval"]
        for role, name in UniMPCollator.ROLES.items():
            if count[role]:
                metrics[f"surprise_{name}"].append(surprise[role] / count[role])

    def _save(self, output_dir: str | None = None, state_dict: dict[str, torch.Tensor] | None = None) -> None:
        sharded = type(self.accelerator.unwrap_model(self.model))
        if sharded.__name__.startswith("FSDP"):
            # It gives each model a class of its own; the code that travels with a checkpoint is that of the model's.
            sharded.__name__, sharded.__module__ = sharded.__bases__[-1].__name__, sharded.__bases__[-1].__module__
        super()._save(output_dir, state_dict)
        # A pickle that nothing reads: whoever gets the folder should not have to trust one.
        folder = Path(output_dir or self.args.output_dir)
        (folder / "training_args.bin").unlink(missing_ok=True)
        # What an earlier training's weights made of the catalogue's pictures is of no use beside these.
        (folder / PICTURE_FILES["latents"]).unlink(missing_ok=True)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write the model card, with `evaluation_metrics` once they are there."""
        if self.is_world_process_zero():
            folder, metrics = Path(self.args.output_dir), self.evaluation_metrics
            taught = self.train_dataset.unique("task")
            untaught = [task for task, rate in self.args.task_rates.items() if rate and task not in taught]
            write_model_card(folder, self.model, self.args, metrics, self.evaluation_split, self.store, untaught)


def _layout(args: UniMPTrainingConfig, processor: UniMPProcessor) -> Callable[..., Dataset]:
    """[`lay_out_examples`] as the configuration has it; the sequences and the number of passes are open."""
    dense = processor.order == "code_first"
    return partial(
        lay_out_examples,
        item_ids=processor.catalog.item_ids,
        task_rates=args.task_rates,
        seed=args.seed,
        settings=MixtureSettings(args.history_window, args.behavior_dropout, dense=dense),
    )


def new_module_names(model: PreTrainedModel) -> list[str]:
    """Names of the modules that UniMP adds to its backbones, as `modules_to_save` of a PEFT configuration."""
    names = []
    for name in model.set_trainable("new"):
        steps = name.removeprefix("model.").split(".")
        module = ".".join(steps[:2] if steps[1].isdigit() else steps[:1])  # a list of modules is wrapped one by one
        if module not in names:
            names.append(module)
    return names
