"""What the card of a data set, `README.md` in its folder, states: its name and its licence."""

import logging
import re
from pathlib import Path

import yaml
from huggingface_hub import CardData, DatasetCardData

logger = logging.getLogger(__name__)

CARD_FILE = "README.md"


def read_card(folder: str | Path) -> DatasetCardData | None:
    """The front matter of the card in a folder; `None` where there is no card, or none that can be read."""
    path = Path(folder, CARD_FILE)
    if not path.is_file():
        return None
    block = re.match(r"\s*---\n(.*?)\n---\s*$", path.read_text(encoding="utf-8", errors="replace"), re.S | re.M)
    try:
        return DatasetCardData(**(yaml.safe_load(block[1]) or {})) if block else None
    except (yaml.YAMLError, TypeError) as error:
        logger.warning("The front matter of %s cannot be read and is left out: %s", path, " ".join(str(error).split()))
        return None


def stated_license(card: CardData | None) -> str | None:
    """
    The licence that a card states, by name; `None` where it states none.

    `license: other` needs a `license_name`, and `unknown` is none, as the Hub's own list has it.
    """
    names = [] if card is None else card.get("license")
    names = names if isinstance(names, list) else [names]
    names = [card.get("license_name") if name == "other" else name for name in names]
    names = [str(name) for name in names if name not in (None, "", "unknown", "unlicensed")]
    return ", ".join(names) or None


def license_fields(card: CardData | None) -> dict[str, str]:
    """The entries of a card's front matter that state its licence."""
    names = ("license", "license_name", "license_link")
    return {} if card is None else {name: card.get(name) for name in names if card.get(name)}
