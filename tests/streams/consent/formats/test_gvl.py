"""Vendor lists: versions are kept side by side, and invalid lists are refused."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from infra.errors import ConfigError
from streams.consent.commands.explain import app
from streams.consent.formats.gvl import GvlFolder, import_gvl

VENDOR = {"id": 1, "purposes": [1, 3], "legIntPurposes": [7], "flexiblePurposes": [7]}


def published(folder: Path, version: int = 9, **fields: Any) -> Path:
    """A list as it is published, in a file."""
    file = folder / "download.json"
    deleted = {**VENDOR, "deletedDate": "2024-01-02T00:00:00Z"}
    file.write_text(json.dumps({"vendorListVersion": version, "vendors": {"1": VENDOR, "2": deleted}, **fields}))
    return file


def test_versions_lie_side_by_side(tmp_path: Path) -> None:
    """Each version that was imported can be asked for; others are unknown; the same file twice is no error."""
    lists = GvlFolder(tmp_path / "gvl")
    assert lists.versions() == []
    for version in (9, 10, 9):
        assert import_gvl(published(tmp_path, version), tmp_path / "gvl").version == version
    assert lists.versions() == [9, 10]
    gvl = lists.version(9)
    assert gvl is not None
    assert gvl.vendors[1].li_purposes == {7}
    assert gvl.vendors[2].deleted_ms == 1_704_153_600_000
    assert lists.version(11) is None


def test_another_content_under_the_same_version_is_refused(tmp_path: Path) -> None:
    """A stored version is never replaced by another content, so that its decisions stay explainable."""
    import_gvl(published(tmp_path), tmp_path)
    with pytest.raises(ConfigError, match="something else"):
        import_gvl(published(tmp_path, vendors={}), tmp_path)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"vendorListVersion": 0, "vendors": {}}', '{"vendorListVersion": true, "vendors": {}}',
     '{"vendorListVersion": 9, "vendors": {"x": {}}}', '{"vendorListVersion": 9, "vendors": {"1": {"purposes": [1]}}}',
     '{"vendorListVersion": 9, "vendors": []}', "\x00"],
)  # fmt: skip
def test_what_is_no_list(tmp_path: Path, text: str) -> None:
    """An invalid list is refused with the file's name, and nothing is stored."""
    file = tmp_path / "list.json"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"list\.json"):
        import_gvl(file, tmp_path / "gvl")
    assert not (tmp_path / "gvl").exists()


def test_the_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`consent gvl import` stores a list, `consent gvl list` names what is there."""
    monkeypatch.setenv("HEADWATER_STATE_DIR", str(tmp_path))
    run = CliRunner().invoke
    assert "no vendor list" in run(app, ["gvl", "list"]).output
    result = run(app, ["gvl", "import", str(published(tmp_path))])
    assert result.exit_code == 0
    assert "version 9, 2 vendors" in result.output
    assert json.loads(run(app, ["gvl", "list", "--json"]).output) == {"versions": [9]}
