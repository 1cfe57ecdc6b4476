"""Descriptions of functions and objects: equal for what is equal, in every process, and for nothing else."""

from __future__ import annotations

import dataclasses
import functools
import operator
import os
import random
import subprocess
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the torch extra is not installed")
from torch import nn  # noqa: E402

from clear._describe import describe  # noqa: E402
from clear.extraction import extract_to_store  # noqa: E402
from clear.images import Preprocess  # noqa: E402

pytestmark = pytest.mark.torch


def described(value: Any) -> str:
    return describe(value, "preprocess")


def scaled(factor: Any) -> Callable[[Any], Any]:
    return lambda images: images * factor


def composed(*functions: Any) -> Callable[[Any], Any]:
    return lambda images: functools.reduce(lambda made, function: function(made), functions, images)


class Plus:
    def __init__(self, by: Any) -> None:
        self.by = by

    def __call__(self, images: Any) -> Any:
        return images + self.by

    def other(self, images: Any) -> Any:
        return images - self.by


class Slotted:
    __slots__ = ("by",)

    def __init__(self, by: Any) -> None:
        self.by = by


class Text(str):
    __slots__ = ()


def local(by: int) -> type:
    class Local:
        step = by

        @staticmethod
        def __call__(images: Any) -> Any:
            return images + by

    return Local


def itself(by: int) -> Callable[[Any], Any]:
    def call(images: Any) -> Any:
        return images if by else call(images)

    return call


def unset() -> Callable[[], Any]:
    if random is None:
        late = 1
    return lambda: late


def kept(by: int) -> Callable[[int], int]:
    return functools.lru_cache(lambda value: value + by)


def cycle(by: int) -> list[Any]:
    made: list[Any] = [by]
    made.append(made)
    return made


def large(value: float) -> np.ndarray:
    array = np.zeros((50, 50), np.float32)
    array[25, 25] = value
    return array


MAKERS: dict[str, Callable[[Any], Any]] = {
    "number": scaled,
    "array": lambda x: scaled(large(x)),
    "array of objects": lambda x: scaled(np.array([x, "a", None], object)),
    "text of an array": lambda x: scaled(np.array([str(x)])),
    "tensor": lambda x: scaled(torch.from_numpy(large(x))),
    "sparse tensor": lambda x: scaled(torch.from_numpy(large(x)).to_sparse()),
    "composition": lambda x: composed(scaled(1), scaled(x)),
    "deep composition": lambda x: composed(composed(scaled(x), torch.abs), Plus(3)),
    "partial": lambda x: functools.partial(torch.clamp, min=x),
    "partial of another": lambda x: functools.partial(scaled(x), 3),
    "callable": Plus,
    "bound method": lambda x: Plus(x).__call__,
    "slots": Slotted,
    "local class": lambda x: local(x)(),
    "local class itself": local,
    "dictionary": lambda x: {"a": {"b": scaled(x)}},
    "ordered": lambda x: OrderedDict(a=scaled(x)),
    "list": lambda x: [1, (2, scaled(x))],
    "set": lambda x: {"one", "two", f"{x}"},
    "text": lambda x: Text(f"{x}"),
    "module": lambda x: nn.Dropout(x / 10),
    "weights": lambda x: nn.Linear(2, 2).requires_grad_(False).eval().apply(lambda m: m.weight.fill_(x)),
    "buffer": lambda x: nn.BatchNorm2d(x),
    "dataclass": lambda x: Preprocess((0.5,), (x,)),
    "frozen dataclass": lambda x: dataclasses.make_dataclass("Made", [("by", int)], frozen=True)(x),
    "keyword": lambda x: eval(f"lambda images, *, by={x}: images * by"),
    "code": lambda x: eval(f"lambda images: [image + {x} for image in images]"),
    "attribute of a function": lambda x: functools.wraps(scaled(x))(composed),
    "cached": kept,
    "itself": itself,
    "cycle": cycle,
    "random": random.Random,
    "generator": np.random.default_rng,
    "range": range,
    "dtype": lambda x: scaled(torch.float32 if x == 1 else torch.float64),
    "getter": operator.itemgetter,
}


@pytest.mark.parametrize("kind", MAKERS)
def test_equal_state_has_one_description_and_other_state_another(kind: str) -> None:
    make = MAKERS[kind]
    torch.manual_seed(0)
    first = described(make(1))
    torch.manual_seed(0)
    assert described(make(1)) == first
    torch.manual_seed(0)
    assert described(make(2)) != first


def test_other_functions_are_told_apart() -> None:
    different = [
        lambda images: images + 1,
        lambda images: images - 1,
        lambda images: images.abs(),
        lambda images: images.neg(),
        lambda images, by=1: images * by,
        lambda images, by=2: images * by,
        lambda *images: images,
        lambda images: images,
        torch.abs,
        torch.neg,
        np.abs,
        np.negative,
        abs,
        Plus,
        Plus(1),
        Plus(1).__call__,
        Plus(1).other,
        Plus(1).__init__,
        [].append,
        [1].append,
        nn.Identity(),
        nn.ReLU(),
        nn.ReLU().forward,
        unset(),
        np,
        torch,
        None,
        "None",
        1,
        1.0,
        True,
    ]
    names = [described(function) for function in different]
    assert len(set(names)) == len(names)


