"""The page of a report: what people read. Everything a user named is escaped by the template."""

from __future__ import annotations

import base64
import io
import math
from pathlib import Path
from typing import Any

import numpy as np

from clear._report_figures import draw_histogram, draw_scatter
from clear.errors import UnsafeFile, need
from clear.results import Flag, HullEvidence, Level, Pocket, ProbeResult, ScanResult

__all__ = ["render_html"]

SHOWN_POCKETS = 40
SHOWN_MEMBERS = 12
SHOWN_SUPPORT = 12
SHOWN_REVIEW = 200
THUMBNAIL = 64


def render_html(
    result: ScanResult | ProbeResult, document: dict[str, Any], *, images: Any = None, reference_images: Any = None
) -> str:
    """Return the page for a result; `document` is what report.json will hold (for the provenance)."""
    jinja2 = need("jinja2", extra="report")
    source = Path(__file__).with_name("templates") / "report.html.j2"
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= {"number": _number, "percent": _percent}
    scan = isinstance(result, ScanResult)
    pictures = _Pictures(images), _Pictures(images if scan else reference_images)
    groups = _groups(result)
    review = [flag for flag in result.flags if flag.level == Level.REVIEW]
    page: str = environment.from_string(source.read_text(encoding="utf-8")).render(
        kind="scan" if scan else "probe",
        result=result,
        document=document,
        certain=sum(flag.level == Level.CERTAIN for flag in result.flags),
        review=review[:SHOWN_REVIEW],
        review_count=len(review),
        groups=[_group(group, result, *pictures) for group in groups[:SHOWN_POCKETS]],
        group_count=len(groups),
        unscored=int(np.isnan(result.scores.score).sum()),
        scatter=draw_scatter(result),
        histogram=draw_histogram(result),
        picture=pictures[0].at,
        name=lambda label: _class_name(result, label),
    )
    return page


def _groups(result: ScanResult | ProbeResult) -> list[Pocket]:
    """What gets a section of its own: the pockets of a scan; each flagged input of a probe."""
    if isinstance(result, ScanResult):
        return list(result.pockets)
    return [
        Pocket(flag.label, flag.suggested_label, (flag.row,), (flag.id,), flag.score, flag.level)
        for flag in result.flags
    ]


def _group(pocket: Pocket, result: ScanResult | ProbeResult, own: _Pictures, reference: _Pictures) -> dict[str, Any]:
    flags = {flag.row: flag for flag in result.flags}
    members = sorted((flags[row] for row in pocket.rows if row in flags), key=lambda flag: -_rank(flag.score))
    inside = frozenset(pocket.rows) if isinstance(result, ScanResult) else frozenset()
    ids = result.ids if isinstance(result, ScanResult) else None
    support = _support(members, inside)
    return {
        "pocket": pocket,
        "members": [
            {"flag": flag, "picture": own.at(flag.row), "hulls": _hulls(flag)} for flag in members[:SHOWN_MEMBERS]
        ],
        "count": len(members),
        "support": [
            {"row": row, "id": None if ids is None else ids[row], "weight": weight, "picture": reference.at(row)}
            for row, weight in support[:SHOWN_SUPPORT]
        ],
        "support_count": len(support),
    }


def _support(members: list[Flag], inside: frozenset[int]) -> list[tuple[int, float]]:
    """Mates of the members that are no members themselves, by the mean weight that they carry in the pockets' hulls."""
    weights = dict.fromkeys((row for flag in members for row in flag.mates), 0.0)
    for flag in members:
        for hull in flag.hulls:
            if hull.role == "pocket":
                for row, weight in zip(hull.rows, hull.weights, strict=False):
                    weights[row] = weights.get(row, 0.0) + weight / len(members)
    found = [(row, weight) for row, weight in weights.items() if row not in inside]
    return sorted(found, key=lambda pair: (-pair[1], pair[0]))


def _hulls(flag: Flag) -> list[dict[str, Any]]:
    return [{"hull": hull, "support": _carriers(hull)} for hull in flag.hulls]


def _carriers(hull: HullEvidence) -> list[tuple[int, float]]:
    """Vertices that carry weight, heaviest first."""
    pairs = [(row, weight) for row, weight in zip(hull.rows, hull.weights, strict=False) if weight > 1e-9]
    return sorted(pairs, key=lambda pair: (-pair[1], pair[0]))


def _class_name(result: ScanResult | ProbeResult, label: int) -> str:
    names = result.class_names
    return names[label] if names is not None and 0 <= label < len(names) else f"class {label}"


def _rank(value: float) -> float:
    return -math.inf if math.isnan(value) else value


def _number(value: Any, digits: int = 2) -> str:
    """A number for people: thousands apart, a true minus sign, a dash for nan."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, float) and math.isinf(value):
        return "∞" if value > 0 else "−∞"
    text = f"{value:,}" if isinstance(value, int) else f"{value:,.{digits}f}"
    return text.replace(",", "\N{NARROW NO-BREAK SPACE}").replace("-", "−")


def _percent(value: float) -> str:
    return "–" if math.isnan(value) else f"{100 * value:.1f} %"


class _Pictures:
    """Thumbnails as data: addresses, each made once; None where there is no picture."""

    def __init__(self, images: Any) -> None:
        self._images = images
        self._made: dict[int, str | None] = {}

    def at(self, row: int) -> str | None:
        if self._images is None:
            return None
        if row not in self._made:
            self._made[row] = self._make(row)
        return self._made[row]

    def _make(self, row: int) -> str | None:
        read = getattr(self._images, "image", None) or self._images.__getitem__
        try:
            return _thumbnail(np.asarray(read(row)))
        except UnsafeFile:
            return None  # a picture that cannot be decoded does not keep the report from being written


def _thumbnail(pixels: Any) -> str:
    """A data: address of an image, at most 64 pixels wide and high: PNG when tiny, else JPEG."""
    image = need("PIL.Image", extra="report")
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3):
        raise ValueError(f"images hold {pixels.dtype} of shape {pixels.shape}: want uint8, (height, width[, channels])")
    picture = image.fromarray(pixels).convert("L" if pixels.ndim == 2 else "RGB")
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    kind = "PNG" if max(picture.size) <= 16 else "JPEG"
    buffer = io.BytesIO()
    picture.save(buffer, kind, **({} if kind == "PNG" else {"quality": 85, "optimize": True}))
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"
