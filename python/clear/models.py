"""Models: weights without pickle, architectures by name or callable, layers by dotted name."""

from __future__ import annotations

import difflib
import importlib
import os
import re
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clear._files import open_regular
from clear._npy import ZIP_ERRORS, check_zip
from clear.errors import ClearError, UnsafeFile, need, short

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["find_layer", "last_linear", "layer_names", "load_model"]

MINIMUM_TORCH = (2, 10)
LISTED = 5


def load_model(
    weights: str | os.PathLike[str],
    architecture: str | Callable[..., nn.Module],
    *,
    num_classes: int | None = None,
) -> nn.Module:
    """Load weights into a network and return it in eval mode, on the CPU.

    Parameters
    ----------
    weights : path
        `.safetensors`, or `.pt`/`.pth` with a state dict (as such, or under "state_dict" or "model"). The latter
        are read only by `torch.load(weights_only=True)` on torch >= 2.10; there is no fallback.
    architecture : str or callable
        A callable that returns an `nn.Module`; the name of a built-in one ("resnet20", "resnet32", "resnet44",
        "resnet56", "digits_cnn"); or "package.module:callable", which is imported (and runs) because you name it.
    num_classes : int, optional
        Passed on as `num_classes`. Default: for built-in names what the weights say, otherwise nothing is passed.

    Raises
    ------
    UnsafeFile
        The file is damaged, holds more than tensors, or cannot be read safely by this torch.
    TypeError
        The architecture cannot be called, or returns something else than an `nn.Module`.
    ValueError
        Unknown architecture, or weights that do not fit it: the message lists missing and unexpected keys.
    MissingExtra
        torch or safetensors is not installed.

    Examples
    --------
    >>> import tempfile
    >>> from safetensors.torch import save_file
    >>> from clear.architectures import digits_cnn
    >>> from clear.models import last_linear, load_model
    >>> path = tempfile.mkdtemp() + "/digits.safetensors"
    >>> save_file(digits_cnn().state_dict(), path)
    >>> last_linear(load_model(path, "digits_cnn"))
    ('linear', Linear(in_features=64, out_features=10, bias=True))
    """
    torch = need("torch", extra="torch")
    build = _find_architecture(architecture)
    state = _read_weights(Path(weights))
    if num_classes is None and isinstance(architecture, str) and ":" not in architecture:
        head = state.get("linear.weight")
        num_classes = int(head.shape[0]) if head is not None and head.ndim == 2 else None
    model = build() if num_classes is None else build(num_classes=num_classes)
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"architecture={architecture!r} returns a {type(model).__name__}: want an nn.Module")
    _fill(model, state, str(weights))
    return model.eval()  # type: ignore[no-any-return]


def layer_names(model: nn.Module) -> list[str]:
    """Return the dotted names of all layers of a model, in order of registration."""
    return [name for name, _ in model.named_modules() if name]


def find_layer(model: nn.Module, name: str) -> nn.Module:
    """Return a layer by its dotted name; a wrong name raises a ValueError that lists the closest ones."""
    names = layer_names(model)
    if name not in names:
        close = difflib.get_close_matches(str(name), names, n=LISTED, cutoff=0.4) or names[-LISTED:]
        raise ValueError(f"layer {name!r} is not in the model: want one of its {len(names)} layers, such as {close}")
    return model.get_submodule(name)


def last_linear(model: nn.Module) -> tuple[str, nn.Module]:
    """Return name and module of the `nn.Linear` that was registered last: the classifier of most networks."""
    linear = need("torch.nn", extra="torch").Linear
    found = [(name, module) for name, module in model.named_modules() if isinstance(module, linear)]
    if not found:
        raise ValueError(
            f"{type(model).__name__} has no nn.Linear: name a layer, such as {layer_names(model)[-LISTED:]}"
        )
    return found[-1]


