"""The requests a model answers, one small object a task: a seventh touches this file (and gets a pipeline)."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from transformers import PreTrainedConfig

from .catalog_unimp import flatten_value, shown
from .columns_unimp import Columns

# Keys of a request, beside `query`.
HISTORY, ITEM_TO_RATE, CANDIDATES, ANSWER_KEY, INSTRUCTION = "history", "item", "candidates", "answer", "instruction"


# Most tokens of a text answer.
ANSWER_LENGTH = 64


@dataclass(frozen=True)
class Task:
    """
    Attributes:
        name: as in `pipeline("unimp-NAME")`.
        instructions: wordings to train with.
        held_out_instruction: a wording never trained with, to test with.
        answer: `"item"` (codes) or `"text"`.
        asks: key of the sample that the request is about besides the history (`None`: nothing).
        shows: event columns that follow an item's attributes inside its chunk, as text to be predicted. The last chunk
            of the prompt stops where they begin: they are the answer.
        max_history: most recent events shown; `None` for as many as fit.
        reconstructs: whether targets inside the history are trained on as well (UniMP, "Context reconstruction").
    """

    name: str
    instructions: tuple[str, ...]
    held_out_instruction: str
    answer: Literal["item", "text"]
    asks: str | None = None
    shows: tuple[str, ...] = ()
    max_history: int | None = None
    reconstructs: bool = True

    @property
    def full_history(self) -> bool:
        """Whether every chunk is shown in full; a task with a short history can afford it, and needs it."""
        return self.max_history is not None


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task(
            name="recommend",
            instructions=(
                "What comes next for this customer?",
                "Continue this person's history.",
                "Recommend the next item.",
                "Which item will they choose now?",
            ),
            held_out_instruction="Suggest what this person would like next.",
            answer="item",
        ),
        Task(
            name="search",
            instructions=(
                "Find what this customer is looking for.",
                "Answer the search of this person.",
                "Search the catalogue for them.",
                "Which item fits the query and the person?",
            ),
            held_out_instruction="Find the item this person searches for.",
            answer="item",
            asks=Columns.QUERY,
        ),
        Task(
            name="rate",
            instructions=(
                "How will this customer rate the last item?",
                "Rate the last item as this person would.",
                "Predict the rating.",
                "Which rating will they give?",
            ),
            held_out_instruction="Say how this person will rate the last item.",
            answer="text",
            asks=ITEM_TO_RATE,
            shows=(Columns.RATING,),
        ),
        Task(
            name="explain",
            instructions=(
                "Rate the last item as this person would, and say why.",
                "How will they like the last item, and for what reason?",
                "Predict the rating and explain it.",
                "Write this customer's rating and review.",
            ),
            held_out_instruction="Explain how this person will rate the last item.",
            answer="text",
            asks=ITEM_TO_RATE,
            shows=(Columns.RATING, Columns.EXPLANATION),
            max_history=4,
        ),
        Task(
            name="select",
            instructions=(
                "Which of the candidates will this customer choose?",
                "Select what suits this person.",
                "Choose among the candidates for them.",
                "Pick from the candidates.",
            ),
            held_out_instruction="Say which candidates this person will take.",
            answer="item",
            asks=CANDIDATES,
            max_history=4,
            reconstructs=False,
        ),
    )
}


def get_task(name: str) -> Task:
    """Raises `ValueError` for an unknown task."""
    if not isinstance(name, str) or name not in TASKS:
        raise ValueError(f"`task` must be one of {', '.join(TASKS)}, got {name!r}.")
    return TASKS[name]


def is_list(value: Any) -> bool:
    """Whether a value is several, in an order, and can be read more than once."""
    return isinstance(value, Sequence | np.ndarray) and not isinstance(value, str | bytes | bytearray)


def check_prompt_length(max_length: int, text_config: PreTrainedConfig, name: str = "max_length") -> None:
    """
    Raises `ValueError` where a prompt of `max_length` tokens (`name` is what the caller calls it) and its answer are
    more than the decoder has positions for (`max_position_embeddings` or `n_positions`; not every decoder's
    configuration states them).
    """
    names = ("max_position_embeddings", "n_positions")
    positions = next(filter(None, (getattr(text_config, name, None) for name in names)), None)
    if positions is not None and max_length + ANSWER_LENGTH > positions:
        raise ValueError(
            f"`{name}` is {max_length} tokens, and an answer takes up to {ANSWER_LENGTH} more, but the decoder "
            f"has {positions} positions: set `{name}` to {positions - ANSWER_LENGTH} at most."
        )


def check_request(sample: Any, task: Task) -> None:
    """Raises `ValueError` for a request that lacks what `task` needs, or has what it does not know."""
    if not isinstance(sample, Mapping):
        raise ValueError(f"A sample must be a dictionary with `{HISTORY}`, got {type(sample).__name__}.")
    allowed = [HISTORY, INSTRUCTION, ANSWER_KEY, *([task.asks] if task.asks else [])]
    if unknown := [key for key in sample if key not in allowed]:
        raise ValueError(f"`{unknown[0]}` is not part of a {task.name} request: it may have {allowed}.")
    for key in (HISTORY, task.asks):
        if key and (key not in sample or sample[key] is None):
            raise ValueError(f"A {task.name} request needs `{key}`, got only {list(sample)}.")
    if not isinstance(sample.get(INSTRUCTION, ""), str | None):
        raise ValueError(f"`{INSTRUCTION}` must be text, got {shown(sample[INSTRUCTION])}.")
    if task.asks == Columns.QUERY and not flatten_value(sample[Columns.QUERY]):
        raise ValueError(f"`{Columns.QUERY}` must not be empty: say what to search for, or use recommend.")
    if task.asks == CANDIDATES and not (is_list(sample[CANDIDATES]) and len(sample[CANDIDATES])):
        raise ValueError(f"`{CANDIDATES}` must be a list of at least one item, got {shown(sample[CANDIDATES])}.")


def write_answer(rating: float | None, explanation: str | None) -> list[tuple[str, str]]:
    """The text answer as (event column, text) spans: a rating, and an explanation after it where there is one."""
    spans = [(Columns.RATING, f"{rating:g}")] if rating is not None else []
    if spans and explanation:
        spans.append((Columns.EXPLANATION, f": {explanation}"))
    return spans


_ANSWER = re.compile(r"\s*(-?\d+(?:\.\d+)?)\s*(?::\s*(.*))?", re.DOTALL)


def read_answer(text: str, valid: Callable[[float], bool]) -> tuple[float | None, str | None]:
    """Rating and explanation from a text answer; `None` for a part that is not there or not `valid`."""
    match = _ANSWER.match(text)
    if match is None or not valid(float(match[1])):
        return None, None
    return float(match[1]), (match[2] or "").strip() or None
