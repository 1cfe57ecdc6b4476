"""Feature stores: what is written comes back, stays on disk until asked for, and damage is named before use."""

from __future__ import annotations

import dataclasses
import json
import os
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import clear
from clear import ClearError, UnsafeFile, _documents, store
from clear._cli_common import read_features
from clear._files import require_writable, sha256
from clear._rows import ShardedRows
from clear.cli import main
from clear.data import Features, open_features, save_features
from clear.store import add_shard, start_store, write_store

N, D = 50, 6
DTYPES = ["float16", "float32", "float64"]


def make(dtype: str = "float32", **columns: object) -> Features:
    rng = np.random.default_rng(0)
    return Features.from_arrays(rng.normal(size=(N, D)).astype(dtype), rng.integers(0, 3, N), **columns)


def write(folder: Path, features: Features, shard_rows: int = 16, dtype: str | None = None) -> Path:
    plain = {"labels": features.labels, "ids": features.ids}
    if features.predictions is not None:
        plain["predictions"] = features.predictions
    write_store(folder, features.values, plain, features.class_names, dtype=dtype, shard_rows=shard_rows)
    return folder


@pytest.mark.parametrize("shard_rows", [1, 16, N, 10 * N])
@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_written_comes_back(tmp_path: Path, dtype: str, shard_rows: int) -> None:
    wanted = make(dtype, ids=[f"s{i}" for i in range(N)], class_names=("a", "b", "c"), predictions=[1] * N)
    found = open_features(write(tmp_path / "set", wanted, shard_rows))
    assert found.values.dtype == dtype
    np.testing.assert_array_equal(np.asarray(found.values), wanted.values)
    for name in ("labels", "ids", "predictions"):
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name))
    assert found.class_names == wanted.class_names


def test_bfloat16_is_the_nearest_of_its_values(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="the torch extra is not installed: it has bfloat16")
    wanted = make()
    found = open_features(write(tmp_path / "set", wanted, dtype="bfloat16"))
    rounded = torch.from_numpy(wanted.values).bfloat16().float().numpy()
    assert found.values.dtype == np.float32
    np.testing.assert_array_equal(np.asarray(found.values), rounded)
    tensors = Features.from_arrays(torch.from_numpy(wanted.values).bfloat16(), wanted.labels)
    for features in (tensors, found, wanted):
        save_features(features, tmp_path / "again", dtype="bfloat16")
        np.testing.assert_array_equal(np.asarray(open_features(tmp_path / "again").values), rounded)
        (values,) = (tmp_path / "again").glob("values-*.npy")
        assert np.load(values).dtype == np.uint16


def test_a_dtype_that_does_not_hold_the_values_is_refused(tmp_path: Path) -> None:
    for value, dtype in ((1e5, "float16"), (1e39, "float32"), (1e39, "bfloat16"), (np.nan, None)):
        values = make("float64").values.copy()
        values[7, 2] = value
        with pytest.raises(ValueError, match=rf"nan or inf as {dtype or 'float64'} in 1 of 50 rows .*first: \[7\]"):
            save_features(Features.from_arrays(values, make().labels), tmp_path / "set", dtype=dtype)
    with pytest.raises(ValueError, match="dtype is 'float8': want one of"):
        save_features(make(), tmp_path / "set", dtype="float8")
    with pytest.raises(ValueError, match=r"want a feature store \(a name without a suffix\), got x.npy"):
        save_features(make(), tmp_path / "x.npy", dtype="float16")


def test_saving_to_a_name_without_suffix_makes_a_store_and_replaces_an_older_one(tmp_path: Path) -> None:
    write(tmp_path / "set", make("float64"), shard_rows=4)
    save_features(make(), tmp_path / "set")
    assert sorted(p.name for p in (tmp_path / "set").iterdir()) == [
        "labels-00013.npy",
        "manifest.json",
        "values-00013.npy",
    ]
    np.testing.assert_array_equal(open_features(tmp_path / "set").values, make().values)


