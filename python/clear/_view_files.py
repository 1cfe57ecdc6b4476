"""Views in a file beside the features that they belong to: `train.npy` (or the store `train`) and `train.views.npz`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from clear._files import atomic_write
from clear._npy import read_npz
from clear.errors import UnsafeFile
from clear.results import Views

__all__ = ["begin_views", "open_views", "save_views", "views_beside"]

NEEDED = {"early", "label_drop", "prediction_drop", "layer"}


def views_beside(features: Path) -> Path:
    """Where the views of these features lie, if there are any."""
    return features.with_name(f"{features.stem if features.suffix else features.name}.views.npz")


def begin_views(features: Path) -> None:
    """Leave a mark that views are wanted here, so that none are missed if taking them is interrupted."""
    views_beside(features).write_bytes(b"")


def save_views(views: Views | None, features: Path) -> None:
    """Write views beside features; without any, those of an older run go."""
    target = views_beside(features)
    if views is None:
        target.unlink(missing_ok=True)
        return
    arrays = {
        name: getattr(views, name) for name in ("early", "label_drop", "prediction_drop", "late", "late_mirrored")
    }
    kept = {name: array for name, array in arrays.items() if array is not None}
    with atomic_write(target) as temporary, open(temporary, "wb") as file:
        np.savez(file, layer=np.array([views.layer]), **kept)


def open_views(features: Path) -> Views | None:
    """Read the views beside features; None where there are none.

    Raises UnsafeFile (a ValueError) for a file that is damaged, or is none of views.
    """
    path = views_beside(features)
    if not path.exists():
        return None
    if not path.stat().st_size:
        raise UnsafeFile(
            f"{path} is empty: the command features was interrupted while it took views; give it again, or remove this "
            "file to go on without views"
        )
    arrays = read_npz(path)
    if missing := NEEDED - arrays.keys():
        raise UnsafeFile(f"{path}: has no {sorted(missing)[0]!r}: want views as the command features writes them")
    layer = arrays.pop("layer")
    names = ("early", "label_drop", "prediction_drop")
    early, label_drop, prediction_drop = (arrays[name] for name in names)
    n = len(early) if early.ndim == 2 else -1
    others = [arrays[name] for name in ("late", "late_mirrored") if name in arrays]
    shaped = label_drop.shape == prediction_drop.shape == (n,) and all(x.ndim == 2 and len(x) == n for x in others)
    if not shaped or layer.shape != (1,) or layer.dtype.kind != "U" or {x.dtype.kind for x in arrays.values()} != {"f"}:
        raise UnsafeFile(
            f"{path}: shapes or dtypes do not fit together: want views as the command features writes them"
        )
    return Views(early, label_drop, prediction_drop, str(layer[0]), arrays.get("late"), arrays.get("late_mirrored"))
