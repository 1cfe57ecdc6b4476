"""From a model and a data set to features: every kind of data set gives the same rows; the model stays as it was."""

from __future__ import annotations

import io
import json
import os
import threading
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the torch extra is not installed")

from torch import nn  # noqa: E402
from torch.utils.data import DataLoader, Dataset, RandomSampler, TensorDataset  # noqa: E402

from clear import BackendUnavailable  # noqa: E402
from clear._batches import Source  # noqa: E402
from clear.architectures import digits_cnn  # noqa: E402
from clear.data import open_features  # noqa: E402
from clear.extraction import _hash_data, extract_to_store  # noqa: E402
from clear.features import extract_features, iterate_batches, predict  # noqa: E402
from clear.images import ImageDataset, open_images  # noqa: E402

pytestmark = pytest.mark.torch

N = 23


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return digits_cnn()


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (N, 8, 8, 1), dtype=np.uint8)


@pytest.fixture
def labels() -> np.ndarray:
    return np.arange(N) % 10


@pytest.fixture
def images(tmp_path: Path, pixels: np.ndarray, labels: np.ndarray) -> ImageDataset:
    np.savez(tmp_path / "x.npz", images=pixels, labels=labels)
    return open_images(tmp_path / "x.npz")


def write_images(path: Path, pixels: np.ndarray, labels: np.ndarray) -> Path:
    """Parquet of PNGs in row groups of 5, with the metadata that Hugging Face writes."""
    arrow = pytest.importorskip("pyarrow", reason="the data extra is not installed")
    image = pytest.importorskip("PIL.Image", reason="the data extra is not installed")
    import pyarrow.parquet as parquet

    rows = []
    for item in pixels:
        buffer = io.BytesIO()
        image.fromarray(item[:, :, 0]).save(buffer, format="PNG")
        rows.append({"bytes": buffer.getvalue(), "path": None})
    names = ", ".join(f'"digit {i}"' for i in range(10))
    features = f'{{"img": {{"_type": "Image"}}, "digit": {{"names": [{names}], "_type": "ClassLabel"}}}}'
    kind = arrow.struct([("bytes", arrow.binary()), ("path", arrow.string())])
    table = arrow.table({"img": arrow.array(rows, kind), "digit": labels, "name": [f"n{i}" for i in range(len(rows))]})
    table = table.replace_schema_metadata({"huggingface": f'{{"info": {{"features": {features}}}}}'})
    parquet.write_table(table, path / "images.parquet", row_group_size=5)
    return path / "images.parquet"


