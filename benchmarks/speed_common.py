"""What the speed scripts share: a random model of a given size, its prompts, and times taken side by side."""

import argparse
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from unimp import UniMPConfig, UniMPForConditionalGeneration


@dataclass(frozen=True)
class Size:
    """
    Size of a model and of its prompts. The defaults are the 90 million parameters of the targets, all parts counted:
    a Llama decoder of 8 layers, gated cross-attention before each, a vision transformer of ViT-S/16's size (the
    original's ViT-L/14 is fourteen times as large), the paper's 64 latents a picture, one resampler layer (paper: 6).
    """

    hidden_size: int = 512
    intermediate_size: int = 1408
    num_layers: int = 8
    text_vocab_size: int = 32_000
    vision_size: int = 384
    vision_layers: int = 12
    image_size: int = 224
    patch_size: int = 16
    num_latents: int = 64
    resampler_depth: int = 1
    pictures: int = 5
    tokens: int = 160
    code_sizes: tuple[int, ...] = (256, 256, 256, 64)


def random_codes(num_items: int, code_sizes: Sequence[int], seed: int = 0) -> torch.Tensor:
    """
    Distinct semantic codes `[num_items, levels]` as a catalogue would have them: codes of the levels before the last
    are drawn unevenly, the last one numbers the items that share them.
    """
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.tensor(code_sizes[:-1])
    codes = (torch.rand(num_items, len(sizes), generator=generator) ** 1.5 * sizes).long()
    key = torch.zeros(num_items, dtype=torch.long)
    for size, level in zip(code_sizes, codes.T, strict=False):
        key = key * size + level
    _, cell = key.unique(return_inverse=True)
    order = cell.argsort(stable=True)
    counts = torch.bincount(cell)
    number = torch.arange(num_items) - (counts.cumsum(0) - counts)[cell[order]]
    if number.max() >= code_sizes[-1]:
        raise ValueError(f"`code_sizes` {tuple(code_sizes)} are too small for {num_items} items.")
    return torch.cat([codes[order], number[:, None]], dim=1)[torch.randperm(num_items, generator=generator)]


def make_model(size: Size, num_items: int, *, semantic: bool, **settings: int) -> UniMPForConditionalGeneration:
    """A random model with open gates over `num_items` items of semantic or atomic codes, with further `settings`."""
    torch.manual_seed(0)
    heads = {"num_attention_heads": size.hidden_size // 64, "num_key_value_heads": size.hidden_size // 64}
    config = UniMPConfig(
        text_config={
            "model_type": "llama",
            "vocab_size": size.text_vocab_size,
            "hidden_size": size.hidden_size,
            "intermediate_size": size.intermediate_size,
            "num_hidden_layers": size.num_layers,
            "max_position_embeddings": 16_384,
            "tie_word_embeddings": True,
            "eos_token_id": None,
            **heads,
        },
        vision_config={
            "model_type": "clip_vision_model",
            "hidden_size": size.vision_size,
            "intermediate_size": 4 * size.vision_size,
            "num_hidden_layers": size.vision_layers,
            "num_attention_heads": size.vision_size // 64,
            "image_size": size.image_size,
            "patch_size": size.patch_size,
        },
        num_items=num_items,
        code_sizes=list(size.code_sizes) if semantic else None,
        num_latents=size.num_latents,
        resampler_depth=size.resampler_depth,
        resampler_heads=size.hidden_size // 64,
        resampler_head_dim=64,
        cross_attention_heads=size.hidden_size // 64,
        cross_attention_head_dim=64,
        **settings,
    )
    model = UniMPForConditionalGeneration(config).eval()
    for block in model.model.cross_attention:
        block.attention_gate.data.fill_(0.5)
        block.feed_forward_gate.data.fill_(0.5)
    if semantic:
        model.model.item_codes.codes.copy_(random_codes(num_items, size.code_sizes))
    return model


def item_codes(model: UniMPForConditionalGeneration) -> torch.Tensor:
    """Codes of the catalogue, `[num_items, levels]`."""
    if model.model.item_codes is None:
        return torch.arange(model.config.num_items)[:, None]
    return model.model.item_codes.codes.cpu().long()


def code_tokens(model: UniMPForConditionalGeneration, items: torch.Tensor) -> torch.Tensor:
    """Code tokens of items, one more dimension at the end."""
    sizes = torch.tensor(model.config.level_sizes)
    return item_codes(model)[items] + model.config.first_item_id + sizes.cumsum(0) - sizes


def make_prompt(
    model: UniMPForConditionalGeneration, size: Size, batch: int = 1, pictures: int | None = None, seed: int = 1
) -> dict[str, torch.Tensor]:
    """
    `input_ids` of histories whose every item has codes, a picture and text, `size.tokens` tokens a person, and their
    pictures' numbers in `image_index`: each is another one.
    """
    generator = torch.Generator().manual_seed(seed)
    pictures = size.pictures if pictures is None else pictures
    items = torch.randint(model.config.num_items, (batch, pictures), generator=generator)
    codes = code_tokens(model, items)
    words = size.tokens // size.pictures - codes.shape[-1] - 2
    text = torch.randint(3, size.text_vocab_size, (batch, pictures, words), generator=generator)
    image = codes.new_full((batch, pictures, model.config.tokens_per_image), model.config.image_token_id)
    end = codes.new_full((batch, pictures, 1), model.config.marker_id("<|endofchunk|>"))
    input_ids = torch.cat([codes, image, text, end], dim=-1).flatten(1).to(model.device)
    index = torch.arange(batch * pictures, device=model.device).view(batch, pictures)
    index = index.repeat_interleave(model.config.tokens_per_image, dim=-1)
    return {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids), "image_index": index}


