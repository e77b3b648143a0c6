"""
What do pictures cost in training, and how little of a model has to train? Gated cross-attention (UniMP) beside tokens
of the sequence (VIP5's visual prompt), with all weights trained and with what UniMP adds and adapters alone.

    python benchmarks/speed_pictures.py --repetitions 7

A random model of 90 million parameters (see `speed_common.Size`), histories whose every item has a picture and text,
each item's code a target; pictures come as features of the frozen encoder, as training keeps them. A step is forward,
backward and AdamW; the ways take theirs in turns.
"""

import re
from collections.abc import Callable

import torch
from peft import LoraConfig, get_peft_model
from speed_common import Size, arguments, compare, make_model, make_prompt, picture_inputs, print_setting, ratios
from torch import nn

from unimp.training.trainer import new_module_names

NUM_ITEMS = 1000
# How pictures reach the decoder.
CROSS_ATTENTION: dict[str, int] = {}
TWO, FIVE = ({"cross_attention_every": 0, "visual_prompt_tokens": number} for number in (2, 5))
# And whether adapters train in place of the decoder's own weights.
WAYS = {
    "cross-attention": (CROSS_ATTENTION, False),
    "cross-attention, adapters": (CROSS_ATTENTION, True),
    "2 tokens a picture": (TWO, False),
    "2 tokens a picture, adapters": (TWO, True),
    "5 tokens a picture": (FIVE, False),
    "5 tokens a picture, adapters": (FIVE, True),
    "no pictures": ({"cross_attention_every": 0}, False),
}
FIRST = next(iter(WAYS))


def make_step(size: Size, batch: int, config: dict[str, int], adapters: bool) -> tuple[Callable[[], float], nn.Module]:
    """A training step, which returns its loss, and the model that it trains."""
    model = make_model(size, NUM_ITEMS, semantic=False, **config)
    inputs = make_prompt(model, size, batch)
    if model.config.reads_pictures:
        inputs["image_features"] = picture_inputs(model, size, batch * size.pictures)["image_features"]
    else:
        del inputs["image_index"]
    items = inputs["input_ids"] >= model.config.first_item_id
    inputs["labels"] = inputs["input_ids"].masked_fill(~items, -100)
    if adapters:
        decoder = r".*language_model.*\.(q_proj|v_proj)"
        lora = LoraConfig("CAUSAL_LM", r=16, target_modules=decoder, modules_to_save=new_module_names(model))
        model = get_peft_model(model, lora)
    else:
        model.set_trainable("all")
    model.train()
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=1e-4)

    def step() -> float:
        optimizer.zero_grad()
        loss = model(**inputs).loss
        loss.backward()
        optimizer.step()
        return loss.item()

    return step, model


def main() -> None:
    """Measure and print."""
    options = arguments(__doc__, batch=4, repetitions=7)
    size = Size()
    made = {name: make_step(size, options.batch, *way) for name, way in WAYS.items()}
    print_setting(made[FIRST][1], options)
    seconds = compare({name: step for name, (step, _) in made.items()}, options.repetitions)
    print("\n| | weights that train, in 10^6 | of all but the encoder's | a step, ms | times the first |")
    print("|---|---|---|---|---|")
    for name, (_, model) in made.items():
        # PEFT keeps what a module was beside what it becomes (`original_module`).
        weights = [w for key, w in model.named_parameters() if not re.search("vision_encoder|original_module", key)]
        trains = sum(weight.numel() for weight in weights if weight.requires_grad)
        share = trains / sum(weight.numel() for weight in weights)
        time = f"{1e3 * seconds[name].wall:.0f} | {ratios(seconds[name], seconds[FIRST])}"
        print(f"| {name} | {trains / 1e6:.1f} | {share:.1%} | {time} |")


if __name__ == "__main__":
    main()