@pytest.mark.parametrize("shard_rows", [4, 16, 10 * N])
@pytest.mark.parametrize("older_rows", [16, 10 * N])
def test_a_store_is_saved_over_itself(tmp_path: Path, older_rows: int, shard_rows: int) -> None:
    opened = open_features(write(tmp_path / "set", make(), older_rows))
    write(tmp_path / "set", dataclasses.replace(opened, labels=2 - opened.labels), shard_rows)
    found = open_features(tmp_path / "set")
    np.testing.assert_array_equal(np.asarray(found.values), make().values)
    np.testing.assert_array_equal(found.labels, 2 - make().labels)
    assert len(list((tmp_path / "set").iterdir())) == 1 + 2 * -(-N // shard_rows)


def test_an_interrupted_save_leaves_the_older_store_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = open_features(write(tmp_path / "set", make()))
    real, calls = store.write_part, []

    def fails_at_the_fourth(*args: Any) -> dict[str, Any]:
        calls.append(args)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(store, "write_part", fails_at_the_fourth)
    for features in (dataclasses.replace(opened, labels=2 - opened.labels), make("float64")):
        calls.clear()
        with pytest.raises(KeyboardInterrupt):
            write(tmp_path / "set", features, shard_rows=4)
        found = open_features(tmp_path / "set")
        np.testing.assert_array_equal(np.asarray(found.values), make().values)
        np.testing.assert_array_equal(found.labels, make().labels)
    monkeypatch.undo()
    save_features(make(), tmp_path / "set")
    assert len(list((tmp_path / "set").iterdir())) == 3  # nothing stays of what was interrupted


@pytest.mark.parametrize("made_by", [None, {"weights": "a"}])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_no_shard_of_a_store_without_its_manifest_stays(
    tmp_path: Path, made_by: dict[str, str] | None, dtype: str
) -> None:
    others = {"values-00007.npy": b"mine", "labels-99999.npy": b"mine", "values-1.npy": b"mine", "note.npy": b"mine"}
    opened = open_features(write(tmp_path, make(ids=[f"s{i}" for i in range(N)]), shard_rows=16, dtype=dtype))
    (tmp_path / "manifest.json").write_bytes(b"damaged")
    with pytest.raises(UnsafeFile, match="delete that file first"):
        save_features(make(), tmp_path)
    (tmp_path / "manifest.json").unlink()
    for name, data in others.items():
        (tmp_path / name).write_bytes(data)
    np.save(tmp_path / "values-00008.npy", np.zeros((3, 2)))  # without labels, and with others: no shards
    np.save(tmp_path / "values-00009.npy", np.zeros((3, 2)))
    np.save(tmp_path / "labels-00009.npy", np.zeros(4, int))
    if made_by is None:
        save_features(opened, tmp_path)  # whose values are still to be read
        np.testing.assert_array_equal(np.asarray(open_features(tmp_path).values), np.asarray(opened.values))
    else:
        manifest = start_store(tmp_path, rows=N, width=D, dtype="float32", made_by=made_by)
        add_shard(tmp_path, manifest, make().values, make().labels)
        np.testing.assert_array_equal(np.asarray(open_features(tmp_path).values), make().values)
    kept = {"values-00008.npy", "values-00009.npy", "labels-00009.npy", "manifest.json", *others}
    shards = json.loads((tmp_path / "manifest.json").read_text())["shards"]
    kept |= {entry["file"] for shard in shards for entry in shard["files"].values()}
    assert {path.name for path in tmp_path.iterdir()} == kept


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_folder_that_holds_something_else_is_left_as_it_is(tmp_path: Path) -> None:
    features = Features.from_arrays(np.random.default_rng(0).normal(size=(60, 4)), np.arange(60) % 2)
    guard = clear.Guard.fit(features)
    writers = {
        "store": lambda folder: save_features(features, folder),
        "guard": guard.save,
        "work": lambda folder: clear.scan(features, workdir=folder),
    }
    for kind, write_it in writers.items():
        write_it(tmp_path / kind)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "manifest.json").write_text("{")
    (tmp_path / "broken" / "values-00000.npy").write_text("mine")
    for kind in [*writers, "broken"]:
        before = contents(tmp_path / kind)
        for other in writers.keys() - {kind}:
            with pytest.raises(UnsafeFile, match=rf"{kind}/manifest\.json (is not a|is damaged)"):
                writers[other](tmp_path / kind)
            assert contents(tmp_path / kind) == before


def test_saving_deletes_no_file_of_others(tmp_path: Path) -> None:
    """A folder without a manifest may hold anything."""
    for name in ("values-00007.npy", "rows-00003.npy", "labels-00000.npy.bak"):
        (tmp_path / name).write_text("mine")
    save_features(make(), tmp_path)
    (tmp_path / "manifest.json").unlink()
    clear.Guard.fit(Features.from_arrays(make().values, np.arange(N) % 2)).save(tmp_path)
    clear.Guard.load(tmp_path)
    for name in ("values-00007.npy", "rows-00003.npy", "labels-00000.npy.bak"):
        assert (tmp_path / name).read_text() == "mine"


