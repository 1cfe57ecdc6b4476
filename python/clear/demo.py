"""The whole way on real data: implant two backdoors, find them, repair the models, verify. Read it as a tutorial.

The data are the 1,797 handwritten digits that come with scikit-learn, enlarged to 32x32 pixels. A small network is
trained on the spot. Nothing is staged: attack, scan and repair know only what they would know in earnest.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from clear.attacks import Collision, feature_collision, flip_labels
from clear.config import ScanConfig
from clear.data import Features
from clear.detect import probe, scan
from clear.features import extract_features, predict
from clear.repair import repair_model
from clear.report import Report, require_extras, write_report
from clear.results import Level, ProbeResult, ScanResult
from clear.training import accuracy, fit, seeded
from clear.verify import Verification, verify_repair

__all__ = ["AttackOutcome", "DemoOutcome", "run_demo"]

Pixels = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]
Say = Callable[[str], None]

SIDE, CLASSES = 32, 10
SPLIT = (500, 1200, 1297)  # where the shuffled images are cut
FLIPS, FLIP_COPIES = 10, 6  # 1.4 % of the training labels; how often an epoch shows them
POISONS, EPSILON = 8, 0.1  # images changed by at most a tenth of the grey range
TARGETS_TRIED = 10
FOUND, LOSS = 0.9, 0.01  # share of the poisons that must be flagged; accuracy that a repair may cost


@dataclass(frozen=True, slots=True)
class Digits:
    """A part of the data."""

    images: Pixels
    """uint8 (n, 32, 32)."""
    labels: Ints

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def inputs(self) -> torch.Tensor:
        """What the network takes: float32 (n, 1, 32, 32), 0 to 1."""
        return torch.from_numpy(self.images)[:, None].float() / 255


@dataclass(frozen=True, slots=True)
class AttackOutcome:
    """One attack from implanting to verification."""

    name: str
    aims: int
    """Samples that the attacker wants misclassified."""
    fooled_before: int
    """Aims that the poisoned model classified as the attacker wants."""
    fooled_after: int
    """Aims that the repaired model still does."""
    poisons: int
    """Training samples that the attacker touched."""
    poisons_flagged: int
    false_flags: int
    """Untouched training samples that were flagged, and relabelled, too."""
    target_flagged: bool
    """Whether the probe flagged the target; True where the attack has no incoming target."""
    verification: Verification
    reports: tuple[Report, ...]

    @property
    def accuracy_loss(self) -> float:
        """Held-out accuracy that the repair cost; negative when it gained."""
        check = self.verification
        return (check.held_out_accuracy_before or 0.0) - (check.held_out_accuracy_after or 0.0)

    @property
    def passed(self) -> bool:
        """The backdoor was there, was found, and is gone, at no more than one point of accuracy."""
        there = self.fooled_before >= FOUND * self.aims
        found = self.poisons_flagged >= FOUND * self.poisons and self.target_flagged
        return there and found and self.fooled_after == 0 and self.accuracy_loss <= LOSS + 1e-9


@dataclass(frozen=True, slots=True)
class DemoOutcome:
    """What the demo showed."""

    flips: AttackOutcome
    collision: AttackOutcome
    target_image: Pixels
    """The image that the collision attack aims at, uint8 (32, 32)."""
    base_images: Pixels
    """The images that were turned into poisons, before, uint8 (poisons, 32, 32)."""
    poison_images: Pixels
    """And after."""
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        """Both attacks were there, were found, and are gone."""
        return self.flips.passed and self.collision.passed

    def to_dict(self) -> dict[str, object]:
        """Plain data for JSON, without images and report paths."""
        attacks = {}
        for attack in (self.flips, self.collision):
            counts = {
                key: getattr(attack, key) for key in AttackOutcome.__slots__ if key not in ("verification", "reports")
            }
            loss = {"passed": attack.passed, "accuracy_loss": attack.accuracy_loss}
            attacks[attack.name] = counts | loss | {"verification": attack.verification.to_dict()}
        return {"passed": self.passed, "seconds": self.seconds, "attacks": attacks}


def run_demo(
    out_directory: str | Path | None = None,
    *,
    seed: int = 0,
    threads: int | None = None,
    progress: Say | None = None,
) -> DemoOutcome:
    """Implant two backdoors into small networks, then find, repair and verify.

    Parameters
    ----------
    out_directory : path, optional
        Reports are written below it (needs the report extra). Default: none are.
    seed : int
        Of the split of the data, the networks and the attacks.
    threads : int, optional
        For scan and probe. Default: the cores this process may use.
    progress : callable, optional
        Called with lines of text that tell what happens.

    Returns
    -------
    DemoOutcome
        `passed` says whether both backdoors were there, were found, and are gone. Takes half a minute on two cores.

    Examples
    --------
    >>> from clear.demo import run_demo
    >>> outcome = run_demo(progress=print)  # doctest: +SKIP
    """
    started = time.monotonic()
    say: Say = progress or (lambda line: None)
    if out_directory is not None:
        require_extras()
    folder = None if out_directory is None else Path(out_directory)
    with _one_torch_thread():
        outcome = _run_both(seed, threads, folder, say)
    outcome = replace(outcome, seconds=time.monotonic() - started)
    say(f"{outcome.seconds:.0f} seconds.")
    return outcome


def _run_both(seed: int, threads: int | None, folder: Path | None, say: Say) -> DemoOutcome:
    pretraining, training, incoming, held_out = _split_digits(seed)
    say(
        f"scikit-learn's digits, enlarged to {SIDE}x{SIDE}: {len(pretraining)} to pretrain on, {len(training)} to "
        f"train on, {len(incoming)} that come in later, {len(held_out)} held out."
    )
    extractor = _new_network(seed)
    fit(extractor, pretraining.inputs, pretraining.labels, epochs=15, learning_rate=0.05, seed=seed)
    score = accuracy(extractor, held_out.inputs, held_out.labels)
    say(f"The pretrained network classifies {score:.1%} of the held-out images.")
    lab = _Lab(extractor, training, incoming, held_out, seed, threads, folder, say)
    flips = _run_flips(lab)
    outcome = _run_collision(lab, flips)
    say("")
    for attack in (flips, outcome.collision):
        say(f"{attack.name}: {'there, found, gone' if attack.passed else 'FAILED'}.")
    return outcome


@dataclass(frozen=True, slots=True)
class _Lab:
    """What both attacks share."""

    extractor: nn.Module
    training: Digits
    incoming: Digits
    held_out: Digits
    seed: int
    threads: int | None
    folder: Path | None
    say: Say

    def report(
        self, result: ScanResult | ProbeResult, name: str, images: Pixels, reference_images: Pixels | None = None
    ) -> list[Report]:
        """Write a report below the output directory, if there is one."""
        if self.folder is None:
            return []
        return [write_report(result, self.folder / name, images=images, reference_images=reference_images)]


def _run_flips(lab: _Lab) -> AttackOutcome:
    """Attack 1: some labels are wrong, and a network fine-tuned end to end memorises them."""
    training, say = lab.training, lab.say
    labels, rows = flip_labels(training.labels, FLIPS, CLASSES, lab.seed)
    copies = np.ones(len(labels), dtype=np.int64)
    copies[rows] = FLIP_COPIES
    victim = copy.deepcopy(lab.extractor)
    fit(victim, training.inputs, labels, epochs=10, learning_rate=0.02, seed=lab.seed, copies=copies)
    memorised = rows[_predict(victim, training)[rows] == labels[rows]]
    say("")
    say(f"Attack 1, label flips: {FLIPS} of {len(labels)} labels are wrong; fine-tuning memorised {len(memorised)}.")

    # The poisoned network sees nothing wrong with labels it has memorised: scan the features it started from.
    # Single flips are rarely certain, so the repair acts on the review list too, and that is kept short: a clean sample
    # on it gets a wrong label. A scan with corrected labels sees more, so a second round takes what the first left.
    features = extract_features(lab.extractor, (training.inputs, labels))
    repaired, corrected = victim, labels
    scans: list[ScanResult] = []
    reports: list[Report] = []
    relabelled: set[int] = set()
    for number, share in ((1, 0.01), (2, 0.005)):
        found = scan(replace(features, labels=corrected), config=ScanConfig(review_rate=share), threads=lab.threads)
        scans.append(found)
        reports += lab.report(found, f"flips-scan-{number}", training.images)
        repair = repair_model(repaired, training.inputs, corrected, found, seed=lab.seed)
        repaired, corrected = repair.model, repair.labels
        relabelled |= set(repair.changed.tolist())
        say(f"  Scan {number}: {found}")
        say(f"  Repair {number}: {repair}")
    check = verify_repair(
        victim,
        repaired,
        training.inputs,
        labels,
        corrected=corrected,
        scan=scans[0],
        held_out=(lab.held_out.inputs, lab.held_out.labels),
        extractor=lab.extractor,
        threads=lab.threads,
    )
    outcome = AttackOutcome(
        name="Label flips",
        aims=FLIPS,
        fooled_before=len(memorised),
        fooled_after=int((_predict(repaired, training)[rows] == labels[rows]).sum()),
        poisons=FLIPS,
        poisons_flagged=len(relabelled & set(rows.tolist())),
        false_flags=len(relabelled - set(rows.tolist())),
        target_flagged=True,
        verification=check,
        reports=tuple(reports),
    )
    _tell(outcome, say)
    return outcome


def _run_collision(lab: _Lab, flips: AttackOutcome) -> DemoOutcome:
    """Attack 2: correctly labelled images that look normal, but lie on a target in feature space."""
    training, incoming, say = lab.training, lab.incoming, lab.say
    attack = _implant_collision(lab)
    poisoned, rows, target = attack.training, attack.rows, attack.target
    say("")
    say(
        f"Attack 2, feature collision: {POISONS} images of a {attack.base}, correctly labelled, are changed by at most "
        f"{attack.collision.largest_change:.0%} of the grey range. Their feature distance to the target, a "
        f"{attack.true_label}: {np.median(attack.collision.distance_before):.2f} -> "
        f"{np.median(attack.collision.distance_after):.2f}."
    )
    took = "takes" if attack.succeeded else "does NOT take"
    say(f"  A new classifier trained on them {took} the target for a {attack.base} (targets tried: {attack.tried}).")

    features = extract_features(attack.victim, (poisoned.inputs, poisoned.labels))
    arrivals = extract_features(attack.victim, (incoming.inputs, incoming.labels))
    alarms = probe(arrivals, features, threads=lab.threads)
    found = scan(features, threads=lab.threads)
    reports = lab.report(alarms, "collision-probe", incoming.images, poisoned.images)
    reports += lab.report(found, "collision-scan", poisoned.images)
    target_flagged = any(flag.row == target for flag in alarms.flags)
    say(
        f"  Probe of {len(incoming)} incoming images: the target is {'' if target_flagged else 'NOT '}flagged, and "
        f"{len(alarms.flags) - target_flagged} of the {len(incoming) - 1} others."
    )
    say(f"  Scan: {found}")
    # The extractor is not to blame, so the head is repaired. A pocket of poisons is certain: the review list is for
    # people. From the probe alone it would be repair_model(..., alarms, probed=incoming.inputs, scope="head").
    repair = repair_model(
        attack.victim, poisoned.inputs, poisoned.labels, found, scope="head", level=Level.CERTAIN, seed=lab.seed
    )
    say(f"  Repair: {repair}")
    check = verify_repair(
        attack.victim,
        repair.model,
        poisoned.inputs,
        poisoned.labels,
        corrected=repair.labels,
        scan=found,
        probe=alarms,
        probed=incoming.inputs,
        held_out=(lab.held_out.inputs, lab.held_out.labels),
        threads=lab.threads,
    )
    relabelled = set(repair.changed.tolist())
    outcome = AttackOutcome(
        name="Feature collision",
        aims=1,
        fooled_before=1 if attack.succeeded else 0,
        fooled_after=int(_predict(repair.model, incoming)[target] == attack.base),
        poisons=POISONS,
        poisons_flagged=len(relabelled & set(rows.tolist())),
        false_flags=len(relabelled - set(rows.tolist())),
        target_flagged=target_flagged,
        verification=check,
        reports=tuple(reports),
    )
    _tell(outcome, say)
    return DemoOutcome(flips, outcome, incoming.images[target], training.images[rows], poisoned.images[rows])


@dataclass(frozen=True, slots=True)
class _Implanted:
    """A collision attack, done."""

    target: int
    """Row of the incoming image."""
    true_label: int
    base: int
    """The class that the target shall be taken for."""
    rows: Ints
    """The poisons, as rows of the training set."""
    training: Digits
    collision: Collision
    victim: nn.Module
    succeeded: bool
    tried: int


def _implant_collision(lab: _Lab) -> _Implanted:
    """Try random targets, as an attacker would, until the classifier that the victim will train is fooled."""
    training, incoming = lab.training, lab.incoming
    clean = extract_features(lab.extractor, (training.inputs, training.labels))
    arrivals = extract_features(lab.extractor, (incoming.inputs, incoming.labels))
    honest = _train_head(lab, clean)
    with torch.no_grad():
        logits = honest(incoming.inputs)
    correct = np.flatnonzero(logits.argmax(1).numpy() == incoming.labels)
    targets = np.random.default_rng(lab.seed).permutation(correct)[:TARGETS_TRIED]
    for tried, target in enumerate(targets.tolist(), start=1):  # noqa: B007
        true_label, base = int(incoming.labels[target]), int(logits[target].argsort()[-2])  # the runner-up
        candidates = np.flatnonzero(training.labels == base)
        distances = np.linalg.norm(clean.values[candidates] - arrivals.values[target], axis=1)
        rows = np.sort(candidates[distances.argsort(kind="stable")[:POISONS]])
        collision = feature_collision(lab.extractor, training.inputs[rows], incoming.inputs[target], epsilon=EPSILON)
        images = training.images.copy()
        images[rows] = (collision.poisons[:, 0] * 255).round().to(torch.uint8).numpy()
        poisoned = Digits(images, training.labels)
        victim = _train_head(lab, extract_features(lab.extractor, (poisoned.inputs, poisoned.labels)))
        succeeded = int(_predict(victim, incoming)[target]) == base
        if succeeded:
            break
    return _Implanted(target, true_label, base, rows, poisoned, collision, victim, succeeded, tried)


def _train_head(lab: _Lab, features: Features) -> nn.Sequential:
    """The extractor as it is, with a new linear layer trained on its features."""
    with seeded(lab.seed):
        head = nn.Linear(features.values.shape[1], CLASSES)
    fit(head, features.values, features.labels, epochs=60, learning_rate=0.1, optimizer="adam", seed=lab.seed)
    return nn.Sequential(*list(copy.deepcopy(lab.extractor).children())[:-1], head).eval()


@contextmanager
def _one_torch_thread() -> Iterator[None]:
    """The network is too small to gain from more, and sums then come in the same order on every machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _new_network(seed: int) -> nn.Sequential:
    """Four convolutions and 64 penultimate features."""

    def block(inputs: int, outputs: int, stride: int = 1) -> list[nn.Module]:
        convolution = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        return [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]

    with seeded(seed):
        return nn.Sequential(
            *block(1, 16, stride=2), *block(16, 32, stride=2), *block(32, 64), nn.MaxPool2d(2), *block(64, 64),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, CLASSES),
        )  # fmt: skip


def _split_digits(seed: int) -> list[Digits]:
    """Four disjoint random parts: to pretrain on, to train on, incoming, held out."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    grey = torch.from_numpy(digits.images)[:, None].float() / 16
    large = nn.functional.interpolate(grey, size=(SIDE, SIDE), mode="bilinear", align_corners=False)
    images = (large[:, 0] * 255).round().to(torch.uint8).numpy()
    order = np.random.default_rng(seed).permutation(len(images))
    return [Digits(images[rows], digits.target[rows].astype(np.int64)) for rows in np.split(order, SPLIT)]


def _predict(model: nn.Module, digits: Digits) -> Ints:
    return predict(model, (digits.inputs, None))


def _tell(outcome: AttackOutcome, say: Say) -> None:
    check = outcome.verification
    say(f"  Flagged: {outcome.poisons_flagged} of {outcome.poisons} poisons; clean samples: {outcome.false_flags}.")
    say(f"  Still misclassified as the attacker wants: {outcome.fooled_after} of {outcome.fooled_before}.")
    say(f"  Held-out accuracy: {check.held_out_accuracy_before:.2%} -> {check.held_out_accuracy_after:.2%}.")
    say(f"  {check}")
