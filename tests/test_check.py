"""The checker: true reports pass, and every field that is changed makes one fail."""

from __future__ import annotations

import ast
import hashlib
import json
import math
import os
import sys
import zipfile
from collections.abc import Callable, Iterator
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


def mutated(folder: Path, tmp_path: Path, change: Callable[[Any], object], *, sign: bool = True) -> Path:
    """A copy of the report with `change` applied to its JSON, and (as a forger would) its digest made to fit."""
    document = json.loads((folder / "report.json").read_text())
    change(document)
    for name in ("arrays.npz", "scores.parquet"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    text = fake_results.signed(document) if sign else json.dumps(document).encode()
    (tmp_path / "report.json").write_bytes(text)
    return tmp_path / "report.json"


def forged(folder: Path, tmp_path: Path, change: Callable[[Any, Any], object]) -> Path:
    """A copy with `change` applied to JSON and arrays, and all digests made to fit."""
    with np.load(folder / "arrays.npz") as file:
        arrays = {name: file[name] for name in file.files}
    document = json.loads((folder / "report.json").read_text())
    change(document, arrays)
    path = mutated(folder, tmp_path, lambda d: None)
    np.savez(tmp_path / "arrays.npz", **arrays)
    document["arrays"]["sha256"] = hashlib.sha256((tmp_path / "arrays.npz").read_bytes()).hexdigest()
    path.write_bytes(fake_results.signed(document))
    return path


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


def call_clean(document: Any) -> None:
    document.update(flags=[], pockets=[], verdict="clean")


def lower_all_levels(document: Any) -> None:
    document["thresholds"]["certain"] = 1e9
    for item in [*document["flags"], *document["pockets"]]:
        item["level"] = "review"
    document["verdict"] = "clean"


def split_a_pocket(document: Any) -> None:
    """Cut the largest pocket in two, each with its sum and level."""
    whole = document["pockets"].pop(0)
    flags = {flag["row"]: flag for flag in document["flags"]}
    for rows in (whole["rows"][:3], whole["rows"][3:]):
        members = [flags[row] for row in rows]
        part = {"rows": rows, "ids": [flag["id"] for flag in members], "score": sum(f["score"] for f in members)}
        level = "certain" if any(flag["level"] == "certain" for flag in members) else "review"
        document["pockets"].append(whole | part | {"level": level})


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
    "vertices swapped": (
        lambda d: [hull(d, "own")[name].insert(0, hull(d, "own")[name].pop()) for name in ("rows", "weights")],
        "own: rows are not ordered by distance",
    ),
    "mate added": (lambda d: d["flags"][0]["mates"].append(100), "mates are not the nearest"),
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
    "score": (lambda d: d["flags"][0].update(score=9.0), "score is not that of the arrays"),
    "score lost": (lambda d: d["flags"][0].update(score=None), "score is not that of the arrays"),
    "level lowered": (lambda d: d["flags"][0].update(level="review"), "level is not that of the arrays"),
    "level raised": (lambda d: d["flags"][-1].update(level="certain"), "level is not that of the arrays"),
    "flag repeated": (lambda d: d["flags"].append(d["flags"][0]), "flagged twice"),
    "threshold raised": (lambda d: d["thresholds"].update(certain=100.0), "thresholds: the scores give"),
    "threshold lowered": (lambda d: d["thresholds"].update(certain=-9.0), "thresholds: the scores give"),
    "threshold missing": (lambda d: d["thresholds"].pop("certain"), "damaged"),
    "accuracy": (lambda d: d.update(core_accuracy=0.1), "scores: score is not"),
    "verdict": (lambda d: d.update(verdict="clean"), "the scores say 'poisoned'"),
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
    "arrays digest": (lambda d: d["arrays"].update(sha256="0" * 64), "arrays: SHA-256"),
    "scores digest": (lambda d: d["scores"].update(sha256="0" * 64), "scores: SHA-256"),
    "called clean": (call_clean, "flags: want those of"),
    "called clean by raising the threshold": (lower_all_levels, "thresholds: the scores give"),
    "verdict undecided": (lambda d: d.update(verdict="undecided"), "the scores say 'poisoned'"),
    "group of one": (
        lambda d: d.update(verdict_rows=d["verdict_rows"][:1], verdict="undecided"),
        "verdict_rows: want 11 rows",
    ),
    "group without a mate": (lambda d: d["verdict_rows"].pop(), "verdict_rows: want 11 rows"),
    "group around another": (lambda d: d["verdict_rows"].reverse(), "the sample of the largest company"),
    "group of farther mates": (
        lambda d: d.update(verdict_rows=[d["verdict_rows"][0], *range(110, 120)]),
        "a sample outside is nearer",
    ),
    "group of another label": (lambda d: d["verdict_rows"].__setitem__(5, 0), "others with its label"),
    "group repeats": (
        lambda d: d["verdict_rows"].__setitem__(5, d["verdict_rows"][4]),
        "verdict_rows: want distinct samples",
    ),
    "pockets emptied": (lambda d: d.update(pockets=[]), "in no pocket"),
    "pocket split": (split_a_pocket, "hang together"),
    "pocket repeated": (lambda d: d["pockets"].append(d["pockets"][0]), "in another pocket"),
    "review flag dropped": (lambda d: d["flags"].pop(), "flags: want those of"),
    "number of classes": (lambda d: d.update(n_classes=4), "n_classes"),
    "class names": (lambda d: d["class_names"].reverse(), "class_names"),
    "setting": (lambda d: d["config"].update(false_flags=1e-6), "thresholds: the scores give"),
    "more review than allowed": (lambda d: d["config"].update(review_rate=0.001), "level does not follow"),
    "accuracy within reason": (lambda d: d.update(core_accuracy=0.9), "core_accuracy"),
    "shape of the file read": (lambda d: d["inputs"].update(features={"shape": [1, 2], "sha256": ""}), "inputs: shape"),
    "name of a part": (lambda d: d["arrays"].update(file="/etc/hostname"), "want a regular file named arrays.npz"),
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


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of all numbers and strings in a document."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from leaves(item, (*path, key))
    if not isinstance(value, dict | list):
        yield path


def test_no_number_or_string_of_a_flag_or_pocket_can_be_changed(
    scan_folder: Path, features: Any, tmp_path: Path
) -> None:
    document = json.loads((scan_folder / "report.json").read_text())
    paths = [path for path in leaves(document) if path[:2] in (("flags", 0), ("pockets", 0), ("thresholds", "certain"))]
    for number, role in ((1, "own"), (2, "other")):
        paths.remove(("flags", 0, "hulls", number, "rows", 19))  # the farthest, without weight: nothing rests on it
        assert hull(document, role)["weights"][19] == 0
    assert len(paths) > 100
    for path in paths:

        def change(changed: Any, path: tuple[Any, ...] = path) -> None:
            for key in path[:-1]:
                changed = changed[key]
            old = changed[path[-1]]
            changed[path[-1]] = old + (1 if isinstance(old, int) else 0.01 if isinstance(old, float) else "x")

        assert check_report(mutated(scan_folder, tmp_path, change), features), path


ARRAY_MUTATIONS: dict[str, tuple[Callable[[Any, Any], object], str]] = {
    "score of a sample raised": (lambda d, a: a["score"].__setitem__(7, 50.0), "score is not that of K and R"),
    "score lost": (lambda d, a: a["score"].__setitem__(60, np.nan), "score is not that of K and R"),
    "level of a sample raised": (lambda d, a: a["level"].__setitem__(7, 1), "flags: want those of"),
    "level and flag of a sample dropped": (
        lambda d, a: a["level"].__setitem__(d["flags"].pop()["row"], 0),
        "level does not follow from the scores",
    ),
    "all levels dropped": (lambda d, a: (a["level"].fill(0), call_clean(d)), "level does not follow"),
    "label": (lambda d, a: a["label"].__setitem__(7, 2), "labels are not the data's"),
    "id": (lambda d, a: a["ids"].__setitem__(7, "x"), "ids are not the data's"),
    "suggestion": (lambda d, a: a["suggested_label"].__setitem__(60, 2), "suggested_label is not that of the arrays"),
    "false copy": (lambda d, a: a["representative"].__setitem__(9, 8), "a copy is not equal"),
    "group holds a copy": (
        lambda d, a: a["representative"].__setitem__(max(d["verdict_rows"]), min(d["verdict_rows"])),
        "verdict_rows: want distinct samples",
    ),
    "core": (lambda d, a: a["in_core"].fill(False), "not core"),
    "mean": (lambda d, a: a["mean"].__iadd__(0.01), "upper"),
    "shape": (lambda d, a: a.update(score=a["score"][:5]), "score has dtype float64 and shape (5,)"),
    "dtype": (lambda d, a: a.update(score=a["score"].astype("f4")), "score has dtype float32"),
    "array missing": (lambda d, a: a.pop("group"), "arrays.npz holds"),
    "array added": (lambda d, a: a.update(more=a["group"]), "arrays.npz holds"),
    "objects": (lambda d, a: a.update(ids=np.array([{}] * 180, dtype=object)), "ids has dtype object"),
}


@pytest.mark.parametrize("name", ARRAY_MUTATIONS)
def test_changed_arrays_are_caught_even_with_all_digests_adapted(
    name: str, scan_folder: Path, features: Any, tmp_path: Path
) -> None:
    change, said = ARRAY_MUTATIONS[name]
    violations = check_report(forged(scan_folder, tmp_path, change), features)
    assert any(said in violation for violation in violations), violations
    assert not any("SHA-256" in violation or "\n" in violation for violation in violations)


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.update(notes=[]),
        lambda d: d.update(source="other.npy"),
        lambda d: d["config"].update(seed=1),
        lambda d: d["config"].update(folds=7),
        lambda d: d["tool"].update(version="9"),
        lambda d: d.update(inputs={"features": {"file": "x", "sha256": "0" * 64}}),
        lambda d: d.update(comment="added"),
    ],
)
def test_descriptions_are_guarded_by_the_digest(
    change: Callable[[Any], object], scan_folder: Path, features: Any, tmp_path: Path
) -> None:
    assert check_report(mutated(scan_folder, tmp_path, change, sign=False), features) == [
        "digest: the document was changed"
    ]


