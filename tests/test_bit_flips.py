"""A flipped bit in a store, a guard, a folder of work or a report is noticed, and the file named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from samples import make_pocket

import clear
from clear import Features, UnsafeFile
from clear.incremental import join_scan

planted = make_pocket(3)
FEATURES = Features.from_arrays(planted.values, planted.labels, predictions=planted.labels)
FLIPS = 8


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("pyarrow", reason="the report extra is not installed")
    place = tmp_path_factory.mktemp("written")
    clear.save_features(FEATURES, place / "store")
    clear.Guard.fit(FEATURES).save(place / "guard")
    found = clear.scan(FEATURES, workdir=place / "work", piece_rows=64, keep_neighbors=True)
    clear.write_report(found, place / "report")
    clear.export_scores(found, place / "export")
    return place


def open_all(folder: Path) -> None:
    np.asarray(clear.open_features(folder / "store").values)


def scan_again(folder: Path) -> None:
    clear.scan(FEATURES, workdir=folder / "work", piece_rows=64, keep_neighbors=True)


def join(folder: Path) -> None:
    values, labels = (np.concatenate([whole, whole[:1]]) for whole in (FEATURES.values, FEATURES.labels))
    join_scan(Features.from_arrays(values, labels), folder / "work")


KINDS: list[tuple[str, Callable[[Path], Any]]] = [
    ("store/manifest.json", open_all),
    ("store/values-00000.npy", open_all),
    ("store/labels-00000.npy", open_all),
    ("store/predictions-00000.npy", open_all),
    ("guard/manifest.json", lambda folder: clear.Guard.load(folder / "guard")),
    ("guard/rows-00000.npy", lambda folder: clear.Guard.load(folder / "guard")),
    ("guard/labels-00000.npy", lambda folder: clear.Guard.load(folder / "guard")),
    ("guard/representative-00000.npy", lambda folder: clear.Guard.load(folder / "guard")),
    ("guard/in_core-00000.npy", lambda folder: clear.Guard.load(folder / "guard")),
    ("guard/mean-00000.npy", lambda folder: clear.Guard.load(folder / "guard")),
    ("report/report.json", lambda folder: clear.read_report(folder / "report")),
    ("report/arrays.npz", lambda folder: clear.read_report(folder / "report")),
    ("report/scores.parquet", lambda folder: clear.read_report(folder / "report")),
    ("work/manifest.json", scan_again),
    ("work/views.json", join),
    ("work/core-00001.npz", scan_again),
    ("work/hulls-00001.npz", scan_again),
    ("work/crowds-00001.npz", scan_again),
    ("work/near-00001.npz", scan_again),
]


@pytest.mark.parametrize(("name", "use"), KINDS, ids=[name for name, _ in KINDS])
def test_a_flipped_bit_is_noticed_and_the_file_named(name: str, use: Callable[[Path], Any], written: Path) -> None:
    path = written / name
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    piece = name.startswith("work/") and name.endswith(".npz")
    try:
        for _ in range(2 if piece else FLIPS):
            data = bytearray(whole)
            # Of a piece its middle: dates in the directory of a ZIP file are nobody's loss.
            low, high = (len(data) // 4, 3 * len(data) // 4) if piece else (0, len(data))
            data[rng.integers(low, high)] ^= 1 << rng.integers(8)
            path.write_bytes(data)
            if piece:  # it is computed again, and repaired
                with pytest.warns(RuntimeWarning, match=f"{path.name}.*computed again"):
                    use(written)
                assert path.read_bytes() == whole
            else:
                with pytest.raises(UnsafeFile, match=path.name):
                    use(written)
    finally:
        path.write_bytes(whole)
    use(written)


def test_every_kind_of_file_that_is_checked_was_flipped(written: Path) -> None:
    """All files but those without a digest of their own: the page for people, and the export for other programs."""
    unchecked = {"report.html"} | {path.name for path in (written / "export").rglob("*.parquet")}
    kinds = {
        path.name.partition("-")[0] for path in written.rglob("*") if path.is_file() and path.name not in unchecked
    }
    assert kinds == {Path(name).name.partition("-")[0] for name, _ in KINDS}


def test_a_damaged_export_is_refused_by_its_reader(written: Path) -> None:
    """It has no digest: what no reader can parse is an error that names the file."""
    from clear._parquet import open_parquet

    path = next((written / "export").rglob("*.parquet"))
    whole = path.read_bytes()
    try:
        path.write_bytes(whole[:-5] + bytes(5))
        with pytest.raises(UnsafeFile, match=path.name), open_parquet(path):
            pass
    finally:
        path.write_bytes(whole)


def test_a_flipped_digit_that_no_float_shows_is_noticed(tmp_path: Path) -> None:
    """0.015927037887861366 and 0.015927037887861367 are one float: only the text tells."""
    from clear._documents import read_document, write_document

    write_document(tmp_path / "it.json", {"schema": "it/1", "value": 0.015927037887861366})
    text = (tmp_path / "it.json").read_text()
    assert float("0.015927037887861367") == 0.015927037887861366
    assert "861366" in text
    (tmp_path / "it.json").write_text(text.replace("861366", "861367"))
    with pytest.raises(UnsafeFile, match=r"it\.json was changed"):
        read_document(tmp_path / "it.json", "it/1", what="thing")
