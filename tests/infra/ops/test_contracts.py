"""`headwater contracts`: each lint rule finds its violation, each command reports its result."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from infra.clients.schema_registry import SchemaRegistry
from infra.errors import ConfigError
from infra.ops.contracts import app, breaking_changes_since, ddl_statements
from schemas.lint import lint
from schemas.registry import Registry
from tests.infra.clients.registry_server import EmbeddedSchemaRegistry

FIELD = {"name": "shelf", "type": "string", "purpose": "analytics", "doc": "Shelf it lay on.", "default": ""}
Edit = Callable[[list[dict[str, Any]]], object]


@pytest.fixture
def folder(tmp_path: Path, contracts_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the packaged contracts in a git checkout of their own, which commands find."""
    copy = tmp_path / "checkout" / "schemas"
    copy.mkdir(parents=True)
    for file in (*contracts_dir.glob("*.avsc"), contracts_dir / "derived.json", contracts_dir / "lock.json"):
        shutil.copy(file, copy)
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "contracts"]):
        subprocess.run(["git", "-c", "user.name=t", "-c", "user.email=t@example.org", *command], cwd=copy.parent, check=True)  # noqa: S607 - the git of this machine
    monkeypatch.setenv("HEADWATER_CONTRACTS", str(copy))
    monkeypatch.setenv("HEADWATER_STATE_DIR", str(tmp_path))
    return copy


def change(file: Path, edit: Edit) -> None:
    """Change the fields of a contract."""
    schema = json.loads(file.read_text())
    edit(schema["fields"])
    lines = ",\n".join(json.dumps(field) for field in schema.pop("fields"))
    file.write_text(json.dumps(schema)[:-1] + f', "fields": [\n{lines}\n]}}')


def run(*arguments: str) -> tuple[int, str]:
    """Exit code and output of a command."""
    result = CliRunner().invoke(app, list(arguments))
    if isinstance(result.exception, ConfigError):
        raise result.exception
    return result.exit_code, result.stdout


def test_the_packaged_contracts_are_clean(contracts_dir: Path) -> None:
    """What is checked in passes its own rules."""
    assert lint(contracts_dir) == []


@pytest.mark.parametrize(
    ("edit", "field", "words"),
    [
        (lambda f: f[-1].pop("purpose"), "imported", "needs a purpose"),
        (lambda f: f[-1].update(purpose="fun"), "imported", "needs a purpose"),
        (lambda f: f[-1].update(doc=""), "imported", "needs a doc"),
        (lambda f: f.append(FIELD | {"name": "Shelf"}), "Shelf", "snake_case"),
        (lambda f: f.append(dict(f[3])), "site", "stands twice"),
        (lambda f: f.append(FIELD | {"type": ["null", "string"], "default": None}), "shelf", "not used in this house"),
        (
            lambda f: f.append(FIELD | {"type": {"type": "array", "items": "null"}, "default": []}),
            "shelf",
            "not used in this house",
        ),
        (lambda f: f.append(FIELD | {"type": {"type": "long", "logicalType": "date"}, "default": 0}), "shelf", "logical type"),
        (lambda f: f.append(FIELD | {"default": 0}), "shelf", "no value of its type"),
        (lambda f: f.append({k: v for k, v in FIELD.items() if k != "default"}), "shelf", "without a default"),
        (lambda f: f.insert(12, FIELD), "shelf", "inserted"),
        (lambda f: f[-1].update(purpose="marketing"), "imported", "purpose changed"),
        (lambda f: f.pop(), "imported", "removed or renamed"),
        (lambda f: f.insert(0, f.pop(3)), "", "must begin with the fields that stages read"),
    ],
)
def test_each_breach_names_file_line_and_field(folder: Path, edit: Edit, field: str, words: str) -> None:
    """One finding a breach, at the line where the field stands."""
    change(folder / "events.raw.avsc", edit)
    match = next(finding for finding in lint(folder) if words in finding.text)
    assert (match.file, match.field) == ("events.raw.avsc", field)
    lines = (folder / "events.raw.avsc").read_text().splitlines()
    assert not match.line or f'"name": "{field}"' in lines[match.line - 1]


def test_a_forgotten_lock_and_a_derived_contract_out_of_date_are_found(folder: Path) -> None:
    """A changed contract without an id, and a generated file that does not follow."""
    change(folder / "events.raw.avsc", lambda fields: fields.append(FIELD))
    texts = [str(finding) for finding in lint(folder)]
    assert any("lock.json" in text and "events.raw" in text for text in texts)
    assert any("events.resolved.avsc" in text and "out of date" in text for text in texts)
    assert run("lint")[0] == 1
    assert run("lock")[0] == 0
    assert run("lint") == (0, f"{len(list(folder.glob('*.avsc')))} contracts are in order\n")


