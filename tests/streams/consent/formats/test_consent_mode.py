"""Consent Mode strings: the forms that Google's tags send, and malformed ones."""

from collections.abc import Mapping
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.consent.formats.consent_mode import combine_signals, consent_mode, parse_gcd, parse_gcs
from streams.consent.formats.consent_value import ConsentValue
from streams.consent.formats.signal_names import CONSENT_MODE_SIGNALS

LETTERS: Mapping[str, ConsentValue] = {
    "l": ConsentValue.UNKNOWN,
    "m": ConsentValue.DENY,
    "n": ConsentValue.GRANT,
    "p": ConsentValue.DENY,
    "q": ConsentValue.DENY,
    "r": ConsentValue.GRANT,
    "t": ConsentValue.UNCONFIRMED,
    "u": ConsentValue.DENY,
    "v": ConsentValue.GRANT,
}
ALL_INVALID = dict.fromkeys(CONSENT_MODE_SIGNALS, ConsentValue.INVALID)
G, D, U, T, X = ConsentValue.GRANT, ConsentValue.DENY, ConsentValue.UNKNOWN, ConsentValue.UNCONFIRMED, ConsentValue.INVALID

GCD: dict[str, tuple[ConsentValue, ConsentValue, ConsentValue, ConsentValue]] = {
    "11l1l1l1l1": (U, U, U, U),
    "11p1p1p1p5": (D, D, D, D),
    "11t1t1t1t5": (T, T, T, T),
    "13l3l3l3l1": (U, U, U, U),
    "13l3l3l2l1": (U, U, U, U),
    "13l3l3l3l1l1": (U, U, U, U),
    "13r3r3r3r5": (G, G, G, G),
    "13r3r3r3r5l1": (G, G, G, G),
    "13q3q3q3q5l1": (D, D, D, D),
    "13t3t3t2t5l1": (T, T, T, T),
    "13v3v3v2v5l1": (G, G, G, G),
    "13r3r3r2r3l1": (G, G, G, G),
    "13r3r3r2r6l1": (G, G, G, G),
    "13m3n3u3r5": (D, G, D, G),
    "13r3t3l3q5": (G, T, U, D),
    " 13r3r3r3r5\n": (G, G, G, G),
    "13t3t3z3t5l1": (T, T, X, T),
    "13r3s3r3r5": (G, X, G, G),
    "13t3t3Z3t5l1": (T, T, X, T),
    "13R3R3R3R5": (X, X, X, X),
    "13r3T3r3V5": (G, X, G, X),
}


@pytest.mark.parametrize(("text", "words"), GCD.items())
def test_forms_of_gcd(text: str, words: tuple[ConsentValue, ...]) -> None:
    """Forms of real requests are read letter by letter; a letter that is not in the policy is INVALID for its signal."""
    assert tuple(parse_gcd(text, LETTERS).values()) == words


NO_GCD = [
    "1", "13r3", "13r3r3r3r", "03r3r3r3r5", "23r3r3r3r5", "x3r3r3r3r5", "G3r3r3r3r5", "3r3r3r3r5", "13r3r3r3r0", "13r3r3r3r9",
    "13r3r3r3rx", "13r3r3r3r5l", "13r3r3r3r5l2", "13r3r3r3r5q1", "13r3r3r3r55", "13r3r3r3r5l1l1", "13r3r3r3r5L1",
    "10r3r3r3r5", "14r3r3r3r5", "13r9r3r3r5", "1 3r3r3r3r5", "13r3r3r3r5;", "13rr3r3r3r5", "rrrr", "G111", "\uff113r3r3r3r5",
    "13\u0280303r3r3r5", "1\u0663r3r3r3r5", "granted", "null",
]  # fmt: skip


@pytest.mark.parametrize("text", NO_GCD)
def test_what_is_no_gcd(text: str) -> None:
    """Another first character, separator, tail or length: invalid for all four signals."""
    assert parse_gcd(text, LETTERS) == ALL_INVALID


@pytest.mark.parametrize(("ads", "analytics"), list(product("01-", repeat=2)))
def test_every_gcs(ads: str, analytics: str) -> None:
    """gcs states ad_storage, then analytics_storage, and nothing about the other two signals."""
    flags = {"0": ConsentValue.DENY, "1": ConsentValue.GRANT, "-": ConsentValue.UNKNOWN}
    assert parse_gcs(f" G1{ads}{analytics}\n") == {"ad_storage": flags[ads], "analytics_storage": flags[analytics]}