def test_the_file_read_is_compared_with_the_reports(features: Any, inputs: Any, tmp_path: Path) -> None:
    (tmp_path / "train").write_bytes(b"abc")
    (tmp_path / "in").write_bytes(b"def")
    paths = {"features_path": tmp_path / "train", "inputs_path": tmp_path / "in"}
    report = write_report(fake_results.fake_probe(inputs, features), tmp_path / "out", **paths)
    assert check_report(report.json, features, inputs=inputs, **paths) == []
    swapped = {"features_path": tmp_path / "in", "inputs_path": tmp_path / "train"}
    assert check_report(report.json, features, inputs=inputs, **swapped) == [
        "inputs: SHA-256 of in is not the report's",
        "inputs: SHA-256 of train is not the report's",
    ]


def test_copies_and_weak_features_hold_in_real_reports(features: Any, tmp_path: Path) -> None:
    again = [0, 1, 60, 61, 120]
    doubled = type(features).from_arrays(
        np.concatenate([features.values, features.values[again]]),
        np.concatenate([features.labels, features.labels[again]]),
    )
    rng = np.random.default_rng(0)
    noise = type(features).from_arrays(rng.normal(size=(200, 6)).astype(np.float32), np.arange(200) % 4)
    for name, data in (("doubled", doubled), ("noise", noise)):
        result = clear.scan(data)
        assert check_report(write_report(result, tmp_path / name).json, data) == [], name
    assert result.core_accuracy < result.config.weak_accuracy


