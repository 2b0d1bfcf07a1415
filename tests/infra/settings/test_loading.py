"""Sources of settings, and their error messages."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from infra.errors import EXIT_CONFIG, ConfigError
from infra.secrets import Secret
from infra.settings import Settings, house_file, load_settings


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("HEADWATER_")]:
        monkeypatch.delenv(name)


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


@pytest.mark.parametrize("form", ["{}", "'{}'", '"{}"', "  {}  ", "{}\r\n", ' "{}"\r'])
@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("kafka", "broker.example:9092", "broker.example:9092"),
        ("partitions", "12", 12),
        ("squash_after_days", "1.5", 1.5),
        ("policy", "/etc/headwater/policy.yaml", Path("/etc/headwater/policy.yaml")),
        ("redis", "rediss://:secret@redis.example:6380/2", "rediss://:secret@redis.example:6380/2"),
        ("region_header", "X-Region", "X-Region"),
        ("kafka_options", '{"client.rack": "a"}', {"client.rack": "a"}),
        ("decision_origins", "https://shop.example", ["https://shop.example"]),
    ],
)
def test_values_are_read_as_env_files_hand_them_over(
    form: str, name: str, text: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Quotes, blanks and line ends around a value of any kind do not count."""
    monkeypatch.setenv(f"HEADWATER_{name.upper()}", form.replace("{}", text))
    assert getattr(load_settings(), name) == value


@pytest.mark.parametrize("empty", ["", "  ", '""', "''", "\r\n"])
@pytest.mark.parametrize("name", sorted(set(Settings.model_fields) - {"secret"}))
def test_an_empty_variable_is_an_absent_one(name: str, empty: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Compose and env files set variables to nothing where nothing was filled in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(f"HEADWATER_{name.upper()}", empty)
    assert getattr(load_settings(), name) == Settings.model_fields[name].default


@pytest.mark.parametrize("form", ["'{}'", '"{}"', " {}", "{}\r"])
def test_a_secret_is_not_changed_silently(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Quotes around the master secret are refused: with and without them every pseudonym is another."""
    monkeypatch.setenv("HEADWATER_SECRET", form.format("0123456789" * 4))
    with pytest.raises(ConfigError, match="HEADWATER_SECRET: is surrounded by quotes or white space") as wrong:
        load_settings()
    assert "0123" not in str(wrong.value)


@pytest.mark.parametrize("end", ["", "\n", "\r\n", " \n\n"])
def test_line_ends_of_secret_files_do_not_count(end: str, tmp_path: Path) -> None:
    """Editors end the last line, on Windows with two characters; the keys are the same."""
    (tmp_path / "master").write_bytes(("k" * 40 + end).encode())
    (tmp_path / "token").write_bytes(("t" * 40 + end).encode())
    settings = load_settings(state_dir=tmp_path, secret_file=tmp_path / "master", ops_token_file=tmp_path / "token")
    assert settings.master.derive("x") == Secret("k" * 40).derive("x")
    assert settings.ops_token_text == "t" * 40


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\r\n", "is empty"),
        (b"short\n", "at least 32 characters"),
        (b"\xef\xbb\xbf" + b"k" * 40, "line 1 begins with a byte order mark"),
        (b"\xff\xfe" + "k".encode("utf-16-le") * 40, "line 1 begins with a byte order mark"),
        (b"k" * 40 + b"\n\xe4\xf6", "line 2 is not UTF-8"),
    ],
)
def test_an_unusable_secret_file_is_named(content: bytes, message: str, tmp_path: Path) -> None:
    """The message names the file and, where one is at fault, the line."""
    file = tmp_path / "master"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=rf"{file}.*{message}") as wrong:
        _ = load_settings(state_dir=tmp_path, secret_file=file).master
    assert "kkk" not in str(wrong.value)


def test_a_folder_is_no_secret_file(tmp_path: Path) -> None:
    """Container engines mount a folder where a file was missing."""
    with pytest.raises(ConfigError, match=r"HEADWATER_SECRET_FILE: .* is a folder"):
        _ = load_settings(state_dir=tmp_path, secret_file=tmp_path).master


def test_a_missing_token_file_is_named(tmp_path: Path) -> None:
    """A gauge without its token would be open."""
    with pytest.raises(ConfigError, match=r"HEADWATER_OPS_TOKEN_FILE: there is no file .*nowhere"):
        _ = load_settings(state_dir=tmp_path, ops_token_file=tmp_path / "nowhere").ops_token_text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{\n  "kafka": "127.0.0.1:1",\n  "partitions": "many"\n}', r"line 3: partitions: .*integer.*many"),
        ('{\n  "kafak": "127.0.0.1:1"\n}', r"line 2: kafak: .*not permitted"),
        ("[]", r"line 1: expected a JSON object"),
        ('{\n  "redis": "redis://:p/w@h"\n}', r"line 2: redis: percent-encode"),
    ],
)
def test_a_wrong_value_of_the_house_names_its_line(text: str, message: str, tmp_path: Path) -> None:
    """A file that somebody has edited is read with the same care as the environment."""
    house_file(tmp_path).write_text(text)
    with pytest.raises(ConfigError, match=rf"house.json, {message}"):
        load_settings(state_dir=tmp_path)


def test_a_command_names_the_variable_and_nothing_else(tmp_path: Path) -> None:
    """The user of a command sees one line and exit code 78, no traceback."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("HEADWATER_")}
    environment = {**clean, "HEADWATER_STATE_DIR": str(tmp_path), "HEADWATER_KAFKA_OPTIONS": "'{\"linger.ms\": [5]}'"}
    command = [sys.executable, "-m", "infra.ops.cli", "topics", "apply"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)
    assert run.returncode == EXIT_CONFIG
    assert run.stderr.splitlines() == [
        "headwater: HEADWATER_KAFKA_OPTIONS: linger.ms: expected text, a number, true or false (several values are one text "
        "with commas)"
    ]