def expected(model: nn.Module, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Penultimate features and predictions, computed without hooks and batches."""
    inputs = torch.from_numpy(pixels.transpose(0, 3, 1, 2).astype(np.float32) / 255 - 0.5) / 0.5
    with torch.no_grad():
        x = model.conv2(model.conv1(inputs).relu()).relu()
        x = model.fc(nn.functional.max_pool2d(x, 2).flatten(1)).relu()
        return x.numpy(), model.linear(x).argmax(1).numpy()


def as_tensors(pixels: np.ndarray, labels: np.ndarray) -> TensorDataset:
    inputs = torch.from_numpy(pixels.transpose(0, 3, 1, 2).astype(np.float32) / 255 - 0.5) / 0.5
    return TensorDataset(inputs, torch.from_numpy(labels))


class Targets(Dataset):
    """A torch data set whose `targets` are not the labels that its items have."""

    def __init__(self, pixels: np.ndarray, classes: np.ndarray, targets: list[object]) -> None:
        self.pixels, self.classes, self.targets = pixels, classes, targets

    def __len__(self) -> int:
        return len(self.classes)

    def __getitem__(self, i: int) -> tuple[np.ndarray, int]:
        return self.pixels[i], int(self.classes[i])


class Items(Dataset):
    """A torch data set of uint8 images."""

    def __init__(self, pixels: np.ndarray, labels: np.ndarray) -> None:
        self.pixels, self.labels = pixels, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[np.ndarray, int]:
        return self.pixels[i], int(self.labels[i])


def make(kind: str, path: Path, pixels: np.ndarray, labels: np.ndarray) -> object:
    if kind == "parquet":
        return open_images(write_images(path, pixels, labels))
    if kind == "hugging face":
        datasets = pytest.importorskip("datasets", reason="the hf extra is not installed")
        return datasets.Dataset.from_parquet(str(write_images(path, pixels, labels)), cache_dir=str(path / "cache"))
    if kind == "npz":
        np.savez(path / "x.npz", images=pixels, labels=labels)
        return open_images(path / "x.npz")
    tensors = as_tensors(pixels, labels)
    return {
        "data set of images": Items(pixels, labels),
        "data set of tensors": tensors,
        "loader of tensors": DataLoader(tensors, batch_size=4),
        "loader of images": DataLoader(Items(pixels, labels), batch_size=4),
        "arrays": (pixels, labels),
        "tensors": tensors.tensors,
        "float64 array": (tensors.tensors[0].numpy().astype(np.float64), labels),
    }[kind]


KINDS = [
    "parquet", "npz", "hugging face", "data set of images", "data set of tensors", "loader of tensors",
    "loader of images", "arrays", "tensors", "float64 array",
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_data_set_gives_the_same_features(tmp_path, model, pixels, labels, kind) -> None:
    features = extract_features(model, make(kind, tmp_path, pixels, labels), batch_size=7)
    values, predictions = expected(model, pixels)
    np.testing.assert_allclose(features.values, values, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(features.labels, labels)
    np.testing.assert_array_equal(features.predictions, predictions)
    assert features.values.dtype == np.float32


@pytest.mark.parametrize("batch_size", [1, 5, N, 1000])
def test_the_batch_size_does_not_matter(model, images, batch_size) -> None:
    one = extract_features(model, images, batch_size=4)
    other = extract_features(model, images, batch_size=batch_size)
    np.testing.assert_allclose(one.values, other.values, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(predict(model, images, batch_size=batch_size), one.predictions)


def test_a_named_layer_is_taken_and_averaged_over_space(model, pixels, labels) -> None:
    dataset = as_tensors(pixels, labels)
    with torch.no_grad():
        maps = model.conv2(model.conv1(dataset.tensors[0]).relu())
    features = extract_features(model, dataset, layer="conv2", batch_size=6)
    np.testing.assert_allclose(features.values, maps.mean((2, 3)).numpy(), rtol=1e-5, atol=1e-6)
    logits = extract_features(model, dataset, layer="linear")
    np.testing.assert_array_equal(logits.values.argmax(1), logits.predictions)


def test_tokens_are_averaged() -> None:
    inputs = torch.rand(5, 7, 3)
    net = nn.Sequential(nn.Identity(), nn.Flatten(), nn.Linear(21, 2))
    features = extract_features(net, (inputs, np.zeros(5, int)), layer="0")
    np.testing.assert_allclose(features.values, inputs.mean(1).numpy(), rtol=1e-6)


def test_a_following_layer_that_works_in_place_changes_nothing() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True), nn.Linear(4, 2))
    inputs = torch.randn(50, 4)
    features = extract_features(net, (inputs, np.zeros(50, int)), layer="0")
    assert (features.values < 0).any()


def test_half_precision_features_are_the_rounded_ones(model, images) -> None:
    full = extract_features(model, images)
    half = extract_features(model, images, dtype="float16")
    assert half.values.dtype == np.float16
    np.testing.assert_array_equal(half.values, full.values.astype(np.float16))


def test_unlabelled_inputs_carry_their_predictions_as_labels(model, pixels) -> None:
    features = extract_features(model, (pixels, None))
    np.testing.assert_array_equal(features.labels, expected(model, pixels)[1])


def test_modes_and_hooks_are_as_before(model, images) -> None:
    model.train()
    model.fc.eval()
    extract_features(model, images)
    with pytest.raises(ValueError, match="is not in the model"):
        extract_features(model, images, layer="nothing")

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract_features(model, images, progress=interrupt)
    assert model.training
    assert model.conv1.training
    assert not model.fc.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_progress_counts_up_to_the_number_of_samples(model, images) -> None:
    seen: list[tuple[str, int, int]] = []
    extract_features(model, images, batch_size=10, progress=lambda *counts: seen.append(counts))
    assert seen == [("features", 10, N), ("features", 20, N), ("features", N, N)]


def test_features_with_nan_name_the_layer_and_the_rows(model, pixels, labels) -> None:
    inputs, known = as_tensors(pixels, labels).tensors
    inputs[[9, 12]] = torch.nan
    with pytest.raises(ValueError, match=r"layer 'input of linear' gives nan or inf in float32 .*first: \[9, 12\]"):
        extract_features(model, (inputs, known), batch_size=8 + 1)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"layer": "fcc"}, ValueError, "layer 'fcc' is not in the model: .*'fc'"),
        ({"dtype": "float64"}, ValueError, 'want "float32" or "float16"'),
        ({"device": "cuda:7"}, BackendUnavailable, 'device="cuda:7": torch sees no such CUDA device'),
        ({"device": "gpu"}, ValueError, 'device="gpu": want "auto", "cpu" or "cuda"'),
        ({"device": "mps"}, ValueError, 'device="mps": want "auto", "cpu" or "cuda"'),
        ({"device": "xla"}, ValueError, 'device="xla"'),
        ({"device": "meta"}, ValueError, 'device="meta"'),
        ({"device": "cuda:x"}, ValueError, 'device="cuda:x"'),
        ({"batch_size": 0}, ValueError, "batch_size is 0"),
    ],
)
def test_bad_arguments_are_one_line(model, images, change, error, message) -> None:
    with pytest.raises(error, match=message) as caught:
        extract_features(model, images, **change)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("said", "error", "message"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), MemoryError, r"a batch of shape \(2, 3\) does not fit"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), MemoryError, "batch_size"),
        (RuntimeError("mat1 and mat2\ncannot be multiplied"), ValueError, r"shape \(2, 3\): mat1 and mat2 cannot be"),
        (NotImplementedError("no forward"), ValueError, r"does not take inputs of shape \(2, 3\): no forward"),
    ],
)
def test_what_torch_says_about_a_batch_is_one_line(said, error, message) -> None:
    class Fails(nn.Module):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            raise said

    with pytest.raises(error, match=message) as caught:
        predict(Fails(), (torch.zeros(2, 3), None))
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is said


def test_data_sets_that_would_mix_up_rows_are_refused(model, pixels, labels) -> None:
    tensors = as_tensors(pixels, labels)
    for loader in (
        DataLoader(tensors, shuffle=True),
        DataLoader(tensors, batch_size=5, drop_last=True),
        DataLoader(tensors, sampler=RandomSampler(tensors, num_samples=3)),
    ):
        with pytest.raises(ValueError, match="shuffles, samples or drops"):
            extract_features(model, loader)
    with pytest.raises(TypeError, match="dataset is a generator: want a data set with a length"):
        extract_features(model, (item for item in tensors))
    with pytest.raises(ValueError, match="dataset is empty"):
        extract_features(model, (pixels[:0], labels[:0]))


def test_images_need_to_know_their_preprocessing(pixels, labels) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    with pytest.raises(ValueError, match="inputs are uint8 images: pass preprocess"):
        extract_features(net, (pixels, labels))
    features = extract_features(
        net, (pixels, labels), preprocess=lambda images: images.reshape(len(images), -1) / 255.0
    )
    np.testing.assert_allclose(features.values, pixels.reshape(N, -1) / 255, rtol=1e-6)


def test_a_layer_that_runs_twice_or_never_is_refused() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.twice, self.never, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.twice(self.twice(x)))

    for layer, times in (("twice", 2), ("never", 0)):
        with pytest.raises(ValueError, match=f"layer '{layer}' ran {times} times for a batch of 3"):
            extract_features(Odd(), (torch.rand(3, 4), [0, 1, 0]), layer=layer)


def test_inputs_in_read_only_memory_are_taken_without_warnings(tmp_path, model, pixels, labels) -> None:
    inputs = as_tensors(pixels, labels).tensors[0].numpy()
    np.save(tmp_path / "inputs.npy", inputs)
    mapped = np.load(tmp_path / "inputs.npy", mmap_mode="r")
    features = extract_features(model, (mapped, labels), batch_size=10)
    np.testing.assert_allclose(features.values, expected(model, pixels)[0], rtol=1e-5, atol=1e-5)


class TestIterateBatches:
    def test_chosen_rows_come_in_their_order(self, images, pixels) -> None:
        order = np.random.default_rng(1).permutation(N)[:17]
        batches = list(iterate_batches(images, 5, lambda x: torch.from_numpy(x).float(), rows=order))
        assert [len(batch.rows) for batch in batches] == [5, 5, 5, 2]
        np.testing.assert_array_equal(np.concatenate([batch.rows for batch in batches]), order)
        np.testing.assert_array_equal(np.concatenate([batch.inputs.numpy() for batch in batches]), pixels[order])
        np.testing.assert_array_equal(np.concatenate([batch.labels for batch in batches]), images.labels[order])

    def test_rows_are_checked(self, images, pixels, labels) -> None:
        with pytest.raises(ValueError, match=rf"rows\[1\] is {N}"):
            list(iterate_batches(images, rows=[0, N]))
        with pytest.raises(ValueError, match="a DataLoader yields its own order"):
            list(iterate_batches(DataLoader(as_tensors(pixels, labels)), rows=[0]))

    def test_an_error_while_decoding_ahead_reaches_the_caller(self, tmp_path, pixels, labels) -> None:
        dataset = open_images(write_images(tmp_path, pixels, labels))
        dataset._store = open_images(write_images(tmp_path, pixels[:12], labels[:12]))._store
        with pytest.raises(Exception, match="out of bounds|damaged"):
            list(iterate_batches(dataset, 4, lambda x: torch.from_numpy(x).float()))


class TestImages:
    def test_parquet_images_come_with_names_labels_and_ids(self, tmp_path, pixels, labels) -> None:
        dataset = open_images(write_images(tmp_path, pixels, labels), id_column="name")
        assert len(dataset) == N
        assert dataset.class_names == tuple(f"digit {i}" for i in range(10))
        assert dataset.ids[3] == "n3"
        np.testing.assert_array_equal(dataset.labels, labels)
        for i in (22, 0, 4, 5, -1):  # across row groups, backwards and from the end
            np.testing.assert_array_equal(dataset[i][0], pixels[i])
            assert dataset[i][1] == labels[i]
        with pytest.raises(IndexError):
            dataset[N]

    def test_images_are_read_again_after_they_were_dropped(self, tmp_path, pixels, labels, monkeypatch) -> None:
        monkeypatch.setattr("clear._image_stores.CACHE_BYTES", 1)
        dataset = open_images(write_images(tmp_path, pixels, labels))
        for i in (0, 22, 0, 11):
            np.testing.assert_array_equal(dataset[i][0], pixels[i])
        assert len(dataset._store._groups) == 1

    def test_thumbnails_and_encoded_images_decode_to_the_pixels(self, tmp_path, pixels, labels, images) -> None:
        image = pytest.importorskip("PIL.Image", reason="the data extra is not installed")
        for dataset in (images, open_images(write_images(tmp_path, pixels, labels))):
            for data in (dataset.thumbnail_png(7), dataset.encoded(7)):
                np.testing.assert_array_equal(np.asarray(image.open(io.BytesIO(data))), pixels[7, :, :, 0])
        assert image.open(io.BytesIO(images.thumbnail_png(7, side=4))).size == (4, 4)

    @pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")  # what the test is about
    @pytest.mark.parametrize("method", ["fork", "spawn"])
    def test_worker_processes_see_the_same_images(self, tmp_path, pixels, labels, method) -> None:
        dataset = open_images(write_images(tmp_path, pixels, labels))
        np.testing.assert_array_equal(dataset[0][0], pixels[0])
        loader = DataLoader(dataset, batch_size=10, num_workers=1, multiprocessing_context=method)
        batches = list(loader)
        np.testing.assert_array_equal(np.concatenate([inputs for inputs, _ in batches]), pixels)

    @pytest.mark.parametrize(
        ("arrays", "message"),
        [
            ({"labels": [0]}, "has no array 'images'"),
            ({"images": np.zeros((2, 4, 4)), "labels": [0, 1]}, "images has dtype float64"),
            ({"images": np.zeros((2, 4, 4, 2), np.uint8), "labels": [0, 1]}, "want uint8"),
            ({"images": np.zeros((2, 4, 4), np.uint8), "labels": [0]}, r"labels has shape \(1,\): want \(2,\)"),
            ({"images": np.zeros((2, 4, 4), np.uint8), "labels": [0, 1], "ids": [3, 3]}, "ids repeat"),
            ({"images": np.zeros((2, 4, 4), np.uint8), "labels": [0, 1], "ids": [0.1, 1]}, "ids has dtype float64"),
        ],
    )
    def test_bad_arrays_are_one_line(self, tmp_path, arrays, message) -> None:
        np.savez(tmp_path / "x.npz", **arrays)
        with pytest.raises(ValueError, match=message) as caught:
            open_images(tmp_path / "x.npz")
        assert "\n" not in str(caught.value)

    def test_bad_columns_are_one_line(self, tmp_path, pixels, labels) -> None:
        path = write_images(tmp_path, pixels, labels)
        for options, message in (
            ({"image_column": "name"}, "column 'name' holds no encoded images"),
            ({"label_column": "nothing"}, "has no column 'nothing': want one of"),
            ({"label_column": "name"}, "dtype"),
        ):
            with pytest.raises((TypeError, ValueError), match=message) as caught:
                open_images(path, **options)
            assert "images.parquet" in str(caught.value)
        with pytest.raises(ValueError, match=r"suffix '\.zip' is not known"):
            open_images(tmp_path / "x.zip")


class TestExtractionToAStore:
    """Shard by shard; what was interrupted goes on."""

    def test_the_store_holds_what_one_pass_gives(self, tmp_path, model, images) -> None:
        whole = extract_features(model, images, batch_size=4)
        stored = extract_to_store(model, images, tmp_path / "set", batch_size=4, shard_rows=6)
        assert len(list((tmp_path / "set").glob("values-*.npy"))) == 3  # shards of 8: whole batches
        np.testing.assert_array_equal(np.asarray(stored.values), whole.values)
        for name in ("labels", "ids", "predictions"):
            np.testing.assert_array_equal(getattr(stored, name), getattr(whole, name))
        assert stored.class_names == whole.class_names

    @pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
    def test_half_precision_is_that_of_torch(self, tmp_path, model, images, dtype) -> None:
        whole = torch.from_numpy(extract_features(model, images, batch_size=4).values)
        for _ in range(2):  # the second finds it finished
            stored = extract_to_store(model, images, tmp_path / "set", batch_size=4, dtype=dtype)
            wanted = whole.to(getattr(torch, dtype)).float().numpy()
            np.testing.assert_array_equal(np.asarray(stored.values).astype(np.float32), wanted)
        assert np.load(tmp_path / "set" / "values-00000.npy").itemsize == 2

    def test_an_interrupted_extraction_goes_on_where_it_stopped(self, tmp_path, model, images) -> None:
        undisturbed, interrupted = tmp_path / "one", tmp_path / "two"
        extract_to_store(model, images, undisturbed, batch_size=4, shard_rows=4)

        def stop(stage: str, done: int, total: int) -> None:
            if done >= 12:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            extract_to_store(model, images, interrupted, batch_size=4, shard_rows=4, progress=stop)
        passes = []
        hook = model.register_forward_hook(lambda *_: passes.append(1))
        extract_to_store(model, images, interrupted, batch_size=4, shard_rows=4)
        hook.remove()
        assert len(passes) == 3  # of six batches
        assert contents(undisturbed) == contents(interrupted)

    def test_lost_and_damaged_shards_are_extracted_again_and_no_other(self, tmp_path, model, images) -> None:
        options = {"batch_size": 4, "shard_rows": 4}
        extract_to_store(model, images, tmp_path / "set", **options)
        undisturbed = contents(tmp_path / "set")
        (tmp_path / "set" / "values-00001.npy").unlink()
        os.truncate(tmp_path / "set" / "labels-00003.npy", 100)
        (tmp_path / "set" / "values-00005.npy").write_bytes(undisturbed["values-00005.npy"][:-1] + b"?")
        with pytest.raises(
            FileNotFoundError, match=r"is missing.*: make it again with the command that.*values-00001\.npy"
        ):
            open_features(tmp_path / "set")
        passes = []
        hook = model.register_forward_hook(lambda *_: passes.append(1))
        with pytest.warns(RuntimeWarning, match="this shard is made again") as caught:
            extract_to_store(model, images, tmp_path / "set", **options)
        hook.remove()
        named = {
            "values-00001.npy": "is missing, but the manifest names it",
            "labels-00003.npy": f"has 100 bytes, but the manifest says {len(undisturbed['labels-00003.npy'])}",
            "values-00005.npy": "was changed after it was written: its SHA-256 differs from the manifest's",
        }
        for (name, what), warning in zip(named.items(), caught, strict=True):
            assert str(warning.message) == f"{tmp_path / 'set' / name}: {what}; this shard is made again"
        assert len(passes) == 3
        assert contents(tmp_path / "set") == undisturbed

    @pytest.mark.parametrize(
        ("change", "named"),
        [({"batch_size": 2}, "batch_size"), ({"dtype": "float16"}, "dtype"), ({"layer": "fc"}, "layer|width")],
    )
    def test_other_options_are_refused(self, tmp_path, model, images, change, named) -> None:
        extract_to_store(model, images, tmp_path / "set", batch_size=4)
        with pytest.raises(ValueError, match=f"begun with other inputs .*{named}.* differs"):
            extract_to_store(model, images, tmp_path / "set", **{"batch_size": 4} | change)

    def test_other_weights_or_images_are_refused(self, tmp_path, model, images, pixels, labels) -> None:
        extract_to_store(model, images, tmp_path / "set")
        with torch.no_grad():
            next(model.parameters()).add_(1)
        with pytest.raises(ValueError, match=r"\(weights differs\)"):
            extract_to_store(model, images, tmp_path / "set")
        inputs = torch.from_numpy(pixels).permute(0, 3, 1, 2).float()
        extract_to_store(model, (inputs, labels), tmp_path / "arrays")
        with pytest.raises(ValueError, match=r"\(data differs\)"):
            extract_to_store(model, (inputs + 1, labels), tmp_path / "arrays")

    @pytest.mark.parametrize("kind", ["tensors", "items", "hugging face"])
    def test_other_items_of_any_kind_of_data_set_are_refused(self, tmp_path, model, pixels, labels, kind) -> None:
        make = {"tensors": as_tensors, "items": Items, "hugging face": as_hugging_face}[kind]
        changed = pixels.copy()
        changed[7, 0, 0] ^= 1
        extract_to_store(model, make(pixels, labels), tmp_path / "set")
        extract_to_store(model, make(pixels.copy(), labels), tmp_path / "set")
        for other in (make(changed, labels), make(pixels, (labels + 1) % 10)):
            with pytest.raises(ValueError, match=r"\(data differs\)"):
                extract_to_store(model, other, tmp_path / "set")

    def test_of_a_large_data_set_some_items_are_looked_at_from_the_first_to_the_last(self) -> None:
        asked = []
        source = Source(10**9, lambda rows: (asked.extend(rows.tolist()), ([np.zeros(1)] * len(rows), None))[1])
        _hash_data(object(), source)
        assert (len(set(asked)), len(asked), asked[0], asked[-1]) == (64, 128, 0, 10**9 - 1)

    def test_items_that_are_other_ones_each_time_are_refused(self, tmp_path, model, pixels, labels) -> None:
        class Augmented(Items):
            def __getitem__(self, i: int) -> tuple[np.ndarray, int]:
                image, label = super().__getitem__(i)
                return image ^ np.uint8(torch.randint(2, ()).item()), label

        for _ in range(2):
            with pytest.raises(ValueError, match=r"dataset gives other items each time .*; pass the data set without"):
                extract_to_store(model, Augmented(pixels, labels), tmp_path / "set")
        assert not list((tmp_path / "set").iterdir())
        assert len(extract_features(model, Augmented(pixels, labels))) == N

    @pytest.mark.parametrize(
        "targets",
        [
            [[i] * (1 + i % 2) for i in range(N)],
            [{"boxes": np.full(i, i), "area": i} for i in range(N)],
            [None] * N,
            [f"{i}" for i in range(N)],
        ],
    )
    def test_targets_of_any_kind_count_where_they_can_be_told(self, tmp_path, model, pixels, labels, targets) -> None:
        dataset = Targets(pixels, labels, targets)
        extract_to_store(model, dataset, tmp_path / "set")
        extract_to_store(model, dataset, tmp_path / "set")
        dataset.targets = targets[1:] + [0]
        with pytest.raises(ValueError, match=r"\(data differs\)"):
            extract_to_store(model, dataset, tmp_path / "set")
        dataset.targets = [threading.Lock()] * N  # of these nothing can be told
        extract_to_store(model, dataset, tmp_path / "other")

    def test_images_from_a_url_go_on_and_the_url_is_their_source(self, tmp_path, model, pixels, labels) -> None:
        memory = pytest.importorskip("fsspec", reason="fsspec is not installed").filesystem("memory")
        for changed in (0, 0, 1):
            np.savez(tmp_path / "images.npz", images=pixels ^ np.uint8(changed), labels=labels)
            memory.put(str(tmp_path / "images.npz"), "/pictures/images.npz")
            opened = open_images("memory://pictures/images.npz")
            if changed:
                with pytest.raises(ValueError, match=r"\(data differs\)"):
                    extract_to_store(model, opened, tmp_path / "set")
                break
            extract_to_store(model, opened, tmp_path / "set")
            manifest = json.loads((tmp_path / "set" / "manifest.json").read_text())
            assert opened.source == manifest["source"] == "memory://pictures/images.npz"
            assert extract_features(model, opened).source == opened.source

    def test_the_same_images_from_elsewhere_go_on(self, tmp_path, model, pixels, labels) -> None:
        for name in ("one.npz", "two.npz"):
            np.savez(tmp_path / name, images=pixels, labels=labels)
            extract_to_store(model, open_images(tmp_path / name), tmp_path / "set")

    def test_a_url_is_refused(self, tmp_path, model, images, monkeypatch) -> None:
        monkeypatch.chdir(tmp_path)
        with pytest.raises(ValueError, match="memory://set is a URL: results are written to local files"):
            extract_to_store(model, images, "memory://set")
        assert not (tmp_path / "memory:").exists()

    def test_a_loader_is_refused(self, tmp_path, model, pixels, labels) -> None:
        with pytest.raises(ValueError, match="pass its dataset"):
            extract_to_store(model, DataLoader(as_tensors(pixels, labels)), tmp_path / "set")


def as_hugging_face(pixels: np.ndarray, labels: np.ndarray) -> object:
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    image = pytest.importorskip("PIL.Image", reason="the data extra is not installed")
    kinds = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(num_classes=10)})
    columns = {"image": [image.fromarray(picture[:, :, 0]) for picture in pixels], "label": labels.tolist()}
    return datasets.Dataset.from_dict(columns, features=kinds)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}
