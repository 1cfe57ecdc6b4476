"""What a function or object depends on, as a short text: the same in each process, another one for another state."""

from __future__ import annotations

import copyreg
import hashlib
import itertools
import sys
from collections.abc import Callable, Iterable, Iterator
from enum import Enum
from types import CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from clear.errors import need, short
from clear.work import hash_array

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["describe", "hash_tensors"]

PLAIN = (type(None), bool, int, float, complex, str, bytes, type(...), type(NotImplemented))
"""Types whose repr says all."""


def describe(value: Any, name: str) -> str:
    """Where a function or object comes from, and a hash of all that it holds; `name` is the argument, for errors.

    Functions count by code, defaults, attributes and what they close over, classes by what stands in their bodies,
    arrays and tensors by their values, other objects by what pickle would keep of them (nothing is unpickled). Globals
    that a function uses count by their names alone. Raises TypeError for what has no such state: open files, locks.
    """
    try:
        return f"{_origin(value)} {_Description(name).of(value)}"
    except RecursionError:
        raise TypeError(f"{name} is nested too deeply to be described: want flatter objects") from None


def hash_tensors(tensors: dict[str, Tensor]) -> str:
    """SHA-256 of the names, types, shapes and values of tensors."""
    torch = need("torch", extra="torch")
    total = hashlib.sha256()
    for name, value in tensors.items():
        total.update(f"{name} {value.dtype} {tuple(value.shape)};".encode())
        plain = value.detach().to_dense().cpu().resolve_conj().resolve_neg()
        total.update(plain.contiguous().flatten().view(torch.uint8).numpy().data)
    return total.hexdigest()


class _Description:
    """Hashes of values in values. Each is described once; within itself it is so many steps up."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._done: dict[int, tuple[Any, str]] = {}  # with the values: a number is another's when its value is gone
        self._path: list[int] = []

    def of(self, value: Any) -> str:
        if type(value) in PLAIN:
            return f"{type(value).__name__} {value!r}"
        key = id(value)
        if key in self._path:
            return f"{len(self._path) - self._path.index(key)} up"
        if key not in self._done:
            self._path.append(key)
            try:
                parts = [_origin(value), *self._parts(value)]
            finally:
                self._path.pop()
            self._done[key] = value, hashlib.sha256(repr(parts).encode(errors="surrogatepass")).hexdigest()
        return self._done[key][1]

    def _parts(self, value: Any) -> Iterator[str]:
        if isinstance(value, type):
            yield from self._class(value)
        elif isinstance(value, set | frozenset):  # the order is another one in each process
            yield from [*sorted(map(self.of, value)), self.of(getattr(value, "__dict__", None))]
        else:
            yield from map(self.of, self._held(value))

    def _class(self, kind: type) -> Iterator[str]:
        """The bodies of a class and of those it comes from; what of them has no description counts by its name."""
        for base in kind.__mro__:
            if base.__flags__ & 1 << 9:  # made by a class statement: others have no body
                for name, value in sorted(vars(base).items()):
                    if isinstance(value, FunctionType) or not name.startswith(("__", "_abc_")):
                        yield name
                        try:
                            yield self.of(value)
                        except TypeError:
                            if isinstance(value, FunctionType | staticmethod | classmethod | property):
                                raise
                            yield _origin(value)

    def _held(self, value: Any) -> Iterable[Any]:
        """What an object is made of."""
        if type(value) in HELD:
            return HELD[type(value)](value)
        if isinstance(value, ModuleType):
            return ()
        if isinstance(value, Enum):
            return (value.name,)
        if type(value) in (np.ndarray, np.memmap) and value.dtype.kind in "biufc":
            return (hash_array(value),)
        if "torch" in sys.modules and sys.modules["torch"].is_tensor(value):
            return (hash_tensors({"": value}),)
        try:
            known = copyreg.dispatch_table.get(type(value))
            state = value.__reduce_ex__(4) if known is None else known(value)
            if isinstance(state, str):  # a name
                return state, getattr(value, "__dict__", None)
            return [*state[:3], *(None if items is None else list(items) for items in state[3:5])]
        except Exception as error:
            raise TypeError(
                f"{self._name} holds a {_origin(type(value))}, which has no description that stays the same "
                f"({short(error)}): want functions, arrays, tensors, and objects with attributes of such; make what "
                "else is needed inside a function"
            ) from error


def _of_code(code: CodeType) -> Iterable[Any]:
    """Instructions, arguments, names and constants; functions in it are among the constants."""
    counts = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags)
    return code.co_code, code.co_exceptiontable, code.co_names, code.co_varnames, counts, code.co_consts


def _of_cell(cell: CellType) -> Iterable[Any]:
    try:
        return (cell.cell_contents,)
    except ValueError:  # nothing in it
        return ()


def _of_function(function: FunctionType) -> Iterable[Any]:
    """Code, defaults, what it closes over and attributes, without what torch.compile notes: another in each process."""
    noted = {name: value for name, value in vars(function).items() if not name.startswith("_torchdynamo_")}
    closure = function.__closure__ or ()
    return function.__code__, function.__defaults__, function.__kwdefaults__, noted, *closure


HELD: dict[type, Callable[[Any], Iterable[Any]]] = {
    FunctionType: _of_function,
    MethodType: lambda method: (method.__func__, method.__self__),
    CodeType: _of_code,
    CellType: _of_cell,
    staticmethod: lambda method: (method.__func__,),
    classmethod: lambda method: (method.__func__,),
    property: lambda made: (made.fget, made.fset, made.fdel),
    list: iter,
    tuple: iter,
    dict: lambda items: itertools.chain.from_iterable(items.items()),
}
"""What an object of a type is made of."""


def _origin(value: Any) -> str:
    """Module and name of a function, class or module; of other objects those of their class."""
    named = value if isinstance(getattr(value, "__qualname__", None), str) else type(value)
    if isinstance(value, ModuleType):
        return f"module {value.__name__}"
    return f"{getattr(named, '__module__', None)}.{named.__qualname__}"
