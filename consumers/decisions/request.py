"""The body of a question: untrusted, so pydantic, strict and bounded."""

from typing import Annotated

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from streams.bandit.experiment import ContextValue, Key

MAX_BODY = 16_384

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
# Consent strings can be long: a TC string with many ranges takes several thousand characters.
Signal = Annotated[str, Field(max_length=8_192)]
Context = dict[Name, Annotated[str, Field(max_length=256)] | int | float | bool]


class BadRequest(ValueError):
    """The body is not what this door takes; the message names the field and no value."""


class DecideRequest(BaseModel):
    """`POST /v1/decide`."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    experiment: Key
    visitor: str = Field(default="", max_length=512)
    """The visitor's cookie value as the collector gets it; becomes a pseudonym at once and is never kept."""
    consent: Annotated[dict[Name, Signal], Field(max_length=32)] = {}
    """Consent signals as the page has them: tc_string, gcs, gcd, gpc, cmp.personalization, ..."""
    context: Annotated[Context, Field(max_length=32)] = {}
    candidates: Annotated[list[Key], Field(max_length=50)] | None = None

    def values(self) -> dict[str, ContextValue]:
        """The context, typed for the rules."""
        return dict(self.context)


def parse_request(body: bytes) -> DecideRequest:
    """A request from its body. BadRequest says what to mend."""
    try:
        return DecideRequest.model_validate(orjson.loads(body))
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"not JSON: {error.msg} at line {error.lineno}, column {error.colno}") from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        field = ".".join(str(part) for part in first["loc"])[:80]
        raise BadRequest(f"{field or 'body'}: {first['msg']}") from None
