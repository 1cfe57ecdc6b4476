"""Find and repair triggerless (sample-targeted) backdoors.

`scan` looks for pockets in a labelled training set, `probe` at incoming samples; `repair_model` closes the pockets
found and `verify_repair` checks it. Underneath: exact nearest neighbours and certified convex hulls.
"""

from __future__ import annotations

from clear._backend import build_info
from clear._version import __version__
from clear.errors import BackendUnavailable, ClearError, MissingExtra, UnsafeFile
from clear.hull import HullResult, HullStatus, solve_hulls
from clear.neighbors import NeighborIndex, Neighbors, find_neighbors

__all__ = [
    "BackendUnavailable",
    "ClearError",
    "HullResult",
    "HullStatus",
    "MissingExtra",
    "NeighborIndex",
    "Neighbors",
    "UnsafeFile",
    "__version__",
    "build_info",
    "find_neighbors",
    "solve_hulls",
]
