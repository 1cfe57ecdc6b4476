"""Find and repair triggerless (sample-targeted) backdoors.

`scan` looks for pockets in a labelled training set, `probe` at incoming samples; `repair_model` closes the pockets
found and `verify_repair` checks it. Underneath: exact nearest neighbours and certified convex hulls.
"""

from __future__ import annotations

from clear._backend import build_info
from clear._version import __version__
from clear.config import ScanConfig
from clear.data import Features
from clear.detect import probe, scan
from clear.errors import BackendUnavailable, ClearError, MissingExtra, UnsafeFile
from clear.hull import HullResult, HullStatus, solve_hulls
from clear.neighbors import NeighborIndex, Neighbors, find_neighbors
from clear.prepare import Reference
from clear.results import Flag, HullEvidence, Level, Pocket, ProbeResult, ScanResult, Scores

__all__ = [
    "BackendUnavailable",
    "ClearError",
    "Features",
    "Flag",
    "HullEvidence",
    "HullResult",
    "HullStatus",
    "Level",
    "MissingExtra",
    "NeighborIndex",
    "Neighbors",
    "Pocket",
    "ProbeResult",
    "Reference",
    "ScanConfig",
    "ScanResult",
    "Scores",
    "UnsafeFile",
    "__version__",
    "build_info",
    "find_neighbors",
    "probe",
    "scan",
    "solve_hulls",
]
