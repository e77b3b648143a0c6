"""
How fast does training go? Beside stock TRL on the same batches, and where the time goes.

    python benchmarks/speed_training.py --setting full --steps 20
    python benchmarks/speed_training.py --setting compact --dataset FOLDER --steps 20 --profile
    python benchmarks/speed_training.py --device cuda --steps 30 --batch_size 64

Settings: `recent` (the quickstart on the demo store: the two most recent items in full), `full` (the same with every
item of a history shown with its picture and text) and `compact` (`movielens.yaml`: one token an item, no pictures).

Each way to train runs in a process of its own and they take their steps in turns, so that whatever else the machine
does meets all alike and each has its own peak of memory. On a CPU seconds are CPU time of the process, on a GPU those
of the clock, with all that was begun there done.
"""

import argparse
import dataclasses
import logging
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import yaml
from datasets import Dataset, load_from_disk
from torch.autograd import DeviceType
from torch.profiler import profile
from torch.utils.data import RandomSampler
from torch.utils.flop_counter import FlopCounterMode
from transformers import Trainer, TrainerCallback, set_seed
from trl import SFTConfig, SFTTrainer

from unimp import UniMPForConditionalGeneration, UniMPProcessor
from unimp.processing.demo_store import build_demo_store
from unimp.processing.splits import make_split
from unimp.processing.store import make_store, read_store
from unimp.quickstart import model_arguments, training_config
from unimp.training.metrics import paired_ratio_interval
from unimp.training.mixture import AlikeBatchesSampler, MixtureSettings, UniMPCollator, lay_out_examples
from unimp.training.recipe import ModelArguments, build
from unimp.training.trainer import UniMPTrainer, UniMPTrainingConfig

WARM_UP = 3
KEPT = ("task_rates", "per_device_train_batch_size", "learning_rate", "weight_decay", "adam_beta2")
# One and the same loss for all: the mean negative log-probability of the labels.
PLAIN_LOSS = {"later_weights": [], "focal_gamma": 0.0, "task_weights": {}, "role_weights": {}}
STOCK, ONCE, CACHED = "stock SFTTrainer", "pictures once a batch", "pictures cached"
BF16, UNSORTED = "pictures cached, bf16", "pictures cached, random batches"
DEFAULT_LOSS = "pictures cached, default loss"
CHANGES = {
    ONCE: PLAIN_LOSS | {"cache_pictures": False},
    CACHED: PLAIN_LOSS,
    BF16: PLAIN_LOSS | {"bf16": True},
    UNSORTED: PLAIN_LOSS,
    DEFAULT_LOSS: {},
}


# What is trained


def demo_setting(full_chunks: int | None, **store: int) -> Callable[[str | None], tuple]:
    """The quickstart's model and mixture on the demo store."""

    def make(_dataset: str | None) -> tuple:
        arguments = dataclasses.replace(model_arguments(), full_chunks=full_chunks)
        training = training_config(Path("unused"), 0)
        shop = make_store(*build_demo_store(**store))
        return (
            shop,
            make_split(shop, "user_holdout").train,
            arguments,
            {name: getattr(training, name) for name in KEPT},
        )

    return make


def compact_setting(dataset: str | None) -> tuple:
    """`movielens.yaml` on a folder."""
    if dataset is None:
        raise SystemExit("`--setting compact` needs `--dataset`.")
    settings = yaml.safe_load(Path(__file__).with_name("movielens.yaml").read_text(encoding="utf-8"))
    of_model = {option.name for option in dataclasses.fields(ModelArguments)}
    arguments = ModelArguments(**{name: value for name, value in settings.items() if name in of_model})
    store = read_store(dataset)
    return store, make_split(store, "leave_last_10").train, arguments, {name: settings[name] for name in KEPT}


SETTINGS = {"recent": demo_setting(2), "full": demo_setting(None), "compact": compact_setting}
SETTINGS["tiny"] = demo_setting(None, num_items=40, num_users=30)  # for the tests


