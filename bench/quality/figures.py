"""Figures: ROC curves at low false positive rates, K against R with the poisons marked, before and after a repair."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.quality.condense import GRID, Row
from bench.quality.metrics import interval

CURVES = {
    "clear": ("k", "-"),
    "clear: S = R + K": ("C0", "-"),
    "clear and cleanlab labels": ("k", ":"),
    "Deep k-NN, k = 50": ("C1", "-"),
    "cleanlab labels": ("C2", "-"),
    "spectral signatures": ("C3", "-"),
    "kNN in place of the hull": ("C4", "-"),
    "LOF": ("C5", ":"),
    "l2 outlier": ("C6", ":"),
}
REPAIRS = {
    "none": "0.3",
    "JPEG of the input": "C1",
    "fine-tune on clean": "C2",
    "drop from scan": "C3",
    "retrain without flags": "C4",
    "relabel from scan": "C9",
    "relabel from both": "C0",
}
SHOWN = ("feature-collision", "bullseye-polytope", "convex-polytope", "gradient-matching", "label-flips")


def draw(rows: list[Row], folder: Path) -> None:
    """Write quality-roc.svg, quality-repair.svg, quality-pockets.png for the data set and network measured most."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams |= {"svg.hashsalt": "clear", "font.size": 8}
    measured = [row for row in rows if row["attack"] in SHOWN and "scan" in row]
    places = [(row["dataset"], row["architecture"]) for row in measured]
    if not places:
        return
    place = max(sorted(set(places)), key=places.count)
    here = [row for name in SHOWN for row in measured if row["attack"] == name]
    here = [row for row in here if (row["dataset"], row["architecture"]) == place]
    folder.mkdir(exist_ok=True)
    _draw_curves(here, folder / "quality-roc.svg")
    _draw_pockets(here, folder / "quality-pockets.png")
    _draw_repairs(here, folder / "quality-repair.svg")


def _draw_curves(rows: list[Row], path: Path) -> None:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(rows), figsize=(2.4 * len(rows), 3.0), sharey=True, squeeze=False)
    for row, axis in zip(rows, axes[0], strict=True):
        for method, (color, style) in CURVES.items():
            curve = row["scan"]["scores"].get(method, {"curve": [float("nan")] * len(GRID)})["curve"]
            axis.semilogx(GRID, curve, color=color, linestyle=style, label=method)
        axis.set(title=row["attack"], xlabel="false positive rate", ylim=(-0.03, 1.03))
    axes[0][0].set_ylabel("poisons found")
    figure.legend(*axes[0][0].get_legend_handles_labels(), fontsize=6, ncols=5, loc="lower center")
    _save(figure, path, below=0.12)


def _draw_pockets(rows: list[Row], path: Path) -> None:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(rows), figsize=(2.4 * len(rows), 2.6), squeeze=False)
    for row, axis in zip(rows, axes[0], strict=True):
        others, poisons = (list(zip(*row["points"][name], strict=True)) for name in ("others", "poisons"))
        axis.scatter(*others, s=3, color="0.6", label="others")
        axis.scatter(*poisons, s=12, color="C3", marker="x", label="poisons")
        axis.set(title=row["attack"], xlabel="K, collapse")
    axes[0][0].set_ylabel("R, reassignment")
    axes[0][0].legend(fontsize=6)
    _save(figure, path)


def _draw_repairs(rows: list[Row], path: Path) -> None:
    """Share of the successful attacks that are left, with its interval."""
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(2 * len(rows), 2.8))
    for number, (name, color) in enumerate(REPAIRS.items()):
        for place, row in enumerate(rows):
            if not (got := row.get("repair", {}).get(name)):
                continue
            left = got["still_taken"] / got["of"]
            low, high = interval(got["still_taken"], got["of"])
            at = place + (number - len(REPAIRS) / 2) / (len(REPAIRS) + 2)
            axis.bar(at, left, 0.1, color=color)
            axis.errorbar(at, left, [[left - low], [high - left]], color="0.6", linewidth=0.8)
        axis.bar(0, 0, 0.1, color=color, label=name)
    axis.set_xticks(range(len(rows)), [f"{row['attack']} ({row['successes']})" for row in rows])
    axis.set(ylabel="targets still misclassified", ylim=(0, 1.03))
    axis.legend(fontsize=6, ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    _save(figure, path)


def _save(figure: Any, path: Path, below: float = 0.0) -> None:
    from matplotlib import pyplot

    figure.tight_layout(rect=(0, below, 1, 1))
    figure.savefig(path, dpi=90, metadata={"Date": None} if path.suffix == ".svg" else {"Software": None})
    pyplot.close(figure)
