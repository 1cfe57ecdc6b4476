"""Find and repair triggerless (sample-targeted) backdoors.

`scan` looks for pockets in a labelled training set, `probe` at incoming samples, `review` at those of a model whose
training set is not at hand; `repair_model` closes the pockets and `verify_repair` checks it; `write_report` shows it.
Underneath: exact nearest neighbours and certified convex hulls.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from clear._backend import build_info
from clear._version import __version__
from clear.approximate import Approximate
from clear.check import check_hull, check_report
from clear.config import ScanConfig
from clear.data import Features, open_features, save_features
from clear.detect import probe, scan
from clear.errors import BackendUnavailable, ClearError, LimitReached, MissingExtra, MissingName, UnsafeFile, need
from clear.export import export_scores
from clear.extraction import extract_to_store
from clear.features import extract_features, predict
from clear.guard import Answers, Guard
from clear.hull import HullResult, HullStatus, solve_hulls
from clear.images import ImageDataset, open_images
from clear.models import layer_names, load_model
from clear.neighbors import NeighborIndex, Neighbors, find_neighbors
from clear.plan import Plan, plan_scan
from clear.prepare import Reference
from clear.report import read_report, write_report
from clear.results import Flag, HullEvidence, Level, Pocket, ProbeResult, ScanResult, Scores
from clear.review import ReviewFlag, ReviewResult, review
from clear.shared_hull import SharedHull, SharedHullResult

if TYPE_CHECKING:
    from clear.repair import Repair as Repair
    from clear.repair import repair_model as repair_model
    from clear.verify import Verification as Verification
    from clear.verify import verify_repair as verify_repair

__all__ = [
    "Answers",
    "Approximate",
    "BackendUnavailable",
    "ClearError",
    "Features",
    "Flag",
    "Guard",
    "HullEvidence",
    "HullResult",
    "HullStatus",
    "ImageDataset",
    "Level",
    "LimitReached",
    "MissingExtra",
    "MissingName",
    "NeighborIndex",
    "Neighbors",
    "Plan",
    "Pocket",
    "ProbeResult",
    "Reference",
    "ReviewFlag",
    "ReviewResult",
    "ScanConfig",
    "ScanResult",
    "Scores",
    "SharedHull",
    "SharedHullResult",
    "UnsafeFile",
    "__version__",
    "build_info",
    "check_hull",
    "check_report",
    "export_scores",
    "extract_features",
    "extract_to_store",
    "find_neighbors",
    "layer_names",
    "load_model",
    "open_features",
    "open_images",
    "plan_scan",
    "predict",
    "probe",
    "read_report",
    "review",
    "save_features",
    "scan",
    "solve_hulls",
    "write_report",
]

# Not in __all__: `from clear import *` works without torch.
_NEEDS_TORCH = {"Repair": "repair", "repair_model": "repair", "Verification": "verify", "verify_repair": "verify"}


def __getattr__(name: str) -> Any:
    """Import what is built on torch when it is first asked for: `import clear` costs NumPy and the core alone."""
    if name not in _NEEDS_TORCH:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        need("torch", extra="torch")
    except MissingExtra as error:
        raise MissingName(f"{name}: {error}") from error
    return getattr(importlib.import_module(f"clear.{_NEEDS_TORCH[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_NEEDS_TORCH})