def _find_architecture(architecture: str | Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    if not isinstance(architecture, str):
        if not callable(architecture):
            raise TypeError(f"architecture is {architecture!r}: want a callable that returns an nn.Module, or a name")
        return architecture
    module_name, colon, attribute = architecture.partition(":")
    if not colon:
        known = importlib.import_module("clear.architectures").ARCHITECTURES
        if architecture not in known:
            raise ValueError(
                f'architecture={architecture!r} is not built in: want one of {sorted(known)} or "module:callable"'
            )
        return known[architecture]  # type: ignore[no-any-return]
    try:
        found = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"architecture={architecture!r} cannot be imported: {error}") from None
    if not callable(found):
        raise TypeError(f"architecture={architecture!r} is not callable: want something that returns an nn.Module")
    return found  # type: ignore[no-any-return]


def _read_weights(path: Path) -> dict[str, Tensor]:
    open_regular(path).close()
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix in (".pt", ".pth"):
        return _state_dict(_read_torch(path), path)
    raise ValueError(f"{path}: suffix {path.suffix!r} is not known: want .safetensors, .pt or .pth")


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    load_file = need("safetensors.torch", extra="torch").load_file
    try:
        return load_file(path)  # type: ignore[no-any-return]
    # The parser raises SafetensorError; torch adds errors of its own for types it does not know.
    except Exception as error:
        raise UnsafeFile(f"{path}: damaged safetensors file ({short(error)})") from None


def _read_torch(path: Path) -> Any:
    torch = need("torch", extra="torch")
    version = tuple(int(part) for part in re.findall(r"\d+", torch.__version__)[:2])
    if version < MINIMUM_TORCH:
        raise UnsafeFile(
            f"{path}: torch {torch.__version__} cannot load it safely (CVE-2025-32434, CVE-2026-24747): "
            "upgrade to torch 2.10, or save the weights as safetensors"
        )
    _check_archive(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    # Whatever the restricted loader objects to, the file is not loaded in any other way.
    except Exception as error:
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        fault = f"it asks for {named[1]}" if named else "it is damaged"
        raise UnsafeFile(
            f"{path}: holds more than tensors and is not loaded ({fault}): save a plain state dict"
        ) from None


def _check_archive(path: Path) -> None:
    """Refuse anything but the zip format of torch >= 1.6, and archives whose sizes do not add up."""
    try:
        with zipfile.ZipFile(path) as archive:
            check_zip(archive, str(path), path.stat().st_size)
    except ClearError:
        raise
    except ZIP_ERRORS:
        raise UnsafeFile(
            f"{path}: is not a torch archive (damaged, or saved before torch 1.6): save it again, as safetensors"
        ) from None


def _state_dict(value: Any, path: Path) -> dict[str, Tensor]:
    torch = need("torch", extra="torch")
    for key in ("state_dict", "model"):
        if isinstance(value, dict) and isinstance(value.get(key), dict):
            value = value[key]
    if not isinstance(value, dict) or not value or not all(torch.is_tensor(tensor) for tensor in value.values()):
        raise ValueError(f"{path}: holds no state dict: want names and tensors")
    prefix = "module."  # what DataParallel adds
    if all(str(key).startswith(prefix) for key in value):
        return {str(key).removeprefix(prefix): tensor for key, tensor in value.items()}
    return {str(key): tensor for key, tensor in value.items()}


def _fill(model: nn.Module, state: dict[str, Tensor], name: str) -> None:
    """Copy weights in; what does not fit is listed in one line."""
    own = model.state_dict()
    missing = [key for key in own if key not in state and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in state if key not in own]
    shapes = [
        f"{key} {tuple(state[key].shape)} for {tuple(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    faults = (("missing", missing), ("unexpected", unexpected), ("wrong shape", shapes))
    texts = [f"{len(keys)} {fault} ({_some(keys)})" for fault, keys in faults if keys]
    if texts:
        raise ValueError(f"{name}: weights do not fit {type(model).__name__}: {'; '.join(texts)}")
    model.load_state_dict(state, strict=False)


def _some(keys: Iterable[str]) -> str:
    listed = list(keys)
    return ", ".join(listed[:LISTED]) + (", ..." if len(listed) > LISTED else "")
