"""Strict validation of records from outside: pydantic TypedDicts generated from a contract.

A valid record always encodes: types are strict (no number in a string), integers fit their width, strings are valid Unicode,
unknown fields are refused. Fields with a default may be absent; `schemas.codec.encode` fills them in.
"""

import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal, NotRequired, cast

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails
from typing_extensions import TypedDict

from schemas.contract import Contract, ContractError

MAX_PROBLEMS = 10

# Only with a length constraint pydantic inspects a string and refuses surrogates, which UTF-8 cannot encode.
_TEXT = Annotated[str, Field(max_length=1 << 30)]

_PLAIN: dict[str, Any] = {
    "null": None,
    "boolean": bool,
    "int": Annotated[int, Field(ge=-(1 << 31), lt=1 << 31)],
    "long": Annotated[int, Field(ge=-(1 << 63), lt=1 << 63)],
    "float": Annotated[float, Field(allow_inf_nan=False)],
    "double": Annotated[float, Field(allow_inf_nan=False)],
    "string": _TEXT,
    "bytes": bytes,
}

_EXPECTED = {
    "missing": "is required",
    "extra_forbidden": "is unknown",
    "string_type": "must be a string",
    "string_unicode": "must be valid Unicode",
    "bool_type": "must be true or false",
    "int_type": "must be an integer",
    "int_parsing_size": "is out of range",
    "greater_than_equal": "is out of range",
    "less_than": "is out of range",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "bytes_type": "must be bytes",
    "bytes_too_short": "has the wrong length",
    "bytes_too_long": "has the wrong length",
    "dict_type": "must be an object",
    "typed_dict_type": "must be an object",
    "list_type": "must be an array",
    "literal_error": "is none of the allowed values",
    "none_required": "must be null",
}

_SAFE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}", re.ASCII)


class ContractViolation(ValueError):
    """A record that violates its contract. `problems` name fields and expectations for the sender, never values."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class Boundary:
    """Validator of one contract. Build it once: building takes milliseconds, checking microseconds."""

    def __init__(self, contract: Contract) -> None:
        self.contract = contract
        self._adapter: TypeAdapter[dict[str, Any]] = TypeAdapter(_record_type(contract.schema))

    def check(self, record: object) -> dict[str, Any]:
        """Return a copy of the record. ContractViolation with at most ten problems where it violates the contract."""
        try:
            return self._adapter.validate_python(record)
        except ValidationError as error:
            details = error.errors(include_url=False, include_context=False, include_input=False)
            raise ContractViolation(_describe_problems(details)) from None


def _record_type(schema: dict[str, Any]) -> Any:
    fields = {
        field["name"]: NotRequired[_python_type(field["type"])] if "default" in field else _python_type(field["type"])
        for field in schema["fields"]
    }
    typed_dict = cast(Any, TypedDict(schema["name"], fields))  # type: ignore[operator] # the fields are known at run time only
    typed_dict.__pydantic_config__ = ConfigDict(strict=True, extra="forbid", hide_input_in_errors=True)
    return typed_dict


def _python_type(avro: Any) -> Any:
    if isinstance(avro, list):
        union = _python_type(avro[0])
        for branch in avro[1:]:
            union = union | _python_type(branch)
        return union
    if isinstance(avro, str):
        avro = {"type": avro}
    match avro["type"]:
        case "record":
            return _record_type(avro)
        case "map":
            return dict[_TEXT, _python_type(avro["values"])]  # type: ignore[misc] # generated at run time
        case "array":
            return list[_python_type(avro["items"])]  # type: ignore[misc] # generated at run time
        case "enum":
            return Literal[tuple(avro["symbols"])]
        case "fixed":
            return Annotated[bytes, Field(min_length=avro["size"], max_length=avro["size"])]
        case plain if plain in _PLAIN:
            return _PLAIN[plain]
        case _:
            # A reference to a named type; lint refuses it, because contracts are flat.
            raise ContractError(f"the boundary knows no type {avro['type']!r}")


def _describe_problems(details: Sequence[ErrorDetails]) -> tuple[str, ...]:
    problems = dict.fromkeys(f"{_field_path(error['loc'])} {_EXPECTED.get(error['type'], 'does not fit')}" for error in details)
    shown = tuple(problems)[:MAX_PROBLEMS]
    return (*shown, f"and {len(problems) - len(shown)} more") if len(problems) > len(shown) else shown


def _field_path(loc: tuple[int | str, ...]) -> str:
    """Return the path of a field. Names that look like data (an address as a key) are masked."""
    parts = [str(part) if isinstance(part, int) or _SAFE_NAME.fullmatch(part) else "*" for part in loc if part != "[key]"]
    return ".".join(parts) if parts else "the record"