def test_an_appended_field_breaks_nothing_and_locks(folder: Path) -> None:
    """The lawful change: three new ids, and a column more in the warehouse."""
    change(folder / "events.raw.avsc", lambda fields: fields.append(FIELD))
    assert breaking_changes_since(folder, "HEAD") == []
    before = ddl_statements(Registry(folder), "headwater")
    new = json.loads(run("lock", "--json")[1])["new"]
    assert [entry["topic"] for entry in new] == ["events.raw", "events.consented", "events.resolved"]
    assert breaking_changes_since(folder, "HEAD") == []
    (added,) = [statement for statement in ddl_statements(Registry(folder), "headwater") if statement not in before]
    assert added == "ALTER TABLE `headwater`.`events` ADD COLUMN IF NOT EXISTS `shelf` String"
    assert added in run("ddl", "--plan")[1]


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda f: f.pop(10), "removed or renamed"),
        (lambda f: f[10].update(name="order_number"), "removed or renamed"),
        (lambda f: f[5].update(type="long"), "type changed"),
        (lambda f: f[11].update(type="float"), "type changed"),
        (lambda f: f.append(f.pop(20)), "moved"),
        (lambda f: f[20].pop("default"), "lost its default"),
    ],
)
def test_a_breaking_change_is_refused_everywhere(folder: Path, edit: Edit, words: str) -> None:
    """`breaking` exits 1, and neither lock nor push publishes anything."""
    change(folder / "events.raw.avsc", edit)
    code, out = run("breaking", "--against", "HEAD")
    assert code == 1
    assert words in out
    before = (folder / "lock.json").read_text()
    for command in ("lock", "push"):
        with pytest.raises(ConfigError, match="refused, nothing was published"):
            run(command)
    assert (folder / "lock.json").read_text() == before


def test_a_published_version_may_not_leave_the_lock(folder: Path) -> None:
    """Records with its id may still be on their way."""
    state = json.loads((folder / "lock.json").read_text())
    state["contracts"].pop()
    (folder / "lock.json").write_text(json.dumps(state))
    assert any("must stay as it is in lock.json" in str(change) for change in breaking_changes_since(folder, "HEAD"))


def test_prepended_columns_only_grow_at_their_end(folder: Path) -> None:
    """A stage that was started before writes the default of a column it does not know."""
    columns = json.loads((folder / "derived.json").read_text())
    block = columns["events.consented"]["columns"]
    block.append(FIELD | {"name": "consent_extra"})
    (folder / "derived.json").write_text(json.dumps(columns))
    assert breaking_changes_since(folder, "HEAD") == []
    block.insert(0, block.pop())
    (folder / "derived.json").write_text(json.dumps(columns))
    assert any("inserted" in change.text for change in breaking_changes_since(folder, "HEAD"))


def test_what_git_cannot_tell_is_said(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown revision, an option in disguise, and a folder outside any checkout."""
    with pytest.raises(ConfigError, match="git does not know revision nowhere"):
        breaking_changes_since(folder, "nowhere")
    with pytest.raises(ConfigError, match="is no git revision"):
        breaking_changes_since(folder, "--output=x")
    outside = tmp_path / "outside"
    shutil.copytree(folder, outside)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    with pytest.raises(ConfigError, match="is in no git checkout"):
        breaking_changes_since(outside, "HEAD")


def test_push_registers_before_it_locks(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All versions and all derived ones are in the registry under our ids; a registry that refuses leaves no new id."""
    change(folder / "events.raw.avsc", lambda fields: fields.append(FIELD))
    before = (folder / "lock.json").read_text()
    monkeypatch.setenv("HEADWATER_SCHEMA_REGISTRY", "http://127.0.0.1:9")
    with pytest.raises(ConfigError, match="does not answer"):
        run("push")
    assert (folder / "lock.json").read_text() == before
    shelf = tmp_path / "registry"
    shelf.mkdir()
    with EmbeddedSchemaRegistry(shelf) as server:
        monkeypatch.setenv("HEADWATER_SCHEMA_REGISTRY", server.url)
        new = json.loads(run("push", "--json")[1])["new"]
        assert len(new) == 3
        client = SchemaRegistry(server.url)
        for contract in Registry(folder).all():
            assert client.schema(contract.id) == contract.schema
        assert json.loads(run("push", "--json")[1]) == {"new": []}


def test_show_lists_and_shows(folder: Path) -> None:
    """All contracts, one by topic, one by id, and a hint for what there is not."""
    raw = Registry(folder).latest("events.raw")
    assert f"{raw.id:>5}  events.raw v{raw.version}" in run("show")[1]
    assert json.loads(run("show", "events.raw", "--json")[1]) == json.loads(run("show", str(raw.id), "--json")[1])
    assert "event_id" in run("show", "events.raw")[1]
    with pytest.raises(ConfigError, match="lists what there is"):
        run("show", "nothing")
