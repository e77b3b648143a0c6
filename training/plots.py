"""Pictures of an evaluation's results, as of the command `unimp evaluate`."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .evaluation import headline
from .figures import STRATA_METRIC

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def plot_results(results: Mapping[str, Any], folder: str | Path) -> list[Path]:
    """
    Draw the first figures of every task with their intervals (`metrics.png`), and of rankings the hit rate by length
    of the history (`hit_rate_by_history_length.png`) and by popularity of the answer (`hit_rate_by_popularity.png`).

    Args:
        results: with `title` and, as of [`task_figures`], `tasks`.
        folder (`str` or `Path`): where to; must be there.

    Returns:
        `list[Path]`: the files.
    """
    tasks = results["tasks"]
    files = [Path(folder, "metrics.png")]
    figure, axes = _subplots(len(tasks), results["title"])
    for axis, (task, table) in zip(axes, tasks.items(), strict=True):
        shown = {system: headline(values) for system, values in table["systems"].items()}
        names = list(next(iter(shown.values())))
        _bars(axis, names, {system: [values.get(name) for name in names] for system, values in shown.items()})
        axis.set_title(f"{task}, {table['people']:,} people")
    figure.savefig(files[0])
    ranked = {task: table["strata"] for task, table in tasks.items() if "strata" in table}
    for kind in ("history_length", "popularity") if ranked else ():
        files.append(Path(folder, f"hit_rate_by_{kind}.png"))
        figure, axes = _subplots(len(ranked), results["title"])
        for axis, (task, strata) in zip(axes, ranked.items(), strict=True):
            groups = strata[kind]
            systems = {name: [group[STRATA_METRIC][name] for group in groups] for name in groups[0][STRATA_METRIC]}
            _bars(axis, [f"{group['group']}\n{group['rows']:,} rows" for group in groups], systems)
            axis.set_title(task)
            axis.set_ylabel(STRATA_METRIC)
            axis.set_xlabel(kind.replace("_", " ") + (" of the answer" if kind == "popularity" else ""))
        figure.savefig(files[-1])
    return files


def _subplots(count: int, title: str) -> "tuple[Figure, list[Axes]]":
    # Not through pyplot, which keeps figures and looks for a screen.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.5 * count), layout="constrained", dpi=120)
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    return figure, list(figure.subplots(count, 1, squeeze=False)[:, 0])


def _bars(axis: "Axes", names: list[str], systems: Mapping[str, list[dict[str, float | None] | None]]) -> None:
    """Bars side by side, a colour a system, with the intervals of those that have one; nothing where there is none."""
    width = 0.8 / len(systems)
    for number, (system, values) in enumerate(systems.items()):
        found = [(place, value) for place, value in enumerate(values) if value and value["value"] is not None]
        places = [place + (number - (len(systems) - 1) / 2) * width for place, _ in found]
        heights = [value["value"] for _, value in found]
        axis.bar(places, heights, width, label=system)
        whole = [(at, value) for at, (_, value) in zip(places, found, strict=True) if value["low"] is not None]
        for at, value in whole:
            axis.vlines(at, value["low"], value["high"], color="black", linewidth=1)
    axis.set_xticks(range(len(names)), names)
    axis.legend(fontsize="small")
