"""Damaged, lying and malicious files are refused in one line that names them, quickly, and without running anything."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import threading
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from clear import UnsafeFile, _files
from clear.data import open_features
from clear.images import open_images

VALUES = np.arange(32, dtype=np.float32).reshape(8, 4)
LABELS = np.arange(8) % 2
ALLOCATION_LIMIT = 32 << 20


def npy_bytes(array: np.ndarray = VALUES) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def npz_bytes(**arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def npy_with_header(text: str | bytes, data: bytes = bytes(128), version: int = 1, length: int | None = None) -> bytes:
    header = text.encode("latin-1") if isinstance(text, str) else text
    size = len(header) if length is None else length
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<I", size) + header + data


def plain_header(descr: str = "'<f4'", order: str = "False", shape: str = "(8, 4)") -> str:
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n"


def npz_with_member(name: str, data: bytes, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        archive.writestr(name, data)
        archive.writestr("labels.npy", npy_bytes(LABELS))
    return buffer.getvalue()


def zip_bomb(declared: int) -> bytes:
    """A member whose declared size is patched in both directories, and whose header agrees with it."""
    header = npy_with_header(plain_header(shape=f"({(declared - 128) // 4},)").ljust(118), b"")
    data = npz_with_member("features.npy", header + bytes(1 << 20))
    size = struct.pack("<I", len(header) + (1 << 20))
    return data.replace(size, struct.pack("<I", declared))


def encrypted_flag(data: bytes) -> bytes:
    """Set the flag "encrypted" of every member, in the central directory and beside the data."""
    patched = bytearray(data)
    for signature, offset in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        start = patched.find(signature)
        while start >= 0:
            patched[start + offset] |= 1
            start = patched.find(signature, start + 4)
    return bytes(patched)


def flipped(data: bytes, position: int) -> bytes:
    return data[:position] + bytes([data[position] ^ 0xFF]) + data[position + 1 :]


def doubled_member() -> bytes:
    """Two members of the same name; the second name is patched in, as zipfile would warn."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("features.npy", npy_bytes())
        archive.writestr("featurez.npy", npy_bytes())
    return buffer.getvalue().replace(b"featurez", b"features")


def npy_cases() -> Iterator[tuple[str, bytes]]:
    whole = npy_bytes()
    for size in (0, 1, 5, 6, 7, 8, 9, 10, 11, 64, 127, 128, 129, len(whole) - 1):
        yield f"cut to {size} bytes", whole[:size]
    yield "one byte too many", whole + b"\0"
    yield "a megabyte too many", whole + bytes(1 << 20)
    yield "random bytes", np.random.default_rng(0).bytes(4096)
    yield "random bytes after the magic", b"\x93NUMPY" + np.random.default_rng(1).bytes(4096)
    yield "random bytes for a header", npy_with_header(np.random.default_rng(2).bytes(118))
    yield "object array", npy_bytes(np.array([{"a": 1}], dtype=object))
    yield "structured dtype", npy_bytes(np.zeros(4, dtype=[("a", "f4")]))
    yield "dtype O in a plain header", npy_with_header(plain_header("'|O'"))
    yield "complex numbers", npy_bytes(VALUES.astype(complex))
    yield "raw bytes dtype", npy_with_header(plain_header("'|V4'"))
    yield "unknown dtype", npy_with_header(plain_header("'<f3'"))
    yield "zero-width text", npy_with_header(plain_header("'<U0'"))
    yield "negative side", npy_with_header(plain_header(shape="(-8, -4)"))
    yield "expression for a shape", npy_with_header(plain_header(shape="(2**70,)"))
    yield "shape that overflows to the right size", npy_with_header(plain_header(shape=f"({2**61 + 8}, 4)"))
    yield "empty but huge shape", npy_with_header(plain_header(shape=f"(0, {2**61})"), b"")
    yield "a terabyte", npy_with_header(plain_header(shape=f"({2**36}, 4)"))
    yield "side with 19 digits", npy_with_header(plain_header(shape=f"({10**19},)"))
    yield "nine dimensions", npy_with_header(plain_header(shape="(1,1,1,1,1,1,1,8,4)"))
    yield "call in the header", npy_with_header("__import__('os').abort()\n")
    yield "call for a shape", npy_with_header(plain_header(shape="(__import__('os').abort(),)"))
    yield "ten thousand brackets", npy_with_header("(" * 10_000)
    yield "ten thousand spaces in a shape", npy_with_header(plain_header(shape="(" + " " * 10_000 + "8"))
    yield "extra key", npy_with_header("{'descr': '<f4', 'fortran_order': False, 'shape': (8, 4), 'x': 1, }\n")
    yield "repeated key", npy_with_header("{'descr': '<f4', 'descr': '|O', 'shape': (8, 4), }\n")
    yield "missing key", npy_with_header("{'descr': '<f4', 'shape': (8, 4), }\n")
    yield "number for the order", npy_with_header(plain_header(order="0"))
    yield "two order flags for a shape", npy_with_header(plain_header(shape="True"))
    yield "header longer than the file", npy_with_header(plain_header(), length=60_000)
    yield "header of four gigabytes", npy_with_header(plain_header(), version=2, length=2**32 - 1)
    yield "header of a megabyte", npy_with_header(plain_header() + " " * (1 << 20), version=2)
    yield "version nine", npy_with_header(plain_header(), version=9)
    yield "text beyond Unicode", npy_with_header(plain_header("'<U4'", shape="(8,)"), b"\xff" * 128)
    yield "pickle", b"\x80\x04cos\nsystem\n(S'true'\ntR."