def test_rows_are_picked_as_from_one_array(tmp_path: Path) -> None:
    whole = make().values
    rows = open_features(write(tmp_path / "set", make())).values
    assert isinstance(rows, ShardedRows)
    for key in (
        slice(None), slice(3, 40), slice(16, 32), slice(45, 99), slice(9, 2), slice(0, N, 7), slice(None, None, -1),
        np.array([49, 0, 17, 17]), np.array([-1]), whole[:, 0] > 0, 7, [],
    ):  # fmt: skip
        np.testing.assert_array_equal(rows[key], whole[np.asarray(key, int) if isinstance(key, list) else key])
    with pytest.raises(IndexError, match="there are 50 rows"):
        rows[[N]]


def test_a_scan_of_a_store_is_that_of_the_array(tmp_path: Path) -> None:
    wanted = clear.scan(make("float16"), threads=1)
    found = clear.scan(open_features(write(tmp_path / "set", make("float16"))), threads=1)
    np.testing.assert_array_equal(found.scores.score, wanted.scores.score)
    assert found.flags == wanted.flags


def test_values_stay_on_disk_until_they_are_asked_for(tmp_path: Path) -> None:
    n, d = 1 << 14, 512
    values = np.zeros((n, d), np.float32)
    features = Features.from_arrays(values, np.arange(n) % 2)
    write(tmp_path / "set", features, shard_rows=1 << 12)
    tracemalloc.start()
    opened = open_features(tmp_path / "set")
    assert opened.values[5:9].shape == (4, d)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < values.nbytes / 4


def test_an_unfinished_store_says_so(tmp_path: Path) -> None:
    manifest = start_store(tmp_path / "set", rows=N, width=D, dtype="float32")
    add_shard(tmp_path / "set", manifest, make().values[:16], make().labels[:16])
    with pytest.raises(ValueError, match="unfinished: 16 of 50 rows are written; run the command that began it again"):
        open_features(tmp_path / "set")


def test_a_store_of_other_inputs_is_not_gone_on_with(tmp_path: Path) -> None:
    start_store(tmp_path, rows=N, width=D, dtype="float32", made_by={"weights": "a", "data": "b"})
    start_store(tmp_path, rows=N, width=D, dtype="float32", made_by={"weights": "a", "data": "b"})
    with pytest.raises(ValueError, match=r"manifest.json was begun with other inputs \(weights differs\)"):
        start_store(tmp_path, rows=N, width=D, dtype="float32", made_by={"weights": "c", "data": "b"})
    with pytest.raises(ValueError, match="width differs"):
        start_store(tmp_path, rows=N, width=D + 1, dtype="float32", made_by={"weights": "a", "data": "b"})


def test_urls_of_fsspec_are_opened(tmp_path: Path) -> None:
    fsspec = pytest.importorskip("fsspec", reason="fsspec is not installed")
    write(tmp_path / "set", make())
    clear.save_features(make(), tmp_path / "one.npy")
    memory = fsspec.filesystem("memory")
    memory.put(str(tmp_path / "set"), "/set", recursive=True)
    for file in tmp_path.glob("one*.npy"):
        memory.put(str(file), f"/{file.name}")
    chained = (f"simplecache::file://{tmp_path}/one.npy", "simplecache::memory://one.npy", "simplecache::memory://set")
    for url in (f"file://{tmp_path}/set", "memory://set", "memory://one.npy", *chained):
        np.testing.assert_array_equal(np.asarray(open_features(url).values), make().values)
    for url in (f"file://{tmp_path}/one.labels.npy", "memory://one.labels.npy"):
        np.testing.assert_array_equal(open_features(tmp_path / "set", labels=url).labels, make().labels)
    with pytest.raises(FileNotFoundError):
        open_features("memory://nothing")