def prepare(
    setting: str, dataset: str | None, folder: Path, batch_size: int | None = None, device: str = "cpu"
) -> None:
    """Model, processor, sequences and training options, for all ways to train alike."""
    store, train, arguments, training = SETTINGS[setting](dataset)
    if batch_size is not None:
        training["per_device_train_batch_size"] = batch_size
    training |= {"use_cpu": device == "cpu", "dataloader_pin_memory": device != "cpu"}
    set_seed(0)
    model, processor = build(store, arguments, train)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    train.save_to_disk(folder / "train")
    (folder / "training.yaml").write_text(yaml.safe_dump(training), encoding="utf-8")


# Ways to train


class OneVocabulary(UniMPForConditionalGeneration):
    """
    The model as a stock trainer takes one: text, markers and items in one vocabulary, under one head. (TRL's fused
    head takes its rows from `get_output_embeddings` and leaves the model's own heads and loss alone.)
    """

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.model.item_rows.register_forward_hook(self._keep)

    def _keep(self, _module: torch.nn.Module, _inputs: Any, rows: torch.Tensor) -> None:
        self._rows = rows

    def get_output_embeddings(self) -> Any:
        """Rows and biases of the whole vocabulary, during a forward; the text's before the first one."""
        if "_rows" not in self.__dict__:
            return self.lm_head
        weight = torch.cat([self.lm_head.weight, self.model.markers.weight, self._rows])
        bias = self.model.item_rows.bias
        return SimpleNamespace(weight=weight, bias=torch.nn.functional.pad(bias, (len(weight) - len(bias), 0)))


class StockCollator:
    """
    The batches of [`UniMPCollator`] as stock vision-language models read them: a picture for every `<image>`, in
    order. (One that is shown twice is at least not opened and scaled twice.)
    """

    def __init__(self, processor: UniMPProcessor) -> None:
        self.collator = UniMPCollator(processor, {}, {})

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """One batch."""
        batch = self.collator(examples)
        del batch["roles"], batch["loss_weights"]
        if "pixel_values" in batch:
            index = batch.pop("image_index")
            batch["pixel_values"] = batch["pixel_values"][index[index >= 0]]
        return batch


class StockTrainer(SFTTrainer):
    """TRL's trainer; only the order of the examples is ours, so that it gets the very same batches."""

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> AlikeBatchesSampler:
        return UniMPTrainer._get_train_sampler(self, train_dataset)


class UnsortedTrainer(UniMPTrainer):
    """Batches at random instead of requests of one kind and of like lengths."""

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> RandomSampler:
        return RandomSampler(self.train_dataset, generator=torch.Generator().manual_seed(self.args.seed))


def make_trainer(name: str, folder: Path, steps: int) -> Trainer:
    """The trainer of one of the ways."""
    processor, train = UniMPProcessor.from_pretrained(folder), load_from_disk(folder / "train")
    options = yaml.safe_load((folder / "training.yaml").read_text(encoding="utf-8"))
    options |= {"max_steps": steps, "logging_steps": steps, "save_strategy": "no", "disable_tqdm": True}
    options |= {"report_to": "none", "output_dir": tempfile.mkdtemp(dir=folder)}
    if name != STOCK:
        model = UniMPForConditionalGeneration.from_pretrained(folder)
        config = UniMPTrainingConfig(**(options | CHANGES[name]))
        return (UnsortedTrainer if name == UNSORTED else UniMPTrainer)(model, config, processor, train)
    rates, defaults = options.pop("task_rates"), UniMPTrainingConfig(output_dir=options["output_dir"])
    examples = lay_out_examples(
        train,
        processor.catalog.item_ids,
        rates,
        defaults.num_passes,
        defaults.seed,
        MixtureSettings(dense=processor.order == "code_first"),
    )
    # As `UniMPTrainingConfig` has it: full precision, no activation checkpointing.
    options |= {"bf16": False, "activation_checkpointing": False, "max_length": None}
    options |= {"dataset_kwargs": {"skip_prepare_dataset": True}, "remove_unused_columns": False}
    model = OneVocabulary.from_pretrained(folder)
    model.set_trainable("all")
    return StockTrainer(
        model,
        SFTConfig(warmup_steps=defaults.warmup_steps, lr_scheduler_type="cosine", **options),
        StockCollator(processor),
        examples,
        processing_class=processor,
    )


# Steps in turns


