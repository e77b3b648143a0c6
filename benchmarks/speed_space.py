"""
How long does the page take to answer? A recommendation through its API, as a visitor's browser asks for it: the HTTP
request, the queue, the model, and the answer's way back.

    python benchmarks/speed_space.py --model outputs/quickstart --threads 2

Target: a median of at most 300 ms on two cores on the demo store.
"""

import argparse
import random
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from gradio_client import Client

from unimp import UniMPProcessor
from unimp.spaces_demo.server import make_page, serve

HISTORY_LENGTH, TOP_K = 6, 8
TARGET_MS = 300


def milliseconds(run: Callable[[Any], Any], inputs: list[Any]) -> list[float]:
    """Of each call; the first one is not counted."""
    times = []
    for value in inputs:
        start = time.perf_counter()
        run(value)
        times.append(1e3 * (time.perf_counter() - start))
    return times[1:]


def main() -> None:
    """Serve the page, ask it, and print the times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="outputs/quickstart")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repetitions", type=int, default=100)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    page = make_page(options.model, device="cpu")
    client = Client(serve(page, block=False), verbose=False)
    item_ids = UniMPProcessor.from_pretrained(options.model).catalog.item_ids
    draw = random.Random(0)
    histories = [draw.sample(item_ids, HISTORY_LENGTH) for _ in range(options.repetitions + 1)]
    requests = {
        "no model (find_items)": (lambda history: client.predict("", 1, api_name="/find_items"), histories),
        "recommend": (lambda history: client.predict(history, TOP_K, api_name="/recommend"), histories),
        "why": (lambda history: client.predict(history[:-1], history[-1], api_name="/why"), histories[:21]),
        "what_it_looked_at": (lambda history: client.predict(history, api_name="/what_it_looked_at"), histories[:21]),
    }
    print(f"{options.model}: {len(item_ids):,} items, histories of {HISTORY_LENGTH}, {options.threads} threads\n")
    print("| endpoint | median ms | 95th percentile | 300 ms |\n|---|---|---|---|")
    for name, (run, inputs) in requests.items():
        times = milliseconds(run, inputs)
        median, slow = statistics.median(times), statistics.quantiles(times, n=20)[-1]
        print(f"| {name} | {median:.0f} | {slow:.0f} | {'reached' if median <= TARGET_MS else 'missed'} |")
    page.close(verbose=False)


if __name__ == "__main__":
    main()
