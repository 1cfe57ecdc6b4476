"""The code base tests itself: layers, stub, versions, documents."""

from __future__ import annotations

import ast
import contextlib
import io
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import clear
from clear import _core

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "python" / "clear"

LAYERS = [
    {"errors", "_version", "_core", "_check_scores", "_rows", "_progress", "budgets"},
    {"_arrays", "_blas", "_files", "check"},
    {"_backend", "_stored", "config", "_npy", "_documents", "_urls"},
    {"_search", "hull", "_parquet", "_parts", "work"},
    {"_lists", "_describe", "store", "cross_validation"},
    {"approximate"},
    {"neighbors"},
    {"class_index", "data", "_image_stores", "results", "shared_hull"},
    {"images", "prepare", "_view_files"},
    {"far_rows"},
    {"reference"},
    {"collapse", "architectures", "_batches", "_review_evidence"},
    {"agreement", "pockets", "models", "reach"},
    {"crowd", "pieces"},
    {"suspicion", "kept"},
    {"touched"},
    {"shards", "incremental", "plan", "verdict"},
    {"ray_engine", "flags"},
    {"probing"},
    {"detect", "guard", "features", "review"},
    {"training", "ray_extraction", "views", "_report_figures"},
    {"_repair_attempts", "extraction"},
    {"attacks", "repair", "_report_html"},
    {"verify", "report"},
    {"demo", "export"},
    {"_cli_common"},
    {"_cli_review", "_cli_scan", "_cli_models", "_cli_tools"},
    {"cli"},
    {"__main__", "__init__"},
]
LEVEL = {name: i for i, names in enumerate(LAYERS) for name in names}
FILES = sorted(PACKAGE.rglob("*.py"))


def module_of(path: Path) -> str:
    """The module, or sub-package, that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports_of(path: Path) -> set[str]:
    """Modules of this package that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "clear":
            found |= {alias.name for alias in node.names if alias.name in LEVEL}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("clear."):
            found.add(node.module.split(".")[1])
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_imports_go_down_only(path: Path) -> None:
    own = module_of(path)
    assert own in LEVEL, f"{path.name} has no layer: add it to LAYERS"
    package = {own} if path.parent != PACKAGE else set()  # files of a sub-package import each other
    upwards = {name for name in imports_of(path) - package if LEVEL[name] >= LEVEL[own]}
    assert not upwards


def test_only_the_backend_touches_native_code() -> None:
    touching = {module_of(path) for path in FILES if "_core" in imports_of(path)}
    assert touching == {"_backend"}


def test_the_checker_shares_no_code_with_the_engine() -> None:
    assert imports_of(PACKAGE / "check.py") == {"_check_scores"}
    assert imports_of(PACKAGE / "_check_scores.py") == set()


def test_importing_costs_numpy_and_the_extension_only() -> None:
    code = "import sys, clear; print([m for m in sys.argv[1:] if m in sys.modules])"
    heavy = ["torch", "sklearn", "scipy", "pandas", "pyarrow", "PIL", "jinja2", "matplotlib", "typer", "tqdm", "ray"]
    assert subprocess.check_output([sys.executable, "-c", code, *heavy], text=True).strip() == "[]"


def test_without_torch_its_names_are_absent_and_the_reason_is_given() -> None:
    code = """
import sys
sys.modules["torch"] = None
import clear
from clear import *
assert not hasattr(clear, "repair_model")
assert "repair_model" in dir(clear)
try:
    clear.repair_model
except clear.ClearError as error:
    print(error)
"""
    printed = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert printed == 'repair_model: this needs torch: pip install "clear-pockets[torch]"\n'


def test_versions_agree() -> None:
    assert clear.__version__ == _core.version
    assert f"## [{clear.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_no_script_hides_the_terminals_clear() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["name"] == "clear-pockets"
    assert set(project["scripts"]) == {"clear-pockets"}


def arguments(doc: str | None) -> list[str]:
    """Argument names of the signature that pybind11 writes into a docstring."""
    signature = re.search(r"\((.*)\) ->", doc or "", re.DOTALL)
    assert signature is not None
    names = re.findall(r"(?:^|, )(\w+):", re.sub(r"\[[^\]]*\]", "", signature[1]))
    return [name for name in names if name != "self"]


def test_the_stub_names_what_the_extension_has() -> None:
    stub = ast.parse((PACKAGE / "_core.pyi").read_text(encoding="utf-8"))
    functions = {n.name: n for n in stub.body if isinstance(n, ast.FunctionDef)}
    classes = {n.name: n for n in stub.body if isinstance(n, ast.ClassDef)}
    values = {n.target.id for n in stub.body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)}
    assert {n for n in dir(_core) if not n.startswith("_")} == {*functions, *classes, *values}
    pairs = [(functions[name], getattr(_core, name)) for name in functions]
    for node in classes["NeighborIndex"].body:
        assert isinstance(node, ast.FunctionDef)
        if not node.decorator_list:
            pairs.append((node, getattr(_core.NeighborIndex, node.name)))
    for node, real in pairs:
        assert arguments(real.__doc__) == [a.arg for a in node.args.args if a.arg != "self"], node.name


def run_examples(document: str) -> str:
    """Run the Python blocks of a document, one after another, and compare what they print; returns the text."""
    text = (ROOT / document).read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```\n(?:\n```\n(.*?)```)?", text, re.DOTALL)
    assert len(blocks) >= 2
    names: dict[str, object] = {}
    for code, wanted in blocks:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(code, names)
        assert printed.getvalue() == wanted
    return text


def test_the_readme_is_short_and_its_examples_print_what_it_says() -> None:
    assert len(run_examples("README.md").splitlines()) <= 150


def test_the_examples_of_the_hull_document_print_what_it_says() -> None:
    run_examples("docs/hulls.md")


def test_tables_in_the_documents_are_those_of_the_results() -> None:
    command = [sys.executable, "-m", "bench.report", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_documents_link_to_files_that_exist() -> None:
    for document in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text(encoding="utf-8")):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"


@pytest.mark.parametrize(
    "module",
    [
        "neighbors",
        "hull",
        "shared_hull",
        "detect",
        "plan",
        "data",
        "check",
        "report",
        "review",
        "attacks.collisions",
        "attacks.gradients",
        "guard",
        "export",
    ],
)
def test_docstring_examples_run(module: str) -> None:
    import doctest
    import importlib

    results = doctest.testmod(importlib.import_module(f"clear.{module}"))
    assert results.attempted > 0
    assert results.failed == 0
