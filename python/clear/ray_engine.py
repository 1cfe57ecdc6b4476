"""Folds and pieces of a scan as tasks of a Ray cluster; what a lost worker or node had not done is done again."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, TypeVar

from clear._arrays import as_count
from clear.approximate import describe
from clear.cross_validation import Fold, fit_predict
from clear.errors import ClearError, need, short
from clear.pieces import Piece, measure_piece
from clear.prepare import Ints, Rows
from clear.reference import Parts, Reference
from clear.shards import Keyed, Shards, measure_sharded
from clear.work import Arrays, hash_array

__all__ = ["RETRIES", "RayEngine", "check_engine", "open_engine"]

RETRIES = 10
"""How often a piece is tried again after the worker or node that had it died."""
IN_FLIGHT = 2
"""Tasks handed out at a time, per core of the cluster."""

Job = TypeVar("Job")


class RayEngine:
    """Fits folds and measures pieces on the Ray cluster that this process is connected to, one core for each.

    The prepared training set goes into the object store once; a node has one copy of it, and every worker process packs
    its own index of it (about 4 * n * width bytes). Where that is more than `node_memory` bytes, it goes there in
    shards that are searched one by one.
    """

    def __init__(self, node_memory: int | None = None) -> None:
        self._ray = need("ray", extra="ray")
        self._node_memory = node_memory

    def fit_folds(self, rows: Rows, labels: Ints, folds: dict[int, Fold]) -> Iterator[tuple[int, Arrays]]:
        """Yield `fit_predict` of folds, as they get done; each gets the rows that it needs, no others."""
        task = self._task(fit_predict)

        def hand_out(fold: int) -> list[Any]:
            picked, held_out = folds[fold]
            return [task.remote(rows[picked], labels[picked], rows[held_out], labels[held_out])]

        for fold, found in self._collect(list(folds), hand_out, lambda fold: f"fold {fold} of the core"):
            yield fold, _out_of_store(found)

    def run(self, reference: Reference, pieces: list[Piece]) -> Iterator[tuple[Piece, Arrays]]:
        """Yield the pieces as they get done, in any order."""
        count = self._count_shards(reference.rows.nbytes)
        if count > 1 and reference.approximate is not None:
            raise ClearError(
                f"the prepared training set takes {reference.rows.nbytes} bytes, too many for one node: approximate "
                "candidates want all of it on each; raise node_memory, or search exactly"
            )
        if count > 1:
            shards = Shards(reference, count, self._ray.put, self._task)

            def hand_out(piece: Piece) -> list[Any]:
                return measure_sharded(shards, piece)

        else:
            task = self._task(_measure_remotely)
            how = "" if reference.approximate is None else str(describe(reference.approximate))
            key = hash_array(reference.rows) + hash_array(reference.in_core) + how
            shared = self._ray.put(_Shared(key, reference.parts()))

            def hand_out(piece: Piece) -> list[Any]:
                return [task.remote(shared, tuple(piece))]

        for piece, arrays in self._collect(pieces, hand_out, _name, each=count):
            yield piece, _out_of_store(arrays)

    def _count_shards(self, size: int) -> int:
        """Shards for rows of `size` bytes: one where a node has room for them and what its cores pack of them."""
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        cores = int(max(node.get("CPU", 0) for node in nodes))
        room = self._node_memory
        if room is None:
            room = int(min(node.get("memory", 0) + node.get("object_store_memory", 0) for node in nodes)) // 2
        if size * (1 + cores) <= room:
            return 1
        return -(-2 * cores * size // room)  # each core packs one shard, and has it in the object store

    def _task(self, function: Callable[..., Any], **options: Any) -> Any:
        return self._ray.remote(num_cpus=1, max_retries=RETRIES, **options)(function)

    def _collect(
        self, jobs: list[Job], hand_out: Callable[[Job], list[Any]], name: Callable[[Job], str], each: int = 1
    ) -> Iterator[tuple[Job, Any]]:
        """Yield jobs and what the last task of each returned; few jobs of `each` tasks are handed out at a time."""
        running: dict[Any, tuple[Job, list[Any]]] = {}
        waiting = list(reversed(jobs))
        try:
            while waiting or running:
                cores = int(self._ray.cluster_resources().get("CPU", 1))
                while waiting and len(running) < max(1, -(-IN_FLIGHT * cores // each)):
                    job = waiting.pop()
                    tickets = hand_out(job)
                    running[tickets[-1]] = (job, tickets)
                done, _ = self._ray.wait(list(running), num_returns=1, timeout=1.0)  # signals are heard between
                for ticket in done:
                    job, _ = running.pop(ticket)
                    yield job, self._fetch(ticket, name(job))
        finally:
            for _, tickets in running.values():
                for ticket in tickets:
                    self._ray.cancel(ticket, force=True)

    def _fetch(self, ticket: Any, what: str) -> Any:
        try:
            return self._ray.get(ticket)
        except self._ray.exceptions.RayError as error:
            raise ClearError(f"{what} failed on Ray: {short(error)}") from error


@contextmanager
def open_engine(
    name: str, address: str | None, threads: int, node_memory: int | None = None
) -> Iterator[RayEngine | None]:
    """Yield the engine of that name, connected; None stands for the plain loop in this process."""
    if name == "local":
        yield None
        return
    ray = need("ray", extra="ray")
    if ray.is_initialized():
        connected = ray.get_runtime_context().gcs_address
        if address not in (None, "auto") and not _same_place(address, connected):
            raise ValueError(
                f"address is {address!r}, but this process is connected to the Ray cluster at {connected!r}: want that "
                "one, or none; ray.shutdown() disconnects"
            )
        yield RayEngine(node_memory)
        return
    local = {"num_cpus": threads, "include_dashboard": False} if address is None else {}
    try:
        ray.init(address=address or "local", log_to_driver=False, logging_level="ERROR", **local)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ClearError(f"address is {address!r}: no Ray cluster answers there ({short(error)})") from error
    try:
        yield RayEngine(node_memory)
    finally:
        ray.shutdown()


def _same_place(address: str, connected: str) -> bool:
    """Whether "host:port" is the address of the connected cluster, by whichever of its host's names."""
    (host, _, port), (wanted_host, _, wanted_port) = address.rpartition(":"), connected.rpartition(":")
    alike = port == wanted_port and host != "" and bool(_numbers_of(host) & _numbers_of(wanted_host))
    return address == connected or alike


