"""The body of `POST /v1/decide`: untrusted input, validated strictly and bounded."""

from collections.abc import Sequence
from typing import Annotated, Any

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from streams.bandit.experiment import ContextValue, Key
from streams.collector.fields.repeated_keys import MAX_LEVELS, all_values, loads_with_depth
from streams.collector.signals.signals import SignalBuilder

MAX_BODY = 16_384

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
Context = dict[Name, Annotated[str, Field(max_length=256)] | int | float | bool]


class BadRequest(ValueError):
    """The body is invalid. The message names the field and contains no value."""


class DecideRequest(BaseModel):
    """`POST /v1/decide`."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    experiment: Key
    visitor: str = Field(default="", max_length=512)
    """The visitor's cookie value, as the page sends it to the collector; only its pseudonym is used, and it is not stored."""
    consent: dict[str, str] = {}
    """Consent signals of the page: tc_string, gcs, gcd, gpc, cmp.personalization, ... On the wire any JSON, read as in the
    collector: an unreadable value denies, because a rejected request would leave the page without an arm."""
    context: Annotated[Context, Field(max_length=32)] = {}
    candidates: Annotated[list[Key], Field(max_length=50)] | None = None

    def values(self) -> dict[str, ContextValue]:
        """Return the context for the eligibility rules."""
        return dict(self.context)


def parse_request(body: bytes) -> DecideRequest:
    """Parse a body. BadRequest names the invalid field."""
    try:
        fields, depth = loads_with_depth(body)
        if depth > MAX_LEVELS:
            raise BadRequest(f"nested deeper than {MAX_LEVELS - 1} levels")
        if isinstance(fields, dict) and "consent" in fields:
            fields = {**fields, "consent": _signals(all_values(fields, "consent"))}
        return DecideRequest.model_validate(fields)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"not JSON: {error.msg} at line {error.lineno}, column {error.colno}") from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        field = ".".join(str(part) for part in first["loc"])[:80]
        raise BadRequest(f"{field or 'body'}: {first['msg']}") from None


def _signals(consents: Sequence[Any]) -> dict[str, str]:
    """Return the signals of every `consent` of a body: a JSON key may be repeated."""
    signals = SignalBuilder()
    for consent in consents:
        signals.add_consent(consent)
    return signals.as_map()
