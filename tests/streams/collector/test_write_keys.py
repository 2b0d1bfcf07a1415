"""Write keys and their kinds, including files that have none."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from infra.errors import ConfigError
from streams.collector.commands.keys import app
from streams.collector.write_keys import KeyKind, WriteKeyStore, create_key, read_keys


def test_a_key_has_its_kind(tmp_path: Path) -> None:
    """The kind is stored with the key; the default is a server's."""
    file = tmp_path / "keys.json"
    clear = {kind: create_key(file, kind, site="shop.example", kind=kind) for kind in KeyKind}
    plain = create_key(file, "plain", site="shop.example")
    ring = WriteKeyStore(file)
    assert {kind: match.kind for kind, key in clear.items() if (match := ring.find(key))} == {kind: kind for kind in KeyKind}
    assert getattr(ring.find(plain), "kind", None) is KeyKind.SERVER


def test_older_files_are_read(tmp_path: Path) -> None:
    """Stored keys without a kind are servers', and their sites are normalised as events' hosts are."""
    file = tmp_path / "keys.json"
    file.write_text(json.dumps({"keys": [{"source": "old", "sha256": "0" * 64, "site": "HTTPS://Shop.Example.:443/"}]}))
    (key,) = read_keys(file)
    assert (key.kind, key.site, key.revoked) == (KeyKind.SERVER, "shop.example", False)


def test_an_unknown_kind_is_no_key(tmp_path: Path) -> None:
    """The error for an unknown kind names the field in the file."""
    file = tmp_path / "keys.json"
    file.write_text(json.dumps({"keys": [{"source": "a", "sha256": "0" * 64, "site": "s", "kind": "robot"}]}))
    with pytest.raises(ConfigError, match=r"keys\.0\.kind"):
        read_keys(file)


def test_the_commands_make_and_show_kinds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`keys create --kind` and both forms of `keys list`."""
    monkeypatch.setenv("HEADWATER_WRITE_KEYS", str(tmp_path / "keys.json"))
    run = CliRunner().invoke
    assert run(app, ["create", "web", "--site", "shop.example", "--kind", "browser"]).exit_code == 0
    assert run(app, ["create", "crm", "--site", "shop.example"]).exit_code == 0
    assert run(app, ["create", "old", "--site", "shop.example", "--kind", "robot"]).exit_code == 2
    lines = run(app, ["list"]).output.splitlines()
    assert [line.split()[0] for line in lines if "browser" in line] == ["web"]
    assert [line.split()[0] for line in lines if "server" in line] == ["crm"]
    shown = [json.loads(line) for line in run(app, ["list", "--json"]).output.splitlines()]
    assert [key["kind"] for key in shown] == ["browser", "server"]
