"""
Pretrained backbones for real: is text exact at the start, does the loss fall, and does only what should train move?

    python benchmarks/backbones.py --vision FOLDER --text FOLDER --dataset FOLDER --steps 30

It fails (status 1) if one of the three answers is no. `--dataset` is a folder in the two-table format, for example
MovieLens as converted in the README.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence, Set

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from unimp.processing.splits import leave_one_out
from unimp.processing.store import read_store
from unimp.training.recipe import ModelArguments, build
from unimp.training.trainer import UniMPTrainer, UniMPTrainingConfig

# Of the text logits in float32: sums in another order differ in the last digits.
MOST_DIFFERENCE = 1e-4


@torch.no_grad()
def text_difference(model: torch.nn.Module, text: str) -> float:
    """Largest difference of the text logits from the bare decoder's, gates at 0 and pictures in view."""
    tokenizer = AutoTokenizer.from_pretrained(text)
    bare = AutoModelForCausalLM.from_pretrained(text).eval()
    ids = tokenizer("A person who likes quiet films set by the sea will enjoy", return_tensors="pt")["input_ids"]
    size = getattr(model.config.vision_config, "image_size", 224)
    image = torch.tensor([[model.config.image_token_id]])
    # The picture's own token comes last: before it nothing differs from the bare decoder's prompt.
    ours = model.eval()(input_ids=torch.cat([ids, image], dim=1), pixel_values=torch.rand(1, 3, size, size)).logits
    return (ours[:, : ids.shape[1], : bare.config.vocab_size] - bare(ids).logits).abs().max().item()


def failures(difference: float, losses: Sequence[float], moved: Set[str], frozen: Set[str]) -> list[str]:
    """What did not go as it should: text that differs, a loss that does not fall, something frozen that moved."""
    found = []
    if not difference <= MOST_DIFFERENCE:
        found.append(f"text logits differ by {difference}, more than {MOST_DIFFERENCE}")
    if len(losses) < 2 or not losses[-1] < losses[0]:
        found.append(f"the loss does not fall: {list(losses)}")
    if wrong := sorted(moved & frozen):
        found.append(f"{len(wrong)} frozen tensors moved, such as {wrong[0]}")
    return found


def main() -> int:
    """Build, compare, train a few steps, and print what moved; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("vision", "text", "dataset"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--steps", type=int, default=30)
    options = parser.parse_args()
    store = read_store(options.dataset)
    start = time.perf_counter()
    sizes = {"image_size": 128, "num_latents": 8, "cross_attention_every": 5, "full_chunks": 2}
    arguments = ModelArguments(vision=options.vision, text=options.text, item_start="random", **sizes)
    train = leave_one_out(store.interactions).train
    model, processor = build(store, arguments, train)
    print(f"built in {time.perf_counter() - start:.0f} s: {sum(p.numel() for p in model.parameters()):,} parameters")
    difference = text_difference(model, options.text)
    print(f"largest difference of the text logits at gates 0: {difference}")
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    with tempfile.TemporaryDirectory() as folder:
        config = UniMPTrainingConfig(
            folder,
            train_policy="new",
            task_rates={"recommend": 1.0, "rate": 0.3},
            num_passes=1,
            max_steps=options.steps,
            history_window=12,
            per_device_train_batch_size=4,
            learning_rate=1e-3,
            logging_steps=5,
            save_strategy="no",
        )
        trainer = UniMPTrainer(model, config, processor, train)
        start = time.perf_counter()
        trainer.train()
    print(f"{options.steps} steps in {time.perf_counter() - start:.0f} s")
    for entry in trainer.state.log_history:
        if "loss" in entry:
            print({key: entry[key] for key in ("step", "loss", "surprise_item", "surprise_rating") if key in entry})
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    moved = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    parts: dict[str, list[int]] = {}
    for name in before:
        counts = parts.setdefault(".".join(name.split(".")[:2]), [0, 0])
        counts[name in moved] += 1
    for part, (still, changed) in parts.items():
        print(f"{part}: {changed} tensors moved, {still} did not")
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    found = failures(difference, losses, moved, frozen)
    for failure in found:
        print(f"FAILED: {failure}", file=sys.stderr)
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