def test_commands_read_urls_and_what_lies_beside(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fsspec = pytest.importorskip("fsspec", reason="fsspec is not installed")
    clear.save_features(make(), tmp_path / "url.npz")
    fsspec.filesystem("memory").put(str(tmp_path / "url.npz"), "/url.npz")
    fsspec.filesystem("memory").pipe("/url.views.npz", b"none of views")
    assert main(["plan", "memory://url.npz", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["n_samples"] == N
    assert main(["scan", f"file://{tmp_path}/url.npz"]) in (0, 1, 2)
    capsys.readouterr()
    assert main(["scan", "memory://url.npz"]) == 3
    assert "url.views.npz" in capsys.readouterr().err
    assert main(["scan", "memory://nothing.npz"]) == 3
    assert "memory://nothing.npz" in capsys.readouterr().err


class Web:
    """Files whose paths are whole URLs, as those of HTTP are; nothing can be listed."""

    def __init__(self) -> None:
        fsspec = pytest.importorskip("fsspec", reason="fsspec is not installed")
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        web = self

        class Files(fsspec.AbstractFileSystem):
            protocol = "web"
            cachable = False

            @classmethod
            def _strip_protocol(cls, path: str) -> str:
                return path

            def exists(self, path: str, **_: Any) -> bool:
                return path in web.files

            def isfile(self, path: str) -> bool:
                return True

            def get_file(self, path: str, place: str, **_: Any) -> None:
                web.asked.append(path)
                if web.files[path] == b"dropped":
                    raise BufferError("connection lost")  # of no kind that is expected
                Path(place).write_bytes(web.files[path])

        fsspec.register_implementation("web", Files, clobber=True)

    def put(self, folder: Path, url: str) -> None:
        self.files |= {f"{url}/{path.name}": path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def web() -> Web:
    return Web()


@pytest.mark.parametrize("stem", ["train", "a[1]*?"])
def test_what_lies_beside_a_url_is_asked_for_by_name(tmp_path: Path, web: Web, stem: str) -> None:
    wanted = make(ids=[f"s{i}" for i in range(N)], class_names=("a", "b", "c"), predictions=[1] * N)
    clear.save_features(wanted, tmp_path / "train.npy")
    (tmp_path / "train.views.npz").write_bytes(b"views")
    web.put(tmp_path, "web://host//deep")
    web.files = {url.replace("train", stem): data for url, data in web.files.items()}
    found = open_features(f"web://host//deep/{stem}.npy")
    for name in ("labels", "ids", "predictions"):
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name))
    assert (found.class_names, found.source) == (wanted.class_names, f"web://host//deep/{stem}.npy")
    assert set(web.asked) == set(web.files)


def test_globs_in_a_name_lose_nothing_that_lies_beside(tmp_path: Path) -> None:
    memory = pytest.importorskip("fsspec", reason="fsspec is not installed").filesystem("memory")
    clear.save_features(make(ids=[f"s{i}" for i in range(N)]), tmp_path / "a[1].npy")
    for path in tmp_path.iterdir():
        memory.pipe(f"/globs/{path.name}", path.read_bytes())
    assert open_features("memory://globs/a[1].npy").ids[3] == "s3"


def test_a_listing_that_leads_out_of_the_folder_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = pytest.importorskip("fsspec", reason="fsspec is not installed").filesystem("memory")
    memory.pipe("/listed/manifest.json", b"{}")
    for listed in ("/listed/../../outside.npy", "elsewhere.npy"):
        monkeypatch.setattr(type(memory), "find", lambda *_, listed=listed, **__: [listed])
        with pytest.raises(ClearError, match="memory://listed: cannot be copied: .* is not in"):
            open_features("memory://listed")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("web://host/train.npz", "web://host/train.npz: cannot be copied: connection lost"),
        ("nosuch://host/train.npz", "nosuch://host/train.npz: cannot be copied: Protocol not known: nosuch"),
    ],
)
def test_what_cannot_be_copied_is_refused_input(
    web: Web, capsys: pytest.CaptureFixture[str], url: str, message: str
) -> None:
    web.files["web://host/train.npz"] = b"dropped"
    assert main(["plan", url]) == 3
    assert capsys.readouterr().err == f"clear-pockets: {message}\n"
    with pytest.raises(ClearError, match=message):
        open_features(url)