def npz_cases() -> Iterator[tuple[str, bytes]]:
    whole = npz_bytes(features=VALUES, labels=LABELS)
    for size in (0, 1, 4, 30, 60, len(whole) // 2, len(whole) - 22, len(whole) - 1):
        yield f"cut to {size} of {len(whole)} bytes", whole[:size]
    yield "random bytes", np.random.default_rng(3).bytes(4096)
    yield "random bytes with zip magic", b"PK\x03\x04" + np.random.default_rng(4).bytes(4096)
    yield "byte flipped in the data", flipped(whole, 120)
    stored = npz_with_member("features.npy", npy_bytes(), zipfile.ZIP_STORED)
    yield "byte flipped in the checksum", flipped(stored, stored.index(b"PK\x01\x02") + 16)
    yield "byte flipped in stored data", flipped(stored, stored.index(VALUES.tobytes()) + 9)
    yield "object array", npz_bytes(features=np.array([{"a": 1}], dtype=object), labels=LABELS)
    yield "member that is no array", npz_with_member("features.npy", b"hello")
    yield "member cut short", npz_with_member("features.npy", npy_bytes()[:-1])
    yield "member too long", npz_with_member("features.npy", npy_bytes() + b"\0")
    yield (
        "member that declares a terabyte",
        npz_with_member("features.npy", npy_with_header(plain_header(shape=f"({2**36}, 4)"))),
    )
    yield "bomb that declares two gigabytes", zip_bomb(2 << 30)
    yield "bomb that declares four gigabytes", zip_bomb(2**32 - 16)
    yield "declares more than it unpacks to", zip_bomb(8 << 20)
    yield "encrypted", encrypted_flag(whole)
    yield "two members of one name", doubled_member()
    yield "compression that is not known", npz_with_member("features.npy", npy_bytes(), zipfile.ZIP_BZIP2)
    yield "plain npy under this name", npy_bytes()


def check_refused(path: Path, load: Callable[[Path], object], error: type[Exception] = UnsafeFile) -> None:
    """Loading raises one line that names the file, and allocates next to nothing."""
    tracemalloc.start()
    try:
        with pytest.raises(error) as caught:
            load(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert path.name in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000
    assert peak < path.stat().st_size + ALLOCATION_LIMIT


def identified(cases: Iterator[tuple[str, bytes]]) -> list:
    return [pytest.param(data, id=name) for name, data in cases]


def open_npy(path: Path) -> object:
    return open_features(path, labels=LABELS)


@pytest.mark.parametrize("data", identified(npy_cases()))
def test_a_hostile_npy_file_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "hostile.npy"
    path.write_bytes(data)
    check_refused(path, open_npy)


def test_the_npy_file_that_the_hostile_ones_are_made_from_is_accepted(tmp_path: Path) -> None:
    for name, data in (("a", npy_bytes()), ("b", npy_with_header(plain_header(), VALUES.tobytes()))):
        (tmp_path / f"{name}.npy").write_bytes(data)
        np.testing.assert_array_equal(open_features(tmp_path / f"{name}.npy", labels=LABELS).values, VALUES)
    (tmp_path / "c.npz").write_bytes(npz_with_member("features.npy", npy_bytes()))
    np.testing.assert_array_equal(open_features(tmp_path / "c.npz").values, VALUES)


@pytest.mark.parametrize("data", identified(npz_cases()))
def test_a_hostile_npz_file_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "hostile.npz"
    path.write_bytes(data)
    check_refused(path, open_features)
    check_refused(path, open_images, ValueError)


@pytest.mark.parametrize("name", ["labels", "ids", "predictions", "class_names"])
def test_a_hostile_sibling_is_refused_too(tmp_path: Path, name: str) -> None:
    np.save(tmp_path / "x.npy", VALUES)
    np.save(tmp_path / "x.labels.npy", LABELS)
    path = tmp_path / f"x.{name}.npy"
    path.write_bytes(npy_bytes(np.array([{"a": 1}], dtype=object)))
    with pytest.raises(UnsafeFile, match=rf"x\.{name}\.npy: has an NPY header|x\.{name}\.npy: has dtype"):
        open_features(tmp_path / "x.npy")


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".parquet"])
def test_directories_and_pipes_are_refused_at_once(tmp_path: Path, suffix: str) -> None:
    import os

    (tmp_path / f"folder{suffix}").mkdir()
    os.mkfifo(tmp_path / f"pipe{suffix}")
    if suffix == ".parquet":
        pytest.importorskip("pyarrow", reason="the data extra is not installed")
    for path in sorted(tmp_path.iterdir()):
        # A pipe without a writer would block for ever: ask in a thread that may be left behind.
        faults: list[Exception] = []

        def ask(path: Path = path, faults: list[Exception] = faults) -> None:
            try:
                open_features(path, labels=LABELS)
            except UnsafeFile as error:
                faults.append(error)

        thread = threading.Thread(target=ask, daemon=True)
        thread.start()
        thread.join(20)
        assert len(faults) == 1
        assert "want a regular file" in str(faults[0])


