"""Features from actors of a Ray cluster: each holds the network once and takes one shard of the samples at a time."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Any

import numpy as np

from clear.errors import ClearError, need, short
from clear.features import Extracted, Extraction, extract_rows
from clear.ray_engine import RETRIES

if TYPE_CHECKING:
    from torch import nn

__all__ = ["extract_shards"]

AHEAD = 2
"""Shards that may be done or under way, per actor, before the first that is missing: so much waits in memory."""


def extract_shards(
    model: nn.Module, dataset: Any, options: Extraction, shards: Sequence[range]
) -> Generator[Extracted, None, None]:
    """Yield the features of ranges of rows, in order, from the cluster that this process is connected to.

    One actor for each GPU (where there are some, and `options.device` is not "cpu"), else for each core. An actor that
    dies, or whose node does, costs the shard that it had: another one takes it.
    """
    actors = _Actors(model, dataset, options)
    waiting = list(range(len(shards)))  # a heap
    done: dict[int, Extracted] = {}
    turn = 0
    try:
        while turn < len(shards):
            actors.hire(len(shards) - turn - len(done))
            while waiting and waiting[0] < turn + AHEAD * actors.count() and actors.idle:
                number = heappop(waiting)
                actors.give(number, shards[number])
            for number, extracted in actors.collect():
                if extracted is None:
                    heappush(waiting, number)
                else:
                    done[number] = extracted
            while turn in done:
                yield done.pop(turn)
                turn += 1
    finally:
        actors.dismiss()


class _Actors:
    """The actors there are: starting, at work on a shard, or idle."""

    def __init__(self, model: nn.Module, dataset: Any, options: Extraction) -> None:
        self._ray = need("ray", extra="ray")
        self._gpus = options.device != "cpu" and self._ray.cluster_resources().get("GPU", 0) >= 1
        kind = {"num_cpus": 1, "num_gpus": 1 if self._gpus else 0, "max_restarts": 0}
        self._make = self._ray.remote(**kind)(_Extractor)
        self._inputs = [self._ray.put(part) for part in (_on_cpu(model), dataset, options)]
        self._starting: dict[Any, Any] = {}
        self._busy: dict[Any, tuple[Any, int, range]] = {}
        self._lost: Counter[int] = Counter()
        self.idle: list[Any] = []

    def count(self) -> int:
        return len(self._starting) + len(self._busy) + len(self.idle)

    def hire(self, wanted: int) -> None:
        """Start actors, at most `wanted` and one for each GPU or core that the cluster has now."""
        there = int(self._ray.cluster_resources().get("GPU" if self._gpus else "CPU", 1))
        while self.count() < max(1, min(there, wanted)):
            actor = self._make.remote(*self._inputs)
            self._starting[actor.ready.remote()] = actor

    def give(self, number: int, rows: range) -> None:
        actor = self.idle.pop()
        self._busy[actor.extract.remote(rows.start, rows.stop)] = (actor, number, rows)

    def collect(self) -> Iterator[tuple[int, Extracted | None]]:
        """Wait a moment; yield shards that are done, with None for those whose actor was lost."""
        tickets, _ = self._ray.wait([*self._starting, *self._busy], num_returns=1, timeout=1.0)  # signals are heard
        for ticket in tickets:
            if ticket in self._starting:
                actor = self._starting.pop(ticket)
                if self._result(ticket, -1, "an actor") is not None:
                    self.idle.append(actor)
                continue
            actor, number, rows = self._busy.pop(ticket)
            extracted = self._result(ticket, number, f"shard {number} (rows {rows.start} to {rows.stop})")
            if extracted is not None:
                self.idle.append(actor)
            yield number, extracted

    def _result(self, ticket: Any, number: int, what: str) -> Any:
        """What an actor has returned; None where it is lost, an error where it failed, or is lost again and again."""
        errors = self._ray.exceptions
        try:
            return self._ray.get(ticket)
        except errors.RayError as error:
            self._lost[number] += 1
            if isinstance(error, errors.RayTaskError) or self._lost[number] > RETRIES:
                raise ClearError(f"{what} failed on Ray: {short(getattr(error, 'cause', error))}") from error
            return None

    def dismiss(self) -> None:
        for actor in [*self.idle, *self._starting.values(), *(actor for actor, _, _ in self._busy.values())]:
            self._ray.kill(actor)


class _Extractor:
    """A network and a data set in a process of the cluster."""

    def __init__(self, model: nn.Module, dataset: Any, options: Extraction) -> None:
        self._inputs = model, dataset, options

    def ready(self) -> bool:
        return True

    def extract(self, start: int, stop: int) -> Extracted:
        return extract_rows(*self._inputs, rows=np.arange(start, stop))


def _on_cpu(model: nn.Module) -> nn.Module:
    """The network where every node can unpack it."""
    if all(tensor.device.type == "cpu" for tensor in model.state_dict().values()):
        return model
    return copy.deepcopy(model).cpu()
