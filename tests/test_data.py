"""Features in and out of files: what is saved is what is opened, and nothing partial is ever seen."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from clear import _files
from clear._files import atomic_write, sha256
from clear._npy import read_npy, read_npz
from clear.data import Features, open_features, save_features


def make_features(dtype: str = "float32", n: int = 20) -> Features:
    rng = np.random.default_rng(0)
    labels = np.arange(n) % 3
    ids = np.array([f"sample {i}" for i in range(n)])
    return Features.from_arrays(
        rng.normal(size=(n, 5)).astype(dtype),
        labels,
        ids=ids,
        class_names=("a", "b", "ç"),
        predictions=labels[::-1].copy(),
    )


def assert_same(opened: Features, saved: Features) -> None:
    assert opened.values.dtype == saved.values.dtype
    np.testing.assert_array_equal(opened.values, saved.values)
    np.testing.assert_array_equal(opened.labels, saved.labels)
    np.testing.assert_array_equal(opened.ids, saved.ids)
    assert (opened.predictions is None) == (saved.predictions is None)
    if saved.predictions is not None:
        np.testing.assert_array_equal(opened.predictions, saved.predictions)
    assert opened.class_names == saved.class_names


@pytest.mark.parametrize("suffix", [".npz", ".npy", ".parquet"])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_features_survive_a_round_trip_with_their_dtype(tmp_path: Path, suffix: str, dtype: str) -> None:
    saved = make_features(dtype)
    save_features(saved, tmp_path / f"x{suffix}")
    opened = open_features(tmp_path / f"x{suffix}")
    assert_same(opened, saved)
    assert opened.source == str(tmp_path / f"x{suffix}")


@pytest.mark.parametrize("suffix", [".npz", ".npy", ".parquet"])
def test_a_round_trip_adds_nothing_that_was_not_there(tmp_path: Path, suffix: str) -> None:
    saved = Features.from_arrays(np.eye(3), [0, 1, 2])
    save_features(saved, tmp_path / f"x{suffix}")
    assert_same(open_features(tmp_path / f"x{suffix}"), saved)


def test_memory_mapped_features_stay_memory_mapped(tmp_path: Path) -> None:
    save_features(make_features(), tmp_path / "x.npy")
    opened = open_features(tmp_path / "x.npy")
    assert isinstance(opened.values, np.memmap)
    assert not opened.values.flags.writeable
    again = Features.from_arrays(opened.values, opened.labels)
    assert isinstance(again.values, np.memmap)
    assert np.shares_memory(again.values, opened.values)


@pytest.mark.parametrize(
    "array",
    [
        np.arange(12, dtype=">f8").reshape(3, 4),
        np.asfortranarray(np.arange(12, dtype="f4").reshape(3, 4)),
        np.zeros((0, 4), "f4"),
        np.array(3, dtype="i8"),
        np.array(["ä", "longer", ""]),
        np.arange(24, dtype="u1").reshape(2, 3, 4),
        np.array([True, False]),
    ],
    ids=["big-endian", "column-major", "empty", "scalar", "text", "three dimensions", "bool"],
)
def test_npy_and_npz_reading_agrees_with_numpy(tmp_path: Path, array: np.ndarray) -> None:
    np.save(tmp_path / "x.npy", array)
    np.savez_compressed(tmp_path / "x.npz", x=array)
    for mapped in (True, False):
        np.testing.assert_array_equal(read_npy(tmp_path / "x.npy", mapped=mapped), array)
        assert read_npy(tmp_path / "x.npy", mapped=mapped).dtype == array.dtype
    np.testing.assert_array_equal(read_npz(tmp_path / "x.npz")["x"], array)


def test_npz_reads_only_the_arrays_asked_for(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", features=np.eye(2), labels=[0, 1], rest=np.array([{"a": 1}], dtype=object))
    assert set(read_npz(tmp_path / "x.npz", ["features", "labels"])) == {"features", "labels"}


def test_labels_come_from_an_array_or_another_file(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.eye(3, dtype=np.float32))
    np.save(tmp_path / "y.npy", np.array([2, 1, 0]))
    np.savez(tmp_path / "y.npz", labels=[2, 1, 0])
    for labels in ([2, 1, 0], tmp_path / "y.npy", str(tmp_path / "y.npz")):
        np.testing.assert_array_equal(open_features(tmp_path / "x.npy", labels=labels).labels, [2, 1, 0])


def test_a_new_save_removes_siblings_of_the_older_one(tmp_path: Path) -> None:
    save_features(make_features(), tmp_path / "x.npy")
    new = Features.from_arrays(np.eye(20), np.zeros(20, int))
    save_features(new, tmp_path / "x.npy")
    assert_same(open_features(tmp_path / "x.npy"), new)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda p: np.save(p / "x.npy", np.eye(3)), ValueError, r"x\.npy: has no labels: .*x\.labels\.npy"),
        (lambda p: np.savez(p / "x.npz", labels=[1]), ValueError, r"x\.npz: has no array 'features'"),
        (lambda p: np.savez(p / "x.npz", features=np.eye(2)), ValueError, r"x\.npz: has no array 'labels'"),
        (
            lambda p: np.savez(p / "x.npz", features=np.eye(2, dtype=int), labels=[0, 1]),
            TypeError,
            "want floating point",
        ),
        (lambda p: np.savez(p / "x.npz", features=np.eye(2), labels=[0, -1]), ValueError, r"labels\[1\] is -1"),
        (lambda p: np.savez(p / "x.npz", features=np.eye(2), labels=[0, 1, 1]), ValueError, r"want \(2,\)"),
        (lambda p: np.savez(p / "x.npz", features=np.eye(2), labels=[0, 1], ids=[7, 7]), ValueError, "ids repeat"),
        (lambda p: (p / "x.csv").write_text("1,2"), ValueError, r"suffix '\.csv' is not known"),
        (lambda p: None, OSError, "No such file"),
    ],
)
def test_bad_features_get_one_line_that_says_what_is_wrong(tmp_path, make, error, message) -> None:
    make(tmp_path)
    path = next(tmp_path.iterdir(), tmp_path / "x.npz")
    with pytest.raises(error, match=message) as caught:
        open_features(path)
    assert "\n" not in str(caught.value)


class TestParquet:
    arrow = pytest.importorskip("pyarrow", reason="the data extra is not installed")

    def write(self, path: Path, **columns) -> Path:
        import pyarrow.parquet as parquet

        parquet.write_table(self.arrow.table(columns), path / "x.parquet", row_group_size=2)
        return path / "x.parquet"

    @pytest.mark.parametrize("kind", ["list", "large", "fixed"])
    @pytest.mark.parametrize("value", ["float16", "float32", "float64"])
    def test_every_list_type_is_read_across_row_groups(self, tmp_path: Path, kind: str, value: str) -> None:
        rows = np.arange(15).reshape(5, 3).astype(value)
        item = self.arrow.from_numpy_dtype(rows.dtype)
        types = {
            "list": self.arrow.list_(item),
            "large": self.arrow.large_list(item),
            "fixed": self.arrow.list_(item, 3),
        }
        path = self.write(
            tmp_path, vector=self.arrow.array(list(rows), types[kind]), label=[0, 1, 2, 1, 0], id=[5, 6, 7, 8, 9]
        )
        opened = open_features(path)
        assert opened.values.dtype == value
        np.testing.assert_array_equal(opened.values, rows)
        np.testing.assert_array_equal(opened.ids, [5, 6, 7, 8, 9])

    def test_columns_can_be_named_and_left_out(self, tmp_path: Path) -> None:
        lists = [[1.0, 2.0], [3.0, 4.0]]
        path = self.write(tmp_path, a=lists, b=[[5.0], [6.0]], y=[0, 1], id=[1, 1], guess=[1, 1])
        opened = open_features(path, column="b", label_column="y", id_column=None, prediction_column="guess")
        np.testing.assert_array_equal(opened.values, [[5], [6]])
        np.testing.assert_array_equal(opened.ids, [0, 1])
        np.testing.assert_array_equal(opened.predictions, [1, 1])

    def test_labels_given_need_no_label_column(self, tmp_path: Path) -> None:
        path = self.write(tmp_path, embedding=[[1.0], [2.0]])
        np.testing.assert_array_equal(open_features(path, labels=[1, 0]).labels, [1, 0])

    @pytest.mark.parametrize(
        ("columns", "message"),
        [
            ({"embedding": [[1.0, 2.0], [1.0], [1.0, 2.0]], "label": [0, 1, 2]}, "row 1 has 1 values: want 2"),
            ({"embedding": [[1.0], [1.0], [1.0, 2.0]], "label": [0, 1, 2]}, "row 2 has 2 values: want 1"),
            ({"embedding": [[1.0], None, [1.0]], "label": [0, 1, 2]}, "'embedding', row 1 is null"),
            ({"embedding": [[1.0, 2.0], [1.0, 2.0], [1.0, None]], "label": [0, 1, 2]}, "row 2 holds a null"),
            ({"embedding": [[1.0], [1.0], [1.0]], "label": [0, None, 2]}, "'label', row 1 is null"),
            ({"embedding": [[1.0], [1.0], [1.0]], "label": [0.5, 1.5, 2.5]}, "'label' has type double: want integers"),
            ({"embedding": [[1], [2], [3]], "label": [0, 1, 2]}, "want one column with lists of floating-point"),
            ({"a": [[1.0]], "b": [[2.0]], "label": [0]}, "pass column="),
            ({"embedding": [[1.0]], "klass": [0]}, "has no column 'label': want one of"),
        ],
    )
    def test_bad_columns_are_named_with_their_row(self, tmp_path: Path, columns: dict, message: str) -> None:
        with pytest.raises(ValueError, match=message) as caught:
            open_features(self.write(tmp_path, **columns))
        assert "x.parquet" in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_asking_for_a_column_of_another_type_names_the_type(self, tmp_path: Path) -> None:
        path = self.write(tmp_path, embedding=[[1.0]], label=[0], text=["x"])
        with pytest.raises(ValueError, match="column 'text' has type string"):
            open_features(path, column="text")

    def test_a_hugging_face_dataset_is_read_in_its_own_order(self) -> None:
        datasets = pytest.importorskip("datasets", reason="the hf extra is not installed")
        kinds = datasets.Features(
            {
                "embedding": datasets.Sequence(datasets.Value("float32"), 2),
                "label": datasets.ClassLabel(names=["x", "y"]),
            }
        )
        rows = {"embedding": [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]], "label": [0, 1, 1]}
        opened = open_features(datasets.Dataset.from_dict(rows, features=kinds).select([2, 0]))
        np.testing.assert_array_equal(opened.values, [[4, 5], [0, 1]])
        np.testing.assert_array_equal(opened.labels, [1, 0])
        assert opened.values.dtype == np.float32
        assert opened.class_names == ("x", "y")


class TestAtomicWrite:
    def test_the_file_appears_complete_and_alone(self, tmp_path: Path) -> None:
        with atomic_write(tmp_path / "a.txt") as temporary:
            temporary.write_text("new")
            assert not (tmp_path / "a.txt").exists()
            assert temporary.parent == tmp_path
            assert not list(tmp_path.glob("*.txt"))
        assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]

    @pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, MemoryError])
    def test_an_interrupted_write_leaves_the_old_file_and_no_other(self, tmp_path: Path, error) -> None:
        (tmp_path / "a.txt").write_text("old")

        def interrupted() -> None:
            with atomic_write(tmp_path / "a.txt") as temporary:
                temporary.write_text("half")
                raise error

        with pytest.raises(error):
            interrupted()
        assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]
        assert (tmp_path / "a.txt").read_text() == "old"

    @pytest.mark.parametrize("suffix", [".npz", ".npy", ".parquet"])
    def test_an_interrupted_save_leaves_nothing(self, tmp_path: Path, suffix: str, monkeypatch) -> None:
        def interrupted(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        for name in ("save", "savez"):
            monkeypatch.setattr(np, name, interrupted)
        monkeypatch.setattr("clear.data.write_parquet", interrupted)
        with pytest.raises(KeyboardInterrupt):
            save_features(make_features(), tmp_path / f"x{suffix}")
        assert list(tmp_path.iterdir()) == []

    def test_a_failed_save_with_siblings_leaves_the_older_save_whole(self, tmp_path: Path, monkeypatch) -> None:
        old = make_features()
        save_features(old, tmp_path / "x.npy")
        real, calls = np.save, []

        def fails_at_the_third(*args: object, **kwargs: object) -> None:
            calls.append(args)
            if len(calls) == 3:
                raise OSError(errno.ENOSPC, "No space left on device")
            real(*args, **kwargs)

        monkeypatch.setattr(np, "save", fails_at_the_third)
        with pytest.raises(OSError, match="No space left"):
            save_features(make_features(n=7), tmp_path / "x.npy")
        assert_same(open_features(tmp_path / "x.npy"), old)
        assert not [file for file in tmp_path.iterdir() if "partial" in file.name]

    def test_an_unwritable_place_is_one_line_that_names_it(self, tmp_path: Path, monkeypatch) -> None:
        with (
            pytest.raises(FileNotFoundError, match="cannot write: .*nowhere"),
            atomic_write(tmp_path / "nowhere" / "x"),
        ):
            pass
        with pytest.raises(IsADirectoryError, match="want the name of a regular file"), atomic_write(tmp_path):
            pass

        def refused(*_: object) -> int:
            raise PermissionError(errno.EACCES, "Permission denied")

        monkeypatch.setattr(_files.os, "open", refused)
        with pytest.raises(PermissionError, match="cannot write: Permission denied: .*x.npz") as caught:
            save_features(make_features(), tmp_path / "x.npz")
        assert "\n" not in str(caught.value)

    def test_a_link_is_followed_and_stays_a_link(self, tmp_path: Path) -> None:
        (tmp_path / "real.txt").write_text("old")
        (tmp_path / "link.txt").symlink_to(tmp_path / "real.txt")
        with atomic_write(tmp_path / "link.txt") as temporary:
            temporary.write_text("new")
        assert (tmp_path / "link.txt").is_symlink()
        assert (tmp_path / "real.txt").read_text() == "new"

    def test_permissions_follow_the_umask(self, tmp_path: Path) -> None:
        (tmp_path / "plain").write_text("")
        with atomic_write(tmp_path / "x"):
            pass
        assert os.stat(tmp_path / "x").st_mode == os.stat(tmp_path / "plain").st_mode


def test_sha256_is_that_of_the_standard() -> None:
    import hashlib

    assert sha256(__file__) == hashlib.sha256(Path(__file__).read_bytes()).hexdigest()


def test_importing_clear_and_its_inputs_imports_no_optional_library() -> None:
    import subprocess
    import sys

    code = (
        "import sys, clear, clear.data, clear.images, clear.models, clear.features\n"
        "print([m for m in ('torch', 'pyarrow', 'PIL', 'datasets', 'safetensors') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
