"""The state folder is locked by one `up`, keeps secrets private, and stores ports and groups."""

import json
import stat
from pathlib import Path

import pytest

from infra.errors import ConfigError
from infra.ops.embedded.state import StateDir


def test_second_claim_names_the_first(tmp_path: Path) -> None:
    """Two houses never share a folder; the message says which process has it."""
    import os

    first, second = StateDir(tmp_path), StateDir(tmp_path)
    first.claim()
    with pytest.raises(ConfigError, match=f"process {os.getpid()}"):
        second.claim()
    first.release()
    second.claim()
    second.release()


def test_full_disk_is_refused(tmp_path: Path) -> None:
    """Without disk space the start fails, and the folder is unlocked."""
    state = StateDir(tmp_path)
    with pytest.raises(ConfigError, match="are free on the disk"):
        state.claim(needed_bytes=10**18)
    state.claim()
    state.release()


def test_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    """A file in the way is named, with the option that helps."""
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="--state-dir"):
        StateDir(tmp_path / "file" / "state").claim()


def test_secret_is_made_once_and_kept_private(tmp_path: Path) -> None:
    """A made secret is long, stays the same, and only its owner reads it."""
    state = StateDir(tmp_path)
    secret = state.secret("secret")
    assert len(secret) == 64
    assert state.secret("secret") == secret
    assert stat.S_IMODE((tmp_path / "secret").stat().st_mode) == 0o600


def test_secret_that_others_may_read_is_refused(tmp_path: Path) -> None:
    """A secret with the wrong permissions stops the start and says how to mend it."""
    state = StateDir(tmp_path)
    state.secret("secret")
    (tmp_path / "secret").chmod(0o640)
    with pytest.raises(ConfigError, match=f"chmod 600 {tmp_path / 'secret'}"):
        state.secret("secret")


def test_first_starts_are_remembered_per_cluster(tmp_path: Path) -> None:
    """A group that has begun on one Kafka has not begun on another."""
    StateDir(tmp_path).mark_started("a", "headwater.consent")
    state = StateDir(tmp_path)
    assert state.has_started("a", "headwater.consent")
    assert not state.has_started("a", "headwater.identity")
    assert not state.has_started("b", "headwater.consent")


def test_damaged_memory_is_forgotten(tmp_path: Path) -> None:
    """A truncated file of ports loses the old ports and does not prevent the start."""
    (tmp_path / "ports.json").write_text('{"kafka": 12')
    assert StateDir(tmp_path).remembered_ports() == {}


def test_house_file_is_private_and_goes_with_the_house(tmp_path: Path) -> None:
    """The status files exist while the services run, and only then."""
    state = StateDir(tmp_path)
    state.claim()
    state.write_house({"kafka": "127.0.0.1:1"})
    state.write_services([])
    file = tmp_path / "house.json"
    assert json.loads(file.read_text()) == {"kafka": "127.0.0.1:1"}
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    state.release()
    assert not file.exists()
    assert not (tmp_path / "services.json").exists()
