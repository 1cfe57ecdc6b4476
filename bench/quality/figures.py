"""Figures: ROC curves at low false positive rates, and K against R with the poisons marked."""

from __future__ import annotations

from pathlib import Path

from bench.quality.condense import GRID, Row

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
SHOWN = ("feature-collision", "bullseye-polytope", "convex-polytope", "gradient-matching", "label-flips")


def draw(rows: list[Row], folder: Path) -> None:
    """Write quality-roc.svg and quality-pockets.png for the data set and network with most attacks measured."""
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


def _draw_curves(rows: list[Row], path: Path) -> None:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(rows), figsize=(2.4 * len(rows), 2.6), sharey=True, squeeze=False)
    for row, axis in zip(rows, axes[0], strict=True):
        for method, (color, style) in CURVES.items():
            curve = row["scan"]["scores"].get(method, {"curve": [float("nan")] * len(GRID)})["curve"]
            axis.semilogx(GRID, curve, color=color, linestyle=style, label=method)
        axis.set(title=row["attack"], xlabel="false positive rate", ylim=(-0.03, 1.03))
    axes[0][0].set_ylabel("poisons found")
    axes[0][-1].legend(fontsize=5, loc="lower right")
    _save(figure, path)


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


def _save(figure: object, path: Path) -> None:
    from matplotlib import pyplot

    figure.tight_layout()
    figure.savefig(path, dpi=90, metadata={"Date": None} if path.suffix == ".svg" else {"Software": None})
    pyplot.close(figure)
