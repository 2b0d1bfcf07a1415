"""The command line as a whole: every command says what it is for, with an example that is its own."""

from collections.abc import Iterator
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from infra.cli import COMMANDS, app


def pages() -> Iterator[tuple[str, ...]]:
    """The words of every command, those that only lead to others too."""

    def below(words: tuple[str, ...], group: Any) -> Iterator[tuple[str, ...]]:
        for name, command in getattr(group, "commands", {}).items():
            yield (*words, name)
            yield from below((*words, name), command)

    root = get_command(app)
    for name in COMMANDS:
        yield (name,)
        yield from below((name,), root.get_command(None, name))  # type: ignore[attr-defined] # typer's own click


@pytest.mark.parametrize("words", list(pages()), ids=" ".join)
def test_each_help_has_an_example(words: tuple[str, ...]) -> None:
    """It begins with the command itself."""
    shown = CliRunner().invoke(app, [*words, "--help"], terminal_width=200)
    assert shown.exit_code == 0, shown.output
    assert f"Example: headwater {' '.join(words)}" in " ".join(shown.output.split())
