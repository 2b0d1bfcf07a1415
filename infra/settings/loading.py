"""Loads the settings and says in one line what is wrong with them.

Sources by precedence: `HEADWATER_*` environment variables, `<state_dir>/house.json` (written by `headwater up`, so that
other commands find the running services), defaults.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from infra.errors import ConfigError
from infra.parsing.environment import PREFIX
from infra.settings.model import Settings

SENSITIVE = {"kafka_options", "secret", "ops_token"}
"""Settings whose value no message repeats; of the others none that may be a URL with a password."""


def house_file(state_dir: Path) -> Path:
    """Return the file in which `headwater up` writes the addresses of the running services."""
    return state_dir / "house.json"


def load_settings(**overrides: Any) -> Settings:
    """Load the settings. ConfigError names the variable, or the file and its line, and the expected value."""
    settings = _build(overrides, _variable)
    house, place = _read_house(house_file(settings.state_dir))
    missing = {name: value for name, value in house.items() if name not in settings.model_fields_set}
    if missing:
        settings = _build({**missing, **overrides}, place)
    _check_kafka_options(settings)
    return settings


def _build(values: Mapping[str, Any], place: Callable[[str], str]) -> Settings:
    try:
        return Settings(**values)
    except ValidationError as error:
        first = error.errors()[0]
        name = "_".join(str(part) for part in first["loc"])
        shown = first["type"] != "value_error" and name not in SENSITIVE and "@" not in str(first["input"])
        value_text = f" (got {first['input']!r:.80})" if shown else ""
        raise ConfigError(f"{place(name)}: {first['msg'].removeprefix('Value error, ')}{value_text}") from None


def _variable(name: str) -> str:
    return f"{PREFIX}{name.upper()}"


def _read_house(file: Path) -> tuple[dict[str, Any], Callable[[str], str]]:
    """Return the settings of the running house, and what finds a setting's line for messages."""
    try:
        text = file.read_text(encoding="utf-8")
        house = json.loads(text)
    except FileNotFoundError:
        return {}, _variable
    except json.JSONDecodeError as error:
        raise ConfigError(f"{file}, line {error.lineno}: {error.msg}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} cannot be read: {error}") from None
    if not isinstance(house, dict):
        raise ConfigError(f"{file}, line 1: expected a JSON object of settings")

    def place(name: str) -> str:
        key = text.find(json.dumps(name))
        return f"{file}, line {text.count(chr(10), 0, key) + 1}: {name}" if key >= 0 else _variable(name)

    return house, place


def _check_kafka_options(settings: Settings) -> None:
    """Let librdkafka judge the options now: later each client would fail for itself. No connection is opened."""
    if not settings.kafka_options:
        return
    import confluent_kafka as ck

    try:
        ck.Producer({**settings.kafka_options, "bootstrap.servers": "", "log_level": 0})
    except (ck.KafkaException, TypeError, ValueError) as error:
        text = error.args[0].str() if isinstance(error, ck.KafkaException) else str(error)
        # Of numbers librdkafka does not say what it expects.
        expected = ": expected a number" if text.startswith("Invalid value for") else ""
        raise ConfigError(f"{PREFIX}KAFKA_OPTIONS: {text.strip()}{expected} (see librdkafka's CONFIGURATION.md)") from None