@torch.no_grad()
def picture_inputs(
    model: UniMPForConditionalGeneration, size: Size, number: int, seed: int = 2
) -> dict[str, torch.Tensor]:
    """The same pictures at each stage of reading them: `pixel_values`, `image_features`, `image_latents`."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randn(number, 3, size.image_size, size.image_size, generator=generator)
    pixels = pixels.to(model.device, model.dtype)
    features = model.get_image_features(pixels)
    return {
        "pixel_values": pixels,
        "image_features": features,
        "image_latents": model.model.picture_reader(features.to(model.dtype)),
    }


@dataclass(frozen=True)
class Seconds:
    """
    Medians of one call: by the clock, and of the process's CPU time over all its threads; that is `None` where a GPU
    computes, as it then tells of the waiting.
    """

    wall: float
    cpu: float | None

    def each(self, number: int) -> "Seconds":
        """Of one of so many that the call was for."""
        return Seconds(self.wall / number, None if self.cpu is None else self.cpu / number)


def compare(runs: dict[Any, Callable[[], Any]], repetitions: int) -> dict[Any, Seconds]:
    """
    Time some calls in turns (A, B, A, B, ...), so that whatever else the machine does meets all alike; each is called
    once before, untimed. What a call leaves to a GPU is waited for.
    """
    times = {name: [] for name in runs}
    for turn in range(repetitions + 1):
        for name, run in runs.items():
            wall, cpu = time.perf_counter(), time.process_time()
            run()
            _wait_for_device()
            if turn:
                times[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    medians = {name: tuple(map(statistics.median, zip(*rows, strict=True))) for name, rows in times.items()}
    return {name: Seconds(wall, None if computes_on_gpu() else cpu) for name, (wall, cpu) in medians.items()}


def computes_on_gpu() -> bool:
    """Whether this process has put anything on a GPU."""
    return torch.cuda.is_initialized()


def product_size() -> int:
    """Width of square matrices whose product keeps the machine busy."""
    return 8192 if computes_on_gpu() else 1024


def matrix_products(model: UniMPForConditionalGeneration, number: int = 20) -> tuple[Callable[[], None], int]:
    """Some large square matrix products of the model's kind, and their floating-point operations."""
    size = product_size()
    left, right = (torch.randn(size, size, device=model.device).to(model.dtype) for _ in range(2))

    def run() -> None:
        for _ in range(number):
            torch.matmul(left, right)

    return run, number * 2 * size**3


def _wait_for_device() -> None:
    if computes_on_gpu():
        torch.cuda.synchronize()


def matrix_operations(run: Callable[[], Any]) -> int:
    """Floating-point operations of a call's matrix products with weights (attention's own are left out)."""
    with FlopCounterMode(display=False) as counter:
        run()
    counts = counter.get_flop_counts()["Global"]
    return sum(count for operation, count in counts.items() if "attention" not in str(operation))


def arguments(description: str | None, **defaults: int | list[int]) -> argparse.Namespace:
    """Options of a speed script: what all have, and integers or lists of them of its own with their defaults."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--device", default="cpu")
    for name, default in defaults.items():
        parser.add_argument(f"--{name}", type=int, default=default, nargs="+" if isinstance(default, list) else None)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    return options


def print_setting(model: UniMPForConditionalGeneration, options: argparse.Namespace) -> None:
    """One line with what a figure depends on."""
    total = sum(parameter.numel() for parameter in model.parameters())
    device = torch.cuda.get_device_name(model.device) if model.device.type == "cuda" else options.device
    print(
        f"{total / 1e6:.1f} million parameters, {model.config.num_items:,} items, codes of "
        f"{model.config.code_levels} tokens; {options.dtype}, {options.threads} threads, {device}, "
        f"{platform.machine()}, torch {torch.__version__}"
    )


def ratios(seconds: Seconds, other: Seconds) -> str:
    """How many times as long, by the clock and in CPU time."""
    by_cpu = "" if seconds.cpu is None else f" (CPU time {seconds.cpu / other.cpu:.2f})"
    return f"{seconds.wall / other.wall:.2f}{by_cpu}"


def print_table(times: dict[str, Seconds], first: str) -> None:
    """Seconds of all beside each other, and how many times the first each takes."""
    print("| | ms | CPU ms | times the first |\n|---|---|---|---|")
    for name, seconds in times.items():
        cpu = "" if seconds.cpu is None else f"{1e3 * seconds.cpu:.1f}"
        print(f"| {name} | {1e3 * seconds.wall:.1f} | {cpu} | {ratios(seconds, times[first])} |")
