"""
How fast is a recommendation? One person beside transformers' `generate`, and many at once.

    python benchmarks/speed_recommend.py --threads 1 --dtype float32
    python benchmarks/speed_recommend.py --device cuda --dtype bfloat16 --batches 8 32 128 --repetitions 15

Same weights, same prompts, same beams; the answers are compared before anything is timed.
"""

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from speed_common import (
    Seconds,
    Size,
    arguments,
    compare,
    make_model,
    make_prompt,
    matrix_operations,
    matrix_products,
    picture_inputs,
    print_setting,
    print_table,
    product_size,
    ratios,
)
from speed_competitors import (
    TrieLogitsProcessor,
    as_the_original,
    best_of_stock,
    item_lookup,
    python_trie,
    stock_from_a_cache,
)

from unimp import UniMPForConditionalGeneration

OURS = "ours, stored latents"
ORIGINAL = "original's procedure"
STOCK = "best stock `generate`, stored features"
# What is given to both sides, for ratios that stored pictures do not decide.
LIKE_FOR_LIKE = {
    "reading pictures": (ORIGINAL, "ours, reading pictures"),
    "stored features": (f"{ORIGINAL}, stored features", "ours, stored features"),
}

Run = Callable[[], torch.Tensor]


def one_person(model: UniMPForConditionalGeneration, size: Size, beams: int) -> dict[str, Run]:
    """Every way to one person's best items; each call returns their positions in the catalogue, best first."""
    prompt, stages = make_prompt(model, size), picture_inputs(model, size, size.pictures)
    pictures, features, latents = ({name: value} for name, value in stages.items())
    trie, lookup = python_trie(model), item_lookup(model)
    processor = TrieLogitsProcessor(model, prompt["input_ids"].shape[1])

    def ours(**inputs: Any) -> torch.Tensor:
        return model.rank_items(top_k=beams, beam_width=beams, **prompt, **inputs)[1][0]

    return {
        OURS: lambda: ours(**latents),
        "ours, stored features": lambda: ours(**features),
        "ours, reading pictures": lambda: ours(**pictures),
        "stock, prompt's cache copied by hand, stored features": lambda: lookup(
            stock_from_a_cache(model, processor, beams, **prompt, **features)
        ),
        STOCK: lambda: lookup(best_of_stock(model, processor, beams, **prompt, **features)),
        f"{ORIGINAL}, stored features": lambda: lookup(as_the_original(model, trie, beams, **prompt, **features)),
        ORIGINAL: lambda: lookup(as_the_original(model, trie, beams, **prompt, **pictures)),
    }


def default_beams(model: UniMPForConditionalGeneration, size: Size, top_k: int) -> Run:
    """Ours with as many beams as it takes by itself, twice as many: a better answer than that of the others."""
    latents = picture_inputs(model, size, size.pictures)["image_latents"]
    return lambda: model.rank_items(top_k=top_k, **make_prompt(model, size), image_latents=latents)[1][0]


def differences(runs: dict[str, Run]) -> dict[str, int]:
    """How many of each one's items are not at the same place in ours."""
    items = runs[OURS]().cpu()
    return {name: int((run().cpu() != items).sum()) for name, run in runs.items()}


def per_person(
    model: UniMPForConditionalGeneration, size: Size, beams: int, batches: list[int], reps: int
) -> dict[int, Seconds]:
    """Seconds a person at each of these batch sizes, different histories, latents stored."""
    latents = picture_inputs(model, size, max(batches) * size.pictures)["image_latents"]
    prompt = make_prompt(model, size, max(batches))

    def recommend(persons: int) -> None:
        inputs = {name: value[:persons] for name, value in prompt.items()}
        model.rank_items(beams, beam_width=beams, image_latents=latents[: persons * size.pictures], **inputs)

    times = compare({batch: partial(recommend, batch) for batch in batches}, reps)
    return {batch: seconds.each(batch) for batch, seconds in times.items()}


def print_peak(model: UniMPForConditionalGeneration, size: Size, batch: int, repetitions: int) -> None:
    """How much of the machine's matrix products reading prompts reaches, both taken in turns."""
    latents = picture_inputs(model, size, batch * size.pictures)["image_latents"]
    prompt = make_prompt(model, size, batch)
    read = torch.no_grad()(lambda: model.read_prompt(**prompt, image_latents=latents))
    products, most = matrix_products(model)
    times, operations = compare({"products": products, "read": read}, repetitions), matrix_operations(read)
    # A core's rate by CPU time does not depend on who else uses the machine; a GPU's work is seen by the clock alone.
    clock = "cpu" if model.device.type == "cpu" else "wall"
    rate, peak = operations / getattr(times["read"], clock), most / getattr(times["products"], clock)
    print(
        f"prefill at batch {batch}: {1e3 * times['read'].wall:.1f} ms, {operations / 1e9:.1f} GFLOP, "
        f"{rate / 1e9:.0f} GFLOP/s, {rate / peak:.0%} of the {peak / 1e9:.0f} GFLOP/s of a {product_size()} x "
        f"{product_size()} product ({'a core, by CPU time' if clock == 'cpu' else 'by the clock'})"
    )


def report(options: argparse.Namespace, size: Size) -> None:
    """Print what one person costs with semantic and with atomic codes, and what many cost at once."""
    for semantic in (True, False):
        model = make_model(size, options.items, semantic=semantic).to(options.device, getattr(torch, options.dtype))
        print_setting(model, options)
        runs = one_person(model, size, options.beams)
        for name, different in differences(runs).items():
            if different:
                print(f"{name}: {different} of {options.beams} items are at another place than in ours")
        runs[f"{OURS}, default beams"] = default_beams(model, size, options.beams)
        times = compare(runs, options.repetitions)
        print_table(times, OURS)
        for given, (theirs, ours) in LIKE_FOR_LIKE.items():
            print(f"original / ours, both {given}: {ratios(times[theirs], times[ours])}")
        batches = [1, *options.batches]
        each = per_person(model, size, options.beams, batches, options.repetitions)
        for batch, seconds in each.items():
            print(
                f"batch {batch}: {1e3 * seconds.wall:.2f} ms a person, {ratios(each[1], seconds)} times the people a "
                "second of batch 1"
            )
        for batch in batches:
            print_peak(model, size, batch, options.repetitions)


def main() -> None:
    """Read the options and report."""
    report(arguments(__doc__, items=10_000, beams=10, batches=[32], repetitions=5), Size())


if __name__ == "__main__":
    main()