@pytest.mark.parametrize("part", ["report.json", "arrays.npz", "scores.parquet"])
def test_devices_and_pipes_are_refused(part: str, scan_folder: Path, features: Any, tmp_path: Path) -> None:
    path = mutated(scan_folder, tmp_path, lambda d: None)
    (tmp_path / part).unlink()
    (tmp_path / part).symlink_to("/dev/zero")
    assert "want a regular file" in check_report(path, features)[0]
    (tmp_path / part).unlink()
    os.mkfifo(tmp_path / part)
    assert "want a regular file" in check_report(path, features)[0]


def bomb(path: Path) -> None:
    with zipfile.ZipFile(path) as old:
        members = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name, data in members.items():
            new.writestr(name, data + bytes(10**6 if name == "score.npy" else 0))


def huge(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"'shape': (180,), ", b"'shape': (10**9,)"))


def claim_more(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data.replace(b"'shape': (180,), }    ", b"'shape': (18000000,), }"))


@pytest.mark.parametrize("damage", [bomb, huge, claim_more, lambda p: p.write_bytes(b"PK\x03\x04 no"), Path.touch])
def test_archives_that_lie_give_one_violation(
    damage: Callable[[Path], object], scan_folder: Path, features: Any, tmp_path: Path
) -> None:
    path = mutated(scan_folder, tmp_path, lambda d: None)
    if damage is Path.touch:
        (tmp_path / "arrays.npz").write_bytes(b"")
    damage(tmp_path / "arrays.npz")
    document = json.loads(path.read_text())
    document["arrays"]["sha256"] = hashlib.sha256((tmp_path / "arrays.npz").read_bytes()).hexdigest()
    path.write_bytes(fake_results.signed(document))
    violations = check_report(path, features)
    assert len(violations) == 1
    assert "damaged" in violations[0]
    assert "\n" not in violations[0]