def test_the_description_is_the_same_in_another_process() -> None:
    code = """
from clear._describe import describe
words = {"one", "two", "three", "four"}
class Kept:
    words = words
    def __call__(self, x):
        return x in words
def make(*held):
    return lambda x, k={'a': 1}: held if x in {'one', 'two', 'three', 'four'} else [y + 1 for y in x]
print(describe(make(words, frozenset(words), Kept(), {"a": words}), "preprocess"))
"""
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", code], env=os.environ | {"PYTHONHASHSEED": seed}, stdout=subprocess.PIPE, text=True
        )
        for seed in ("1", "2")
    ]
    said = [run.communicate()[0] for run in runs]
    assert said[0] == said[1] != ""


def in_a_module(text: str) -> Any:
    """The function `call` of a module with this text."""
    module: dict[str, Any] = {"__name__": "made"}
    exec(compile(text, "made.py", "exec"), module)
    return module["call"]


GLOBALS = {
    "number": "MEAN = {}\ndef call(x): return x - MEAN",
    "array": "import numpy as np\nMEAN = np.full(3, {})\ndef call(x): return x - MEAN",
    "function": "def by(x): return x - {}\ndef call(x): return by(x)",
    "global of a global": "MEAN = {}\ndef by(x): return x - MEAN\ndef call(x): return by(x)",
    "in a lambda": "MEAN = {}\ndef call(x): return (lambda y: y - MEAN)(x)",
    "in a comprehension": "MEAN = {}\ndef call(x): return [y - MEAN for y in x]",
    "in a class": "MEAN = {}\nclass By:\n  def to(self, x): return x - MEAN\ndef call(x): return By().to(x)",
    "object": "class By:\n  def __init__(self, by): self.by = by\nBY = By({})\ndef call(x): return x - BY.by",
    "itself": "MEAN = {}\ndef call(x): return call(x - MEAN) if x > MEAN else x",
}


@pytest.mark.parametrize("kind", GLOBALS)
def test_globals_that_a_function_reads_count(kind: str) -> None:
    text = GLOBALS[kind]
    assert described(in_a_module(text.format(1))) == described(in_a_module(text.format(1)))
    assert described(in_a_module(text.format(1))) != described(in_a_module(text.format(2)))


@pytest.mark.parametrize(
    "text",
    [
        "UNUSED = {}\ndef call(x): return x",
        "COUNT = {}\ndef call(x):\n  global COUNT\n  COUNT += 1\n  return x",
        "import threading\nUNUSED = {}\nLOCK = threading.Lock()\ndef call(x):\n  with LOCK: return x",
    ],
)
def test_globals_that_say_nothing_do_not_count(text: str) -> None:
    assert described(in_a_module(text.format(1))) == described(in_a_module(text.format(2)))


def test_a_long_chain_of_functions_is_described() -> None:
    def chain(length: int, end: int) -> Any:
        calls = [f"def f{i}(x): return f{i + 1}(x)" for i in range(length)]
        return in_a_module("\n".join([*calls, f"def f{length}(x): return {end}", "call = f0"]))

    assert described(chain(20, 1)) != described(chain(20, 2))
    assert described(chain(2000, 1)) == described(chain(2000, 1))  # beyond some depth by name


def test_what_torch_compile_notes_does_not_count() -> None:
    def compiled(note: int) -> Callable[[Any], Any]:
        function = scaled(1)
        function._torchdynamo_wrapper_id = note
        return function

    assert described(compiled(1)) == described(compiled(2)) == described(scaled(1))


@pytest.mark.parametrize("make", [threading.Lock, lambda: (i for i in range(3))])
def test_what_has_no_description_is_refused_and_named(tmp_path: Any, make: Callable[[], Any]) -> None:
    held = make()
    with pytest.raises(TypeError, match=r"preprocess holds a [\w.]+, which has no description.*: want functions"):
        extract_to_store(nn.Linear(2, 2), (torch.zeros(3, 2), [0, 1, 0]), tmp_path, preprocess=scaled({"a": [held]}))
    deep: list[Any] = []
    for _ in range(10_000):
        deep = [deep]
    with pytest.raises(TypeError, match="preprocess is nested too deeply"):
        described(deep)


def test_a_network_s_own_preprocessing_counts_for_a_store(tmp_path: Any) -> None:
    class Bound(nn.Linear):
        def preprocess(self, images: Any) -> Any:
            return images.float()

    class Network(nn.Linear):
        preprocess = staticmethod(scaled(1))

    class Other(nn.Linear):
        preprocess = staticmethod(scaled(2))

    Other.__name__ = "Network"
    made = []
    for kind in (Network, Other, Bound):
        torch.manual_seed(0)
        made.append(kind(2, 2))
    data = torch.zeros(3, 2), [0, 1, 0]
    extract_to_store(made[0], data, tmp_path / "store")
    extract_to_store(made[0].train(), data, tmp_path / "store")
    with pytest.raises(ValueError, match=r"\(preprocess differs\)"):
        extract_to_store(made[1], data, tmp_path / "store")
    extract_to_store(made[2], data, tmp_path / "bound")
    extract_to_store(made[2].eval(), data, tmp_path / "bound")
