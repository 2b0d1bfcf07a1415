"""GPP strings: the official library's vectors, what is malformed, what objects, and no damage that grants more."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from streams.consent import tcstring
from streams.consent.gpp import READ, GppString, InvalidGpp, UsSection, decode, sale_and_sharing
from streams.consent.signals import Word

VECTORS: list[dict[str, Any]] = json.loads((Path(__file__).parents[2] / "golden/gpp/vectors.json").read_text())


def section_of(fields: list[Any]) -> UsSection:
    """A section as the vectors have it."""
    made: Any = [tuple(field) if isinstance(field, list) else field for field in fields]
    return UsSection(*made)


def test_vectors_of_the_official_library() -> None:
    """2,000 strings: every section, field and GPC segment is what the official library reads; none differs."""
    assert len(VECTORS) == 2_000
    for vector in VECTORS:
        found = decode(vector["text"])
        us = tuple(section_of(section) for section in vector["us"])
        unread = tuple(one for one in vector["ids"] if one not in READ)
        assert found == GppString(us, vector["usp"], vector["tc"], unread), vector["text"]
        assert vector["usp"][1:] == vector["usp_read"]
        if found.tc_string:
            assert tcstring.decode(found.tc_string).service_specific


def test_vectors_hold_every_shape() -> None:
    """Both versions of the national section, all sections alone and together, GPC on, off and missing."""
    sections = [section for vector in VECTORS for section in vector["us"]]
    assert {(section[0], section[1]) for section in sections} == {(7, 1), (7, 2), (8, 1)}
    assert {section[8] for section in sections} == {True, False, None}
    assert {frozenset(vector["ids"]) & READ for vector in VECTORS} >= {frozenset({one}) for one in READ} | {READ}


MALFORMED = {
    "empty": "",
    "no header": "~1YNN",
    "another type": "CBABMA~1YNN",
    "another version": "DCABMA~1YNN",
    "a section too many": "DBABTA~1YNN~1YNN",
    "a section too few": "DBABTA",
    "a US Privacy string of another version": "DBABTA~2YNN",
    "a US Privacy string with another letter": "DBABTA~1YNX",
    "a US Privacy string cut short": "DBABTA~1YN",
    "another alphabet": "DBABTA~1YNN".replace("T", "+"),
    "not ASCII": "DBABTA~1YN\u00d1",
    "too long": "DBABTA~1YNN" + "A" * 8_192,
    "a national section of version 3": "DBABLA~DahYZUGUgRaE.QA",
    "a national section cut short": "DBABLA~CahYZUGUgR",
    "a value that does not exist": "DBABLA~C_hYZUGUgRaE.QA",
    "something behind its end": "DBABLA~CahYZUGUgRaE_.QA",
    "a GPC segment twice": "DBABLA~CahYZUGUgRaE.QA.QA",
    "a segment that is not known": "DBABLA~CahYZUGUgRaE.wA",
    "an empty section": "DBABLA~",
}


@pytest.mark.parametrize("string", MALFORMED.values(), ids=MALFORMED)
def test_what_is_malformed(string: str) -> None:
    """Refused, with nothing read of it."""
    with pytest.raises(InvalidGpp):
        decode(string)


def us(**said: Any) -> GppString:
    """One national section that objects to nothing, with some fields replaced."""
    fields: dict[str, Any] = {
        "id": 7, "version": 2, "notices": (1, 1, 1), "opt_outs": (2, 2, 2), "sensitive": (0,) * 16, "children": (0,) * 3,
        "personal": 0, "mspa": (1, 0, 0), "gpc": None, **said,
    }  # fmt: skip
    return GppString((UsSection(**fields),), "", "", ())


RULES: list[tuple[GppString, Word]] = [
    (us(), Word.GRANT),
    (us(opt_outs=(0, 0, 0)), Word.UNKNOWN),
    (us(opt_outs=(1, 2, 2)), Word.DENY),
    (us(opt_outs=(2, 1, 2)), Word.DENY),
    (us(opt_outs=(2, 2, 1)), Word.DENY),
    (us(gpc=True), Word.DENY),
    (us(gpc=False), Word.GRANT),
    (us(notices=(2, 1, 1)), Word.DENY),
    (us(notices=(0, 0, 0)), Word.GRANT),
    (us(children=(0, 1, 0)), Word.DENY),
    (us(children=(2, 2, 2)), Word.GRANT),
    (us(personal=1), Word.DENY),
    (GppString((), "1YNN", "", ()), Word.GRANT),
    (GppString((), "1YYN", "", ()), Word.DENY),
    (GppString((), "1NNN", "", ()), Word.DENY),
    (GppString((), "1---", "", ()), Word.UNKNOWN),
    (GppString((), "1YNN", "", (9,)), Word.DENY),
    (us()._replace(usp="1YYN"), Word.DENY),
    (GppString((), "", "C", ()), Word.UNKNOWN),
]


@pytest.mark.parametrize(("gpp", "word"), RULES)
def test_what_objects(gpp: GppString, word: Word) -> None:
    """Opted out, told of no right, a child without consent, GPC, or a section that is not read: an objection."""
    assert sale_and_sharing(gpp) is word


STRICTNESS = {Word.GRANT: 2, Word.UNKNOWN: 1, Word.DENY: 0}


def test_no_truncation_grants_what_was_denied() -> None:
    """Prefixes of valid strings are refused, or say nothing more lenient than what is left of them allows."""
    chance = random.Random(7)
    for vector in VECTORS:
        whole = sale_and_sharing(decode(vector["text"]))
        for _ in range(6):
            cut = vector["text"][: chance.randrange(len(vector["text"]))]
            try:
                found = decode(cut)
            except InvalidGpp:
                continue
            # Only a GPC segment at the very end can be cut off unseen: there is no length before it.
            assert STRICTNESS[sale_and_sharing(found)] <= STRICTNESS[whole] or cut + ".YA" == vector["text"]


def test_no_byte_flip_breaks_the_decoder() -> None:
    """30,000 strings with a flipped byte: each is refused, or decodes within its bounds."""
    chance, decoded = random.Random(8), 0
    for _ in range(30_000):
        string = chance.choice(VECTORS)["text"]
        at = chance.randrange(len(string))
        try:
            found = decode(string[:at] + chr(ord(string[at]) ^ (1 << chance.randrange(8))) + string[at + 1 :])
        except InvalidGpp:
            continue
        decoded += 1
        assert len(found.unread) < 64
        assert sale_and_sharing(found) in STRICTNESS
    assert decoded > 3_000


def test_a_header_that_explodes_is_refused() -> None:
    """Ranges over a million sections, and as many entries as fit, end at once."""
    chance = random.Random(9)
    for _ in range(500):
        noise = "".join(chance.choices("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_", k=8_000))
        with pytest.raises(InvalidGpp):
            decode("DB" + noise)