def _numbers_of(host: str) -> set[str]:
    """The numeric address of a host, and "here" for this machine's; its name where nobody knows it."""
    try:
        number = socket.gethostbyname(host)
    except (OSError, UnicodeError):
        return {host}
    return {number, "here"} if _is_here(number) else {number}


def _is_here(number: str) -> bool:
    """Whether a numeric address is one of this machine: only to such a one a socket can be bound."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((number, 0))
        except OSError:
            return False
    return True


def check_engine(name: str, address: str | None, node_memory: int | None = None) -> None:
    """Refuse an unknown engine, one whose library is missing, or what no engine uses, before any work."""
    if name not in ("local", "ray"):
        raise ValueError(f'engine is {name!r}: want "local" or "ray"')
    if node_memory is not None:
        as_count(node_memory, "node_memory")
    if name == "ray":
        need("ray", extra="ray")
        return
    for option, value in (("address", address), ("node_memory", node_memory)):
        if value is not None:
            raise ValueError(f'{option} is {value!r}: want engine="ray" with it')


class _Shared(Keyed):
    """The parts of a reference."""

    def __init__(self, key: str, parts: Parts) -> None:
        self.key, self.parts = key, parts


def _measure_remotely(shared: _Shared, piece: tuple[Any, ...]) -> Arrays:
    return measure_piece(_restore(shared), Piece(*piece))


@lru_cache(maxsize=1)
def _restore(shared: _Shared) -> Reference:
    return Reference.restore(shared.parts, threads=1)


def _name(piece: Piece) -> str:
    return f"piece {piece.number} (distinct samples {piece.start} to {piece.stop})"


def _out_of_store(arrays: Arrays) -> Arrays:
    return {name: array.copy() for name, array in arrays.items()}