@pytest.mark.parametrize(
    "text", ["G1", "G11", "G1111", "G1110", "G211", "G011", "g111", "111", "G11x", "G1 11", "G1V1", "G1\uff111", "null"]
)
def test_what_is_no_gcs(text: str) -> None:
    """Another version, length or character: invalid for all four signals."""
    assert parse_gcs(text) == ALL_INVALID


@pytest.mark.parametrize("text", ["", " ", "\n"])
def test_empty_strings(text: str) -> None:
    """An empty string states nothing."""
    assert parse_gcs(text) == parse_gcd(text, LETTERS) == {}


def test_words_of_single_signals() -> None:
    """Only sent signals have a value, and an unknown word is INVALID."""
    values = {"cm.ad_storage": (" Granted",), "cm.ad_user_data": ("denied",), "cm.ad_personalization": ("maybe",)}
    words = {"ad_storage": G, "analytics_storage": U, "ad_user_data": D, "ad_personalization": X}
    assert consent_mode({**values, "cm.other": ("granted",)}, LETTERS) == words


def test_the_strictest_of_all_counts() -> None:
    """A container's string and single signals can each narrow the page's string."""
    values = {"gcd": ("13r3r3r3r5",), "gcs": ("G101",), "cm.ad_user_data": ("denied",)}
    assert consent_mode(values, LETTERS) == {
        "ad_storage": D, "analytics_storage": G, "ad_user_data": D, "ad_personalization": G,
    }  # fmt: skip
    assert consent_mode({**values, "gcd": ("13r3r3r3r5", "93r3r3r3r5")}, LETTERS)["analytics_storage"] is X
    assert consent_mode({"gpc": ("1",)}, LETTERS) == {}
    assert consent_mode({"gcs": ("",)}, LETTERS) == ALL_INVALID


@pytest.mark.parametrize(("text", "word"), [("1", D), ("true", D), ("0", U), ("false", U), ("2", X), ("null", X), ("", X)])
def test_ads_without_personalisation(text: str, word: ConsentValue) -> None:
    """A yes to npa denies personalisation; a no states nothing."""
    assert consent_mode({"npa": (text,)}, LETTERS).get("ad_personalization", U) is word


def test_a_purpose_needs_all_its_signals() -> None:
    """A missing signal leaves the purpose UNKNOWN, a denied one denies it."""
    mode = consent_mode({"gcs": ("G11-",)}, LETTERS)
    assert combine_signals(mode, ["ad_storage"]) is G
    assert combine_signals(mode, ["ad_storage", "ad_user_data"]) is U
    assert combine_signals({**mode, "ad_user_data": D}, ["ad_storage", "ad_user_data"]) is D
    assert combine_signals({}, ["ad_storage"]) is U


@given(st.sampled_from([text for text in GCD if text.isalnum()]), st.data())
def test_no_other_character_adds_a_grant(text: str, data: st.DataObject) -> None:
    """Any character in place of one of gcd's, but for its letters, leaves every signal as it was or makes it invalid."""
    at = data.draw(st.integers(0, len(text) - 1).filter(lambda at: at not in (2, 4, 6, 8)))
    damaged = text[:at] + data.draw(st.characters()) + text[at + 1 :]
    assert parse_gcd(damaged, LETTERS) in (parse_gcd(text, LETTERS), ALL_INVALID)


@given(st.sampled_from(list(GCD)), st.integers(0, 12))
def test_no_truncation_of_gcd_adds_a_grant(text: str, length: int) -> None:
    """A prefix is invalid, empty, or the whole without its last pair."""
    assert parse_gcd(text.strip()[:length], LETTERS) in (parse_gcd(text, LETTERS), ALL_INVALID, {})


@given(st.text(max_size=14))
def test_any_text(text: str) -> None:
    """No text raises, and one that is not of the form grants nothing."""
    for words in (parse_gcs(text), parse_gcd(text, LETTERS)):
        assert not words or text.strip()[:1] in ("G", "1") or words == ALL_INVALID
