"""
What does a large catalogue cost? Latency of one person's recommendation, and memory and time of the trie.

    python benchmarks/speed_catalog.py --items 10000 --more_items 1000000

Semantic codes, and atomic ones for comparison, of which every item is one row of the item table: they cost time and
memory in proportion to the catalogue.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
from speed_common import (
    Size,
    arguments,
    compare,
    item_codes,
    make_model,
    make_prompt,
    picture_inputs,
    print_setting,
    print_table,
)

from unimp import UniMPForConditionalGeneration
from unimp.modeling_unimp.trie_unimp import ItemTrie


def requests(
    model: UniMPForConditionalGeneration, size: Size, beams: int, excluded: int
) -> dict[str, Callable[[], Any]]:
    """
    One person's recommendation from all items, without `excluded` ones that were seen, and among a shop's tenth of
    them.
    """
    num_items = model.config.num_items
    generator = torch.Generator().manual_seed(3)
    order = torch.randperm(num_items, generator=generator)[None].to(model.device)
    prompt = make_prompt(model, size)
    latents = picture_inputs(model, size, size.pictures)["image_latents"]

    def recommend(**allowed: torch.Tensor) -> torch.Tensor:
        return model.rank_items(beams, beam_width=beams, **prompt, image_latents=latents, **allowed)[1]

    return {
        "all": recommend,
        f"{excluded} excluded": lambda: recommend(exclude=order[:, :excluded]),
        "a tenth as candidates": lambda: recommend(candidates=order[:, : max(beams, num_items // 10)]),
    }


def trie_costs(codes: torch.Tensor) -> tuple[float, float]:
    """Seconds to build the trie of some codes, and its bytes an item."""
    start = time.perf_counter()
    trie = ItemTrie(codes)
    return time.perf_counter() - start, trie.num_bytes / len(codes)


def report(options: argparse.Namespace, size: Size, *, semantic: bool, counts: tuple[int, int]) -> None:
    """Print latency at two sizes of the catalogue, and what each one's trie costs."""
    runs = {}
    for num_items in counts:
        model = make_model(size, num_items, semantic=semantic)
        seconds, item_bytes = trie_costs(item_codes(model).int())
        model = model.to(options.device, getattr(torch, options.dtype))
        print_setting(model, options)
        print(f"trie: {seconds:.2f} s to build, {item_bytes:.1f} bytes an item")
        for name, run in requests(model, size, options.beams, options.excluded).items():
            runs[f"{num_items:,} items, {name}"] = run
    print_table(compare(runs, options.repetitions), next(iter(runs)))


def main() -> None:
    """Read the options and report."""
    options = arguments(
        __doc__, items=10_000, more_items=1_000_000, atomic_items=100_000, excluded=200, beams=10, repetitions=9
    )
    report(options, Size(), semantic=True, counts=(options.items, options.more_items))
    report(options, Size(), semantic=False, counts=(options.items, options.atomic_items))


if __name__ == "__main__":
    main()