def seconds() -> float:
    """CPU time of this process; the clock where it computes on a GPU."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def memory_peak() -> float:
    """Most memory that this process has had so far, in MB; of the GPU where it computes on one."""
    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 2**20
    # Not `getrusage`: its `ru_maxrss` starts from what the process that started this one had.
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.partition("VmHWM:")[2].split()[0]) / 2**10


class Counted:
    """A collator that counts the places of its batches, and those that padding takes."""

    def __init__(self, collator: Callable[[list], dict[str, torch.Tensor]]) -> None:
        self.collator = collator
        self.places = self.padding = 0

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """One batch."""
        batch = self.collator(examples)
        self.places += batch["attention_mask"].numel()
        self.padding += int((batch["attention_mask"] == 0).sum())
        return batch


class InTurns(TrainerCallback):
    """
    Waits for its turn before each step (and the batch that is made for it), and then reports its seconds; with `count`
    its floating-point operations.
    """

    def __init__(self, connection: Connection, collator: Counted, count: bool) -> None:
        self.connection, self.collator, self.count = connection, collator, count

    def on_train_begin(self, *_args: Any, **_kwargs: Any) -> None:
        """Wait for the first turn."""
        self._wait()

    def on_step_end(self, *_args: Any, **_kwargs: Any) -> None:
        """Report, and wait for the next turn."""
        if self.count:
            self.counter.__exit__(None, None, None)
        figure = self.counter.get_total_flops() if self.count else seconds() - self.start
        self.connection.send((figure, memory_peak(), self.collator.padding / self.collator.places))
        self._wait()

    def _wait(self) -> None:
        self.connection.recv()
        self.start = seconds()
        if self.count:
            self.counter = FlopCounterMode(display=False)
            self.counter.__enter__()


def work(name: str, folder: Path, steps: int, count: bool, connection: Connection) -> None:
    """A process that trains in one of the ways, one step a turn."""
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    trainer = make_trainer(name, folder, steps)
    trainer.data_collator = Counted(trainer.data_collator)
    trainer.add_callback(InTurns(connection, trainer.data_collator, count))
    trainer.train()


@dataclasses.dataclass(frozen=True)
class Measured:
    """Of one way to train: seconds (or operations) of each step, peak of memory in MB, share of padding."""

    figures: np.ndarray
    peak: float
    padding: float


def measure(ways: dict[str, tuple[str, bool]], folder: Path, steps: int) -> dict[str, Measured]:
    """Let processes take their steps in turns; `ways` names each one's way to train, and whether it counts."""
    context = multiprocessing.get_context("spawn")
    processes, connections, reports = [], {}, {label: [] for label in ways}
    for label, (name, count) in ways.items():
        connections[label], other = context.Pipe()
        process = context.Process(target=work, args=(name, folder, WARM_UP + steps, count, other), daemon=True)
        process.start()
        other.close()  # so that a process that dies is noticed
        processes.append(process)
    for _ in range(WARM_UP + steps):
        for label, connection in connections.items():
            connection.send(None)
            reports[label].append(connection.recv())
    for process, connection in zip(processes, connections.values(), strict=True):
        connection.send(None)
        process.join()
    return {
        label: Measured(np.array([row[0] for row in rows[WARM_UP:]]), rows[-1][1], rows[-1][2])
        for label, rows in reports.items()
    }


# Where the time goes

KINDS = {  # the first that fits
    "making batches": ("DataLoader",),
    "optimizer, clipping": ("adamw", "optimizer", "foreach", "linalg_vector_norm"),
    "matrix products": ("::mm", "::addmm", "::bmm", "::baddbmm", "convolution", "flash_attention"),
    "random numbers of dropout": ("bernoulli", "dropout"),
    "softmax and its logarithm, exponentials": ("softmax", "::exp", "amax", "logsumexp"),
    "embedding, gather, scatter, index": ("embedding", "gather", "scatter", "index", "sort"),
    "filling, copying, converting": ("fill", "zero", "copy", "::to", "cat", "clone", "contiguous", "empty"),
}
REST = "the rest (element-wise, norms, bookkeeping)"


