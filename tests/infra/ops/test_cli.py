"""Every command has a help text and an example."""

from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from infra.ops.cli import COMMANDS, app
from infra.ops.embedded.ports import free_port


def pages() -> Iterator[tuple[str, ...]]:
    """Return the words of every command, including groups."""

    def below(words: tuple[str, ...], group: Any) -> Iterator[tuple[str, ...]]:
        for name, command in getattr(group, "commands", {}).items():
            yield (*words, name)
            yield from below((*words, name), command)

    root = get_command(app)
    for name in COMMANDS:
        yield (name,)
        yield from below((name,), root.get_command(None, name))  # type: ignore[attr-defined] # typer's own click


@pytest.mark.parametrize(
    "words",
    [
        ("dead", "list"),
        ("events", "why", "e-1"),
        ("consent", "verify-audit"),
        ("privacy", "status"),
        ("privacy", "verify", "user=a"),
        ("identity", "diff"),
    ],
    ids=" ".join,
)
def test_a_house_that_is_not_there_is_told_at_once(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before any client begins to wait for it."""
    monkeypatch.setenv("HEADWATER_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("HEADWATER_SECRET", "for tests only, forty characters long...")
    monkeypatch.setenv("HEADWATER_KAFKA", f"127.0.0.1:{free_port()}")
    assert "nobody listens" in str(CliRunner().invoke(app, words).exception)


@pytest.mark.parametrize("words", list(pages()), ids=" ".join)
def test_each_help_has_an_example(words: tuple[str, ...]) -> None:
    """It begins with the command itself."""
    shown = CliRunner().invoke(app, [*words, "--help"], terminal_width=200)
    assert shown.exit_code == 0, shown.output
    assert f"Example: headwater {' '.join(words)}" in " ".join(shown.output.split())


def test_the_version_needs_no_command() -> None:
    """`headwater --version` prints the installed version."""
    shown = CliRunner().invoke(app, ["--version"])
    assert (shown.exit_code, shown.output.strip()) == (0, version("headwater"))
