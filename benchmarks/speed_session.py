"""
What does a click cost in a live session? Reading it and recommending again, after a short and after a long history.

    python benchmarks/speed_session.py --clicks 10 --more_clicks 200

Three kinds of histories: the five last items in full (picture, text and codes, 32 tokens an item) and the others as
codes alone (4 tokens), as the processor writes them by default; all as codes; all in full. Of the first kind a click
also shortens an item that was in full, so that this and the four after it are read again, without their pictures.
"""

import argparse
from collections.abc import Callable

import torch
from speed_common import (
    Size,
    arguments,
    compare,
    make_model,
    make_prompt,
    print_setting,
    print_table,
)

from unimp import UniMPForConditionalGeneration

# How many items are in full, by kind of history.
KINDS = {"the last five in full": 5, "as codes": 0, "in full": 10**9}
# Reading more of them anew takes minutes and gigabytes: every token's row of scores has all pictures' latents.
MOST_PICTURES_ANEW = 20

Inputs = dict[str, torch.Tensor]
Run = Callable[[], torch.Tensor]


def make_click(model: UniMPForConditionalGeneration, size: Size, number: int, *, full: bool) -> Inputs:
    """A click as arguments of `forward`, its picture's latents stored."""
    prompt = make_prompt(model, size, pictures=1, seed=number)
    if not full:
        levels = model.config.code_levels
        return {name: prompt[name][:, :levels] for name in ("input_ids", "attention_mask")}
    latents = torch.randn(1, size.num_latents, size.hidden_size, generator=torch.Generator().manual_seed(number))
    return prompt | {"image_latents": latents.to(model.device, model.dtype)}


def joined(clicks: list[Inputs]) -> Inputs:
    """One prompt of all these clicks; its pictures come in order of appearance."""
    parts = {name: [click[name] for click in clicks if name in click] for name in ("input_ids", "attention_mask")}
    prompt = {name: torch.cat(values, dim=1) for name, values in parts.items()}
    if latents := [click["image_latents"] for click in clicks if "image_latents" in click]:
        prompt["image_latents"] = torch.cat(latents)
    return prompt


def requests(
    model: UniMPForConditionalGeneration, size: Size, beams: int, clicks: int, in_full: int
) -> tuple[Run, Run]:
    """
    Items after one more click: in a session that has read the clicks before it, and with all of them read anew.

    Args:
        clicks: how many came before.
        in_full: how many of the last ones are in full.
    """

    def history(length: int) -> list[Inputs]:
        return [make_click(model, size, number, full=number >= length - in_full) for number in range(length)]

    before, after = history(clicks), history(clicks + 1)
    same = clicks - in_full if 0 < in_full <= clicks else clicks
    keep = sum(click["input_ids"].shape[1] for click in before[:same])
    known = [number for number in range(same, clicks) if "image_latents" in after[number]]
    rest = joined(after[same:])
    if known:  # the pictures that are given come before those that the session still holds
        rest["image_latents"] = after[-1]["image_latents"]
        rest["image_index"] = torch.tensor([[*range(1, len(known) + 1), 0]], device=model.device)
    session = model.start_session(**before[0], image_keys=[0] if "image_latents" in before[0] else None)
    for number, click in enumerate(before[1:], start=1):
        session.read(**click, image_keys=[number] if "image_latents" in click else None)

    def in_session() -> torch.Tensor:
        # The same click again and again, its picture never seen before.
        session.read(keep=keep, image_keys=[object(), *known] if in_full else None, **rest)
        return session.rank(beams, beam_width=beams)[1]

    return in_session, lambda: model.rank_items(beams, beam_width=beams, **joined(after))[1]


def report(options: argparse.Namespace, size: Size) -> None:
    """Print the cost of a click after both histories, beside reading everything anew."""
    model = make_model(size, options.items, semantic=True).to(options.device, getattr(torch, options.dtype))
    print_setting(model, options)
    for kind, in_full in KINDS.items():
        runs = {}
        for clicks in (options.clicks, options.more_clicks):
            in_session, anew = requests(model, size, options.beams, clicks, in_full)
            runs[f"{clicks} clicks, {kind}: one more in a session"] = in_session
            if min(clicks, in_full) > MOST_PICTURES_ANEW:
                continue
            runs[f"{clicks} clicks, {kind}: all read anew"] = anew
            if different := int((in_session() != anew()).sum()):
                print(f"{clicks} clicks, {kind}: {different} items are at another place than when read anew")
        print_table(compare(runs, options.repetitions), next(iter(runs)))


def main() -> None:
    """Read the options and report."""
    report(arguments(__doc__, items=10_000, clicks=10, more_clicks=200, beams=10, repetitions=5), Size())


if __name__ == "__main__":
    main()
