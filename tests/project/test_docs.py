"""Documents name files and functions that exist."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted(
    path
    for top in ("docs", "schemas", "infra", "streams", "consumers")
    for path in (ROOT / top).rglob("*.md")
    if "node_modules" not in path.parts
)
DOCUMENTS += [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
REFERENCE = re.compile(r"`([\w./-]+\.py)(?::([\w.]+))?`")


def resolve(document: Path, name: str) -> list[Path]:
    """Files that a document may mean: from the root, beside it, or anywhere beneath its folder."""
    places = [ROOT / name, document.parent / name, *document.parent.rglob(name)]
    return [place for place in places if place.is_file()]


def defines(path: Path, dotted: str) -> bool:
    """Whether a file defines a function, class, method or module-level name."""
    body: list[ast.stmt] = ast.parse(path.read_text()).body
    for name in dotted.split("."):
        for node in body:
            targets = (
                [target for target in node.targets if isinstance(target, ast.Name)] if isinstance(node, ast.Assign) else []
            )
            annotated = node.target.id if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) else ""
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.name == name:
                body = node.body
                break
            if annotated == name or any(target.id == name for target in targets):
                body = []
                break
        else:
            return False
    return True


PRESENT = [document for document in DOCUMENTS if document.parent.name != "decisions"]
"""Decisions speak of the tree of their date."""


@pytest.mark.parametrize("document", PRESENT, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_file_and_function_that_is_named_exists(document: Path) -> None:
    """`path.py` and `path.py:name`, from the root or from the document's folder."""
    stale = [
        f"{name}:{function}"
        for name, function in REFERENCE.findall(document.read_text())
        if not any(not function or defines(path, function) for path in resolve(document, name))
    ]
    assert stale == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_relative_link_leads_somewhere(document: Path) -> None:
    """Links to other documents."""
    targets = re.findall(r"\]\((?!https?:|mailto:|#)([^)#\s]+)", document.read_text())
    assert [target for target in targets if not (document.parent / target).exists()] == []