def kind_of(operation: str) -> str:
    """The row of the profile that an operation's own time belongs to."""
    operation = operation.lower()
    return next((kind for kind, parts in KINDS.items() if any(part.lower() in operation for part in parts)), REST)


class Profiled(TrainerCallback):
    """Profiles every step after the warm-up."""

    def on_step_end(self, _args: Any, state: Any, *_others: Any, **_kwargs: Any) -> None:
        """Begin after the warm-up, end with the last step."""
        if state.global_step == WARM_UP:
            self.profile = profile()
            self.profile.__enter__()
        elif state.global_step == state.max_steps:
            self.profile.__exit__(None, None, None)


def time_by_kind(trainer: Trainer) -> dict[str, float]:
    """Share of the CPU time of training steps that each kind of operation takes; of the GPU's where that computes."""
    profiled = Profiled()
    trainer.add_callback(profiled)
    trainer.train()
    shares = dict.fromkeys((*KINDS, REST), 0.0)
    clock = "self_device_time_total" if torch.cuda.is_initialized() else "self_cpu_time_total"
    for event in profiled.profile.key_averages():
        if event.device_type == DeviceType.CPU:  # a GPU's time is told of the operation that asked for it, too
            shares[kind_of(event.key)] += getattr(event, clock)
    total = sum(shares.values())
    return {kind: share / total for kind, share in shares.items()}


# Report


def report(measured: dict[str, Measured], operations: str, batch_size: int, device: str = "cpu") -> None:
    """Print the tables; `operations` is the label of the process that counted."""
    counted = measured.pop(operations).figures
    stock = measured[STOCK].figures
    print("| | samples a second | times stock | peak, MB | padding |\n|---|---|---|---|---|")
    for name, way in measured.items():
        low, high = paired_ratio_interval(stock, way.figures)
        ratio = stock.mean() / way.figures.mean()
        cells = f"{batch_size / way.figures.mean():.1f} | {ratio:.2f} [{low:.2f}, {high:.2f}] | {way.peak:.0f}"
        print(f"| {name} | {cells} | {way.padding:.1%} |")
    print("\n| | operations a second, in 10^9 | measured peak | share |\n|---|---|---|---|")
    for name, dtype in ((CACHED, torch.float32), (BF16, torch.bfloat16)):
        reached, peak = counted.sum() / measured[name].figures.sum(), matrix_peak(dtype, device)
        print(f"| {name} | {reached / 1e9:.0f} | {peak / 1e9:.0f} | {reached / peak:.0%} |")


def matrix_peak(dtype: torch.dtype, device: str, repetitions: int = 9) -> float:
    """Floating-point operations a second of a square matrix product, at best."""
    size = 2048 if device == "cpu" else 8192
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    best = float("inf")
    for _ in range(repetitions):
        start = seconds()
        torch.matmul(left, right)
        best = min(best, seconds() - start)
    return 2 * size**3 / best


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--setting", choices=SETTINGS, default="full")
    parser.add_argument("--dataset", help="Folder of the data set, for `compact`.")
    parser.add_argument("--steps", type=int, default=30, help="Measured steps of each way, after a warm-up.")
    parser.add_argument("--batch_size", type=int, help="Samples a batch; the setting's by default.")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--profile", action="store_true", help="Where the time of a step goes, instead.")
    options = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["TQDM_DISABLE"] = "1"
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(options.setting, options.dataset, folder, options.batch_size, options.device)
        print(f"{options.setting}, {options.steps} steps, one thread, {options.device}, torch {torch.__version__}\n")
        if options.profile:
            columns = {way: time_by_kind(make_trainer(way, folder, WARM_UP + options.steps)) for way in (CACHED, BF16)}
            print(f"| | {' | '.join(columns)} |\n|---{'|---' * len(columns)}|")
            for kind in (*KINDS, REST):
                print(f"| {kind} | {' | '.join(f'{shares[kind]:.0%}' for shares in columns.values())} |")
            return
        ways = {name: (name, False) for name in (STOCK, *CHANGES)} | {"operations": (CACHED, True)}
        batch_size = yaml.safe_load((folder / "training.yaml").read_text())["per_device_train_batch_size"]
        report(measure(ways, folder, options.steps), "operations", batch_size, options.device)


if __name__ == "__main__":
    main()
