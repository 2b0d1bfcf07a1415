"""Sources of settings, and their error messages."""

import json
from pathlib import Path

import pytest

from infra.errors import ConfigError
from infra.settings import house_file, load_settings


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KAFKA", "STATE_DIR", "SECRET", "SLOT"):
        monkeypatch.delenv(f"HEADWATER_{name}", raising=False)


def test_the_running_house_is_found(tmp_path: Path) -> None:
    """What `headwater up` wrote counts where neither the environment nor the caller says otherwise."""
    house_file(tmp_path).write_text(json.dumps({"kafka": "127.0.0.1:1", "redis": "redis://127.0.0.1:2/0"}))
    settings = load_settings(state_dir=tmp_path)
    assert (settings.kafka, settings.redis) == ("127.0.0.1:1", "redis://127.0.0.1:2/0")


def test_the_environment_outranks_the_house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that is set wins over the file."""
    house_file(tmp_path).write_text(json.dumps({"kafka": "127.0.0.1:1"}))
    monkeypatch.setenv("HEADWATER_KAFKA", "kafka.example:9092")
    monkeypatch.setenv("HEADWATER_STATE_DIR", str(tmp_path))
    assert load_settings().kafka == "kafka.example:9092"


def test_a_wrong_value_names_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says which variable, what is wrong and what was given."""
    monkeypatch.setenv("HEADWATER_PARTITIONS", "many")
    with pytest.raises(ConfigError, match=r"HEADWATER_PARTITIONS.*integer.*many"):
        load_settings()


def test_a_broken_house_file_names_its_line(tmp_path: Path) -> None:
    """A file cut in half is said to be, with the line."""
    house_file(tmp_path).write_text('{\n"kafka": ')
    with pytest.raises(ConfigError, match=r"house.json, line 2"):
        load_settings(state_dir=tmp_path)


def test_no_secret_says_what_to_do(tmp_path: Path) -> None:
    """Without a master secret nothing that needs one starts."""
    with pytest.raises(ConfigError, match="HEADWATER_SECRET"):
        load_settings(state_dir=tmp_path).master.derive("anything")


def test_the_secret_is_not_shown(tmp_path: Path) -> None:
    """Neither settings nor the secret print it."""
    settings = load_settings(state_dir=tmp_path, secret="s" * 40)
    assert "sss" not in repr(settings) + repr(settings.master)


def test_the_identity_graph_may_have_a_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The graph's Redis may be a cluster; that of all rooms may not, and the error says so before anything starts."""
    monkeypatch.setenv("HEADWATER_IDENTITY_REDIS", "cluster+redis://redis-1.example:6379")
    assert load_settings(state_dir=tmp_path).identity_redis == "cluster+redis://redis-1.example:6379"
    monkeypatch.setenv("HEADWATER_REDIS", "cluster+redis://redis-1.example:6379")
    with pytest.raises(ConfigError, match=r"HEADWATER_REDIS.*rediss"):
        load_settings(state_dir=tmp_path)
    monkeypatch.setenv("HEADWATER_REDIS", "redis//:hidden@redis.example")
    with pytest.raises(ConfigError, match="HEADWATER_REDIS") as wrong:
        load_settings(state_dir=tmp_path)
    assert "hidden" not in str(wrong.value), "an address may hold a password"
