"""Views in a file beside the features that they belong to: `train.npy` (or the store `train`) and `train.views.npz`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
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


@contextmanager
def begin_views(features: Path) -> Iterator[None]:
    """Leave a mark while views are taken, until `save_views`: if that is interrupted, no views are missed unnoticed.

    The mark goes when the network or the images turn out not to be fit for views (ValueError). Those of an older run
    stay until there are new ones.
    """
    _mark_beside(features).touch()
    try:
        yield
    except ValueError:
        _mark_beside(features).unlink(missing_ok=True)
        raise


def _mark_beside(features: Path) -> Path:
    return views_beside(features).with_suffix(".begun")


def save_views(views: Views | None, features: Path) -> None:
    """Write views beside features; without any, those of an older run go."""
    target = views_beside(features)
    if views is None:
        target.unlink(missing_ok=True)
    else:
        _write(views, target)
    _mark_beside(features).unlink(missing_ok=True)


def _write(views: Views, target: Path) -> None:
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
    path, mark = views_beside(features), _mark_beside(features)
    if mark.exists():
        raise UnsafeFile(
            f"{mark} is there: the command features was interrupted while it took views; give it again, or remove this "
            f"file, and {path.name} if it is there, to go on without views"
        )
    if not path.exists():
        return None
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
