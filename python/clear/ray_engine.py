"""Pieces of a scan as tasks of a Ray cluster; what a lost worker or node had not finished is done elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from clear.errors import ClearError, need, short
from clear.pieces import Engine, Piece, measure_piece
from clear.prepare import Parts, Reference
from clear.work import Arrays, hash_array

__all__ = ["RayEngine", "check_engine", "open_engine"]

RETRIES = 10
"""How often a piece is tried again after the worker or node that had it died."""
IN_FLIGHT = 2
"""Tasks handed out at a time, per core of the cluster."""


class RayEngine:
    """Measures pieces on the Ray cluster that this process is connected to, one core for each.

    The prepared training set goes into the object store once; a node has one copy of it, and every worker process packs
    its own index of it (about 4 * n * width bytes).
    """

    def run(self, reference: Reference, pieces: list[Piece]) -> Iterator[tuple[Piece, Arrays]]:
        """Yield the pieces as they get done, in any order."""
        ray = need("ray", extra="ray")
        task = ray.remote(num_cpus=1, max_retries=RETRIES)(_measure_remotely)
        shared = ray.put(_Shared(hash_array(reference.rows) + hash_array(reference.in_core), reference.parts()))
        running: dict[Any, Piece] = {}
        waiting = list(reversed(pieces))
        try:
            while waiting or running:
                room = max(1, IN_FLIGHT * int(ray.cluster_resources().get("CPU", 1)))
                while waiting and len(running) < room:
                    piece = waiting.pop()
                    running[task.remote(shared, tuple(piece))] = piece
                done, _ = ray.wait(list(running), num_returns=1, timeout=1.0)  # signals are heard between
                for ticket in done:
                    piece = running.pop(ticket)
                    yield piece, _fetch(ray, ticket, piece)
        finally:
            for ticket in running:
                ray.cancel(ticket, force=True)


@contextmanager
def open_engine(name: str, address: str | None, threads: int) -> Iterator[Engine | None]:
    """Yield the engine of that name, connected; None stands for the plain loop in this process."""
    if name == "local":
        yield None
        return
    ray = need("ray", extra="ray")
    if ray.is_initialized():
        yield RayEngine()
        return
    local = {"num_cpus": threads, "include_dashboard": False} if address is None else {}
    try:
        ray.init(address=address or "local", log_to_driver=False, logging_level="ERROR", **local)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ClearError(f"address is {address!r}: no Ray cluster answers there ({short(error)})") from error
    try:
        yield RayEngine()
    finally:
        ray.shutdown()


def check_engine(name: str, address: str | None) -> None:
    """Refuse an unknown engine, one whose library is missing, or an address that no engine uses, before any work."""
    if name not in ("local", "ray"):
        raise ValueError(f'engine is {name!r}: want "local" or "ray"')
    if name == "ray":
        need("ray", extra="ray")
    elif address is not None:
        raise ValueError(f'address is {address!r}: want engine="ray" with it')


class _Shared:
    """The parts of a reference, known by a hash: equal ones are made into a reference once in a worker process."""

    def __init__(self, key: str, parts: Parts) -> None:
        self.key, self.parts = key, parts

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Shared) and other.key == self.key


def _measure_remotely(shared: _Shared, piece: tuple[int, int, int]) -> Arrays:
    return measure_piece(_restore(shared), Piece(*piece))


@lru_cache(maxsize=1)
def _restore(shared: _Shared) -> Reference:
    return Reference.restore(shared.parts, threads=1)


def _fetch(ray: Any, ticket: Any, piece: Piece) -> Arrays:
    try:
        arrays: Arrays = ray.get(ticket)
    except ray.exceptions.RayError as error:
        raise ClearError(
            f"piece {piece.number} (distinct samples {piece.start} to {piece.stop}) failed on Ray: {short(error)}"
        ) from error
    return {name: array.copy() for name, array in arrays.items()}  # out of the object store
