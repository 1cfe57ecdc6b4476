"""Which code judged: results of a defence are kept under the hash of the sources that it runs through."""

from __future__ import annotations

import ast
import hashlib
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = {"clear": ROOT / "python" / "clear", "bench": ROOT / "bench"}
ENTRIES = (
    *("clear.detect", "clear.probing", "clear.review", "clear.repair"),
    *("bench.quality.heads", "bench.quality.clean"),
)
FOR_NETWORKS = (*ENTRIES, "clear.views", "bench.quality.whole", "bench.quality.flips")
"""What victims that are trained as a whole are judged by."""


@cache
def defence_hash(whole: bool = False) -> str:
    """Of all that scan, probe, review, repair and the baselines import, but for the compiled core, which is exact."""
    digest = hashlib.sha256()
    for path in sorted(reached(FOR_NETWORKS if whole else ENTRIES)):
        digest.update(f"{path.relative_to(ROOT)}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def reached(entries: tuple[str, ...]) -> set[Path]:
    """Source files of the modules that these import, directly or not; whole packages are not followed."""
    found: set[Path] = set()
    waiting = list(entries)
    while waiting:
        path = _file_of(waiting.pop())
        if path is None or path in found:
            continue
        found.add(path)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                waiting += [node.module, *(f"{node.module}.{name.name}" for name in node.names)]
            elif isinstance(node, ast.Import):
                waiting += [name.name for name in node.names]
    return found


def _file_of(module: str) -> Path | None:
    package, _, rest = module.partition(".")
    if package not in PACKAGES or not rest:
        return None
    path = PACKAGES[package].joinpath(*rest.split(".")).with_suffix(".py")
    return path if path.exists() else None