class TestParquet:
    arrow = pytest.importorskip("pyarrow", reason="the data extra is not installed")

    @pytest.fixture
    def whole(self, tmp_path: Path) -> bytes:
        import pyarrow.parquet as parquet

        images = self.arrow.array([{"bytes": b"x" * 500, "path": None}] * 8)
        table = self.arrow.table({"embedding": list(VALUES), "label": LABELS, "img": images})
        parquet.write_table(table, tmp_path / "whole.parquet", compression="none", use_dictionary=False)
        return (tmp_path / "whole.parquet").read_bytes()

    @pytest.mark.parametrize("share", [0.0, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 0.999])
    def test_truncated_parquet_is_refused(self, tmp_path: Path, whole: bytes, share: float) -> None:
        path = tmp_path / "hostile.parquet"
        path.write_bytes(whole[: int(share * len(whole))])
        check_refused(path, open_features)
        check_refused(path, open_images)

    def test_random_bytes_are_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "hostile.parquet"
        for data in (np.random.default_rng(5).bytes(4096), b"PAR1" + np.random.default_rng(6).bytes(4096) + b"PAR1"):
            path.write_bytes(data)
            check_refused(path, open_features)

    def test_footer_that_claims_more_than_the_file_is_refused(self, tmp_path: Path, whole: bytes) -> None:
        path = tmp_path / "hostile.parquet"
        path.write_bytes(whole[:-8] + struct.pack("<I", 2**31 - 1) + b"PAR1")
        check_refused(path, open_features)

    def test_overwritten_pages_are_refused(self, tmp_path: Path, whole: bytes) -> None:
        path = tmp_path / "hostile.parquet"
        path.write_bytes(whole[:4] + b"\xff" * 120 + whole[124:])
        check_refused(path, open_features)

    def test_no_damaged_footer_takes_the_process_down(self, tmp_path: Path) -> None:
        # pyarrow aborts on some damaged column metadata when it is asked for; a process of its own survives to tell.
        import pyarrow.parquet as parquet

        parquet.write_table(self.arrow.table({"embedding": list(VALUES), "label": LABELS}), tmp_path / "x.parquet")
        code = (
            "import sys, pathlib, clear, clear.data\n"
            "path = pathlib.Path(sys.argv[1]); whole = path.read_bytes(); refused = 0\n"
            "start = len(whole) - 8 - int.from_bytes(whole[-8:-4], 'little')\n"
            "for i in range(start, start + 120):\n"
            "    path.write_bytes(whole[:i] + bytes([whole[i] ^ 16]) + whole[i + 1:])\n"
            "    try: clear.data.open_features(path)\n"
            "    except ValueError: refused += 1\n"
            "print(refused)"
        )
        command = [sys.executable, "-c", code, str(tmp_path / "x.parquet")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert int(done.stdout) > 20

    def test_a_parquet_bomb_is_refused(self, tmp_path: Path, monkeypatch) -> None:
        import pyarrow.parquet as parquet

        path = tmp_path / "bomb.parquet"
        flat = self.arrow.array(np.zeros(16 << 20, np.float32))
        vectors = self.arrow.FixedSizeListArray.from_arrays(flat, 1 << 16)
        table = self.arrow.table({"embedding": vectors, "label": np.zeros(len(vectors), int)})
        parquet.write_table(table, path, compression="zstd")
        assert path.stat().st_size < 1 << 17
        assert open_features(path).values.shape == (256, 1 << 16)  # small enough to be harmless
        monkeypatch.setattr(_files, "EXPANSION_FREE", 32 << 20)
        check_refused(path, open_features)


class TestWeights:
    torch = pytest.importorskip("torch", reason="the torch extra is not installed")

    def load(self, path: Path) -> object:
        from clear.models import load_model

        return load_model(path, "digits_cnn")

    def weights(self) -> dict:
        from clear.architectures import digits_cnn

        return digits_cnn().state_dict()

    @pytest.mark.parametrize("size", [0, 4, 8, 9, 100, 1000, -1000, -1])
    def test_truncated_safetensors_is_refused(self, tmp_path: Path, size: int) -> None:
        from safetensors.torch import save

        path = tmp_path / "hostile.safetensors"
        path.write_bytes(save(self.weights())[:size])
        check_refused(path, self.load)

    @pytest.mark.parametrize(
        "data",
        [
            struct.pack("<Q", 2**62) + b"{}",
            struct.pack("<Q", 2) + b"{]",
            struct.pack("<Q", 90_000_000) + b"{}",
            struct.pack("<Q", 66) + b'{"linear.weight":{"dtype":"F32","shape":[9],"data_offsets":[0,9]}}' + bytes(9),
            struct.pack("<Q", 75) + b'{"linear.weight":{"dtype":"F32","shape":[99999999999],"data_offsets":[0,4]}}',
            np.random.default_rng(7).bytes(4096),
        ],
        ids=["huge header", "broken JSON", "header beyond the end", "shape that disagrees", "huge shape", "random"],
    )
    def test_lying_safetensors_is_refused(self, tmp_path: Path, data: bytes) -> None:
        path = tmp_path / "hostile.safetensors"
        path.write_bytes(data)
        check_refused(path, self.load)

    @pytest.mark.parametrize("suffix", [".pt", ".pth"])
    @pytest.mark.parametrize("zipped", [True, False], ids=["archive", "legacy"])
    def test_a_malicious_pickle_is_refused_and_does_not_run(self, tmp_path: Path, suffix: str, zipped: bool) -> None:
        marker = tmp_path / "it ran"

        class Malicious:
            def __reduce__(self) -> tuple:
                return (open, (str(marker), "w"))

        path = tmp_path / f"hostile{suffix}"
        state = self.weights() | {"extra": Malicious()}
        self.torch.save(state, path, _use_new_zipfile_serialization=zipped)
        check_refused(path, self.load)
        assert not marker.exists()
        # The file is as dangerous as it claims: a loader that trusts it does run its code.
        self.torch.load(path, weights_only=False)["extra"].close()
        assert marker.exists()

    @pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.9, 0.999])
    def test_a_truncated_checkpoint_is_refused(self, tmp_path: Path, share: float) -> None:
        path = tmp_path / "hostile.pt"
        self.torch.save(self.weights(), path)
        data = path.read_bytes()
        path.write_bytes(data[: int(share * len(data))])
        check_refused(path, self.load)

    def test_a_whole_model_is_refused(self, tmp_path: Path) -> None:
        from clear.architectures import digits_cnn

        path = tmp_path / "hostile.pt"
        self.torch.save(digits_cnn(), path)
        check_refused(path, self.load)

    def test_an_old_torch_is_refused_naming_the_advisories(self, tmp_path: Path, monkeypatch) -> None:
        path = tmp_path / "weights.pt"
        self.torch.save(self.weights(), path)
        self.load(path)
        monkeypatch.setattr(self.torch, "__version__", "2.9.1+cu128")
        with pytest.raises(UnsafeFile, match=r"weights\.pt: torch 2\.9\.1.*CVE-2025-32434, CVE-2026-24747"):
            self.load(path)