PROBE_MUTATIONS: dict[str, tuple[Callable[[Any], object], str]] = {
    "z threshold": (lambda d: d["thresholds"].update(z=100.0), "z is not that of probe_fpr"),
    "score": (lambda d: d["flags"][0].update(score=5.0), "score is not that of the arrays"),
    "medians": (lambda d: d["thresholds"].update(collapse_median_5=9.0, collapse_median_20=9.0), "score is not"),
    "raised": (
        lambda d: [d["thresholds"].update({f"collapse_raised_{m}_{c}": 1.0}) for m in (5, 20) for c in range(3)],
        "score is not",
    ),
    "raised below": (lambda d: d["thresholds"].update({"collapse_raised_5_-1": 5.0}), "thresholds: more than"),
    "raised above": (lambda d: d["thresholds"].update({"collapse_raised_5_99": 5.0}), "thresholds: more than"),
    "raised like another": (lambda d: d["thresholds"].update({"collapse_raised_5_ 01": 5.0}), "thresholds: more than"),
    "raised by nothing": (lambda d: d["thresholds"].update({"collapse_raised_5_1": None}), "thresholds: more than"),
    "raised for the crowd": (lambda d: d["thresholds"].update({"collapse_raised_far_1": 1.0}), "thresholds: more than"),
    "another test": (
        lambda d: d["thresholds"].update(collapse_median_q=0.0, collapse_spread_q=1.0),
        "thresholds: more than",
    ),
    "flag dropped": (lambda d: d["flags"].pop(), "flags: want those of"),
    "called clean": (lambda d: d.update(flags=[], verdict="clean"), "flags: want those of"),
    "verdict": (lambda d: d.update(verdict="clean"), "the scores say 'poisoned'"),
    "setting": (
        lambda d: (d["config"].update(probe_fpr=0.2), d["thresholds"].update(z=4.0 - math.log(100) / 1.75)),
        "level does not",
    ),
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


def test_the_checker_imports_numpy_and_the_standard_library_only() -> None:
    modules = set()
    for file in ("check.py", "_check_scores.py"):
        tree = ast.parse(Path(clear.check.__file__).with_name(file).read_text())
        modules |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        modules |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    allowed = set(sys.stdlib_module_names) | {"numpy"}
    assert {module.partition(".")[0] for module in modules - {"clear._check_scores"}} <= allowed
