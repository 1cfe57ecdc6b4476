"""Reports: what is written can be read back, is the same every time, and is safe to open."""

from __future__ import annotations

import dataclasses
import hashlib
import html.parser
import json
import math
import os
import re
from pathlib import Path
from typing import Any

import fake_results
import numpy as np
import pyarrow.parquet
import pytest

from clear import UnsafeFile
from clear.report import SCORE_COLUMNS, read_report, write_report
from clear.results import Level, ProbeResult, ScanResult

HOSTILE = """<script>alert('1')</script>"><img src=x onerror=alert(2)>{{ 7*7 }}&amp;"""


@pytest.fixture(scope="module")
def features() -> Any:
    return fake_results.fake_features()


@pytest.fixture(scope="module")
def scan(features: Any) -> ScanResult:
    return fake_results.fake_scan(features)


@pytest.fixture(scope="module")
def probe(features: Any) -> ProbeResult:
    return fake_results.fake_probe(fake_results.fake_inputs(features), features)


@pytest.fixture(scope="module")
def folder(scan: ScanResult, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("scan")
    write_report(scan, place, images=fake_results.FakeImages(scan.n_samples))
    return place


def assert_same(result: Any, other: Any) -> None:
    """Two results are equal, field by field, nan included."""
    assert type(result) is type(other)
    for item in dataclasses.fields(result):
        left, right = getattr(result, item.name), getattr(other, item.name)
        if dataclasses.is_dataclass(left):
            assert_same(left, right)
        elif isinstance(left, np.ndarray):
            np.testing.assert_array_equal(left, right)
            assert left.dtype.kind == right.dtype.kind
        else:
            assert left == right, item.name


def test_a_scan_survives_being_written_and_read(scan: ScanResult, folder: Path) -> None:
    assert np.isnan(scan.scores.group).any()
    assert_same(scan, read_report(folder / "report.json"))
    assert_same(scan, read_report(folder))


def test_a_probe_survives_being_written_and_read(probe: ProbeResult, tmp_path: Path) -> None:
    assert_same(probe, read_report(write_report(probe, tmp_path).json))


def test_features_used_at_their_own_width_and_without_class_names_survive(scan: ScanResult, tmp_path: Path) -> None:
    preparation = dataclasses.replace(scan.preparation, components=None)
    plain = dataclasses.replace(
        scan, class_names=None, source=None, preparation=preparation, flags=(), pockets=(), notes=(), verdict="clean"
    )
    assert_same(plain, read_report(write_report(plain, tmp_path).json))


def test_numbers_that_json_cannot_spell_survive(scan: ScanResult, tmp_path: Path) -> None:
    odd = dataclasses.replace(
        scan,
        flags=(dataclasses.replace(scan.flags[0], reassignment=math.nan), *scan.flags[1:]),
        thresholds={"certain": math.inf},
    )
    report = write_report(odd, tmp_path)
    document = json.loads(report.json.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert document["flags"][0]["reassignment"] is None
    again = read_report(report.json)
    assert math.isnan(again.flags[0].reassignment)
    assert again.thresholds == {"certain": math.inf}


def test_the_same_result_gives_the_same_bytes(scan: ScanResult, folder: Path, tmp_path: Path) -> None:
    write_report(scan, tmp_path, images=fake_results.FakeImages(scan.n_samples))
    for name in ("report.json", "arrays.npz", "scores.parquet", "report.html"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes(), name


def test_json_is_canonical(folder: Path) -> None:
    text = (folder / "report.json").read_text()
    document = json.loads(text)
    assert text == json.dumps(document, sort_keys=True, separators=(",", ":")) + "\n"
    assert (document["schema"], document["kind"], document["tool"]["name"]) == (
        "clear-report/1",
        "scan",
        "clear-pockets",
    )


def test_inputs_are_named_with_their_digest(scan: ScanResult, tmp_path: Path) -> None:
    (tmp_path / "train.npy").write_bytes(b"abc")
    report = write_report(scan, tmp_path / "out", features_path=tmp_path / "train.npy")
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert json.loads(report.json.read_text())["inputs"] == {
        "features": {"file": "train.npy", "sha256": digest, "shape": [scan.n_samples, scan.n_features]}
    }
    assert digest in report.html.read_text()


def test_the_table_holds_one_row_for_each_sample(scan: ScanResult, folder: Path) -> None:
    table = pyarrow.parquet.read_table(folder / "scores.parquet")
    assert table.column_names == ["id", "row", "label", *SCORE_COLUMNS]
    assert table["id"].to_pylist() == scan.ids.tolist()
    assert table["row"].to_pylist() == list(range(scan.n_samples))
    assert table["score"].to_pylist() == scan.scores.score.tolist()


class Page(html.parser.HTMLParser):
    """Elements, attributes and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_loads_nothing_and_runs_nothing(folder: Path) -> None:
    text = (folder / "report.html").read_text()
    page = Page(text)
    assert not {"script", "link", "iframe", "object", "form", "base"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    links = [value for name, value in page.attributes if name in ("src", "href", "xlink:href", "action")]
    assert links
    assert all(value.startswith(("data:image/", "#")) for value in links)
    policy = next(value for name, value in page.attributes if name == "content" and "default-src" in value)
    assert "default-src 'none'" in policy
    assert not re.search(r"@import|url\((?!['\"]?#)", text)


def test_strings_of_the_user_are_escaped_wherever_they_stand(scan: ScanResult, tmp_path: Path) -> None:
    result = fake_results.renamed(scan, HOSTILE)
    text = write_report(result, tmp_path, images=fake_results.FakeImages(scan.n_samples)).html.read_text()
    page = Page(text)
    assert "<script" not in text
    assert "script" not in page.tags
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert page.text.count(HOSTILE) >= 10
    assert "49" not in re.findall(r"{{.*?}}", page.text)


def test_hostile_strings_of_a_probe_are_escaped(probe: ProbeResult, tmp_path: Path) -> None:
    flags = tuple(dataclasses.replace(flag, id=HOSTILE) for flag in probe.flags)
    result = dataclasses.replace(probe, flags=flags, reference_source=HOSTILE, class_names=(HOSTILE,) * 3)
    assert "<script" not in write_report(result, tmp_path).html.read_text()


def test_the_page_says_what_was_found(scan: ScanResult, folder: Path) -> None:
    text = " ".join(Page((folder / "report.html").read_text()).text.split())
    assert "Poisoned: 6 of 180 training samples stand out as planted or mislabelled." in text
    assert "dog → cat" in text
    for identifier in scan.pockets[0].ids:
        assert str(identifier) in text
    assert f"{scan.thresholds['certain']:.2f}" in text
    assert scan.notes[0] in text


@pytest.mark.parametrize(
    ("verdict", "sentence"),
    [
        ("clean", "does not prove that there is no poison"),
        ("undecided", "Undecided does not mean clean"),
        ("poisoned", "None of its samples is certain by itself"),
    ],
)
def test_the_page_says_what_the_verdict_does_not_mean(
    verdict: Any, sentence: str, scan: ScanResult, tmp_path: Path
) -> None:
    result = dataclasses.replace(scan, verdict=verdict, flags=(), pockets=())
    assert sentence in Page(write_report(result, tmp_path).html.read_text()).text


def test_the_page_has_thumbnails_of_members_and_support(folder: Path) -> None:
    page = Page((folder / "report.html").read_text())
    pictures = [value for name, value in page.attributes if name == "src"]
    assert len(pictures) > 12
    assert all(value.startswith("data:image/jpeg;base64,") for value in pictures)


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 1), (16, 16, 3), (400, 200, 3), (64, 64, 4)])
def test_images_of_any_shape_become_thumbnails(shape: tuple[int, ...], scan: ScanResult, tmp_path: Path) -> None:
    images = np.zeros((scan.n_samples, *shape), dtype=np.uint8)
    assert 'src="data:image/' in write_report(scan, tmp_path, images=images).html.read_text()


def test_images_of_floats_are_refused(scan: ScanResult, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="want uint8"):
        write_report(scan, tmp_path, images=np.zeros((scan.n_samples, 8, 8)))
    assert not (tmp_path / "report.json").exists()


def test_an_image_that_cannot_be_decoded_is_left_out(scan: ScanResult, tmp_path: Path) -> None:
    class Broken(fake_results.FakeImages):
        def image(self, i: int) -> np.ndarray:
            raise UnsafeFile(f"image {i} is damaged")

    assert "data:image/jpeg" not in write_report(scan, tmp_path, images=Broken(180)).html.read_text()


def test_figures_stay_small_for_many_samples(scan: ScanResult) -> None:
    from clear._report_figures import draw_histogram, draw_scatter

    rng = np.random.default_rng(0)
    n = 50_000
    values = {name: rng.normal(size=n) for name in ("collapse", "reassignment", "score", "group", "suspicion")}
    level = np.where(values["score"] > 2.5, Level.CERTAIN, Level.NONE).astype(np.int8)
    scores = dataclasses.replace(scan.scores, **values, level=level)
    many = dataclasses.replace(scan, scores=scores, n_samples=n)
    assert np.count_nonzero(level) > 250
    assert len(draw_scatter(many)) < 150_000
    assert len(draw_histogram(many)) < 60_000


def test_figures_of_scores_that_are_all_missing_can_be_drawn(scan: ScanResult, tmp_path: Path) -> None:
    nothing = np.full(scan.n_samples, np.nan)
    scores = dataclasses.replace(
        scan.scores, collapse=nothing, reassignment=nothing, score=nothing, group=nothing,
        level=np.zeros(scan.n_samples, dtype=np.int8),
    )  # fmt: skip
    result = dataclasses.replace(
        scan, scores=scores, flags=(), pockets=(), verdict="undecided", thresholds={"certain": math.nan}
    )
    assert "180" in Page(write_report(result, tmp_path).html.read_text()).text


def copy_of(folder: Path, target: Path) -> Path:
    for path in folder.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target


DAMAGES = {
    "empty": lambda text: b"",
    "cut": lambda text: text[: len(text) // 2],
    "not UTF-8": lambda text: b"\xff\xfe" + text,
    "a list": lambda text: b"[]",
    "another version": lambda text: text.replace(b"clear-report/1", b"clear-report/2"),
    "nested too deeply": lambda text: b"[" * 200_000,
    "a missing field": lambda text: text.replace(b'"n_samples"', b'"n_somples"'),
    "a wrong type": lambda text: text.replace(b'"flags":[', b'"flags":[7,'),
    "an unknown level": lambda text: text.replace(b'"certain","mates"', b'"sure","mates"'),
    "a row that does not exist": lambda text: text.replace(b'"row":65', b'"row":6500'),
    "an unknown verdict": lambda text: text.replace(b'"poisoned"', b'"fine"'),
    "a setting out of range": lambda text: text.replace(b'"folds":5', b'"folds":-5'),
    "an unknown setting": lambda text: text.replace(b'"folds":5', b'"folds":5,"speed":9'),
    "a digest of another file": lambda text: re.sub(rb'"sha256":"[0-9a-f]{4}', b'"sha256":"0000', text),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_report_is_refused_with_one_line_that_names_the_file(
    damage: str, folder: Path, tmp_path: Path
) -> None:
    copy_of(folder, tmp_path)
    original = (tmp_path / "report.json").read_bytes()
    changed = DAMAGES[damage](original)
    assert changed != original
    try:  # what can be signed again is: the digest must not be the only guard
        changed = fake_results.signed(json.loads(changed))
    except (ValueError, AttributeError, RecursionError):
        assert damage in ("empty", "cut", "not UTF-8", "a list", "nested too deeply")
    (tmp_path / "report.json").write_bytes(changed)
    with pytest.raises(UnsafeFile, match=r"^\S*(report\.json|arrays\.npz|scores\.parquet)[^\n]*$"):
        read_report(tmp_path)


@pytest.mark.parametrize("name", ["arrays.npz", "scores.parquet"])
def test_a_damaged_part_is_refused(name: str, folder: Path, tmp_path: Path) -> None:
    copy_of(folder, tmp_path)
    data = bytearray((tmp_path / name).read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UnsafeFile, match=name):
        read_report(tmp_path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not what it seems"])
def test_forged_arrays_with_all_digests_adapted_are_refused(content: bytes, folder: Path, tmp_path: Path) -> None:
    copy_of(folder, tmp_path)
    (tmp_path / "arrays.npz").write_bytes(content)
    document = json.loads((tmp_path / "report.json").read_text())
    document["arrays"]["sha256"] = hashlib.sha256(content).hexdigest()
    (tmp_path / "report.json").write_bytes(fake_results.signed(document))
    with pytest.raises(UnsafeFile, match=r"arrays\.npz: damaged"):
        read_report(tmp_path)


def test_a_missing_report_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_report(tmp_path / "report.json")


def test_a_failure_leaves_the_old_report_and_no_partial_file(
    scan: ScanResult, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy_of(folder, tmp_path)

    def fail(*_: Any, **__: Any) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("clear._report_html.render_html", fail)
    with pytest.raises(KeyboardInterrupt):
        write_report(scan, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in folder.iterdir()}
    assert_same(scan, read_report(tmp_path))


def test_a_changed_field_is_noticed_by_the_digest(folder: Path, tmp_path: Path) -> None:
    copy_of(folder, tmp_path)
    path = tmp_path / "report.json"
    path.write_bytes(path.read_bytes().replace(b'"seed":0', b'"seed":1'))
    with pytest.raises(UnsafeFile, match=r"report\.json was changed"):
        read_report(tmp_path)


def test_a_part_that_is_no_regular_file_is_refused(folder: Path, tmp_path: Path) -> None:
    copy_of(folder, tmp_path)
    (tmp_path / "arrays.npz").unlink()
    (tmp_path / "arrays.npz").symlink_to("/dev/zero")
    with pytest.raises(UnsafeFile, match="want a regular file"):
        read_report(tmp_path)


@pytest.mark.parametrize("done", [0, 1, 2, 3])
def test_files_are_replaced_together_and_the_json_last(
    done: int, scan: ScanResult, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy_of(folder, tmp_path)
    other = dataclasses.replace(scan, notes=("another",), labels=scan.labels.copy())
    other.labels[0] = 2
    replaced: list[str] = []
    replace = os.replace

    def stop_after(source: Any, target: Any) -> None:
        if len(replaced) == done:
            raise KeyboardInterrupt
        replaced.append(Path(target).name)
        replace(source, target)

    monkeypatch.setattr("os.replace", stop_after)
    with pytest.raises(KeyboardInterrupt):
        write_report(other, tmp_path)
    assert replaced == ["arrays.npz", "scores.parquet", "report.html"][:done]
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in folder.iterdir()}
    if done:
        with pytest.raises(UnsafeFile, match="SHA-256 differs"):  # a mixture is not taken for a report
            read_report(tmp_path)
    else:
        assert_same(scan, read_report(tmp_path))
