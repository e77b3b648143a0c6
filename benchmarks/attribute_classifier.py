"""What a picture of the demo store shows, garment, colour and pattern: a small network trained on drawn items."""

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import nn

from unimp.processing import Columns
from unimp.processing.demo_pictures import COLOURS
from unimp.processing.demo_store import GARMENTS, PATTERNS, build_demo_store, demo_item_traits
from unimp.processing.imagine_unimp import to_pixels

logger = logging.getLogger(__name__)

TRAITS = {"garment": list(GARMENTS), "colour": list(COLOURS), "pattern": list(PATTERNS)}
SIDE = 48  # pixels, as generated pictures have


class AttributeClassifier(nn.Module):
    """Five convolutions and a head per trait: pixels `[pictures, 3, 48, 48]` in -1..1 to logits by trait."""

    def __init__(self) -> None:
        super().__init__()
        layers = []
        for before, after, stride in ((3, 16, 1), (16, 32, 2), (32, 64, 2), (64, 96, 2), (96, 128, 2)):
            layers += [nn.Conv2d(before, after, 3, stride=stride, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
        self.body = nn.Sequential(*layers, nn.Flatten())
        self.heads = nn.ModuleDict({name: nn.Linear(128 * 9, len(values)) for name, values in TRAITS.items()})

    def forward(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Logits by trait, `[pictures, values]`."""
        states = self.body(pixels)
        return {name: head(states) for name, head in self.heads.items()}

    @torch.no_grad()
    def read(self, pictures: Sequence[Image.Image]) -> dict[str, list[str]]:
        """What each picture shows, by trait."""
        logits = self(to_batch(pictures, SIDE))
        return {name: [TRAITS[name][index] for index in rows.argmax(1).tolist()] for name, rows in logits.items()}


def to_batch(pictures: Sequence[Image.Image], side: int) -> torch.Tensor:
    """Pictures as `[pictures, 3, side, side]` in -1..1."""
    return torch.stack([to_pixels(picture, (side, side)) for picture in pictures]).float() / 127.5 - 1


def drawn_items(num_items: int, seed: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Items with pictures of a store of this seed: pixels, and the number of each one's value by trait."""
    items, traits = build_demo_store(num_items, 1, seed)[0], demo_item_traits(num_items, seed)
    rows = [row for row in items if row[Columns.IMAGE] is not None]
    labels = {
        name: torch.tensor([values.index(getattr(traits[row[Columns.ITEM_ID]], name)) for row in rows])
        for name, values in TRAITS.items()
    }
    return to_batch([row[Columns.IMAGE] for row in rows], SIDE), labels


def train_classifier(num_items: int = 1536, passes: int = 40, seed: int = 1) -> AttributeClassifier:
    """
    A classifier trained on the drawings of another store: the one that the denoiser learned from is new to it.

    Shifted by up to 3 pixels, mirrored and blurred at times and with a little noise, so that it reads what it was not
    trained on.
    """
    torch.manual_seed(seed)
    pixels, labels = drawn_items(num_items, seed)
    network, size = AttributeClassifier(), 64
    steps = passes * (len(pixels) // size)
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    for step in range(steps):
        if step % (len(pixels) // size) == 0:
            order = torch.randperm(len(pixels))
        chosen = order[step * size % (len(pixels) // size * size) :][:size]
        logits = network(_altered(pixels[chosen]))
        loss = sum(nn.functional.cross_entropy(logits[name], labels[name][chosen]) for name in TRAITS)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    return network.eval()


def _altered(pixels: torch.Tensor) -> torch.Tensor:
    down, right = torch.randint(-3, 4, (2,)).tolist()
    pixels = torch.roll(pixels, (down, right), (2, 3))
    if torch.rand(()) < 0.5:
        pixels = pixels.flip(3)
    if torch.rand(()) < 0.25:
        pixels = nn.functional.avg_pool2d(pixels, 3, stride=1, padding=1, count_include_pad=False)
    return pixels + 0.03 * torch.randn_like(pixels)


@torch.no_grad()
def own_accuracy(network: AttributeClassifier, num_items: int = 600, seed: int = 0) -> dict[str, float]:
    """Share of the store's own drawings that it reads right, by trait."""
    pixels, labels = drawn_items(num_items, seed)
    logits = network(pixels)
    return {name: float((rows.argmax(1) == labels[name]).float().mean()) for name, rows in logits.items()}


def load_or_train(folder: str | Path | None = None) -> AttributeClassifier:
    """The classifier of an earlier run in `folder`, or a new one, which is left there."""
    from safetensors.torch import load_model, save_model

    path = Path(folder or tempfile.mkdtemp(), "attribute_classifier.safetensors")
    if path.is_file():
        network = AttributeClassifier()
        load_model(network, path)
        return network.eval()
    network = train_classifier()
    path.parent.mkdir(parents=True, exist_ok=True)
    save_model(network, path)
    return network
