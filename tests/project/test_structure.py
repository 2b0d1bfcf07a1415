"""Rules of the source tree: names, sizes, folders. `make check` runs this file."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CODE = ("schemas", "infra", "streams", "consumers", "bench")
BANNED = {
    *(
        "asked",
        "done",
        "found",
        "given",
        "gone",
        "heard",
        "held",
        "kept",
        "known",
        "left",
        "less",
        "made",
        "met",
        "one",
        "ours",
    ),
    *("read", "said", "seen", "sent", "taken", "theirs", "told", "wanted", "what", "where", "who"),
}
"""Participles and pronouns: a variable is called what it holds."""
MOST_ENTRIES = 14
MOST_LINES = 44
"""Of one function."""
README_LINES = 150
DATA = {"schemas/contracts"}
"""Folders of data: one file a topic."""


@cache
def files(*tops: str) -> list[Path]:
    """Python files beneath these folders."""
    return sorted(path for top in tops for path in (ROOT / top).rglob("*.py"))


@cache
def tree(path: Path) -> ast.Module:
    """A parsed file."""
    return ast.parse(path.read_text(), str(path))


def shown(path: Path) -> str:
    """A path as messages show it."""
    return path.relative_to(ROOT).as_posix()


def bindings(module: ast.Module) -> Iterator[tuple[str, int]]:
    """Names of variables, arguments and fields, with their lines."""
    for node in ast.walk(module):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno


def test_no_class_name_stands_twice() -> None:
    """A name that needs an alias at import is the wrong name."""
    places = defaultdict(list)
    for path in files(*CODE):
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(f"{shown(path)}:{node.lineno}")
    assert {name: places for name, places in places.items() if len(places) > 1} == {}


@pytest.mark.parametrize("top", [*CODE, "tests"])
def test_variables_are_called_what_they_hold(top: str) -> None:
    """No participle and no pronoun is a name."""
    assert [
        f"{shown(path)}:{line} {name}" for path in files(top) for name, line in bindings(tree(path)) if name in BANNED
    ] == []


def test_folders_can_be_taken_in_at_a_glance() -> None:
    """No folder of code shows more than 14 entries."""
    folders = {path.parent for path in files(*CODE, "tests")}
    counts = {shown(folder): sum(entry.name != "__pycache__" for entry in folder.iterdir()) for folder in folders}
    assert {folder: count for folder, count in counts.items() if count > MOST_ENTRIES and folder not in DATA} == {}


def test_functions_are_short() -> None:
    """Under 45 lines, docstring and decorators aside."""
    lengths = {
        f"{shown(path)}:{node.lineno} {node.name}": node.end_lineno - node.lineno + 1
        for path in files(*CODE)
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None
    }
    assert {function: lines for function, lines in lengths.items() if lines > MOST_LINES} == {}


def test_every_ignore_has_its_reason() -> None:
    """`noqa` and `type: ignore` name a rule and say why."""
    bare = re.compile(r"#\s*(noqa(?!: [A-Z0-9, ]+ - )|type: ignore(?!\[[\w, -]+\]\s+#\s*\w))")
    assert [
        f"{shown(path)}:{number}"
        for path in files(*CODE, "tests")
        if path != Path(__file__)
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if bare.search(line)
    ] == []


def test_readmes_say_what_is_true_now() -> None:
    """Under 150 lines: decisions and measurements have files of their own."""
    lengths = {shown(path): len(path.read_text().splitlines()) for top in CODE for path in (ROOT / top).rglob("README.md")}
    assert {path: lines for path, lines in lengths.items() if lines >= README_LINES} == {}
