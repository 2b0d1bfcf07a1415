"""The README's commands, targets, files and snippets exist and are valid."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from infra.ops.cli import COMMANDS
from infra.settings import PACKAGED_CONTRACTS
from schemas.boundary import Boundary
from schemas.registry import Registry
from schemas.topics import TOPICS

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
SNIPPETS = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)


def test_every_command_exists() -> None:
    """Each `headwater <word>` is a command."""
    assert set(re.findall(r"`headwater (\w+)", README)) <= set(COMMANDS)


@pytest.mark.parametrize("target", sorted(set(re.findall(r"(?:`|^)make ([a-z]+)", README, re.MULTILINE))))
def test_every_target_exists(target: str) -> None:
    """Each target of the README exists."""
    command = ["make", "-n", "-o", ".venv/.headwater-ready", target]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def test_help_is_the_default_and_explains_every_target() -> None:
    """`make` without a target prints the help."""
    run = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True)  # noqa: S607 - as above
    for target in ("demo", "test", "check", "bench", "clean"):
        assert f"make {target}" in run.stdout


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_every_snippet_is_shell(snippet: str) -> None:
    """Each snippet is valid shell syntax."""
    subprocess.run(["bash", "-n", "-c", snippet], check=True)  # noqa: S607 - the shell of this machine


def test_the_event_it_sends_is_json_with_fields_of_the_contract() -> None:
    """The request body parses, and its top-level fields are fields of `events.raw`."""
    (body,) = re.findall(r"-d '(.*?)'", README, re.DOTALL)
    event = json.loads(body)
    raw = Registry(PACKAGED_CONTRACTS).latest("events.raw")
    Boundary(raw)
    assert set(event) - {"user_id", "consent"} <= set(raw.names)


def test_the_columns_it_selects_are_columns() -> None:
    """The query selects fields of `events.resolved`."""
    (columns,) = re.findall(r"SELECT (.*?) FROM headwater\.events", README)
    assert set(columns.split(", ")) <= set(Registry(PACKAGED_CONTRACTS).latest("events.resolved").names)


def test_topics_and_links_exist() -> None:
    """Every named topic is in the table; every link has a target."""
    named = set(re.findall(r"`((?:events|bandit|consent|identity|stream)\.[a-z]+)`", README))
    assert named <= set(TOPICS)
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        assert link.startswith("http") or (ROOT / link).exists(), link


def test_every_room_that_is_there_is_in_the_table() -> None:
    """Every room's folder is named in the README."""
    for folder in (*(ROOT / "streams").iterdir(), *(ROOT / "consumers").iterdir()):
        if (folder / "__init__.py").exists():
            assert f"`{folder.relative_to(ROOT)}/`" in README