def test_options_are_checked_before_anything_is_copied(tmp_path: Path, web: Web, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    web.files["web://host/train.npz"] = b"dropped"
    url = "web://host/train.npz"
    for words, status in (
        (["scan", url, "--probes", "3"], 64),
        (["scan", url, "--images", url], 64),
        (["scan", url, "--max-memory", "lots"], 3),
        (["scan", url, "--piece-rows", "none"], 64),
        (["scan", url, "--config", "none.toml"], 3),
        (["probe", url, url, "--probes", "3"], 64),
        (["plan", url, "--probes", "3"], 64),
        (["check", "none.json", url], 3),
        (["features", "net.safetensors", url, "--architecture", "x", "--out", "x.npz", "--engine", "ray"], 64),
    ):
        assert main(words) == status
    assert web.asked == []


def test_commands_name_the_url_that_they_read_and_copy_it_once(
    tmp_path: Path, web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    clear.save_features(make(), tmp_path / "train.npz")
    web.put(tmp_path, "web://host")
    seen: list[Any] = []

    def keep(opened: Features, **options: Any) -> Any:
        seen.append((opened.source, len(opened)))
        raise ValueError("enough")

    monkeypatch.setattr("clear.detect.scan", keep)
    for _ in range(2):
        assert main(["scan", "web://host/train.npz"]) == 3
    assert seen == [("web://host/train.npz", N)] * 2
    assert web.asked == ["web://host/train.npz"] * 2
    opened, place = read_features("web://host/train.npz")
    assert (opened.source, place.read_bytes()) == ("web://host/train.npz", (tmp_path / "train.npz").read_bytes())


def test_no_writer_takes_a_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    features = Features.from_arrays(np.random.default_rng(0).normal(size=(60, 4)), np.arange(60) % 2)
    found = clear.scan(features)
    for write_it in (
        lambda: save_features(features, "memory://bucket/x"),
        lambda: save_features(features, "simplecache::s3://bucket/x.npz"),
        lambda: save_features(features, Path("memory://x.npy")),
        lambda: clear.scan(features, workdir="memory://work"),
        lambda: clear.Guard.fit(features).save("memory://guard"),
        lambda: clear.export_scores(found, "memory://export"),
        lambda: clear.write_report(found, "memory://report"),
        lambda: require_writable("memory:"),
    ):
        with pytest.raises(ValueError, match=r"is a URL: results are written to local files; write there, and copy"):
            write_it()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_called_like_a_scheme_is_no_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "exp:").mkdir()
    for path in ("exp:/set", Path("exp:/one.npy")):
        save_features(make(), path)
        found = open_features(path)
        assert (len(found), found.source) == (N, str(path))
    with pytest.raises(ValueError, match="exp://set is a URL"):
        require_writable("exp://set")


def test_a_data_set_saved_by_hugging_face_is_opened(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    columns = {"embedding": make().values.tolist(), "label": make().labels.tolist()}
    datasets.Dataset.from_dict(columns).save_to_disk(str(tmp_path / "hf"))
    np.testing.assert_allclose(open_features(tmp_path / "hf").values, make().values)


# ---- hostile stores -------------------------------------------------------------------------------------------------

Damage = Callable[[Path, np.random.Generator], None]


def change_manifest(folder: Path, change: Callable[[Any], object]) -> None:
    """Change the manifest and give it the digest that fits, as an attacker would."""
    path = folder / "manifest.json"
    document = json.loads(path.read_text())
    del document["digest"]
    change(document)
    _documents.write_document(path, document)


def cut(name: str, share: float) -> Damage:
    return lambda folder, _: os.truncate(folder / name, int(share * (folder / name).stat().st_size))


def flip(name: str) -> Damage:
    def damage(folder: Path, rng: np.random.Generator) -> None:
        data = bytearray((folder / name).read_bytes())
        data[rng.integers(len(data))] ^= 1 << rng.integers(8)
        (folder / name).write_bytes(data)

    return damage


def swap(name: str, array: np.ndarray) -> Damage:
    """Another array, with hash and length that fit: only its shape, type or values are wrong."""

    def damage(folder: Path, _: np.random.Generator) -> None:
        np.save(folder / name, array)
        role, number = name.removesuffix(".npy").split("-")

        def fit(document: dict[str, Any]) -> None:
            entry = document["shards"][int(number)]["files"][role]
            entry |= {"sha256": sha256(folder / name), "bytes": (folder / name).stat().st_size}

        change_manifest(folder, fit)

    return damage


def setting(key: str, value: object, *where: Any) -> Damage:
    """Set an entry of the manifest, or of what `where` leads to in it."""

    def change(document: Any) -> None:
        for step in where:
            document = document[step]
        document[key] = value

    return lambda folder, _: change_manifest(folder, change)


def file_cases() -> Iterator[tuple[str, Damage]]:
    for name in (f"{role}-0000{i}.npy" for i in range(4) for role in ("values", "labels", "ids", "predictions")):
        for share in (0, 0.3, 0.95):
            yield f"{name} cut to {share:.0%}", cut(name, share)
        yield (
            f"{name} longer",
            lambda folder, _, name=name: os.truncate(folder / name, (folder / name).stat().st_size + 1),
        )
        yield f"{name} missing", lambda folder, _, name=name: (folder / name).unlink()
        for i in range(3):
            yield f"{name} flipped {i}", flip(name)
    for i in range(20):
        yield f"manifest flipped {i}", flip("manifest.json")
        yield f"manifest cut {i}", cut("manifest.json", i / 20)
    yield "manifest of a gigabyte", lambda folder, _: os.truncate(folder / "manifest.json", 1 << 30)
    yield "brackets without end", lambda folder, _: (folder / "manifest.json").write_bytes(b"[" * 10**6)
    yield "manifest that is a list", lambda folder, _: (folder / "manifest.json").write_bytes(b"[]")


def array_cases() -> Iterator[tuple[str, Damage]]:
    rows = np.zeros((16, D), np.float32)
    for value in (np.nan, np.inf, -np.inf):
        bad = rows.copy()
        bad[3, 2] = value
        yield f"{value} in the values", swap("values-00001.npy", bad)
    yield "wide values", swap("values-00001.npy", np.zeros((16, D + 1), np.float32))
    yield "half values", swap("values-00001.npy", rows.astype(np.float16))
    yield "flat values", swap("values-00001.npy", rows.ravel())
    yield "values by column", swap("values-00001.npy", np.asfortranarray(rows))
    yield "big-endian values", swap("values-00001.npy", rows.astype(">f4"))
    yield "integers for values", swap("values-00001.npy", rows.astype(np.int32))
    yield "float labels", swap("labels-00002.npy", np.zeros(16))
    yield "negative labels", swap("labels-00002.npy", np.full(16, -1))
    yield "labels in columns", swap("labels-00002.npy", np.zeros((16, 1), np.int64))
    yield "ids twice", swap("ids-00000.npy", np.zeros(16, np.int64))
    yield "float ids", swap("ids-00000.npy", np.zeros(16))


MANIFEST_VALUES = {
    "rows": (-1, 0, 10**15, 49, 51, "50", 50.0, None),
    "width": (0, -6, 10**9, 7, True),
    "dtype": ("O", "float8", [], None),
    "shards": ([], {}, None, [None], [{}], 7),
    "class_names": (3, ["a", 1], []),
    "first": (-1, 1, "0", 2**60, None),
    "source": (1,),
    "made_by": (1,),
    "schema": ("clear-features/99", None),
}
SHARD_VALUES = {"rows": (0, -16, 2**50, 17, None), "files": ({}, None, {"values": 1})}
FILE_VALUES = {
    "file": ("../values-00001.npy", "/etc/passwd", "values-00002.npy", None, 3),
    "bytes": (0, -1, 2**60, "9", None),
    "sha256": ("0" * 64, "", None, "Z" * 64),
}


def manifest_cases() -> Iterator[tuple[str, Damage]]:
    """Entries of the manifest that are wrong, under a digest that is right."""
    for values, where in (
        (MANIFEST_VALUES, ()),
        (SHARD_VALUES, ("shards", 1)),
        (FILE_VALUES, ("shards", 1, "files", "values")),
    ):
        for key, wrong in values.items():
            yield from ((f"{key} is {value!r} in {where}", setting(key, value, *where)) for value in wrong)


def test_hostile_stores_are_refused_quickly_without_memory_and_the_file_is_named(tmp_path: Path) -> None:
    features = make(ids=np.arange(N)[::-1].copy(), predictions=[1] * N)
    good = write(tmp_path / "good", features)
    originals = {path.name: path.read_bytes() for path in good.iterdir()}
    every = [*file_cases(), *array_cases(), *manifest_cases()]
    assert len(every) >= 200
    rng = np.random.default_rng(0)
    quiet, unnamed, greedy = [], [], []
    folder = tmp_path / "bad"
    folder.mkdir()
    for name, damage in every:
        for path in folder.iterdir():
            path.unlink()
        for file, data in originals.items():
            (folder / file).write_bytes(data)
        damage(folder, rng)
        tracemalloc.start()
        try:
            np.asarray(open_features(folder).values)
        except (UnsafeFile, ValueError, TypeError, OSError) as error:
            said = str(error)
            if not any(part in said for part in (str(folder), "ids repeat", "labels[")):
                unnamed.append((name, said))
        else:
            quiet.append(name)
        if tracemalloc.get_traced_memory()[1] > 16 << 20:
            greedy.append(name)
        tracemalloc.stop()
    assert (quiet, unnamed, greedy) == ([], [], [])
