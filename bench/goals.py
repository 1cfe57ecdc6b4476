"""The table of docs/scaling.md: the goals of large scans beside what was measured (results/cluster.json)."""

from __future__ import annotations

from pathlib import Path

RESULTS = Path(__file__).parent / "results" / "cluster.json"
