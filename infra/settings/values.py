"""Settings that hold several values: options, origins, brokers. ValueError names the entry and what is expected, no value."""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

from infra.parsing.environment import QUOTES

EXPECTED_OPTIONS = 'expected a JSON object, {"security.protocol": "SASL_SSL"}, or key=value,key=value'
EXPECTED_ORIGINS = 'expected https://host[:port], comma separated, or a JSON list, ["https://shop.example"]'
OPTION_NAME = re.compile(r"[a-z][a-z0-9._-]*")
ORIGIN = re.compile(r"(https?)://([a-z0-9._-]+|\[[0-9a-f:.]+\])(?::(\d{1,5}))?/?")
BROKER = re.compile(r"(?:[^\s:/@\[\],]+|\[[0-9a-fA-F:.]+\]):(\d{1,5})")
LAST_PORT = 65_535
DEFAULT_PORTS = {"http": "80", "https": "443"}


def read_kafka_options(value: object) -> dict[str, str]:
    """Return librdkafka's options from JSON, from key=value pairs, or from a mapping. Numbers and booleans become its words."""
    options = value
    if isinstance(value, str):
        options = _read_json(value, EXPECTED_OPTIONS) if value.startswith(("{", "[")) else _read_pairs(value)
    if not isinstance(options, Mapping):
        raise ValueError(EXPECTED_OPTIONS)
    return {key: _option_text(key, option) for key, option in options.items()}


def _read_pairs(text: str) -> dict[str, str]:
    """Read key=value,key=value. Quotes, and commas within a value, have no single meaning there: JSON says what is meant."""
    options: dict[str, str] = {}
    for number, pair in enumerate(filter(None, map(str.strip, text.split(","))), 1):
        key, equals, value = (part.strip() for part in pair.partition("="))
        if not equals or not OPTION_NAME.fullmatch(key):
            raise ValueError(f"entry {number} is not key=value (a value with a comma needs JSON): {EXPECTED_OPTIONS}")
        if key in options:
            raise ValueError(f"{key} stands there twice")
        if value[:1] in QUOTES:
            raise ValueError(f"{key}: its value is in quotes: remove them, or write all options as a JSON object")
        options[key] = value
    return options


def _option_text(key: str, value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, str | int | float):
        return str(value)
    raise ValueError(f"{key}: expected text, a number, true or false (several values are one text with commas)")


def read_origins(value: object) -> list[str]:
    """Return origins as browsers write them (lower case, no slash, no default port) from commas, JSON or a list."""
    return [_read_origin(number, origin) for number, origin in enumerate(read_origin_texts(value), 1)]


def read_origin_texts(value: object) -> list[str]:
    """Return the texts of a list of origins, from commas, JSON or a list. What they may be is their reader's rule."""
    origins = value
    if isinstance(value, str):
        origins = (
            _read_json(value, EXPECTED_ORIGINS) if value.startswith("[") else filter(None, map(str.strip, value.split(",")))
        )
    if not isinstance(origins, Iterable) or isinstance(origins, Mapping):
        raise ValueError(EXPECTED_ORIGINS)
    return [str(origin) for origin in origins]


def _read_origin(number: int, origin: str) -> str:
    match = ORIGIN.fullmatch(origin.strip().lower())
    if match is None:
        raise ValueError(f"entry {number} is no origin: {EXPECTED_ORIGINS}")
    scheme, host, port = match.groups()
    return f"{scheme}://{host}" if port in (None, DEFAULT_PORTS[scheme]) else f"{scheme}://{host}:{port}"


def read_brokers(text: str) -> str:
    """Return bootstrap servers without blanks. Each is host:port."""
    brokers = [broker for broker in map(str.strip, text.split(",")) if broker]
    for number, broker in enumerate(brokers, 1):
        match = BROKER.fullmatch(broker)
        if match is None or not 0 < int(match[1]) <= LAST_PORT:
            raise ValueError(f"entry {number} is not host:port: expected host:port, comma separated, without a scheme")
    if not brokers:
        raise ValueError("expected host:port, comma separated")
    return ",".join(brokers)


def _read_json(text: str, expected: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_unique_keys, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise ValueError(f"line {error.lineno}, column {error.colno}: {error.msg}: {expected}") from None


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    options = dict(pairs)
    if len(options) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)} stands there twice")
    return options


def _refuse_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is no JSON number")
