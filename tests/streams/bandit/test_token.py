"""The decision token: a signed decision verifies, any other text does not."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.bandit.token import MAX_TOKEN, DecisionRef, sign, verify

KEY = b"k" * 32
REF = DecisionRef("01890a5d-ac96-774b-bcce-b302099a8057", "hero-banner", 3, "b", "bandit", 0.625, 1_790_000_000_000)


def test_a_signed_decision_comes_back_whole() -> None:
    """Verifying a token returns every field, the propensity to the last bit."""
    assert verify(KEY, sign(KEY, REF)) == REF


@given(st.floats(0, 1), st.integers(0, 2**31), st.text(max_size=40), st.integers(0, 2**52))
def test_any_decision_survives(propensity: float, epoch: int, arm: str, ts: int) -> None:
    """Names in any script and any propensity come back unchanged."""
    ref = REF._replace(propensity=propensity, epoch=epoch, arm=arm, decided_ts=ts)
    assert verify(KEY, sign(KEY, ref)) == ref


def test_another_key_does_not_verify() -> None:
    """A token of another installation does not verify."""
    assert verify(b"x" * 32, sign(KEY, REF)) is None


def test_no_changed_character_is_accepted() -> None:
    """A token with any single character changed, removed or doubled does not verify."""
    token = sign(KEY, REF)
    for at, letter in enumerate(token):
        other = "A" if letter != "A" else "B"
        for forged in (token[:at] + other + token[at + 1 :], token[:at] + token[at + 1 :], token[:at] + letter + token[at:]):
            assert verify(KEY, forged) is None


def test_another_spelling_of_the_same_mac_is_refused() -> None:
    """Base64 padding and unused trailing bits do not make a second valid token."""
    token = sign(KEY, REF)
    assert verify(KEY, token + "=") is None
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    sibling = alphabet[alphabet.index(token[-1]) ^ 1]
    assert verify(KEY, token[:-1] + sibling) is None


@pytest.mark.parametrize("text", ["", ".", "a.b", "ü.ü", "a" * (MAX_TOKEN + 1), "undefined", "null", "\x00.\x00"])
def test_garbage_does_not_verify(text: str) -> None:
    """Any other text verifies as None, without an exception."""
    assert verify(KEY, text) is None


@pytest.mark.parametrize("payload", [[2, *REF], [1], [], {"v": 1}, 7, [1, *REF, 0], [1, 5, *REF[1:]], [1, *REF[:-1], "late"]])
def test_a_signed_payload_of_another_shape_does_not_verify(payload: object) -> None:
    """A signed payload of another version or shape does not verify."""
    from streams.bandit.token import _encode, _mac

    text = base64.urlsafe_b64encode(json.dumps(payload).encode()).rstrip(b"=").decode()
    assert _encode(json.dumps(payload).encode()) == text
    assert verify(KEY, f"{text}.{_mac(KEY, text)}") is None
