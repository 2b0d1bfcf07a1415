"""Bodies of `POST /v1/decide`: what is accepted, what is refused, and that an error repeats no value."""

import json
from typing import Any

import pytest

from consumers.decisions.log import uuid7
from consumers.decisions.request import BadRequest, parse_request

GOOD: dict[str, Any] = {
    "experiment": "hero-banner",
    "visitor": "secret-visitor",
    "consent": {"cmp.personalization": "granted", "gcs": "G111"},
    "context": {"locale": "de-DE", "left": 3, "share": 0.5, "new": True},
    "candidates": ["calm", "bold"],
}


def test_a_complete_request_is_parsed() -> None:
    """Every documented field is parsed."""
    request = parse_request(json.dumps(GOOD).encode())
    assert (request.experiment, request.values()["left"], request.candidates) == ("hero-banner", 3, ["calm", "bold"])


@pytest.mark.parametrize(
    "changes",
    [
        {"experiment": "../etc"}, {"experiment": 7}, {"visitor": "x" * 513}, {"visitor": None}, {"unknown": 1},
        {"context": {"deep": {"er": 1}}}, {"context": {"list": []}}, {"candidates": ["x"] * 51}, {"candidates": "calm"},
    ],
)  # fmt: skip
def test_invalid_fields_are_refused_without_their_values(changes: dict[str, Any]) -> None:
    """Each error names its field, and no message contains the visitor's id."""
    with pytest.raises(BadRequest) as caught:
        parse_request(json.dumps(GOOD | changes).encode())
    assert "secret" not in str(caught.value)
    assert next(iter(changes)) in str(caught.value)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[1]",
        b"null",
        b"[" * 2_000,
        b'{"experiment": NaN}',
        b'{"consent": %s1%s}' % (b"[" * 40, b"]" * 40),
    ],
)
def test_bodies_that_are_no_question_are_refused(body: bytes) -> None:
    """Broken, deep, non-UTF-8 and non-object bodies raise BadRequest."""
    with pytest.raises(BadRequest):
        parse_request(body)


@pytest.mark.parametrize(
    ("consent", "signals"),
    [
        ("{}", {}),
        ('{"gcs": "G111", "cmp.personalization": "granted"}', {"gcs": "G111", "cmp.personalization": "granted"}),
        ('{"cmp.personalization": true}', {"cmp.personalization": "granted"}),
        ('{"cmp.personalization": false}', {"cmp.personalization": "denied"}),
        ('{"gpc": true}', {"gpc": "1"}),
        ('{"cmp": {"personalization": "denied"}}', {"cmp.personalization": "denied"}),
        ('{"cmp.personalization": null}', {"cmp.personalization": "null"}),
        ('{"cmp.personalization": 7}', {"cmp.personalization": "7"}),
        ('{"cmp.personalization": ["granted"]}', {"cmp.personalization": '["granted"]'}),
        ('{"a b": "denied"}', {"a b": "denied"}),
        ("null", {"consent": "null"}),
        ("[]", {"consent": "[]"}),
        ("7", {"consent": "7"}),
        ('"denied"', {"consent": "denied"}),
        ('{"gcs": "G111", "gcs": "G100"}', {"gcs": "G111", "gcs#2": "G100"}),
        ('{"cmp.personalization": "denied"}, "consent": {"cmp.personalization": "granted"}',
         {"cmp.personalization": "denied", "cmp.personalization#2": "granted"}),
    ],
)  # fmt: skip
def test_no_consent_signal_is_lost(consent: str, signals: dict[str, str]) -> None:
    """Any JSON is accepted, as in the collector: an unreadable value denies."""
    request = parse_request(b'{"experiment": "hero-banner", "consent": %s}' % consent.encode())
    assert request.consent == signals


def test_hundreds_of_signals_are_taken_and_too_many_are_one_that_denies() -> None:
    """Hundreds of signals are accepted; the bound is the collector's."""
    many = {"experiment": "hero-banner", "consent": {f"cmp.s{number}": "1" for number in range(200)}}
    assert len(parse_request(json.dumps(many).encode()).consent) == 200
    many["consent"] = {f"s{number}": "1" for number in range(600)}
    assert "consent" in parse_request(json.dumps(many).encode()).consent


def test_decision_ids_are_uuids_of_version_7_in_time_order() -> None:
    """RFC 9562's example value is reproduced, and later ids sort later."""
    assert uuid7(0x017F22E279B0, bytes.fromhex("0cc3" + "18c4dc0c0c07398f")) == "017f22e2-79b0-7cc3-98c4-dc0c0c07398f"
    assert uuid7(1) < uuid7(2)
