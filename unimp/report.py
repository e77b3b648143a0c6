"""What the command prints."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from .processing.catalog_unimp import flatten_value
from .training.evaluation import headline
from .training.run import Result

console = Console()


def say(text: str) -> None:
    """Print a line as it is: what looks like markup in a name or a path is part of it."""
    console.print(Text(text), soft_wrap=True)


def print_metrics(result: Result) -> None:
    """What was trained, and a table of figures beside the systems that need no model."""
    parameters = list(result.model.parameters())
    trained = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
    total = sum(parameter.numel() for parameter in parameters)
    say(f"\nTrained {trained:,} of {total:,} parameters in {result.seconds:.0f} seconds.\n")
    table = Table(title=Text(f"{result.split}; ranked among the whole catalogue"))
    for column in ("task", "system", "metrics"):
        table.add_column(column)
    for task, systems in result.metrics.items():
        for system, values in systems.items():
            figures = "  ".join(f"{name} {value:.3f}" for name, value in headline(values).items())
            table.add_row(task, system, figures)
        table.add_section()
    console.print(table)


def print_evaluation(results: Mapping[str, Any]) -> None:
    """Figures with their intervals, as of the command `unimp evaluate`."""
    table = Table(title=Text(results["title"]))
    for column in ("task", "metric", "system", "value", "95% interval"):
        table.add_column(column)
    for task, figures in results["tasks"].items():
        for system, metrics in figures["systems"].items():
            for name, figure in headline(metrics).items():
                value, low, high = ("" if end is None else f"{end:.4f}" for end in figure.values())
                table.add_row(task, name, system, value, f"{low} to {high}" if low else "")
            table.add_section()
    console.print(table)
    for task, figures in results["tasks"].items():
        if figures.get("without_rank"):
            say(f"{task}: {figures['without_rank']:,} of {figures['rows']:,} answers are in the history already.")
    counts = results["counts"]
    say(
        f"{counts['people']:,} people, {counts['items']:,} items, of which {counts['items_added']:,} new to the model."
    )


def describe(item: Mapping[str, Any]) -> str:
    """An item in a line: its title, or whatever attributes it has."""
    attributes = {key: flatten_value(value) for key, value in item.items() if key != "item_id"}
    title = attributes.pop("title", None)
    rest = ", ".join(value for value in attributes.values() if value)
    return f"{title} ({rest})" if title and rest else title or rest or item["item_id"]


def print_recommendations(history: Sequence[Mapping[str, Any]], answers: Sequence[Mapping[str, Any]]) -> None:
    """A history and what comes next."""
    table = Table("", "item_id", "item", "score", title="History, oldest first, and what comes next")
    for item in history:
        table.add_row("", Text(item["item_id"]), Text(describe(item)), "")
    table.add_section()
    for rank, answer in enumerate(answers, start=1):
        table.add_row(str(rank), Text(answer["item_id"]), Text(describe(answer["item"])), f"{answer['score']:.2f}")
    console.print(table)
