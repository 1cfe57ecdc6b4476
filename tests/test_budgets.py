"""The errors that a user accepts: what they mean in spreads, and what they change."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from samples import make_classes, make_pocket

import clear
from clear.budgets import flag_spreads, probe_spreads, verdict_bars
from clear.check import check_report
from clear.report import write_report

Features = clear.Features.from_arrays


def test_the_defaults_are_the_spreads_that_were_measured() -> None:
    config = clear.ScanConfig()
    assert config.certain_spreads == pytest.approx(3.5, abs=1e-4)
    assert config.probe_spreads == 4.0
    assert verdict_bars(config.false_alarms, 1000) == (3.75, 4.5)


def test_false_flags_are_those_of_a_normal_law() -> None:
    for spreads in (2.0, 3.0, 4.0):
        assert flag_spreads(1000 * 0.5 * math.erfc(spreads / math.sqrt(2))) == pytest.approx(spreads)


@pytest.mark.parametrize("law", [flag_spreads, probe_spreads, lambda rate: verdict_bars(rate, 50_000).does])
def test_who_accepts_more_errors_gets_a_lower_bar(law) -> None:
    bars = [law(rate) for rate in (1e-6, 1e-4, 1e-2, 0.2)]
    assert bars == sorted(bars, reverse=True)
    assert len(set(bars)) == len(bars)


@pytest.mark.parametrize("setting", ["false_flags", "false_alarms", "probe_fpr"])
@pytest.mark.parametrize("value", [0.0, -1.0, 1000.0, float("nan")])
def test_a_budget_out_of_range_is_one_line(setting: str, value: float) -> None:
    with pytest.raises(ValueError, match=setting):
        clear.ScanConfig(**{setting: value})


def test_clean_samples_are_certain_about_as_often_as_accepted() -> None:
    """Features without odd samples, where the law holds: 20 sets of 1,000."""
    found = []
    for seed in range(20):
        values, labels = make_classes(seed, classes=5, per_class=200, separation=0.6)
        result = clear.scan(Features(values, labels), config=clear.ScanConfig(false_flags=20.0))
        found.append(int((result.scores.level == clear.Level.CERTAIN).sum()))
    assert 0 < np.mean(found) < 20


def test_a_probe_flags_about_as_many_clean_inputs_as_accepted() -> None:
    values, labels = make_classes(1, classes=5, per_class=600, separation=1.5)
    training, inputs = Features(values[:1000], labels[:1000]), Features(values[1000:], labels[1000:])
    flagged = []
    for fpr in (0.002, 0.05, 0.2):
        result = clear.probe(inputs, training, config=clear.ScanConfig(probe_fpr=fpr))
        assert result.thresholds["z"] == probe_spreads(fpr)
        flagged.append(len(result.flags) / len(inputs))
    assert flagged[0] <= 0.004
    assert flagged[0] < flagged[1] < flagged[2]
    assert 0.01 < flagged[2] < 0.3


def test_budgets_decide_the_verdict_and_the_report_says_so(tmp_path: Path) -> None:
    """A clean set whose largest group stands out about as far as one in fifty does."""
    training = Features(*make_classes(7, per_class=100, separation=0.6))
    verdicts = []
    for alarms in (0.2, 0.05, 0.01, 1e-6):
        result = clear.scan(training, config=clear.ScanConfig(false_alarms=alarms))
        verdicts.append(result.verdict)
        written = write_report(result, tmp_path / str(alarms))
        assert check_report(written.json, features=training) == []
    assert verdicts == ["poisoned", "undecided", "undecided", "clean"]


def test_what_is_planted_is_found_whatever_the_budget() -> None:
    planted = make_pocket(1)
    strict = clear.ScanConfig(false_alarms=1e-6, false_flags=1e-6)
    result = clear.scan(Features(planted.values, planted.labels), config=strict)
    assert result.verdict == "poisoned"
    target = Features(planted.target[None], [0])
    training = Features(planted.values, planted.labels)
    assert clear.probe(target, training, config=clear.ScanConfig(probe_fpr=1e-4)).flags


def test_accepted_flags_do_not_make_a_verdict() -> None:
    """Hundreds of flags that the user has asked for are no evidence of their own."""
    values, labels = make_classes(2, classes=5, per_class=200, separation=0.6)
    result = clear.scan(Features(values, labels), config=clear.ScanConfig(false_flags=50.0))
    assert (result.scores.level == clear.Level.CERTAIN).sum() > 4  # more than 4 in 1,000
    assert result.verdict != "poisoned"


def test_the_measured_table_counts_more_for_larger_budgets(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch", reason="the data sets of the evaluation need the torch extra")
    from bench import budgets as measured

    for name, count in {"SETS": 2, "TRAINING": 200, "INPUTS": 300}.items():
        monkeypatch.setattr(measured, name, count)
    values, labels = make_classes(3, classes=4, per_class=200, separation=1.0)
    row = measured.measure(measured.Source("classes", values, labels))
    assert row["inputs"] == 600
    for counts, wanted in (("poisoned", measured.ALARMS), ("certain", measured.FLAGS), ("flagged", measured.RATES)):
        assert row[counts] == sorted(row[counts])
        assert len(row[counts]) == len(wanted)
    assert 0 < row["certain"][-1] < 40
    assert 0 < row["flagged"][-1] < 120
    shown = measured.table([row]).splitlines()
    assert shown[0].startswith("| clean data, 2 sets of 200 | poisoned at `false_alarms` 0.01, 0.05, 0.2 |")
    assert shown[2].startswith("| classes | ")
    assert f"{row['certain'][-1] / 2:.2f}" in shown[2]
    assert shown[2].endswith(f"{row['flagged'][-1] / 600:.4f} of 600 |")
