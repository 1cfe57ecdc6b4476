"""What a function or object depends on, as a short text: the same in each process, another one for another state."""

from __future__ import annotations

import copyreg
import dis
import functools
import hashlib
import itertools
import sys
import sysconfig
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

DEEPEST = 50
"""Levels of values in values to which globals are followed: beyond, they count by their names."""
PLAIN = (type(None), bool, int, float, complex, str, bytes, type(...), type(NotImplemented))
"""Types whose repr says all."""


def describe(value: Any, name: str) -> str:
    """Where a function or object comes from, and a hash of all that it holds; `name` is the argument, for errors.

    Functions count by code, defaults, attributes and what they close over, classes by what stands in their bodies,
    arrays and tensors by their values, other objects by what pickle would keep of them (nothing is unpickled). So do
    the globals that a function reads: by name alone where they have no such state, where the function assigns them, and
    in installed libraries. Raises TypeError for other things without such state: open files, locks.
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
            if isinstance(value, FunctionType) and len(self._path) < DEEPEST:
                for name, known in _globals_read(value):
                    yield from (name, self._of_any(known))

    def _of_any(self, value: Any) -> str:
        """The same; what has no description counts by its name."""
        try:
            return self.of(value)
        except TypeError:
            return _origin(value)

    def _class(self, kind: type) -> Iterator[str]:
        """The bodies of a class and of those it comes from; what of them has no description counts by its name."""
        for base in kind.__mro__:
            if base.__flags__ & 1 << 9:  # made by a class statement: others have no body
                for name, value in sorted(vars(base).items()):
                    if isinstance(value, FunctionType) or not name.startswith(("__", "_abc_")):
                        named = isinstance(value, FunctionType | staticmethod | classmethod | property)
                        yield from (name, self.of(value) if named else self._of_any(value))

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


def _globals_read(function: FunctionType) -> Iterator[tuple[str, Any]]:
    """Names and values of the globals that a function reads and does not assign, in order; none in a library."""
    if function.__code__.co_filename.startswith(_library_folders()):
        return
    read, assigned = set(), set()
    codes = [function.__code__]
    for code in codes:
        codes += [inner for inner in code.co_consts if isinstance(inner, CodeType)]
        for step in dis.get_instructions(code):
            if step.opname in ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"):
                read.add(step.argval)
            elif step.opname in ("STORE_GLOBAL", "DELETE_GLOBAL"):
                assigned.add(step.argval)
    for name in sorted(read - assigned):
        if name in function.__globals__:
            yield name, function.__globals__[name]


@functools.cache
def _library_folders() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    return tuple({paths[kind] for kind in ("stdlib", "platstdlib", "purelib", "platlib")})


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
