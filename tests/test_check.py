"""The checker: true reports pass, and every field that is changed makes one fail."""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fake_results
import numpy as np
import pytest

import clear.check
from clear.check import check_report
from clear.report import write_report


@pytest.fixture(scope="module")
def features() -> Any:
    return fake_results.fake_features()


@pytest.fixture(scope="module")
def inputs(features: Any) -> Any:
    return fake_results.fake_inputs(features)


@pytest.fixture(scope="module")
def scan_folder(features: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scan")
    write_report(fake_results.fake_scan(features), folder)
    return folder


@pytest.fixture(scope="module")
def probe_folder(features: Any, inputs: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("probe")
    write_report(fake_results.fake_probe(inputs, features), folder)
    return folder


def mutated(folder: Path, tmp_path: Path, change: Callable[[Any], object]) -> Path:
    """A copy of the report with `change` applied to its JSON."""
    document = json.loads((folder / "report.json").read_text())
    change(document)
    for name in ("preparation.npz", "scores.parquet"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    (tmp_path / "report.json").write_text(json.dumps(document))
    return tmp_path / "report.json"


def test_a_true_scan_report_has_no_violations(scan_folder: Path, features: Any) -> None:
    assert check_report(scan_folder, features) == []


def test_a_true_probe_report_has_no_violations(probe_folder: Path, features: Any, inputs: Any) -> None:
    assert check_report(probe_folder / "report.json", features, inputs=inputs) == []


def test_reports_of_a_real_scan_and_probe_have_no_violations(features: Any, inputs: Any, tmp_path: Path) -> None:
    scanned = write_report(clear.scan(features), tmp_path / "scan")
    probed = write_report(clear.probe(inputs, features), tmp_path / "probe")
    assert json.loads(scanned.json.read_text())["flags"]
    assert json.loads(probed.json.read_text())["flags"]
    assert check_report(scanned.json, features) == []
    assert check_report(probed.json, features, inputs=inputs) == []


def hull(document: Any, role: str, flag: int = 0) -> Any:
    return next(item for item in document["flags"][flag]["hulls"] if item["role"] == role)


def swap_weights(h: Any) -> None:
    weights = h["weights"]
    low, high = int(np.argmin(weights)), int(np.argmax(weights))
    weights[low], weights[high] = weights[high], weights[low]


def drop_a_member(document: Any) -> None:
    pocket = document["pockets"][0]
    del pocket["rows"][0], pocket["ids"][0]


def loosen(h: Any) -> None:
    h["lower"] *= 0.9


SCAN_MUTATIONS: dict[str, tuple[Callable[[Any], object], str]] = {
    "weight shifted": (lambda d: swap_weights(hull(d, "other")), "other: upper"),
    "weight negative": (lambda d: hull(d, "own")["weights"].__setitem__(0, -0.1), "own: weights"),
    "weight missing": (lambda d: hull(d, "own")["weights"].pop(), "own: weights"),
    "vertex of another label": (lambda d: hull(d, "own")["rows"].__setitem__(0, 0), "own: a vertex carries"),
    "vertex is the sample": (
        lambda d: hull(d, "pocket")["rows"].__setitem__(0, d["flags"][0]["row"]),
        "pocket: rows repeat or hold the sample",
    ),
    "vertex replaced": (lambda d: hull(d, "other")["rows"].reverse(), "other: upper"),
    "vertex negative": (lambda d: hull(d, "other")["rows"].__setitem__(0, -180), "negative"),
    "upper lowered": (lambda d: hull(d, "own").update(upper=0.5), "own: upper"),
    "upper raised": (lambda d: hull(d, "pocket").update(upper=0.5), "pocket: upper"),
    "lower raised": (lambda d: hull(d, "own").update(lower=hull(d, "own")["upper"] + 1e-3), "own: lower"),
    "lower loosened": (lambda d: loosen(hull(d, "own")), "own: bounds are far apart"),
    "hull label": (lambda d: hull(d, "other").update(label=2), "wrong|another label|suggested"),
    "hull without rows": (lambda d: hull(d, "other").update(rows=[], weights=[]), "without rows"),
    "hull missing": (lambda d: d["flags"][0]["hulls"].pop(), "damaged"),
    "role": (lambda d: hull(d, "own").update(role="other"), "hulls: want one"),
    "mate not peeled": (lambda d: d["flags"][0]["mates"].append(hull(d, "own")["rows"][0]), "not peeled off"),
    "mates without support": (lambda d: d["flags"][0].update(mates=[]), "support"),
    "mate of another label": (lambda d: d["flags"][0]["mates"].append(0), "mate carries another label"),
    "label": (lambda d: d["flags"][0].update(label=2), "label is not the data's"),
    "id": (lambda d: d["flags"][0].update(id="image-000"), "id is not the data's"),
    "row": (lambda d: d["flags"][0].update(row=7), "id is not the data's"),
    "suggested label": (lambda d: d["flags"][0].update(suggested_label=2), "suggested_label"),
    "collapse": (lambda d: d["flags"][0].update(collapse=9.0), "collapse does not follow"),
    "reassignment": (lambda d: d["flags"][0].update(reassignment=9.0), "reassignment does not follow"),
    "score": (lambda d: d["flags"][0].update(score=9.0), "score is not"),
    "score lost": (lambda d: d["flags"][0].update(score=None), "score is not"),
    "level lowered": (lambda d: d["flags"][0].update(level="review"), "level is 'review'"),
    "level raised": (lambda d: d["flags"][-1].update(level="certain"), "level is 'certain'"),
    "flag repeated": (lambda d: d["flags"].append(d["flags"][0]), "flagged twice"),
    "threshold raised": (lambda d: d["thresholds"].update(certain=100.0), "the thresholds say 'review'"),
    "threshold lowered": (lambda d: d["thresholds"].update(certain=-9.0), "the thresholds say 'certain'"),
    "threshold missing": (lambda d: d["thresholds"].pop("certain"), "damaged"),
    "accuracy": (lambda d: d.update(core_accuracy=0.1), "score is not"),
    "verdict": (lambda d: d.update(verdict="clean"), "verdict"),
    "pocket member dropped": (drop_a_member, "score is not the sum"),
    "pocket member unflagged": (lambda d: d["pockets"][0]["rows"].__setitem__(0, 7), "flagged samples"),
    "pocket member twice": (
        lambda d: d["pockets"][0]["rows"].__setitem__(0, d["pockets"][0]["rows"][1]),
        "rows repeat",
    ),
    "pocket id": (lambda d: d["pockets"][0]["ids"].__setitem__(0, "x"), "rows and ids"),
    "pocket label": (lambda d: d["pockets"][0].update(label=2), "other labels"),
    "pocket suggestion": (lambda d: d["pockets"][0].update(suggested_label=2), "other labels"),
    "pocket score": (lambda d: d["pockets"][0].update(score=1.0), "score is not the sum"),
    "pocket level": (lambda d: d["pockets"][0].update(level="review"), "highest"),
    "preparation digest": (lambda d: d["preparation"].update(sha256="0" * 64), "preparation: SHA-256"),
    "scores digest": (lambda d: d["scores"].update(sha256="0" * 64), "scores: SHA-256"),
    "number of samples": (lambda d: d.update(n_samples=5), "shape"),
    "schema": (lambda d: d.update(schema="clear-report/9"), "schema"),
    "kind": (lambda d: d.update(kind="probe"), "pass the samples probed"),
    "flags are no list": (lambda d: d.update(flags=3), "damaged"),
}


@pytest.mark.parametrize("name", SCAN_MUTATIONS)
def test_every_changed_field_of_a_scan_report_is_caught(
    name: str, scan_folder: Path, features: Any, tmp_path: Path
) -> None:
    change, said = SCAN_MUTATIONS[name]
    violations = check_report(mutated(scan_folder, tmp_path, change), features)
    assert any(part in violation for violation in violations for part in said.split("|")), violations


PROBE_MUTATIONS: dict[str, tuple[Callable[[Any], object], str]] = {
    "z threshold": (lambda d: d["thresholds"].update(z=100.0), "level"),
    "score": (lambda d: d["flags"][0].update(score=5.0), "score is not"),
    "medians": (lambda d: d["thresholds"].update(collapse_median_5=9.0, collapse_median_20=9.0), "score is not"),
    "distance": (lambda d: hull(d, "pocket").update(upper=1.0), "pocket: upper"),
    "label": (lambda d: d["flags"][0].update(label=0), "label is not the data's"),
}


@pytest.mark.parametrize("name", PROBE_MUTATIONS)
def test_every_changed_field_of_a_probe_report_is_caught(
    name: str, probe_folder: Path, features: Any, inputs: Any, tmp_path: Path
) -> None:
    change, said = PROBE_MUTATIONS[name]
    violations = check_report(mutated(probe_folder, tmp_path, change), features, inputs=inputs)
    assert any(said in violation for violation in violations), violations


def test_another_preparation_is_caught_even_with_its_digest_adapted(
    scan_folder: Path, features: Any, tmp_path: Path
) -> None:
    path = mutated(scan_folder, tmp_path, lambda d: None)
    with np.load(scan_folder / "preparation.npz") as file:
        np.savez(tmp_path / "preparation.npz", mean=file["mean"] + 0.01, components=file["components"])
    document = json.loads(path.read_text())
    document["preparation"]["sha256"] = clear.check.hashlib.sha256(
        (tmp_path / "preparation.npz").read_bytes()
    ).hexdigest()
    path.write_text(json.dumps(document))
    assert any("upper" in violation for violation in check_report(path, features))


def test_other_data_are_caught(scan_folder: Path, features: Any) -> None:
    other = fake_results.fake_features(seed=5)
    assert any("upper" in violation for violation in check_report(scan_folder, other))
    half = type(features).from_arrays(features.values[:90], features.labels[:90])
    assert "shape" in check_report(scan_folder, half)[0]


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff\xfe", b'{"schema": 1}', b"[" * 100_000])
def test_a_file_that_is_no_report_gives_one_violation(content: bytes, features: Any, tmp_path: Path) -> None:
    (tmp_path / "report.json").write_bytes(content)
    violations = check_report(tmp_path, features)
    assert len(violations) == 1
    assert "report.json" in violations[0]


def test_a_missing_part_gives_one_violation(scan_folder: Path, features: Any, tmp_path: Path) -> None:
    path = mutated(scan_folder, tmp_path, lambda d: None)
    (tmp_path / "scores.parquet").unlink()
    assert len(check_report(path, features)) == 1


def test_a_preparation_with_pickled_objects_is_refused(scan_folder: Path, features: Any, tmp_path: Path) -> None:
    path = mutated(scan_folder, tmp_path, lambda d: None)
    np.savez(tmp_path / "preparation.npz", mean=np.array([{}], dtype=object), allow_pickle=True)
    assert "damaged" in check_report(path, features)[0]


def test_the_checker_imports_numpy_and_the_standard_library_only() -> None:
    tree = ast.parse(Path(clear.check.__file__).read_text())
    modules = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    modules |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    allowed = set(sys.stdlib_module_names) | {"numpy"}
    assert {module.partition(".")[0] for module in modules} <= allowed
