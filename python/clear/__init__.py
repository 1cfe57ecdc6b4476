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
from clear.hull import HullResult, HullStatus, solve_hulls
from clear.neighbors import NeighborIndex, Neighbors, find_neighbors
from clear.plan import Plan, plan_scan
from clear.reference import Reference
from clear.results import Flag, HullEvidence, Level, Pocket, ProbeResult, ScanResult, Scores, Views
from clear.review import ReviewFlag, ReviewResult, review

if TYPE_CHECKING:
    from clear.export import export_scores as export_scores
    from clear.extraction import extract_to_store as extract_to_store
    from clear.features import extract_features as extract_features
    from clear.features import predict as predict
    from clear.guard import Answers as Answers
    from clear.guard import Guard as Guard
    from clear.images import ImageDataset as ImageDataset
    from clear.images import open_images as open_images
    from clear.models import layer_names as layer_names
    from clear.models import load_model as load_model
    from clear.repair import Repair as Repair
    from clear.repair import repair_model as repair_model
    from clear.report import read_report as read_report
    from clear.report import write_report as write_report
    from clear.shared_hull import SharedHull as SharedHull
    from clear.shared_hull import SharedHullResult as SharedHullResult
    from clear.verify import Verification as Verification
    from clear.verify import verify_repair as verify_repair
    from clear.views import extract_views as extract_views

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
    "Views",
    "__version__",
    "build_info",
    "check_hull",
    "check_report",
    "export_scores",
    "extract_features",
    "extract_to_store",
    "extract_views",
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

# Names imported when they are first asked for: `import clear` costs NumPy, the core and a scan alone.
_LATER = {
    "Answers": "guard",
    "Guard": "guard",
    "ImageDataset": "images",
    "SharedHull": "shared_hull",
    "SharedHullResult": "shared_hull",
    "export_scores": "export",
    "extract_features": "features",
    "extract_to_store": "extraction",
    "extract_views": "views",
    "layer_names": "models",
    "load_model": "models",
    "open_images": "images",
    "predict": "features",
    "read_report": "report",
    "write_report": "report",
}
# Those of them built on torch are not in __all__: `from clear import *` works without it.
_NEEDS_TORCH = {"Repair": "repair", "repair_model": "repair", "Verification": "verify", "verify_repair": "verify"}


def __getattr__(name: str) -> Any:
    """Import what is wanted later."""
    if name in _NEEDS_TORCH:
        try:
            need("torch", extra="torch")
        except MissingExtra as error:
            raise MissingName(f"{name}: {error}") from error
    module = _LATER.get(name) or _NEEDS_TORCH.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"clear.{module}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER, *_NEEDS_TORCH})
