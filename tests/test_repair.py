"""Repair corrects labels, trains a copy, and verification counts what came of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pytest
from samples import make_classes

import clear
from clear.results import Level

torch = pytest.importorskip("torch", reason="repair needs the torch extra")

from torch import nn  # noqa: E402

from clear.features import predict  # noqa: E402
from clear.repair import find_corrections, repair_model  # noqa: E402
from clear.training import accuracy, fit, load_inputs  # noqa: E402
from clear.verify import PocketCheck, Rescan, TargetCheck, Verification, verify_repair  # noqa: E402

pytestmark = pytest.mark.torch


class Case(NamedTuple):
    """A network that has memorised eight wrong labels."""

    network: nn.Sequential
    inputs: Any
    labels: np.ndarray
    true_labels: np.ndarray
    flipped: np.ndarray
    scan: clear.ScanResult


@pytest.fixture(scope="module", autouse=True)
def one_torch_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make_network(inputs: int = 16, classes: int = 3) -> nn.Sequential:
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(inputs, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, classes))


@pytest.fixture(scope="module")
def case() -> Case:
    values, true_labels = make_classes(seed=2, classes=3, per_class=100)
    flipped = np.sort(np.random.default_rng(0).choice(300, 8, replace=False))
    labels = true_labels.copy()
    labels[flipped] = (labels[flipped] + 1) % 3
    network, inputs = make_network(), torch.from_numpy(values)
    copies = np.ones(300, dtype=np.int64)
    copies[flipped] = 6
    fit(network, inputs, labels, epochs=40, learning_rate=0.1, copies=copies)
    scan = clear.scan(clear.Features.from_arrays(values, labels), threads=1)
    return Case(network, inputs, labels, true_labels, flipped, scan)


def held(case: Case, model: nn.Module) -> int:
    """Flipped samples that a model predicts as their wrong label."""
    return int((predict(model, (case.inputs, None))[case.flipped] == case.labels[case.flipped]).sum())


def weights(model: nn.Module) -> list[Any]:
    return [value.clone() for value in model.state_dict().values()]


def same(first: list[Any], second: list[Any]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def oracle(case: Case) -> dict[int, int]:
    return {int(row): int(case.true_labels[row]) for row in case.flipped}


def test_relabelling_from_the_scan_unlearns_memorised_flips(case: Case) -> None:
    assert held(case, case.network) == 8
    repair = repair_model(case.network, case.inputs, case.labels, case.scan)
    assert held(case, repair.model) == 0
    assert set(case.flipped) <= set(repair.changed)
    assert np.array_equal(repair.labels[case.flipped], case.true_labels[case.flipped])
    assert 5 <= len(repair.history) <= 20  # what some flags or others need


def test_dropping_leaves_memorised_flips_where_relabelling_removes_them(case: Case) -> None:
    dropped = repair_model(case.network, case.inputs, case.labels, oracle(case), method="drop")
    relabelled = repair_model(case.network, case.inputs, case.labels, oracle(case))
    assert held(case, dropped.model) > 4 > held(case, relabelled.model)
    assert np.array_equal(dropped.labels, case.labels)
    assert np.array_equal(dropped.changed, case.flipped)


def test_a_repair_trains_until_nothing_is_held_and_says_what_it_tried(case: Case) -> None:
    repair = repair_model(case.network, case.inputs, case.labels, oracle(case))
    assert [(a.epochs, a.held) for a in repair.attempts] == [(5, 0)]
    # One sample whose correction contradicts eight copies of it in the clean set cannot be learnt: all three are tried,
    # or two where the second closes no more than the first.
    twins = torch.cat([case.inputs, case.inputs[:1].repeat(50, 1)])
    labels = np.concatenate([case.labels, np.repeat(case.labels[:1], 50)])
    stuck = repair_model(case.network, twins, labels, {0: int((labels[0] + 1) % 3)})
    assert [a.held for a in stuck.attempts] == [1, 1]
    assert len(stuck.history) == stuck.attempts[0].epochs == 5
    assert (stuck.accuracy_before, stuck.rolled_back) == (None, False)


def test_a_repair_that_costs_more_than_the_budget_is_rolled_back(case: Case) -> None:
    wrong = {int(row): int((case.true_labels[row] + 1) % 3) for row in range(0, 300, 2)}
    held_out = (case.inputs, case.true_labels)
    options = {"held_out": held_out, "accuracy_budget": 0.05, "learning_rate": 0.1}
    repair = repair_model(case.network, case.inputs, case.labels, wrong, **options)
    assert repair.rolled_back
    assert same(weights(case.network), weights(repair.model))
    assert repair.accuracy_before == (predict(case.network, (case.inputs, None)) == case.true_labels).mean()
    assert len(repair.attempts) == 3
    assert all(a.accuracy < repair.accuracy_before - 0.05 and not a.within_budget for a in repair.attempts)
    assert repr(repair) == "Repair(rolled back: none of 3 attempts stayed within the accuracy budget)"
    kept = repair_model(case.network, case.inputs, case.labels, oracle(case), **options)
    assert not kept.rolled_back
    assert kept.attempts[-1].accuracy >= kept.accuracy_before - 0.05


def test_the_given_model_and_labels_are_never_changed(case: Case) -> None:
    before, labels = weights(case.network), case.labels.copy()
    for scope in ("network", "head"):
        repair = repair_model(case.network, case.inputs, case.labels, case.scan, scope=scope, epochs=1)
        assert not same(before, weights(repair.model))
    assert same(before, weights(case.network))
    assert np.array_equal(labels, case.labels)


def test_head_scope_changes_the_last_linear_layer_and_nothing_else(case: Case) -> None:
    repair = repair_model(case.network, case.inputs, case.labels, case.scan, scope="head", epochs=2)
    assert same(weights(case.network[:-1]), weights(repair.model[:-1]))
    assert not same(weights(case.network[-1]), weights(repair.model[-1]))
    assert all(parameter.requires_grad for parameter in repair.model.parameters())


def test_the_same_seed_gives_the_same_weights_and_the_global_random_state_is_left_alone(case: Case) -> None:
    state = torch.random.get_rng_state()
    first, again, other = (
        weights(repair_model(case.network, case.inputs, case.labels, case.scan, seed=seed, epochs=1).model)
        for seed in (0, 0, 1)
    )
    assert same(first, again)
    assert not same(first, other)
    assert torch.equal(state, torch.random.get_rng_state())


def test_a_level_leaves_weaker_flags_alone(case: Case) -> None:
    certain = find_corrections(case.scan, 300, level=Level.CERTAIN)
    everything = find_corrections(case.scan, 300)
    assert certain.rows.tolist() == np.flatnonzero(case.scan.scores.level == Level.CERTAIN).tolist()
    assert everything.rows.tolist() == np.flatnonzero(case.scan.scores.level >= Level.REVIEW).tolist()


def probe_of(case: Case, rows: list[int]) -> clear.results.ProbeResult:
    """A probe result that flags chosen inputs: label 0, suggestion 1, mates 10 and 11."""
    values = case.inputs.numpy()
    inputs = clear.Features.from_arrays(values[:5], case.labels[:5], predictions=case.labels[:5])
    result = clear.probe(inputs, clear.Features.from_arrays(values, case.labels), threads=1)
    flags = tuple(clear.Flag(row, row, Level.CERTAIN, 0, 1, 1.0, 1.0, 9.0, mates=(10, 11), hulls=()) for row in rows)
    return replace(result, flags=flags)


def test_a_probe_relabels_the_mates_and_teaches_the_input_itself(case: Case) -> None:
    result = probe_of(case, [2])
    repair = repair_model(case.network, case.inputs, case.labels, result, probed=case.inputs[:5])
    assert repair.changed.tolist() == [10, 11]
    assert repair.labels[[10, 11]].tolist() == [1, 1]
    assert repair.probed.tolist() == [2]
    without = repair_model(case.network, case.inputs, case.labels, {10: 1, 11: 1})
    assert not same(weights(repair.model), weights(without.model))


def test_the_earlier_of_several_results_decides(case: Case) -> None:
    found = find_corrections([{10: 2}, probe_of(case, [2])], 300)
    assert dict(zip(found.rows.tolist(), found.labels.tolist(), strict=True)) == {10: 2, 11: 1}
    assert found.probed_rows.tolist() == [2]


def test_without_flags_the_repair_is_an_unchanged_copy(case: Case) -> None:
    repair = repair_model(case.network, case.inputs, case.labels, {})
    assert repair.model is not case.network
    assert same(weights(case.network), weights(repair.model))
    assert repair.history == ()


def test_retrain_hands_the_corrected_labels_to_the_users_function(case: Case) -> None:
    seen: list[np.ndarray] = []

    def retrain(inputs: Any, labels: np.ndarray) -> nn.Module:
        assert inputs is case.inputs
        seen.append(labels)
        return make_network()

    repair = repair_model(case.network, case.inputs, case.labels, oracle(case), method="retrain", retrain=retrain)
    assert np.array_equal(seen[0], case.true_labels)
    assert same(weights(repair.model), weights(make_network()))


@pytest.mark.parametrize(("n", "batch_size"), [(3, 2), (5, 1), (65, 64)])
def test_no_batch_holds_one_sample_alone(n: int, batch_size: int) -> None:
    network = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
    fit(network, torch.rand(n, 4), np.arange(n) % 2, epochs=1, learning_rate=0.1, batch_size=batch_size)


def test_a_retrained_model_keeps_to_the_accuracy_budget(case: Case) -> None:
    held_out = (case.inputs, case.true_labels)
    options = {"method": "retrain", "held_out": held_out}
    bad = repair_model(
        case.network, case.inputs, case.labels, oracle(case), retrain=lambda *_: make_network(), **options
    )
    assert bad.rolled_back
    assert same(weights(bad.model), weights(case.network))
    assert "rolled back: the new model did not stay" in repr(bad)
    good = repair_model(
        case.network, case.inputs, case.labels, oracle(case), retrain=lambda *_: case.network, **options
    )
    assert not good.rolled_back
    assert good.model is case.network
    assert good.accuracy_before == bad.accuracy_before == accuracy(case.network, *held_out)
    unflagged = repair_model(case.network, case.inputs, case.labels, {}, held_out=held_out)
    assert unflagged.accuracy_before == good.accuracy_before
    with pytest.raises(ValueError, match="no samples to measure accuracy on"):
        repair_model(case.network, case.inputs, case.labels, {}, held_out=(case.inputs[:0], case.true_labels[:0]))


def test_a_dataset_gives_the_same_repair_as_its_tensor_and_only_chosen_rows_are_read(case: Case) -> None:
    read: set[int] = set()

    class Samples(torch.utils.data.Dataset):  # type: ignore[type-arg]
        def __len__(self) -> int:
            return 300

        def __getitem__(self, row: int) -> tuple[Any, int]:
            read.add(row)
            return case.inputs[row], 0

    options = {"clean_samples": 50, "epochs": 1}
    from_data = repair_model(case.network, Samples(), case.labels, oracle(case), **options)
    from_tensor = repair_model(case.network, case.inputs, case.labels, oracle(case), **options)
    assert same(weights(from_data.model), weights(from_tensor.model))
    assert len(read) == 58


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"labels": [0, 1]}, ValueError, r"labels has shape \(2,\): want \(300,\)"),
        ({"result": {300: 0}}, ValueError, "rows.*300"),
        ({"result": {0: 3}}, ValueError, r"3 .*want class numbers from 0 and below 3"),
        ({"result": {0: -1}}, ValueError, "-1"),
        ({"result": {0: "cat"}}, TypeError, "labels that are not integers"),
        ({"result": 7}, TypeError, "result is a int"),
        ({"method": "remove"}, ValueError, "method is 'remove'"),
        ({"scope": "all"}, ValueError, "scope 'all'"),
        ({"method": "retrain"}, ValueError, "pass retrain"),
        ({"epochs": 0}, ValueError, "epochs is 0"),
        ({"learning_rate": 0.0}, ValueError, "learning_rate is 0.0"),
        ({"accuracy_budget": 1.5}, ValueError, "accuracy_budget is 1.5: want a share"),
        ({"clean_samples": -1}, ValueError, "clean_samples is -1"),
        ({"method": "drop", "clean_samples": 0}, ValueError, "nothing is left"),
    ],
)
def test_bad_calls_get_one_line_that_says_what_is_wrong(
    case: Case, change: dict[str, Any], error: type[Exception], message: str
) -> None:
    options = {"labels": case.labels, "result": {0: 1}} | change
    with pytest.raises(error, match=message) as caught:
        repair_model(case.network, case.inputs, options.pop("labels"), options.pop("result"), **options)
    assert "\n" not in str(caught.value)


def test_results_of_other_data_are_refused(case: Case) -> None:
    with pytest.raises(ValueError, match="scan of 300 samples: want one of the 100 given"):
        repair_model(case.network, case.inputs[:100], case.labels[:100], case.scan)
    with pytest.raises(ValueError, match="pass probed"):
        repair_model(case.network, case.inputs, case.labels, probe_of(case, [2]))
    with pytest.raises(ValueError, match="probed has 4 samples: want 5"):
        repair_model(case.network, case.inputs, case.labels, probe_of(case, [2]), probed=case.inputs[:4])


def test_head_scope_needs_a_linear_layer(case: Case) -> None:
    with pytest.raises(ValueError, match=r"has no nn\.Linear"):
        repair_model(nn.Sequential(nn.ReLU()), case.inputs, case.labels, {0: 1}, scope="head")


def test_copies_repeat_and_leave_out_samples() -> None:
    inputs = torch.tensor([[1.0], [1.0], [1.0]])
    network = nn.Linear(1, 2)
    for parameter in network.parameters():
        nn.init.zeros_(parameter)
    history = fit(network, inputs, [0, 1, 1], epochs=200, copies=[3, 1, 0], learning_rate=0.5)
    probability = torch.softmax(network(inputs[:1]), dim=1)[0, 0].item()
    assert probability == pytest.approx(0.75, abs=0.02)
    assert history[-1].accuracy == 0.75


def test_integer_inputs_are_refused() -> None:
    with pytest.raises(TypeError, match="want floating point"):
        load_inputs(np.zeros((3, 2), dtype=np.int64))


def test_verification_counts_what_independent_predictions_say(case: Case) -> None:
    repair = repair_model(case.network, case.inputs, case.labels, case.scan)
    held_out = (case.inputs[:60], case.true_labels[:60])
    check = verify_repair(
        case.network,
        repair.model,
        case.inputs,
        case.labels,
        corrected=repair.labels,
        scan=case.scan,
        held_out=held_out,
        threads=1,
    )
    before, after = (predict(model, (case.inputs, None)) for model in (case.network, repair.model))
    assert check.training_accuracy_before == pytest.approx((before == repair.labels).mean())
    assert check.training_accuracy_after == pytest.approx((after == repair.labels).mean())
    assert check.held_out_accuracy_after == pytest.approx((after[:60] == case.true_labels[:60]).mean())
    members = sorted({row for pocket in check.pockets for row in pocket.rows})
    assert set(case.flipped) <= set(members)
    assert sum(pocket.held_before for pocket in check.pockets) == (before[members] == case.labels[members]).sum()
    assert all(pocket.closed for pocket in check.pockets if set(pocket.rows) <= set(case.flipped))
    assert check.rescan.n_samples == (repair.labels == case.labels).sum()
    changed = repair.labels != case.labels
    assert check.corrected == changed.sum() >= 8
    assert check.held_before == (before == case.labels)[changed].sum()
    assert check.held_after == (after == case.labels)[changed].sum()
    assert f"{check.held_before} -> {check.held_after} of {check.corrected} corrected samples held" in repr(check)
    assert json.loads(json.dumps(check.to_dict()))["held_after"] == check.held_after
    assert json.loads(json.dumps(check.to_dict()))["pockets"][0]["rows"] == list(check.pockets[0].rows)


def test_verification_of_no_repair_finds_every_pocket_open(case: Case) -> None:
    check = verify_repair(case.network, case.network, case.inputs, case.labels, scan=case.scan, threads=1)
    assert check.pockets
    assert not check.all_closed
    assert check.certain_held_after == (case.scan.scores.level == Level.CERTAIN).sum() > 0
    assert check.verdict == "poisoned"
    assert all(pocket.held_after == pocket.held_before for pocket in check.pockets)


def test_corrected_samples_outside_every_pocket_are_checked(case: Case) -> None:
    alone = replace(case.scan, pockets=())
    repair = repair_model(case.network, case.inputs, case.labels, oracle(case))
    given = {"corrected": case.true_labels, "scan": alone, "threads": 1}
    broken = verify_repair(case.network, case.network, case.inputs, case.labels, **given)
    assert (broken.corrected, broken.held_before, broken.held_after) == (8, 8, 8)
    assert (broken.pockets, broken.all_closed, broken.verdict) == ((), False, "poisoned")
    fixed = verify_repair(case.network, repair.model, case.inputs, case.labels, **given)
    assert (fixed.corrected, fixed.held_before, fixed.held_after) == (8, 8, 0)
    assert fixed.all_closed


@pytest.mark.parametrize(
    ("corrected", "held", "certain", "rescan", "verdict"),
    [
        (8, 0, 0, "clean", "clean"),
        (8, 1, 1, "clean", "poisoned"),
        (8, 1, 0, "clean", "undecided"),
        (8, 0, 0, "poisoned", "poisoned"),
        (0, 0, 0, "poisoned", "poisoned"),
        (8, 0, 0, "undecided", "undecided"),
        (0, 0, 0, "clean", "undecided"),
    ],
)
def test_the_verdict_needs_something_checked_nothing_held_and_a_clean_scan(
    corrected: int, held: int, certain: int, rescan: Any, verdict: str
) -> None:
    check = Verification(0.9, 0.9, None, None, corrected, corrected, held, certain, (), (), Rescan(100, rescan, 0, 2))
    assert check.verdict == check.to_dict()["verdict"] == verdict
    assert repr(check).startswith(f"Verification({verdict}: ")


@pytest.mark.parametrize(
    ("verdict", "held", "flagged"), [("clean", 0, False), ("undecided", 1, False), ("poisoned", 0, True)]
)
def test_a_pocket_open_for_review_is_undecided_and_an_open_target_poisoned(
    verdict: str, held: int, flagged: bool
) -> None:
    pocket = PocketCheck(1, 0, (3, 4), held_before=2, held_after=held)
    target = TargetCheck(7, 0, before=1, after=1 if flagged else 0, flagged_after=flagged)
    check = Verification(0.9, 0.9, None, None, 2, 2, 0, 0, (pocket,), (target,), Rescan(100, "clean", 0, 2))
    assert check.verdict == verdict


@pytest.mark.parametrize("scope", ["network", "head"])
def test_inputs_that_the_network_does_not_take_are_named(case: Case, scope: Any) -> None:
    with pytest.raises(ValueError, match=r"does not take inputs of shape \(\d+, 15\): mat1") as caught:
        repair_model(case.network, case.inputs[:, :15], case.labels, oracle(case), scope=scope)
    assert "\n" not in str(caught.value)


def test_verification_probes_the_targets_again(case: Case) -> None:
    result = probe_of(case, [2, 4])
    repair = repair_model(case.network, case.inputs, case.labels, result, probed=case.inputs[:5])
    check = verify_repair(
        case.network,
        repair.model,
        case.inputs,
        case.labels,
        corrected=repair.labels,
        probe=result,
        probed=case.inputs[:5],
        threads=1,
    )
    after = predict(repair.model, (case.inputs[[2, 4]], None))
    assert [target.row for target in check.targets] == [2, 4]
    assert [target.after for target in check.targets] == after.tolist()
    assert [target.closed for target in check.targets] == (after != 0).tolist()
    with pytest.raises(ValueError, match="pass probed too"):
        verify_repair(case.network, repair.model, case.inputs, case.labels, probe=result)
