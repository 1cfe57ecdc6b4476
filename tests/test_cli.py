"""The command line: every command runs, says what it did, and fails with one line and a meaningful exit code."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import fake_results
import numpy as np
import pytest

import clear.data
import clear.detect
from clear import ScanConfig, UnsafeFile
from clear._cli_common import one_line, printable
from clear._view_files import begin_views, save_views
from clear.cli import app, main
from clear.report import read_report
from clear.results import Level, Views

COMMANDS = ("demo", "info", "features", "plan", "scan", "probe", "review", "repair", "verify", "check")


@pytest.fixture(scope="module")
def training() -> Any:
    return fake_results.fake_features()


@pytest.fixture
def files(training: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with train.npz, clean.npz, stray.npz (a label far off), in.npz and latin.toml (not UTF-8)."""
    inputs = fake_results.fake_inputs(training)
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), 60)
    values = (6 * np.eye(3, 10)[labels] + rng.normal(size=(180, 10))).astype(np.float32)
    stray = np.where(np.arange(180) == 7, 10**12, labels)
    stored = {"train.npz": training, "clean.npz": clear.data.Features.from_arrays(values, labels), "in.npz": inputs}
    stored["stray.npz"] = clear.data.Features.from_arrays(values, stray)
    for name in stored:
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "latin.toml").write_bytes(b"folds = 4 # caf\xe9")

    def open_features(path: Any, *, labels: Any = None) -> Any:
        if Path(path).name not in stored:
            raise FileNotFoundError(2, "No such file or directory", str(path))
        return stored[Path(path).name]

    monkeypatch.setattr(clear.data, "open_features", open_features, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def module(monkeypatch: pytest.MonkeyPatch, name: str, **functions: Any) -> None:
    """Stand in for a module of the library with the functions given."""
    stand_in = ModuleType(name)
    for key, value in functions.items():
        setattr(stand_in, key, value)
    monkeypatch.setitem(sys.modules, name, stand_in)


def names_of(command: str) -> set[str]:
    callback = next(c.callback for c in app.registered_commands if c.callback and c.callback.__name__ == command)
    return set(inspect.signature(callback).parameters)


def test_scan_of_a_poisoned_set_says_so_and_writes_a_report(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["scan", "train.npz", "--out", "out"]) == 1
    shown = capsys.readouterr()
    assert shown.out.startswith("poisoned: ")
    assert "dog -> cat" in shown.out
    assert shown.err == ""
    assert {path.name for path in (files / "out").iterdir()} == {
        "report.json", "report.html", "scores.parquet", "arrays.npz"
    }  # fmt: skip
    assert read_report(files / "out").verdict == "poisoned"
    document = json.loads((files / "out" / "report.json").read_text())
    assert document["inputs"]["features"]["file"] == "train.npz"


def test_scan_without_out_writes_nothing(files: Path) -> None:
    before = sorted(files.iterdir())
    assert main(["scan", "train.npz"]) == 1
    assert sorted(files.iterdir()) == before


@pytest.mark.parametrize(("verdict", "status"), [("clean", 0), ("poisoned", 1), ("undecided", 2)])
def test_the_exit_code_is_the_verdict(
    verdict: str, status: int, files: Path, training: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = dataclasses.replace(fake_results.fake_scan(training), verdict=verdict)
    monkeypatch.setattr(clear.detect, "scan", lambda *_, **__: result)
    assert main(["scan", "train.npz"]) == status


def test_scan_prints_json_for_programs(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["scan", "train.npz", "--json"]) == 1
    summary = json.loads(capsys.readouterr().out)
    assert (summary["verdict"], summary["kind"], summary["n_samples"], summary["report"]) == (
        "poisoned", "scan", 180, None
    )  # fmt: skip
    assert set(summary["pockets"][0]["rows"]) == set(fake_results.POCKET)


def test_review_lists_what_the_reference_contradicts(
    files: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = np.repeat(np.arange(3), 60)
    labels[4] = 2
    np.save("p.npy", labels)
    real = clear.data.open_features("clean.npz")

    def open_features(path: Any, *, labels: Any = None) -> Any:
        return real if labels is None else dataclasses.replace(real, labels=np.load(labels))

    monkeypatch.setattr(clear.data, "open_features", open_features)
    assert main(["review", "clean.npz", "clean.npz", "--predictions", "p.npy"]) == 2
    shown = capsys.readouterr().out
    assert "of 180 predictions are contradicted by the reference, where 0.01 of clean inputs may be" in shown
    assert "  4: predicted class 2, looks like class 0, level 0.0055" in shown
    assert main(["review", "clean.npz", "clean.npz", "--predictions", "p.npy", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["flags"][0]["row"] == 4
    assert main(["review", "clean.npz", "clean.npz", "--predictions", "p.npy", "--fpr", "0.001"]) == 0
    assert "no flags" in capsys.readouterr().out


def test_review_without_predictions_is_refused(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["review", "clean.npz", "train.npz"]) == 3
    assert "clean.npz has no predictions: give --predictions" in capsys.readouterr().err


def test_probe_finds_the_target_and_check_confirms_the_report(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["probe", "in.npz", "train.npz", "--out", "out"]) == 1
    assert "2 of 22 inputs" in capsys.readouterr().out
    assert main(["check", "out", "train.npz", "--inputs", "in.npz"]) == 0
    assert capsys.readouterr().out == "everything holds\n"


def test_predictions_given_go_before_those_stored_and_no_label_stands_in(
    files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    real = clear.detect.probe
    monkeypatch.setattr(clear.detect, "probe", lambda inputs, *a, **o: seen.append(inputs) or real(inputs, *a, **o))
    main(["probe", "in.npz", "train.npz"])
    main(["probe", "clean.npz", "train.npz", "--predictions", "p.npy"])
    main(["probe", "in.npz", "train.npz", "--predictions", "p.npy"])
    stored, labels_only, given = seen
    assert stored.predictions.tolist() == [0] * 20 + [1] * 2
    assert labels_only.predictions.tolist() == labels_only.labels.tolist()
    assert given.predictions.tolist() == given.labels.tolist() == [0] * 22


@pytest.mark.parametrize("command", ["demo", "features", "repair", "verify"])
def test_without_torch_a_command_names_the_extra(
    command: str, files: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    network = ["--architecture", "resnet20"]
    arguments = {
        "demo": [],
        "features": ["a.pt", "b.npz", *network, "--out", "c.npz"],
        "repair": ["a.pt", "b.npz", "out", *network, "--out", "c.safetensors"],
        "verify": ["a.pt", "b.pt", "c.npz", "out", *network],
    }
    assert main([command, *arguments[command]]) == 3
    assert capsys.readouterr().err == 'clear-pockets: this needs torch: pip install "clear-pockets[torch]"\n'


@pytest.mark.parametrize(
    ("options", "status", "said"),
    [
        (["--device", "mps"], 3, 'device="mps": want "auto", "cpu" or "cuda"'),
        (["--device", "meta"], 3, 'device="meta": want "auto", "cpu" or "cuda"'),
        (["--device", "cpu:1"], 3, 'device="cpu:1": want "auto", "cpu" or "cuda"'),
        (["--architecture", "os:getcwd"], 3, "architecture='os:getcwd' returns a str: want an nn.Module"),
        ([], 3, "the network does not take inputs of shape (4, 1, 1, 1): Given groups=1"),
    ],
)
def test_what_a_network_cannot_do_is_one_line(
    options: list[str], status: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    torch = pytest.importorskip("torch", reason="features needs the torch extra")
    save_file = pytest.importorskip("safetensors.torch", reason="features needs the torch extra").save_file

    def network() -> Any:
        made = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 1), torch.nn.Flatten(), torch.nn.Linear(3, 2))
        made.preprocess = lambda images: torch.from_numpy(images.copy()).permute(0, 3, 1, 2).float()
        return made

    module(monkeypatch, "two_channels", network=network)
    monkeypatch.chdir(tmp_path)
    save_file(network().state_dict(), "net.safetensors")
    np.savez("grey.npz", images=np.zeros((4, 1, 1, 1), np.uint8), labels=np.arange(4))
    call = ["features", "net.safetensors", "grey.npz", "--architecture", "two_channels:network", "--out", "f.npz"]
    assert main([*call, *options]) == status
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert said in lines[0]
    assert not Path("f.npz").exists()


def test_check_lists_what_does_not_hold(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["scan", "train.npz", "--out", "out"]) == 1
    capsys.readouterr()
    assert main(["check", "out/report.json", "train.npz", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"holds": True, "violations": []}
    document = json.loads((files / "out/report.json").read_text())
    document["flags"][0]["score"] = 1.0
    (files / "out/report.json").write_text(json.dumps(document))
    assert main(["check", "out/report.json", "train.npz"]) == 3
    assert "score is not that of the arrays" in capsys.readouterr().out


def test_settings_come_from_options_and_file_with_options_first(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[ScanConfig] = []
    result = fake_results.fake_scan(clear.data.open_features("train.npz"))
    monkeypatch.setattr(clear.detect, "scan", lambda *_, config, **__: seen.append(config) or result)
    (files / "scan.toml").write_text("hull_size = 10\nfolds = 4\n")
    main(["scan", "train.npz", "--config", "scan.toml", "--folds", "3", "--false-flags", "2.5"])
    assert seen == [ScanConfig(hull_size=10, folds=3, false_flags=2.5)]


@pytest.mark.parametrize(
    ("command", "unused"),
    [
        ("plan", set()),
        ("scan", {"probe_fpr"}),
        ("probe", {"review_rate", "false_flags", "false_alarms"}),
        ("review", {"review_rate", "false_flags", "false_alarms", "probe_fpr", "weak_accuracy"}),
    ],
)
def test_every_setting_that_a_command_uses_is_an_option_and_no_other(command: str, unused: set[str]) -> None:
    settings = {field.name for field in dataclasses.fields(ScanConfig)} - unused
    own = {
        "features", "labels", "out", "images", "threads", "json", "config", "inputs", "reference", "predictions",
        "reference_images", "workdir", "piece_rows", "parquet", "engine", "address", "max_seconds", "max_memory",
        "node_memory", "previous", "keep_neighbors", "approximate", "probes", "fpr",
    }  # fmt: skip
    assert names_of(command) - own == settings


def test_info_prints_build_and_versions(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["libraries"]["numpy"] == np.__version__
    assert {"version", "compiler", "isa", "cores", "python"} <= set(facts)
    assert main(["info"]) == 0
    assert f"numpy          {np.__version__}" in capsys.readouterr().out


def test_plan_estimates_a_scan(
    files: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import clear.plan

    stages = (
        clear.plan.Stage("prepare", 1.0, 0.02, 1 << 20, 0),
        clear.plan.Stage("hulls", 1.0, 2.0, 3 << 20, 5 << 20),
    )
    seen: list[Any] = []

    def plan_scan(*args: Any, **options: Any) -> Any:
        seen.append((args, options))
        return clear.plan.Plan(180, 10, 3, 10, 2, stages, 1 << 20, 1 << 20, None)

    monkeypatch.setattr(clear.plan, "plan_scan", plan_scan)
    assert main(["plan", "train.npz", "--threads", "2"]) == 0
    wanted = {"config": ScanConfig(), "threads": 2, "approximate": None, "keep_neighbors": False}
    assert seen == [((180, 10, 3), wanted)]
    table = capsys.readouterr().out
    assert "hulls              2.0         3 MiB       5.0 MiB" in table
    assert "prepare          < 0.5         1 MiB       0.0 MiB" in table
    assert "total              2.0         5 MiB       5.0 MiB" in table
    assert main(["plan", "train.npz", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["seconds"] == 2.02


def test_features_are_extracted_and_saved(
    training: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch", reason="features needs the torch extra")
    importlib.import_module("clear.extraction")  # with the real modules, not with those below
    seen: dict[str, Any] = {}
    module(monkeypatch, "clear.models", load_model=lambda *a, **o: (a, o))
    module(monkeypatch, "clear.images", open_images=lambda path: path)
    module(monkeypatch, "clear.features", extract_features=lambda *a, **o: seen.update(call=(a, o)) or training)
    monkeypatch.setattr(clear.data, "save_features", lambda taken, path: seen.update(saved=path), raising=False)
    out = str(tmp_path / "train.npy")
    call = ["features", "net.safetensors", "train.parquet", "--architecture", "resnet20", "--layer", "fc", "--out", out]
    assert main([*call, "--classes", "10"]) == 0
    (model, images), options = seen["call"]
    assert model == ((Path("net.safetensors"), "resnet20"), {"num_classes": 10})
    assert images == "train.parquet"
    assert options == {"layer": "fc", "batch_size": 256, "device": "auto", "dtype": "float32", "progress": False}
    assert seen["saved"] == Path(out)
    assert "(180, 10)" in capsys.readouterr().out


def test_features_go_to_a_store_that_a_scan_opens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch", reason="features needs the torch extra")
    save_file = pytest.importorskip("safetensors.torch", reason="features needs the torch extra").save_file
    from clear.architectures import digits_cnn

    monkeypatch.chdir(tmp_path)
    save_file(digits_cnn().state_dict(), "net.safetensors")
    rng = np.random.default_rng(0)
    np.savez("images.npz", images=rng.integers(0, 256, (60, 8, 8, 1), np.uint8), labels=np.arange(60) % 10)
    call = ["features", "net.safetensors", "images.npz", "--architecture", "digits_cnn", "--out", "set"]
    assert main([*call, "--shard-rows", "16", "--batch-size", "16"]) == 0
    assert len(list(Path("set").glob("values-*.npy"))) == 4
    assert main([*call, "--shard-rows", "32", "--batch-size", "16"]) == 3
    assert "begun with other inputs (shard_rows differs)" in capsys.readouterr().err
    half = [*call[:-1], "half", "--dtype", "bfloat16"]
    assert main(half) == 0
    assert np.load(Path("half") / "values-00000.npy").dtype == np.uint16
    assert main([*call[:-1], "half.npy", "--dtype", "float16"]) == 0
    assert np.load("half.npy").dtype == np.float16
    assert main([*call[:-1], "half.npy", "--dtype", "bfloat16"]) == 64
    assert "--dtype bfloat16 is for a feature store" in capsys.readouterr().err
    assert main(["scan", "set", "--out", "out"]) in (0, 1, 2)
    assert main(["check", "out", "set"]) == 0


@pytest.mark.parametrize("out", ["set", "set.npy"])
def test_a_network_that_fits_the_labels_is_looked_at_again_and_the_scan_uses_it(
    out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch = pytest.importorskip("torch", reason="features needs the torch extra")
    save_file = pytest.importorskip("safetensors.torch", reason="features needs the torch extra").save_file

    def network() -> Any:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            layers = [torch.nn.Conv2d(1, 3, 3), torch.nn.Conv2d(3, 5, 3, stride=2), torch.nn.Flatten()]
            made = torch.nn.Sequential(*layers, torch.nn.Linear(20, 2))
        made.preprocess = lambda images: torch.from_numpy(images.copy()).permute(0, 3, 1, 2).float() / 255
        return made

    module(monkeypatch, "small_net", network=network)
    monkeypatch.chdir(tmp_path)
    model = network()
    save_file(model.state_dict(), "net.safetensors")
    images = np.random.default_rng(0).integers(0, 256, (200, 8, 8, 1), np.uint8)
    np.savez("images.npz", images=images, labels=np.arange(200) % 2)
    fitted = clear.extract_features(model, clear.open_images("images.npz")).predictions  # it fits what it says itself
    call = ["features", "net.safetensors", "images.npz", "--architecture", "small_net:network", "--out", out]
    for labels, options, looked in (
        (np.arange(200) % 2, [], False),
        (np.arange(200) % 2, ["--views"], True),
        (fitted, ["--no-views"], False),
        (fitted, [], True),
    ):
        np.savez("images.npz", images=images, labels=labels)
        shutil.rmtree("set", ignore_errors=True)
        assert main([*call, *options]) == 0
        assert Path("set.views.npz").exists() == looked
    assert "a second look; the network fits 100.0% of the labels" in capsys.readouterr().out


def test_views_beside_the_features_go_into_the_scan(
    files: Path, training: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    n = len(training)
    rng = np.random.default_rng(0)
    views = Views(rng.random((n, 4), np.float32), rng.random(n), rng.random(n), "2", *2 * [np.ones((n, 3), np.float32)])
    seen: list[Any] = []

    def scan(features: Any, **options: Any) -> Any:
        seen.append(options["views"])
        return fake_results.fake_scan(features)

    monkeypatch.setattr(clear.detect, "scan", scan)
    main(["scan", "train.npz"])
    save_views(views, files / "train.npz")
    main(["scan", "train.npz"])
    main(["scan", "train.npz", "--labels", "train.npz"])
    assert seen[0] is seen[2] is None
    for name in ("early", "label_drop", "prediction_drop", "late", "late_mirrored"):
        np.testing.assert_array_equal(getattr(seen[1], name), getattr(views, name))
    assert seen[1].layer == "2"
    np.savez(files / "train.views.npz", early=views.early)
    assert main(["scan", "train.npz"]) == 3
    np.savez(files / "train.views.npz", early=views.early, label_drop=[1.0], prediction_drop=[1.0], layer=["2"])
    assert main(["scan", "train.npz"]) == 3


def test_views_stay_until_there_are_new_ones(
    files: Path, training: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    n = len(training)
    views = Views(np.ones((n, 4), np.float32), np.ones(n), np.ones(n), "2")
    seen: list[Any] = []

    def scan(features: Any, **options: Any) -> Any:
        seen.append(options["views"])
        return fake_results.fake_scan(features)

    def take(error: type[BaseException]) -> None:
        with pytest.raises(error), begin_views(files / "train.npz"):
            raise error

    monkeypatch.setattr(clear.detect, "scan", scan)
    before = set(files.iterdir())
    take(ValueError)  # no layer that sees an image
    assert set(files.iterdir()) == before
    save_views(views, files / "train.npz")
    take(ValueError)
    main(["scan", "train.npz"])
    assert len(seen.pop()) == n
    take(KeyboardInterrupt)
    capsys.readouterr()
    assert main(["scan", "train.npz"]) == 3
    assert "train.views.begun is there: the command features was interrupted while it took" in capsys.readouterr().err
    assert main(["scan", "train.npz", "--labels", "train.npz"]) != 3
    save_views(views, files / "train.npz")
    main(["scan", "train.npz"])
    assert len(seen.pop()) == n
    take(KeyboardInterrupt)
    save_views(None, files / "train.npz")
    assert set(files.iterdir()) == before


def test_repair_writes_weights_and_verify_judges_them(
    files: Path, training: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch = pytest.importorskip("torch", reason="repair needs the torch extra")
    load_file = pytest.importorskip("safetensors.torch", reason="repair needs the torch extra").load_file
    model = torch.nn.Linear(2, 2)
    images = fake_results.FakeImages(180)
    seen: dict[str, Any] = {}

    def repair_model(*arguments: Any, **options: Any) -> Any:
        seen.update(options, arguments=arguments)
        rolled_back = options["held_out"] is not None
        return SimpleNamespace(
            model=model,
            changed=np.array([1, 2]),
            history=(1,),
            attempts=(),
            accuracy_before=None,
            rolled_back=rolled_back,
        )

    def find_corrections(result: Any, n: int, *, level: Level) -> Any:
        seen["level"] = level
        return SimpleNamespace(rows=np.array([60]), labels=np.array([0]))

    module(monkeypatch, "clear.models", load_model=lambda *_, **__: model)
    module(monkeypatch, "clear.images", open_images=lambda path: images)
    module(monkeypatch, "clear.repair", repair_model=repair_model, find_corrections=find_corrections)
    assert main(["scan", "train.npz", "--out", "out"]) == 1
    capsys.readouterr()
    network = ["--architecture", "resnet20"]
    call = ["repair", "net.safetensors", "train.parquet", "out", *network, "--out", "fixed.safetensors"]
    assert main([*call, "--method", "drop", "--epochs", "2", "--only-certain", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["changed"] == [1, 2]
    assert set(load_file(files / "fixed.safetensors")) == {"weight", "bias"}
    _, given, labels, result = seen.pop("arguments")
    assert given is images
    assert labels.tolist() == training.labels.tolist()
    assert result.verdict == "poisoned"
    assert seen == {
        "method": "drop", "scope": "network", "level": Level.CERTAIN, "probed": None, "epochs": 2, "seed": 0,
        "progress": False, "held_out": None, "accuracy_budget": 0.01,
    }  # fmt: skip
    call[-1] = "refused.safetensors"
    assert main([*call, "--held-out", "clean.parquet", "--accuracy-budget", "0.1", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["weights"] is None
    assert not (files / "refused.safetensors").exists()
    assert (seen["held_out"][0], seen["accuracy_budget"]) == (images, 0.1)

    def verify_repair(*_: Any, corrected: Any, scan: Any, probe: Any, **__: Any) -> Any:
        assert corrected.tolist() == np.where(np.arange(180) == 60, 0, training.labels).tolist()
        assert (scan.n_samples, probe) == (180, None)
        return SimpleNamespace(verdict=verdict, to_dict=lambda: {"verdict": verdict})

    module(monkeypatch, "clear.verify", verify_repair=verify_repair)
    call = ["verify", "net.safetensors", "fixed.safetensors", "train.parquet", "out", *network, "--json"]
    for verdict, status in (("clean", 0), ("poisoned", 1), ("undecided", 2)):
        assert main(call) == status
        assert json.loads(capsys.readouterr().out) == {"verdict": verdict}
        assert seen["level"] == Level.REVIEW
    main([*call, "--only-certain"])
    assert seen["level"] == Level.CERTAIN


def test_verify_checks_nothing_where_nothing_was_certain(
    files: Path, training: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch = pytest.importorskip("torch", reason="verify needs the torch extra")
    pytest.importorskip("clear.repair", reason="before its parts are replaced")
    found = fake_results.fake_scan(training)
    review = tuple(dataclasses.replace(flag, level=Level.REVIEW) for flag in found.flags)
    monkeypatch.setattr(clear.detect, "scan", lambda *_, **__: dataclasses.replace(found, flags=review))
    module(monkeypatch, "clear.models", load_model=lambda *_, **__: torch.nn.Linear(2, 3))
    module(monkeypatch, "clear.images", open_images=lambda path: fake_results.FakeImages(180))
    module(monkeypatch, "clear.report", read_report=lambda path: clear.detect.scan())
    seen: dict[str, Any] = {}

    def verify_repair(*_: Any, **options: Any) -> Any:
        seen.update(options)
        return SimpleNamespace(verdict="undecided")

    module(monkeypatch, "clear.verify", verify_repair=verify_repair)
    call = ["verify", "a.pt", "b.pt", "train.parquet", "out", "--architecture", "resnet20"]
    assert main([*call, "--only-certain"]) == 2
    assert seen["scan"] is None
    assert seen["corrected"].tolist() == training.labels.tolist()
    assert main(call) == 2
    assert seen["scan"].flags == review


def test_images_of_another_set_are_refused(
    files: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch", reason="repair needs the torch extra")
    module(monkeypatch, "clear.models", load_model=lambda *_, **__: None)
    module(monkeypatch, "clear.images", open_images=lambda path: fake_results.FakeImages(7))
    module(monkeypatch, "clear.repair", repair_model=None)
    assert main(["scan", "train.npz", "--out", "out"]) == 1
    call = ["repair", "a.pt", "b.npz", "out", "--architecture", "resnet20", "--out", "fixed.safetensors"]
    assert main(call) == 3
    assert "images hold 7 samples, the report is about 180" in capsys.readouterr().err
    assert not (files / "fixed.safetensors").exists()


def test_demo_returns_its_status(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def run_demo(out: Path, seed: int, progress: Any) -> Any:
        seen.append((out, seed))
        return SimpleNamespace(passed=seed == 3)

    pytest.importorskip("torch", reason="the demo needs the torch extra")
    module(monkeypatch, "clear.demo", run_demo=run_demo)
    assert main(["demo", "--out", "here", "--seed", "3"]) == 0
    assert main(["demo", "--out", "here", "--seed", "4"]) == 1
    assert seen == [(Path("here"), 3), (Path("here"), 4)]


BAD_CALLS: dict[str, tuple[list[str], int, str]] = {
    "unknown command": (["scam"], 64, "scam"),
    "unknown option": (["scan", "train.npz", "--no-such"], 64, "--no-such"),
    "missing argument": (["scan"], 64, "features"),
    "not a number": (["scan", "train.npz", "--folds", "many"], 64, "--folds"),
    "images without out": (["scan", "train.npz", "--images", "x.npz"], 64, "--out"),
    "weights of another kind": (
        ["repair", "a.pt", "b.npz", "c", "--architecture", "resnet20", "--out", "d.pt"], 64, ".safetensors"
    ),
    "missing file": (["scan", "no.npz"], 3, "no.npz: No such file or directory"),
    "missing report": (["check", "no.json", "train.npz"], 3, "no.json: no such file or directory"),
    "setting out of range": (["scan", "train.npz", "--folds", "1"], 3, "folds is 1: want at least 2"),
    "missing settings": (["scan", "train.npz", "--config", "no.toml"], 3, "no.toml: No such file or directory"),
    "damaged settings": (["scan", "train.npz", "--config", "train.npz"], 3, "not valid TOML"),
    "settings that are not text": (["scan", "train.npz", "--config", "latin.toml"], 3, "latin.toml is not valid TOML"),
    "a stray label": (
        ["scan", "stray.npz"], 3,
        "labels[7] is 1000000000000: want class numbers from 0 without large gaps; renumber them",
    ),
    "a stray label in a plan": (["plan", "stray.npz"], 3, "labels[7] is 1000000000000"),
    "a probe without predictions": (["probe", "clean.npz", "train.npz"], 3, "clean.npz has no predictions: give"),
    "out is a file": (["scan", "train.npz", "--out", "train.npz"], 3, "train.npz"),
    "out without a directory": (
        ["features", "a.pt", "b.npz", "--architecture", "resnet20", "--out", "no/f.npy"], 3, "no: no such directory"
    ),
    "report that is none": (
        ["repair", "a.pt", "b.npz", "train.npz", "--architecture", "resnet20", "--out", "d.safetensors"], 3, "train.npz"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_CALLS)
def test_a_bad_call_gets_its_exit_code_and_a_line_that_says_why(
    name: str, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, status, said = BAD_CALLS[name]
    if arguments[0] in ("demo", "features", "repair", "verify"):
        pytest.importorskip("torch", reason=f"{arguments[0]} needs the torch extra")
    before = sorted(files.iterdir())
    assert main(arguments) == status
    shown = capsys.readouterr()
    assert said in shown.err
    assert shown.out == ""
    assert "Traceback" not in shown.err
    assert len(shown.err.splitlines()) == 1
    assert ("(try: clear-pockets " in shown.err) == (status == 64)
    assert sorted(files.iterdir()) == before


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (ValueError("labels\nare odd"), 3, "labels are odd"),
        (TypeError("want floats"), 3, "want floats"),
        (UnsafeFile("x.npy is damaged"), 3, "x.npy is damaged"),
        (PermissionError(13, "Permission denied", "/root/x"), 3, "/root/x: Permission denied"),
        (MemoryError("Unable to allocate 9 TiB"), 4, "out of memory: Unable to allocate 9 TiB"),
        (MemoryError(), 4, "out of memory: use fewer samples"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_errors_become_one_line_and_an_exit_code(
    error: BaseException, status: int, said: str, files: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr(clear.detect, "scan", fail)
    assert main(["scan", "train.npz", "--out", "out"]) == status
    lines = capsys.readouterr().err.splitlines()
    assert len([line for line in lines if line]) == 1
    assert said in lines[-1]
    assert list((files / "out").iterdir()) == []


def test_debug_shows_the_traceback(files: Path) -> None:
    with pytest.raises(FileNotFoundError):
        main(["scan", "no.npz", "--debug"])


def test_an_error_of_our_own_is_not_hidden(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise AssertionError("a fault of the library")

    monkeypatch.setattr(clear.detect, "scan", fail)
    with pytest.raises(AssertionError):
        main(["scan", "train.npz"])


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_explains_each_command_with_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"] if command else ["--help"]) == 0
    text = capsys.readouterr().out
    assert "\x1b" not in text
    if command:
        assert f"Example: clear-pockets {command}" in " ".join(text.split())
    else:
        assert all(f"  {name} " in text for name in COMMANDS)
        assert "..." not in text.split("Commands:")[1]


def test_ids_cannot_steer_the_terminal(
    files: Path, training: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    result = fake_results.renamed(fake_results.fake_scan(training), "\x1b[2J\x07\r\u202e")
    monkeypatch.setattr(clear.detect, "scan", lambda *_, **__: result)
    main(["scan", "train.npz"])
    assert not set("\x1b\x07\r\u202e") & set(capsys.readouterr().out)
    assert printable("a\nb") == "a\N{REPLACEMENT CHARACTER}b"
    assert "\x1b" not in one_line(OSError(2, "missing", "\x1b[2J"))


def test_the_module_runs_without_torch_and_without_loading_optional_libraries() -> None:
    code = (
        "import sys; from clear.cli import main; status = main(['info']);"
        "heavy = {'torch', 'matplotlib', 'jinja2', 'pyarrow', 'sklearn', 'scipy'} & set(sys.modules);"
        "sys.exit(f'loaded {heavy}' if heavy else status)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def test_python_m_clear_passes_the_exit_code_on() -> None:
    done = subprocess.run([sys.executable, "-m", "clear", "scam"], capture_output=True, text=True, check=False)
    assert done.returncode == 64
    assert "Traceback" not in done.stderr