class TestImages:
    image = pytest.importorskip("PIL.Image", reason="the data extra is not installed")
    arrow = pytest.importorskip("pyarrow", reason="the data extra is not installed")

    def open(self, path: Path, data: list[bytes | None], **options: bool) -> object:
        import pyarrow.parquet as parquet

        images = self.arrow.array([{"bytes": item, "path": None} for item in data], image_type(self.arrow))
        parquet.write_table(self.arrow.table({"img": images, "label": [0] * len(data)}), path / "x.parquet")
        return open_images(path / "x.parquet", **options)

    def png(self, side: int = 4, mode: str = "RGB") -> bytes:
        buffer = io.BytesIO()
        self.image.new(mode, (side, side)).save(buffer, format="PNG")
        return buffer.getvalue()

    def huge_png(self) -> bytes:
        """A valid header that declares 9,000 x 9,000 pixels, and hardly any data."""
        import zlib

        def chunk(kind: bytes, body: bytes) -> bytes:
            return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

        header = struct.pack(">IIBBBBB", 9000, 9000, 8, 2, 0, 0, 0)
        return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")

    def test_unreadable_images_are_named_by_row(self, tmp_path: Path) -> None:
        bad = {
            "cut": self.png(64)[:40], "random": np.random.default_rng(8).bytes(500), "empty": b"", "absent": None,
            "script": b"%!PS-Adobe-3.0 EPSF-3.0\n", "bomb": self.huge_png(), "16 bits": self.png(mode="I;16"),
        }  # fmt: skip
        dataset = self.open(tmp_path, [self.png(), *bad.values()])
        assert dataset[0][0].shape == (4, 4, 3)
        for row, name in enumerate(bad, start=1):
            with pytest.raises(UnsafeFile, match=rf"x\.parquet: .*row {row}\b") as caught:
                dataset[row]
            assert "\n" not in str(caught.value), name

    def test_a_bomb_is_refused_by_its_declared_size(self, tmp_path: Path) -> None:
        with pytest.raises(UnsafeFile, match="row 0 has 9000 x 9000 pixels: want at most 64000000"):
            self.open(tmp_path, [self.huge_png()])[0]

    def test_unreadable_images_are_quarantined_when_asked(self, tmp_path: Path) -> None:
        dataset = self.open(tmp_path, [self.png(), b"junk", self.png(), None], quarantine=True)
        assert len(dataset) == len(list(dataset)) == 2
        assert dataset.ids.tolist() == [0, 2]
        assert [row for row, _ in dataset.quarantined] == [1, 3]


def image_type(arrow) -> object:
    return arrow.struct([("bytes", arrow.binary()), ("path", arrow.string())])
