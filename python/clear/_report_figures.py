"""The two figures of a report, as inline SVG in the page's colours. Points are pixels, so that size stays bounded."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt

from clear.errors import need
from clear.results import Level, ProbeResult, ScanResult

__all__ = ["draw_histogram", "draw_scatter"]

INK, MUTED, CERTAIN, REVIEW, REST = "#010203", "#040506", "#d1495b", "#e09f3e", "#7b8fa8"
"""INK and MUTED stand for the page's own colours and are replaced by CSS variables."""
DENSE = 3000


def draw_scatter(result: ScanResult | ProbeResult) -> str:
    """K (in a probe: z, with the line beyond which an input is flagged) against R; flagged samples on top."""
    scan, scores = isinstance(result, ScanResult), result.scores
    x, y = (scores.collapse if scan else scores.score), scores.reassignment
    with _style():
        figure, axes = _figure(4.4)
        known = np.isfinite(x) & np.isfinite(y)
        rest = known & (scores.level == Level.NONE)
        _draw_rest(axes, x[rest], y[rest])
        for level, colour, name in ((Level.REVIEW, REVIEW, "review"), (Level.CERTAIN, CERTAIN, "certain")):
            chosen = known & (scores.level == level)
            if chosen.any():
                label = f"{name if scan else 'flagged'} ({int(chosen.sum())})"
                axes.scatter(x[chosen], y[chosen], s=22, c=colour, linewidths=0, label=label, rasterized=True)
        limit = np.inf if scan else _limit(result)
        if np.isfinite(limit):
            _draw_limit(axes, limit)
        axes.set_xlabel("collapse K" if scan else "score z (collapse in robust standard deviations)")
        axes.set_ylabel("reassignment R")
        _draw_legend(figure, axes)
        return _svg(figure, "Collapse against reassignment: suspicious samples lie towards the upper right")


def draw_histogram(result: ScanResult | ProbeResult) -> str:
    """How many samples have which score, on a logarithmic axis, and the line beyond which a sample is certain."""
    known = np.isfinite(result.scores.suspicion)
    scores = result.scores.suspicion[known]
    with _style():
        figure, axes = _figure(2.6)
        if len(scores):
            bins = np.histogram_bin_edges(scores, bins=60)
            flagged = result.scores.level[known] == Level.CERTAIN
            axes.hist(scores[~flagged], bins=bins, color=REST, histtype="stepfilled", label="samples")
            if flagged.any():
                name = "certain" if isinstance(result, ScanResult) else "flagged"
                axes.hist(scores[flagged], bins=bins, color=CERTAIN, histtype="stepfilled", label=name)
            axes.set_yscale("log")
            axes.set_ylim(bottom=0.7)
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter("")
        limit = _limit(result)
        if np.isfinite(limit):
            axes.axvline(limit, color=INK, linewidth=1, linestyle=(0, (4, 3)), label=f"threshold {limit:.2f}")
        axes.set_xlabel("score")
        axes.set_ylabel("samples")
        _draw_legend(figure, axes)
        return _svg(figure, "Histogram of the score with the threshold")


def _limit(result: ScanResult | ProbeResult) -> float:
    return result.thresholds.get("certain" if isinstance(result, ScanResult) else "z", np.inf)


def _draw_rest(axes: Any, x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> None:
    """Samples that are not flagged: dots while they are few, a density when they are many."""
    if len(x) <= DENSE:
        axes.scatter(x, y, s=8, c=REST, alpha=0.55, linewidths=0, rasterized=True, label=f"not flagged ({len(x)})")
        return
    colors = need("matplotlib.colors", extra="report")
    ramp = colors.LinearSegmentedColormap.from_list("density", [(*colors.to_rgb(REST), a) for a in (0.18, 1.0)])
    axes.hexbin(x, y, gridsize=70, bins="log", mincnt=1, cmap=ramp, linewidths=0, rasterized=True)
    axes.scatter([], [], s=22, c=REST, marker="h", label=f"not flagged ({len(x)}, density)")


def _draw_limit(axes: Any, limit: float) -> None:
    """The threshold of the score, within the limits that the points have set."""
    x_range, y_range = axes.get_xlim(), axes.get_ylim()
    axes.plot([limit, limit], y_range, color=INK, linewidth=1, linestyle=(0, (4, 3)), label=f"threshold {limit:.2f}")
    axes.set_xlim((x_range[0], max(x_range[1], limit)))
    axes.set_ylim(y_range)


def _draw_legend(figure: Any, axes: Any) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, frameon=False, loc="outside upper left", ncols=4, fontsize=9)


def _style() -> Any:
    return need("matplotlib", extra="report").rc_context(
        {
            "svg.fonttype": "none",
            "svg.hashsalt": "clear",
            "font.family": "sans-serif",
            "font.size": 10,
            "axes.edgecolor": MUTED,
            "axes.labelcolor": INK,
            "xtick.color": MUTED,
            "ytick.color": MUTED,
            "text.color": INK,
            "axes.spines.top": False,
            "axes.spines.right": False,
        }
    )


def _figure(height: float) -> tuple[Any, Any]:
    figure = need("matplotlib.figure", extra="report").Figure(figsize=(7.2, height), dpi=120, layout="constrained")
    figure.patch.set_visible(False)
    axes = figure.subplots()
    axes.patch.set_visible(False)
    return figure, axes


def _svg(figure: Any, description: str) -> str:
    """The figure as an <svg> element without size, metadata or document type, in the colours of the page."""
    buffer = io.StringIO()
    empty = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(buffer, format="svg", metadata=empty)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    head, rest = text.split(">", 1)
    view = head.split('viewBox="')[1].split('"')[0]
    head = f'<svg viewBox="{view}" role="img" aria-label="{description}" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return (head + ">" + rest).replace(INK, "var(--ink)").replace(MUTED, "var(--muted)")
