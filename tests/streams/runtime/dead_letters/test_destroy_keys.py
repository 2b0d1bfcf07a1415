"""`headwater dead destroy-keys`: payloads of old days become unreadable, those of young ones and of the spool do not."""

import json
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from infra.errors import ConfigError
from infra.ops.upkeep import TASKS
from infra.payload_keyring import KeyDestroyed, PayloadKeyring
from infra.secrets import Secret
from streams.collector.delivery.spool import Spool, SpoolRecord
from streams.runtime.dead_letters.app import app

DAY_S = 86_400
SECRET = "for tests only, forty characters long..."


@pytest.fixture(autouse=True)
def _environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADWATER_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("HEADWATER_SECRET", SECRET)


def keyring(folder: Path) -> PayloadKeyring:
    """A keyring of the installation, as another process opens it."""
    return PayloadKeyring(folder / "keyring", Secret(SECRET))


def test_payloads_of_old_days_become_unreadable(tmp_path: Path) -> None:
    """Those of the last 14 days can still be replayed."""
    old, recent = (keyring(tmp_path).seal(b"payload", time.time() - days * DAY_S) for days in (16, 13))
    result = CliRunner().invoke(app, ["destroy-keys", "--json"])
    assert json.loads(result.stdout) == {"destroyed": [old[0]]}
    with pytest.raises(KeyDestroyed):
        keyring(tmp_path).open(*old)
    assert keyring(tmp_path).open(*recent) == b"payload"


def test_nothing_is_destroyed_while_the_spool_holds_events(tmp_path: Path) -> None:
    """Their sender was answered 200: they must reach Kafka, however long it is away."""
    spool = Spool(tmp_path / "spool", keyring(tmp_path), 10_000_000)
    spool.append([SpoolRecord("events.raw", b"k", b"event")], time.time() - 40 * DAY_S)
    result = CliRunner().invoke(app, ["destroy-keys"])
    assert isinstance(result.exception, ConfigError)
    file, records = Spool(tmp_path / "spool", keyring(tmp_path), 10_000_000).open_oldest()
    assert [record.value for record in records] == [b"event"]
    spool.drop(file)
    assert CliRunner().invoke(app, ["destroy-keys"]).exit_code == 0


def test_upkeep_destroys_them_daily() -> None:
    """Nobody needs a timer of their own."""
    assert [task.every_s for task in TASKS if task.words == ("dead", "destroy-keys")] == [DAY_S]
