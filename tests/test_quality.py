"""The evaluation: its arithmetic against small oracles, its baselines on planted data, one unit of every kind."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from samples import make_classes, make_pocket

torch = pytest.importorskip("torch", reason="the evaluation needs the torch extra")
ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from bench.quality import attacks, baselines, condense, datasets, epic, laboratory, metrics, report, units, victims  # noqa: E402
from bench.quality.__main__ import ATTACKS_ON, EVERY_ATTACK, EVERY_NETWORK, NETWORKS, main, plan  # noqa: E402
from bench.quality.architectures import ARCHITECTURES  # noqa: E402
from bench.quality.defences import compress  # noqa: E402

pytestmark = pytest.mark.torch


def test_rates_follow_from_exceedances() -> None:
    scores = np.array([5.0, 1.0, 3.0, 3.0, 2.0, np.nan])
    positive = np.array([True, False, True, False, False, True])
    found = metrics.exceedances(scores, positive)
    assert found == [(0.0, 0.0), (pytest.approx(1 / 3), pytest.approx(1 / 6)), (1.0, 1.0)]
    assert metrics.rate(found, 0.0) == pytest.approx(1 / 3)
    assert metrics.rate(found, 0.34) == pytest.approx(2 / 3)


def test_auroc_agrees_with_scikit_learn_with_ties() -> None:
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(0)
    positive = rng.random(200) < 0.3
    scores = rng.integers(0, 8, 200) + 2.0 * positive
    assert metrics.auroc(metrics.exceedances(scores, positive)) == pytest.approx(roc_auc_score(positive, scores))


def test_precision_counts_the_top_two_p() -> None:
    scores = np.array([9.0, 8.0, 7.0, 6.0, 5.0, 4.0])
    positive = np.array([True, False, False, True, False, False])  # ranks 1 and 4 of the top 4
    assert metrics.precision(metrics.exceedances(scores, positive), 4) == 0.5
    assert metrics.precision(metrics.exceedances(-scores, positive), 4) == 0.25


def test_average_precision_and_correlation_agree_with_scikit_learn() -> None:
    from sklearn.metrics import average_precision_score, matthews_corrcoef

    rng = np.random.default_rng(0)
    positive = rng.random(300) < 0.1
    scores = rng.normal(size=300) + positive
    found = metrics.exceedances(scores, positive)
    wanted = average_precision_score(positive, scores)
    assert metrics.average_precision(found, int((~positive).sum())) == pytest.approx(wanted)
    flagged = scores > 1
    counts = (flagged & positive).sum(), positive.sum(), (flagged & ~positive).sum(), (~positive).sum()
    assert metrics.matthews(*map(int, counts)) == pytest.approx(matthews_corrcoef(positive, flagged))
    assert metrics.matthews(0, 10, 0, 90) == 0.0


def test_epic_drops_samples_that_are_alone_in_gradient_space() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], 30)
    gradients = 0.01 * rng.normal(size=(90, 3)) + np.eye(3)[labels].astype(float)
    gradients[[4, 40]] += [[0, 5, 0], [0, 0, 5]]
    alone = epic.isolated(gradients, labels)
    assert alone[[4, 40]].all()
    assert alone.sum() < 20  # of 18 medoids those of more than one sample stay
    values, classes = make_classes(0, per_class=40)
    head = epic.train_with_epic(values, classes, 5, seed=0)
    assert head is not None
    assert (laboratory.probabilities(head, values).argmax(1) == classes).mean() > 0.95
    assert epic.train_with_epic(values, np.zeros(1200, np.int64), 5, seed=0) is None  # too large a class


@pytest.mark.parametrize(
    ("successes", "trials", "wanted"),
    [(0, 10, (0.0, 0.3085)), (10, 10, (0.6915, 1.0)), (7, 10, (0.3475, 0.9333)), (0, 0, (0.0, 1.0))],
)
def test_intervals_are_clopper_pearson(successes: int, trials: int, wanted: tuple[float, float]) -> None:
    assert metrics.interval(successes, trials) == pytest.approx(wanted, abs=1e-4)


@pytest.fixture(scope="module")
def planted() -> tuple[baselines.Training, np.ndarray]:
    """Ten labels flipped among well separated classes: every label detector must see them."""
    values, labels = make_classes(0, per_class=60)
    flips = np.arange(10)
    labels[flips] = (labels[flips] + 1) % 5
    return baselines.Training(values, labels, np.full((len(labels), 5), 0.2)), flips


@pytest.mark.parametrize("name", ["Deep k-NN, k = 50", "Deep k-NN, k = 50, self-vote", "l2 outlier", "LOF"])
def test_baselines_see_flipped_labels(planted: tuple[baselines.Training, np.ndarray], name: str) -> None:
    training, flips = planted
    found = metrics.exceedances(baselines.SCORERS[name](training), np.isin(np.arange(300), flips))
    assert metrics.auroc(found) > 0.95


@pytest.mark.parametrize("name", ["cleanlab labels", "cleanlab outliers"])
def test_cleanlab_is_asked_the_right_way_round(planted: tuple[baselines.Training, np.ndarray], name: str) -> None:
    pytest.importorskip("cleanlab", reason="a baseline of the evaluation, not a dependency")
    training, flips = planted
    values = training.features.copy()
    values[flips] = np.random.default_rng(99).normal(size=(10, 16))  # of no class, for the outlier score
    moved = dataclasses.replace(training, features=values) if name == "cleanlab outliers" else training
    found = metrics.exceedances(baselines.SCORERS[name](moved), np.isin(np.arange(300), flips))
    assert metrics.auroc(found) > 0.95


def test_spectral_signatures_are_centred(planted: tuple[baselines.Training, np.ndarray]) -> None:
    training, _ = planted
    moved = dataclasses.replace(training, features=training.features + 100.0)
    np.testing.assert_allclose(baselines.spectral(moved), baselines.spectral(training), rtol=1e-2, atol=1e-2)


def test_the_hull_sees_a_pocket_that_votes_do_not() -> None:
    pocket = make_pocket(0, poisons=12)
    training = baselines.Training(pocket.values, pocket.labels, np.full((len(pocket.labels), 5), 0.2))
    inputs = np.concatenate([pocket.target[None], make_classes(0, per_class=40)[0]])
    confidence = np.full((len(inputs), 5), 0.1)
    confidence[:, 0] = 0.6
    scores = baselines.score_inputs(training, inputs.astype(np.float32), confidence)
    assert set(scores) == {
        "Deep k-NN, k = 50",
        "distance to the 20th neighbour",
        "1 - confidence",
        "kNN in place of the hull",
    }
    assert scores["kNN in place of the hull"][0] > np.quantile(scores["kNN in place of the hull"][1:], 0.95)


def test_splits_are_disjoint_and_depend_on_the_seed() -> None:
    labels = np.tile(np.arange(5), 100)
    sizes = datasets.Sizes(per_class=20, own=50, clean=60)
    first, again, other = (datasets.split(labels, sizes, seed) for seed in (1, 1, 2))
    parts = np.concatenate([first.train, first.own, first.clean, first.rest])
    assert np.array_equal(np.sort(parts), np.arange(500))
    assert (np.bincount(labels[first.train]) == 20).all()
    assert np.array_equal(first.rest, again.rest)
    assert not np.array_equal(first.train, other.train)


def test_unequal_class_sizes_are_dealt_to_the_classes_at_random() -> None:
    labels = np.tile(np.arange(10), 500)
    sizes = datasets.Sizes(per_class=datasets.RARE, own=50, clean=60)
    dealt = [np.bincount(labels[datasets.split(labels, sizes, seed).train]).tolist() for seed in (1, 1, 2)]
    assert (max(datasets.RARE), min(datasets.RARE)) == (400, 12)
    assert all(sorted(found, reverse=True) == list(datasets.RARE) for found in dealt)
    assert dealt[0] == dealt[1] != dealt[2]
    parts = datasets.split(labels, sizes, 1)
    assert np.bincount(labels[parts.clean], minlength=10).max() < 20  # of 60: not the small classes first
    assert np.array_equal(np.sort(np.concatenate([*vars(parts).values()])), np.arange(len(labels)))


def test_pairs_of_digits_are_named_by_both_and_share_no_digit_with_what_the_network_learns_from() -> None:
    from sklearn.datasets import load_digits

    data, digit = datasets.digit_pairs(known_pairs=3, fresh_pairs=4), load_digits().target
    assert (len(data.known), len(data.fresh)) == (300, 400)
    assert (np.bincount(data.fresh.labels) == 4).all()
    assert data.fresh.images.shape == (400, 32, 32, 1)
    rows = np.random.default_rng(0).permutation(len(digit))
    pairs = datasets.draw_pairs(rows[:900], 4, seed=2)
    for side in pairs.reshape(100, 4, 2).transpose(2, 0, 1).reshape(200, 4):
        assert len(set(side)) == 4
    assert np.isin(pairs, rows[:900]).all()
    assert np.array_equal(digit[pairs[:, 0]] * 10 + digit[pairs[:, 1]], np.repeat(np.arange(100), 4))
    known, fresh = datasets.shuffled(len(digit), 800)
    assert not np.isin(known, fresh).any()


def test_the_same_images_cut_in_another_way_have_the_same_extractor(workplace: tuple[Path, datasets.Data]) -> None:
    sizes = dataclasses.replace(workplace[1].sizes, per_class=(60, 50, 40, 30, 20, 15, 15, 15, 15, 12))
    rare = dataclasses.replace(workplace[1], name="digits-rare", sizes=sizes, same_images="digits")
    usual, cut = (laboratory.open_laboratory(data, "mlp", 0, workplace[0], None) for data in (workplace[1], rare))
    assert np.array_equal(usual.features, cut.features)
    assert np.bincount(cut.labels[cut.split.train]).max() == 60
    assert not list((workplace[0] / "cache").glob("digits-rare-*"))


def test_the_poisons_of_all_targets_can_lie_in_one_training_set(
    workplace: tuple[Path, datasets.Data], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(attacks.CRAFTED, "bullseye-500", attacks.Attack("bullseye", poisons=3, together=2))
    lab = laboratory.open_laboratory(workplace[1], "mlp", 0, workplace[0], None)
    aims = [(int(row), (int(lab.labels[lab.split.rest[0]]) + 1) % 10) for row in lab.split.rest[:2]]
    one, two = attacks.implant_all(lab, "bullseye-500", aims, None, steps=3)
    assert one.training_set == two.training_set
    assert np.array_equal(one.features, two.features)
    assert not np.isin(one.poisons, two.poisons).any()
    assert np.array_equal(two.changed, np.concatenate([two.poisons, one.poisons]))
    moved = np.flatnonzero((one.features != lab.features[lab.split.train]).any(1))
    assert np.array_equal(moved, np.sort(one.changed))
    (alone,) = attacks.implant_all(lab, "bullseye-polytope", aims[:1], None, steps=3)
    assert (alone.training_set, len(alone.changed)) == (alone.name, 5)


def test_a_shared_training_set_has_one_verdict_in_the_tables(workplace: tuple[Path, datasets.Data]) -> None:
    row = next(row for row in run(workplace, "bullseye-polytope")["rows"] if row["success"])
    assert len(condense.verdicts([row["scan"], row["scan"]])) == 1
    assert len(condense.verdicts([row["scan"], row["scan"] | {"training_set": "another"}])) == 2
    flips = {key: value for key, value in row["scan"].items() if key != "training_set"}
    assert len(condense.verdicts([flips, flips])) == 2


def test_every_second_wrong_class_is_a_rare_one(workplace: tuple[Path, datasets.Data]) -> None:
    per_class = (90, 80, 70, 60, 50, 40, 30, 20, 15, 12)
    sizes = dataclasses.replace(workplace[1].sizes, per_class=per_class, nearest=True, rare=3)
    few = dataclasses.replace(workplace[1], name="digits-few", sizes=sizes, same_images="digits")
    lab = laboratory.open_laboratory(few, "mlp", 0, workplace[0], None)
    rare = np.argsort(np.bincount(lab.labels[lab.split.train]))[:3]
    rng = np.random.default_rng(0)
    chosen = [victims.wrong_class(lab, int(target), 1, rng) for target in lab.split.rest[:40]]
    assert np.isin(chosen, rare).all()
    free = [victims.wrong_class(lab, int(target), 2, rng) for target in lab.split.rest[:40]]
    assert not np.isin(free, rare).all()
    assert (np.array(chosen) != lab.labels[lab.split.rest[:40]]).all()


@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_every_architecture_takes_both_image_sizes_and_ends_in_a_linear_layer(name: str) -> None:
    from clear.models import last_linear

    for channels, side in ((1, 28), (3, 32)):
        network = ARCHITECTURES[name](channels, side, 7)
        assert network.eval()(torch.zeros(2, channels, side, side)).shape == (2, 7)
        assert last_linear(network)[1].out_features == 7


def test_jpeg_changes_images_a_little() -> None:
    pixels = datasets.digits().fresh.pixels(np.arange(3))
    changed = compress(pixels)
    assert changed.shape == pixels.shape
    assert 0 < (changed - pixels).abs().mean() < 0.05


def test_absent_data_say_where_they_come_from(tmp_path: Path) -> None:
    with pytest.raises(datasets.Absent, match="dataset-fashion-mnist"):
        datasets.fashion(tmp_path)
    with pytest.raises(datasets.Absent, match="--data DIR"):
        datasets.cifar10(None)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, datasets.Data]:
    """Where the quick profile has been run."""
    pytest.importorskip("cleanlab", reason="the baselines include it")
    out = tmp_path_factory.mktemp("quality")
    with units.one_thread():
        assert main(["--quick", "--out", str(out)]) == 0
        yield out, datasets.digits()


def run(workplace: tuple[Path, datasets.Data], attack: str, lines: list[str] | None = None) -> dict:
    unit = units.Unit("digits", "mlp", attack, seed=0, targets=1, steps=30)
    return units.run_unit(unit, workplace[1], workplace[0], None, [].append if lines is None else lines.append)


@pytest.mark.parametrize("attack", [*attacks.FROZEN, *attacks.WHOLE, *attacks.BENCHMARK])
def test_a_unit_reports_success_geometry_and_every_defence(workplace: tuple[Path, datasets.Data], attack: str) -> None:
    result = run(workplace, attack)
    (row,) = result["rows"]
    most = attacks.CRAFTED[attack].epsilon or 0.2
    assert 0 <= row["geometry"]["largest_change"] <= most + 1e-6
    assert row["true"] != row["taken_for"]
    if row["success"]:
        assert row["repair"]["none"]["still_taken"]
        assert len(row["probe"]["scores"]["clear"]) == 1
        assert len(row["scan"]["scores"]["clear: K"]) == row["scan"]["poisons"]
    assert json.loads((workplace[0] / "units" / f"digits-mlp-{attack}-seed0.json").read_text()) == result


def test_attacks_on_a_head_succeed_without_defence(workplace: tuple[Path, datasets.Data]) -> None:
    won = [run(workplace, attack)["rows"][0]["success"] for attack in attacks.FROZEN]
    assert sum(won) >= len(won) - 2


def test_a_unit_that_was_run_is_not_run_again_unless_it_differs(workplace: tuple[Path, datasets.Data]) -> None:
    lines: list[str] = []
    first, again = run(workplace, "feature-collision"), run(workplace, "feature-collision", lines)
    assert first == again
    assert lines == ["digits-mlp-feature-collision-seed0: done before"]
    other = units.Unit("digits", "mlp", "feature-collision", seed=0, targets=1, steps=1)
    assert units.run_unit(other, workplace[1], workplace[0], None, lines.append) != first


def test_other_code_judges_again_what_was_crafted_before(
    workplace: tuple[Path, datasets.Data], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(workplace, "feature-collision")
    crafted = {
        path: path.stat().st_mtime_ns for path in (workplace[0] / "cache").rglob("*.*") if path.suffix != ".json"
    }
    monkeypatch.setattr(units, "defence_hash", lambda whole: "another")
    again = run(workplace, "feature-collision")
    assert (again["code"], again["rows"]) == ("another", first["rows"])
    assert _times_of_crafting(workplace[0]) == crafted


def _times_of_crafting(out: Path) -> dict[Path, int]:
    kept = [path for path in (out / "cache").rglob("*") if path.suffix in (".npz", ".npy", ".safetensors")]
    assert {path.suffix for path in kept} == {".npz", ".npy", ".safetensors"}
    return {path: path.stat().st_mtime_ns for path in kept}


def test_near_copies_are_neither_poisons_nor_clean(workplace: tuple[Path, datasets.Data]) -> None:
    lab = laboratory.open_laboratory(workplace[1], "mlp", 0, workplace[0], None)
    target = int(lab.split.rest[0])
    case = attacks.implant(lab, "bullseye-copies", target, int(lab.labels[target] + 1) % 10, None, steps=5)
    assert (len(case.poisons), len(case.changed)) == (5, 20)
    assert set(lab.labels[lab.split.train][case.changed]) == {case.taken_for}
    pixels = lab.pixels(lab.split.train)[case.changed]
    assert not (case.changed_pixels == pixels).flatten(1).all(1).any()


def test_wrong_labels_are_scanned_without_a_victim(workplace: tuple[Path, datasets.Data]) -> None:
    result = run(workplace, attacks.MISTAKES)
    (row,) = result["rows"]
    assert row["flips"] == len(row["scan"]["scores"]["cleanlab labels"]) == 5
    (pooled,) = condense.condense([result, result | {"unit": result["unit"] | {"seed": 1}}])
    assert pooled["scan"]["trials"] == pooled["scan"]["poisons"] == 10  # a label is a trial
    lines = report.summarise([result])
    assert any(line.startswith("| digits, mlp | wrong-labels | 1 sets | ") for line in lines)


def test_flips_and_clean_sets_are_pooled_into_tables(workplace: tuple[Path, datasets.Data]) -> None:
    flips, unpoisoned = run(workplace, "label-flips"), run(workplace, "none")
    (row,) = flips["rows"]
    assert row["repair"]["none"]["still_taken"] == row["memorised"] > 0
    assert len(unpoisoned["rows"]) == workplace[1].sizes.clean_sets
    lines = report.summarise([flips, unpoisoned])
    assert any(line.startswith("| label-flips, own features and views |") for line in lines)
    assert any("| relabel from scan |" in line for line in lines)
    assert any(line.startswith(f"| {workplace[1].sizes.clean_sets} | 500 |") for line in lines)


def test_the_document_shows_what_the_results_say() -> None:
    assert report.document(report.load()) == report.DOCUMENT.read_text(encoding="utf-8")


def test_every_attack_has_a_place_in_the_plan() -> None:
    from argparse import Namespace

    assert [unit.attack for unit in plan(Namespace(quick=True))] == list(EVERY_ATTACK)
    everything = Namespace(
        quick=False,
        seeds=[1, 2],
        targets=3,
        steps=5,
        datasets=NETWORKS,
        networks=EVERY_NETWORK,
        attacks=[*EVERY_ATTACK, *attacks.MANY],
    )
    attacks_on = {data: len(ATTACKS_ON.get(data, EVERY_ATTACK)) for data in NETWORKS}
    assert len(plan(everything)) == 2 * sum(attacks_on[data] * len(names) for data, names in NETWORKS.items())
    everything.datasets, everything.attacks = ["cifar10"], ["feature-collision"]
    chosen = plan(everything)
    assert {(unit.dataset, unit.attack) for unit in chosen} == {("cifar10", "feature-collision")}
    assert len(chosen) == 2 * len(NETWORKS["cifar10"])


def test_the_full_profile_has_the_targets_and_steps_of_the_papers_unless_told_otherwise(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = ["--datasets", "digits", "--networks", "mlp", "--attacks", "feature-collision"]
    planned: list[Any] = []
    monkeypatch.setattr("bench.quality.__main__.plan", lambda options: planned.append(options) or [])
    assert main(["--full", "--device", "cpu", *chosen]) == 0
    assert (planned[0].targets, planned[0].steps, planned[0].seeds) == (50, 4000, [11, 12, 13])
    assert planned[0].out == Path("out/quality-full")
    assert main(["--full", "--device", "cpu", *chosen, "--targets", "2", "--seeds", "4"]) == 0
    assert (planned[1].targets, planned[1].steps, planned[1].seeds) == (2, 4000, [4])
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SystemExit):
        main(["--full", *chosen])
    assert "torch sees no GPU here" in capsys.readouterr().err


def test_networks_run_where_the_data_set_says(workplace: tuple[Path, datasets.Data]) -> None:
    there = laboratory.new_network(dataclasses.replace(workplace[1], device="meta"), "mlp", seed=0)
    assert {parameter.device.type for parameter in there.parameters()} == {"meta"}


def test_units_of_different_steps_are_not_pooled() -> None:
    unit = {"dataset": "digits", "architecture": "mlp", "attack": "feature-collision", "seed": 1, "targets": 1}
    results = [{"unit": unit | {"steps": steps}} for steps in (200, 4000)]
    with pytest.raises(ValueError, match=r"\[200, 4000\] steps: one --out for each"):
        condense.condense(results)


def test_what_is_judged_is_kept_under_the_code_that_judged() -> None:
    from bench.quality.code import ENTRIES, FOR_NETWORKS, reached

    names = {path.stem for path in reached(ENTRIES)}
    assert {path.stem for path in reached(FOR_NETWORKS)} - names == {"views", "whole", "flips"}
    assert {"detect", "probing", "review", "repair", "pockets", "baselines", "defences"} <= names
    assert not {"report", "cli", "demo"} & names


def test_the_figures_are_drawn_from_the_results_and_do_not_change(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="figures need the report extra")
    from bench.quality.figures import draw

    for folder in ("one", "two"):
        draw(report.load(), tmp_path / folder)
    for name in ("quality-roc.svg", "quality-repair.svg", "quality-pockets.png"):
        drawn = [(tmp_path / folder / name).read_bytes() for folder in ("one", "two")]
        assert drawn[0] == drawn[1]
        assert len(drawn[0]) > 10_000
