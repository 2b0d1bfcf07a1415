"""GPP strings: the official library's vectors, what cannot be read, what objects, and no damage that grants more."""

import json
import random
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from streams.consent.formats import tc_string as tcstring
from streams.consent.formats.consent_value import ConsentValue, strictest
from streams.consent.formats.gpp import (
    MISSING_TC_STRING,
    CanadianSection,
    GppString,
    InvalidGpp,
    UsSection,
    decode,
    evaluate_canadian_section,
    evaluate_us_section,
    parse_us_privacy,
)
from streams.consent.formats.reason import ConsentReason
from streams.consent.formats.tc_string import InvalidTcString
from tests.streams.consent.strings import tc_string
from tests.support.scale import examples

VECTORS: list[dict[str, Any]] = json.loads((Path(__file__).parents[3] / "golden/gpp/vectors.json").read_text())
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
US_IDS = range(7, 28)
ADVERTISING_PURPOSES = (2, 3, 4, 5, 6, 7)
"""TCF purposes of selecting, profiling for, personalising and measuring advertising and content."""


def stated_value(gpp: GppString) -> ConsentValue:
    """The strictest value of all readable sections about sale, sharing and advertising."""
    values = [evaluate_us_section(section) for section in gpp.us]
    values.append(parse_us_privacy(gpp.usp))
    if gpp.canada is not None:
        values.append(evaluate_canadian_section(gpp.canada, ADVERTISING_PURPOSES))
    return strictest(values)


def sale_and_sharing(gpp: GppString) -> ConsentValue:
    """The same; a section that cannot be read may hold an objection, so it denies."""
    return ConsentValue.DENY if gpp.unreadable else stated_value(gpp)


def section_of(fields: list[Any]) -> UsSection:
    """A section as the vectors have it."""
    values: Any = [tuple(field) if isinstance(field, list) else field for field in fields]
    return UsSection(*values)


def canada_of(fields: Any) -> CanadianSection | None:
    """The Canadian section as the vectors have it."""
    if fields is None:
        return None
    values: Any = [*fields[:5], frozenset(fields[5])]
    return CanadianSection(*values)


def test_vectors_of_the_official_library() -> None:
    """2,000 strings: every section, field and GPC segment is what the official library reads; none differs."""
    assert len(VECTORS) == 2_000
    for vector in VECTORS:
        gpp = decode(vector["text"])
        us = tuple(section_of(section) for section in vector["us"])
        assert gpp == GppString(us, vector["usp"], vector["tc"], (), canada_of(vector["canada"])), vector["text"]
        assert vector["usp"][1:] == vector["usp_read"]
        if gpp.tc_string:
            assert tcstring.decode(gpp.tc_string).service_specific


def test_vectors_hold_every_shape() -> None:
    """Every section the library knows, the national one in three forms, GPC on, off and missing, and all words."""
    sections = [section for vector in VECTORS for section in vector["us"]]
    assert {section_id for vector in VECTORS for section_id in vector["ids"]} == {2, 5, 6, *US_IDS}
    assert {(section[1], len(section[4])) for section in sections if section[0] == 7} == {(1, 12), (1, 16), (2, 16)}
    assert {section[8] for section in sections} == {True, False, None}
    assert {section[0] for section in sections if section[8] is not None} == {*US_IDS} - {9, 11, 13, 25, 26, 27}
    assert any(vector["canada"] and vector["canada"][5] for vector in VECTORS)
    assert {sale_and_sharing(decode(vector["text"])) for vector in VECTORS} == {
        ConsentValue.GRANT,
        ConsentValue.DENY,
        ConsentValue.UNKNOWN,
    }


def pair_bits(*fields: int) -> str:
    """Two bits a field."""
    return "".join(f"{field:02b}" for field in fields)


def encoded(bits: str) -> str:
    """Zeros and ones as characters, filled up to six."""
    bits += "0" * (-len(bits) % 6)
    return "".join(ALPHABET[int(bits[at : at + 6], 2)] for at in range(0, len(bits), 6))


FIBONACCI = (1, 2, 3, 5, 8, 13, 21, 34, 55)


def fibonacci(number: int) -> str:
    """The Fibonacci code of a number."""
    code = ""
    for term in reversed([term for term in FIBONACCI if term <= number]):
        code = ("1" if number >= term else "0") + code
        number -= term if number >= term else 0
    return code + "1"


def gpp_text(**sections: str) -> str:
    """A string of sections by their ids: `s7="..."`."""
    ids = sorted(int(name[1:]) for name in sections)
    steps = [section_id - before for section_id, before in zip(ids, [0, *ids[:-1]], strict=True)]
    header = f"{3:06b}{1:06b}{len(ids):012b}" + "".join("0" + fibonacci(step) for step in steps)
    return "~".join([encoded(header), *(sections[f"s{section_id}"] for section_id in ids)])


CALIFORNIA = "000001" + pair_bits(1, 1, 0, 2, 2, *(0,) * 9, 0, 0, 0, 1, 0, 0)
"""All notices given, no opt-out."""
RHODE_ISLAND = "000001" + pair_bits(1, 0, 1, 1, 1, 2, 2, 0, 0)
SAYS_NO_REFUSAL = encoded(CALIFORNIA)
NOTHING_READ = {
    "empty": "",
    "blank": "  ",
    "a word": "nonsense",
    "null": "null",
    "another type": "CBABMA~B",
    "another version": "DCABMA~B",
    "a header cut short": "DBA",
    "another alphabet": "D+ABTA~B",
    "too long": "DBABTA~1YNN" + "A" * 8_192,
    "a header of too many sections": "DB" + "_" * 40 + "~B",
    "a header of one huge id": "DBAB" + "A" * 400 + "~B",
    "a header longer than any": "DBAB" + "A" * 600 + "~B",
    "something behind the header's end": "DBABTB~B",
}


@pytest.mark.parametrize("string", NOTHING_READ.values(), ids=NOTHING_READ)
def test_nothing_can_be_read(string: str) -> None:
    """Without a header, and without a section that shows what it is, the string is refused."""
    with pytest.raises(InvalidGpp):
        decode(string)


UNREADABLE: dict[str, tuple[str, tuple[int, ...]]] = {
    "a section too many": ("DBABTA~1YNN~1YNN", (0,)),
    "a section too few": ("DBABTA", (0,)),
    "a US Privacy string of another version": (gpp_text(s6="2YNN"), (6,)),
    "a US Privacy string with another letter": (gpp_text(s6="1YNX"), (6,)),
    "a US Privacy string in lower case": (gpp_text(s6="1ynn"), (6,)),
    "a US Privacy string cut short": (gpp_text(s6="1YN"), (6,)),
    "not ASCII": (gpp_text(s6="1YN\u00d1"), (6,)),
    "half of a surrogate pair": (gpp_text(s6="1YN\ud800"), (6,)),
    "a national section of version 3": ("DBABLA~DahYZUGUgRaE.QA", (7,)),
    "a national section cut short": ("DBABLA~CahYZUGUgR", (7,)),
    "a short national section of version 2": ("DBABLA~CmIgkCohQaA", (7,)),
    "a value that does not exist": ("DBABLA~C_hYZUGUgRaE.QA", (7,)),
    "something behind its end": ("DBABLA~CahYZUGUgRaE_.QA", (7,)),
    "zeros behind its end": (gpp_text(s8=SAYS_NO_REFUSAL + "AA"), (8,)),
    "a GPC segment twice": ("DBABLA~CahYZUGUgRaE.QA.QA", (7,)),
    "a segment that is not known": ("DBABLA~CahYZUGUgRaE.wA", (7,)),
    "an empty segment": (gpp_text(s8=SAYS_NO_REFUSAL + "."), (8,)),
    "an empty section": ("DBABLA~", (7,)),
    "a GPC segment where the state has none": (gpp_text(s9=encoded("000001" + "00" * 17) + ".QA"), (9,)),
    "a header in front of a section's core": (gpp_text(s27=encoded("011011" + RHODE_ISLAND)), (27,)),
    "sensitive data that is cut short": (gpp_text(s27=encoded(RHODE_ISLAND) + ".AA"), (27,)),
    "standard base64": (gpp_text(s8="+" + SAYS_NO_REFUSAL[1:]), (8,)),
    "padding of base64": (gpp_text(s8=SAYS_NO_REFUSAL + "=="), (8,)),
    "the first version of the TCF": (gpp_text(s1="BOEFEAyOEFEAyAHABDENAI4AAAB9vABAASABOEFEAyOEFEAyAHABDENA"), (1,)),
    "the integrity section": (gpp_text(s4="B"), (4,)),
    "a section that is not published": (gpp_text(s28=SAYS_NO_REFUSAL), (28,)),
    "two of them": (gpp_text(s8=SAYS_NO_REFUSAL, s9="A", s33="B"), (9, 33)),
}


@pytest.mark.parametrize(("string", "ids"), UNREADABLE.values(), ids=UNREADABLE)
def test_a_section_that_cannot_be_read(string: str, ids: tuple[int, ...]) -> None:
    """It is named by its id, the header by 0, and the string then allows neither sale nor advertising."""
    gpp = decode(string)
    assert gpp.unreadable == ids
    assert sale_and_sharing(gpp) is ConsentValue.DENY


def test_what_the_others_of_a_string_say_is_kept() -> None:
    """One broken section leaves the readable ones as they are: the TC string, US Privacy and the states."""
    text = gpp_text(s2=tc_string(), s6="1YNN", s7="broken", s8=SAYS_NO_REFUSAL, s28="B")
    gpp = decode(text)
    assert (gpp.tc_string, gpp.usp, [section.id for section in gpp.us]) == (tc_string(), "1YNN", [8])
    assert gpp.unreadable == (7, 28)


def test_what_the_broken_strings_are_made_of_can_be_read() -> None:
    """The strings that the tables break are whole, so each is refused for its own fault."""
    assert decode(gpp_text(s8=SAYS_NO_REFUSAL)).unreadable == ()
    assert sale_and_sharing(decode(gpp_text(s8=SAYS_NO_REFUSAL))) is ConsentValue.GRANT
    assert decode(gpp_text(s27=encoded(RHODE_ISLAND))).us[0].opt_outs == (2, 2)
    assert decode(gpp_text(s27=encoded(RHODE_ISLAND) + ".AAA")).us[0].sensitive == (0,) * 8
    assert decode(gpp_text(s9=encoded("000001" + "00" * 17))).us[0].opt_outs == (0, 0)


def test_blanks_around_a_string() -> None:
    """Surrounding blanks are ignored."""
    text = gpp_text(s8=SAYS_NO_REFUSAL)
    assert decode(f" \t{text}\r\n") == decode(text)


def test_the_longer_national_section_under_version_1() -> None:
    """The longer layout is recognised by its length, with and without the encoders' padding."""
    long = "000001" + pair_bits(1, 1, 1, 1, 0, 0, 2, 2, 1, *(0,) * 16, 1, 0, 2, 0, 1, 0, 0)
    short = "000001" + pair_bits(1, 1, 1, 1, 0, 0, 2, 2, 1, *(0,) * 12, 1, 0, 0, 1, 0, 0)
    assert decode(gpp_text(s7=encoded(long))).us[0].children == (1, 0, 2)
    for padding in ("", "A"):
        assert decode(gpp_text(s7=encoded(short) + padding)).us[0].children == (1, 0)
    assert decode(gpp_text(s7=encoded(short) + "AA")).unreadable == () != decode(gpp_text(s7=encoded(long) + "AA")).unreadable


def test_a_string_without_a_header_keeps_what_shows_itself() -> None:
    """TC strings and US Privacy strings are recognised by their form; of two TC strings neither counts."""
    tc = tc_string()
    assert decode(tc) == GppString((), "", tc, (0,))
    assert decode("1YYN") == GppString((), "1YYN", "", (0,))
    assert decode(f"broken~{tc}~1YNN") == GppString((), "1YNN", tc, (0,))
    assert decode(f"DBABMA~{tc}~1YNN") == GppString((), "1YNN", tc, (0,))
    two = decode(f"broken~{tc}~{tc_string('1')}").tc_string
    with pytest.raises(InvalidTcString) as caught:
        tcstring.decode(two)
    assert caught.value.reason is ConsentReason.MALFORMED


@pytest.mark.parametrize("string", ["DBABMA~", "DBABMA", "DBACNY~1YNN"])
def test_a_european_section_that_is_missing(string: str) -> None:
    """An announced but missing European section denies as a broken TC string does."""
    gpp = decode(string)
    assert gpp.tc_string == MISSING_TC_STRING
    with pytest.raises(InvalidTcString):
        tcstring.decode(gpp.tc_string)


def us(**replaced: Any) -> GppString:
    """One national section that objects to nothing, with some fields replaced."""
    fields: dict[str, Any] = {
        "id": 7, "version": 2, "notices": (1, 1, 1), "opt_outs": (2, 2, 2), "sensitive": (0,) * 16, "children": (0,) * 3,
        "personal": 0, "mspa": (1, 0, 0), "gpc": None, **replaced,
    }  # fmt: skip
    return GppString((UsSection(**fields),), "", "", ())


EVERYTHING = (1 << 24) - 1


def canada(express: int = 0, implied: int = 0, restricted: frozenset[int] = frozenset()) -> GppString:
    """A string with a Canadian section."""
    return GppString((), "", "", (), CanadianSection(0, 0, 7, express, implied, restricted))


RULES: list[tuple[GppString, ConsentValue]] = [
    (us(), ConsentValue.GRANT),
    (us(opt_outs=(0, 0, 0)), ConsentValue.UNKNOWN),
    (us(opt_outs=(1, 2, 2)), ConsentValue.DENY),
    (us(opt_outs=(2, 1, 2)), ConsentValue.DENY),
    (us(opt_outs=(2, 2, 1)), ConsentValue.DENY),
    (us(opt_outs=(0, 1, 0)), ConsentValue.DENY),
    (us(gpc=True), ConsentValue.DENY),
    (us(gpc=False), ConsentValue.GRANT),
    (us(gpc=True, opt_outs=(0, 0, 0)), ConsentValue.DENY),
    (us(notices=(2, 1, 1)), ConsentValue.DENY),
    (us(notices=(1, 1, 2)), ConsentValue.DENY),
    (us(notices=(0, 0, 0)), ConsentValue.GRANT),
    (us(notices=(2, 0, 0), opt_outs=(0, 0, 0)), ConsentValue.DENY),
    (us(children=(0, 1, 0)), ConsentValue.DENY),
    (us(children=(2, 2, 2)), ConsentValue.GRANT),
    (us(personal=1), ConsentValue.DENY),
    (us(personal=2), ConsentValue.GRANT),
    (us(sensitive=(1,) * 16), ConsentValue.GRANT),
    (GppString((), "1YNN", "", ()), ConsentValue.GRANT),
    (GppString((), "1YYN", "", ()), ConsentValue.DENY),
    (GppString((), "1NNN", "", ()), ConsentValue.DENY),
    (GppString((), "1---", "", ()), ConsentValue.UNKNOWN),
    (GppString((), "1YNN", "", (9,)), ConsentValue.DENY),
    (us()._replace(usp="1YYN"), ConsentValue.DENY),
    (us()._replace(us=us().us + us(gpc=True).us), ConsentValue.DENY),
    (GppString((), "", "C", ()), ConsentValue.UNKNOWN),
    (GppString((), "", "", (0,)), ConsentValue.DENY),
    (canada(), ConsentValue.DENY),
    (canada(express=EVERYTHING), ConsentValue.GRANT),
    (canada(implied=EVERYTHING), ConsentValue.GRANT),
    (canada(express=EVERYTHING & ~(1 << 23)), ConsentValue.GRANT),
    (canada(express=EVERYTHING & ~(1 << 20)), ConsentValue.DENY),
    (canada(express=EVERYTHING & ~(1 << 20), implied=1 << 20), ConsentValue.GRANT),
    (canada(express=EVERYTHING, restricted=frozenset({4})), ConsentValue.DENY),
    (canada(express=EVERYTHING, restricted=frozenset({8})), ConsentValue.GRANT),
    (canada(express=EVERYTHING)._replace(usp="1YYN"), ConsentValue.DENY),
]


@pytest.mark.parametrize(("gpp", "word"), RULES)
def test_what_objects(gpp: GppString, word: ConsentValue) -> None:
    """An opt-out, a missing notice, a child without consent, GPC and an unreadable section are objections."""
    assert sale_and_sharing(gpp) is word


def test_what_cannot_be_read_is_no_word_of_the_visitor() -> None:
    """A refusal beside an unreadable section differs from the section's own denial, which the visitor did not choose."""
    broken = us()._replace(unreadable=(9,))
    assert (stated_value(broken), sale_and_sharing(broken)) == (ConsentValue.GRANT, ConsentValue.DENY)
    refused = us(gpc=True)._replace(unreadable=(9,))
    assert (stated_value(refused), sale_and_sharing(refused)) == (ConsentValue.DENY, ConsentValue.DENY)


# Purposes with express consent, with implied consent, restricted -> the word for purposes 1 and 8.
CANADIAN: list[tuple[int, int, frozenset[int], ConsentValue]] = [
    (1 << 16, 0, frozenset(), ConsentValue.GRANT),
    (0, 1 << 16, frozenset(), ConsentValue.GRANT),
    (EVERYTHING & ~(1 << 16), 0, frozenset(), ConsentValue.DENY),
    (EVERYTHING, 0, frozenset({8}), ConsentValue.DENY),
    (EVERYTHING, 0, frozenset({1}), ConsentValue.GRANT),
]


@pytest.mark.parametrize(("express", "implied", "restricted", "word"), CANADIAN)
def test_canadian_purposes(express: int, implied: int, restricted: frozenset[int], word: ConsentValue) -> None:
    """Express or implied consent to every purpose but the first, which TCF Canada does not use, and none restricted."""
    assert evaluate_canadian_section(CanadianSection(0, 0, 7, express, implied, restricted), (1, 8)) is word


def test_canada_says_nothing_of_the_first_purpose() -> None:
    """A purpose that needs only purpose 1 has no value in this section."""
    assert evaluate_canadian_section(CanadianSection(0, 0, 7, EVERYTHING, 0, frozenset()), (1,)) is ConsentValue.UNKNOWN


def canadian_core(tail: str, cmp_id: int = 7, created: int = 17_000_000_000, updated: int = 17_000_000_000) -> str:
    """A Canadian section that consents expressly to everything, with its lists of vendors and restrictions as bits."""
    head = f"{1:06b}{created:036b}{updated:036b}{cmp_id:012b}" + "0" * 61
    return encoded(head + "1" * 24 + "0" * 24 + tail)


NO_VENDORS = "0" * 17
CODED = f"{9:016b}1{2:012b}" + "0" + fibonacci(4) + "1" + fibonacci(1) + fibonacci(4)
"""Vendors 4, and 5 to 9."""
FIXED = f"{9:016b}1{1:012b}1{3:016b}{9:016b}"
NONE = f"{0:012b}"
CANADIAN_UNREADABLE = {
    "no registered CMP": canadian_core(NO_VENDORS * 2 + NONE, cmp_id=1),
    "created after its last update": canadian_core(NO_VENDORS * 2 + NONE, created=17_000_864_000),
    "another version": "C" + canadian_core(NO_VENDORS * 2 + NONE)[1:],
    "cut short": canadian_core(NO_VENDORS + "0" * 10),
    "something behind its end": canadian_core(NO_VENDORS * 2 + NONE + "0" * 6 + "1"),
    "a restriction of purpose 0": canadian_core(NO_VENDORS * 2 + f"{1:012b}{0:06b}00" + CODED),
    "a restriction of an unknown type": canadian_core(NO_VENDORS * 2 + f"{1:012b}{4:06b}11" + CODED),
    "a vendor beyond the largest id": canadian_core(f"{8:016b}" + CODED[16:] + NO_VENDORS + NONE),
    "an unknown segment": canadian_core(NO_VENDORS * 2 + NONE) + "." + encoded(f"{2:03b}" + NO_VENDORS),
    "a segment twice": canadian_core(NO_VENDORS * 2 + NONE) + (".YAAAAAAAAAA" * 2),
    "disclosed vendors that are cut short": canadian_core(NO_VENDORS * 2 + NONE) + "." + encoded(f"{1:03b}{90:016b}0"),
    "too long": canadian_core(NO_VENDORS * 2 + NONE) + "A" * 2_048,
    "empty": "",
}


@pytest.mark.parametrize("section", CANADIAN_UNREADABLE.values(), ids=CANADIAN_UNREADABLE)
def test_a_canadian_section_that_cannot_be_read(section: str) -> None:
    """A broken Canadian section is listed as unreadable, and denies."""
    gpp = decode(gpp_text(s5=section))
    assert (gpp.unreadable, gpp.canada, sale_and_sharing(gpp)) == ((5,), None, ConsentValue.DENY)


def test_canadian_vendors_in_both_codings() -> None:
    """Ranges in Fibonacci numbers as specified, and as older encoders wrote them; restrictions are seen in both."""
    for vendors in (CODED, FIXED, NO_VENDORS):
        assert decode(gpp_text(s5=canadian_core(vendors + NO_VENDORS + NONE))).canada is not None
    coded = canadian_core(CODED + NO_VENDORS + f"{1:012b}{4:06b}00" + CODED)
    fixed = canadian_core(FIXED + NO_VENDORS + f"{1:012b}{4:06b}00" + FIXED[17:])
    for section in (coded, fixed):
        gpp = decode(gpp_text(s5=section))
        assert gpp.canada is not None
        assert gpp.canada.restricted == {4}
        assert sale_and_sharing(gpp) is ConsentValue.DENY


def test_canadian_segments() -> None:
    """Disclosed vendors in either coding, and publisher purposes, may follow in any order."""
    core = canadian_core(NO_VENDORS * 2 + NONE)
    for vendors in (CODED, FIXED, NO_VENDORS):
        disclosed = encoded(f"{1:03b}" + vendors)
        assert decode(gpp_text(s5=f"{core}.YAAAAAAAAAA.{disclosed}")).unreadable == ()
        assert decode(gpp_text(s5=f"{core}.{disclosed}")).unreadable == ()


STRICTNESS = {ConsentValue.GRANT: 2, ConsentValue.UNKNOWN: 1, ConsentValue.DENY: 0}
STRINGS = st.sampled_from([vector["text"] for vector in VECTORS])


def parse_value(text: str) -> ConsentValue:
    """The value of a string; an undecodable one denies."""
    try:
        return sale_and_sharing(decode(text))
    except InvalidGpp:
        return ConsentValue.DENY


def test_no_truncation_grants_what_was_denied() -> None:
    """12,000 prefixes deny, or say nothing more lenient than the whole, as far as lengths can tell.

    They cannot for a GPC segment that is cut off whole: then the rest of the string counts. Nor for a national section
    of version 1 that is cut to the length of the shorter layout: opt-outs and notices stay, children and GPC are lost.
    """
    chance, tried = random.Random(7), 0
    for vector in VECTORS:
        text, whole = vector["text"], decode(vector["text"])
        without_gpc = whole._replace(us=tuple(section._replace(gpc=None) for section in whole.us))
        for _ in range(6):
            cut = text[: chance.randrange(len(text))]
            *_, last = cut.split("~")
            if last.startswith("B") and len(last) == 10 and vector["ids"][cut.count("~") - 1] == 7:
                continue
            readable = without_gpc if "." in text[len(cut) :] else whole
            assert STRICTNESS[parse_value(cut)] <= STRICTNESS[sale_and_sharing(readable)], (cut, text)
            tried += 1
    assert tried > 11_000


@given(STRINGS.filter(lambda text: decode(text).tc_string), st.data())
@settings(suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow], deadline=None)
def test_no_truncation_hides_a_european_section(text: str, data: st.DataObject) -> None:
    """While the header is complete, the TC string within is evaluated, truncated or not."""
    whole = decode(text)
    cut = text[: data.draw(st.integers(text.index("~"), len(text)))]
    tc = decode(cut).tc_string
    assert tc == whole.tc_string or whole.tc_string.startswith(tc) or tc == MISSING_TC_STRING
    assert tc


@settings(max_examples=examples(1_000), deadline=None)
@given(STRINGS, st.data())
def test_a_flipped_bit_changes_one_value_or_denies(text: str, data: st.DataObject) -> None:
    """A bit behind the version of a US section: the section is unreadable and denies, or one of its values is another.

    No flip makes "opted out" of "did not opt out", or the reverse; what the other sections say stays as it is.
    """
    header, *sections = text.split("~")
    whole = decode(text)
    assume(whole.us)
    section = data.draw(st.sampled_from(whole.us))
    at = len(sections) - len(whole.us) + whole.us.index(section)
    core, dot, gpc = sections[at].partition(".")
    place = data.draw(st.integers(1, len(core) - 1))
    flipped = ALPHABET[ALPHABET.index(core[place]) ^ 1 << data.draw(st.integers(0, 5))]
    sections[at] = core[:place] + flipped + core[place + 1 :] + dot + gpc
    damaged = decode("~".join([header, *sections]))
    assert damaged[1:3] == whole[1:3]
    assert damaged.canada == whole.canada
    if section.id in damaged.unreadable:
        assert sale_and_sharing(damaged) is ConsentValue.DENY
        assert damaged.us == tuple(other for other in whole.us if other is not section)
        return
    changes = [
        (before, after)
        for old, new in zip(whole.us, damaged.us, strict=True)
        for before, after in zip(values_of(old), values_of(new), strict=True)
        if before != after
    ]
    assert len(changes) <= 1  # notices about sensitive data are not kept
    assert all(set(change) != {1, 2} for change in changes)


def values_of(section: UsSection) -> list[int | bool | None]:
    """All values of a section."""
    lists = (section.notices, section.opt_outs, section.sensitive, section.children, section.mspa)
    return [section.id, section.version, section.personal, section.gpc, *(value for values in lists for value in values)]


def test_no_byte_flip_breaks_the_decoder() -> None:
    """Many strings with a flipped byte (30,000 in full): each is refused, or decodes within its bounds."""
    chance, decoded, strings = random.Random(8), 0, examples(30_000)
    for _ in range(strings):
        string = chance.choice(VECTORS)["text"]
        at = chance.randrange(len(string))
        try:
            gpp = decode(string[:at] + chr(ord(string[at]) ^ (1 << chance.randrange(8))) + string[at + 1 :])
        except InvalidGpp:
            continue
        decoded += 1
        assert len(gpp.unreadable) + len(gpp.us) <= 64
        assert sale_and_sharing(gpp) in STRICTNESS
        assert not gpp.unreadable or sale_and_sharing(gpp) is ConsentValue.DENY
    assert decoded > strings // 10


@given(st.text(max_size=60) | st.text(ALPHABET + "~.", max_size=200).map("DBAB".__add__))
def test_any_text_is_refused_or_read(text: str) -> None:
    """No text raises anything but InvalidGpp, and none that lacks a section's form grants."""
    try:
        gpp = decode(text)
    except InvalidGpp:
        return
    assert sale_and_sharing(gpp) is not ConsentValue.GRANT or gpp.us or gpp.usp or gpp.canada


@given(st.sampled_from(sorted({section_id for vector in VECTORS for section_id in vector["ids"]} - {2})), st.data())
def test_an_unreadable_section_never_adds_a_grant(section_id: int, data: st.DataObject) -> None:
    """Any text in place of a section leaves a string at most as lenient as it is without that section."""
    vector = data.draw(
        st.sampled_from([vector for vector in VECTORS if section_id in vector["ids"] and len(vector["ids"]) > 1])
    )
    header, *sections = vector["text"].split("~")
    at = vector["ids"].index(section_id)
    sections[at] = data.draw(st.text(ALPHABET, max_size=30)) + "="
    damaged = decode("~".join([header, *sections]))
    assert damaged.unreadable == (section_id,)
    assert sale_and_sharing(damaged) is ConsentValue.DENY
    assert [section.id for section in damaged.us] == [
        other for other in vector["ids"] if other in US_IDS and other != section_id
    ]


def eight_kib() -> dict[str, str]:
    """The longest strings that are decoded, each the worst case for one part of the decoder."""
    chance = random.Random(9)
    noise = "".join(chance.choices(ALPHABET, k=8_192))
    codes = f"{65_535:016b}1{4_095:012b}" + "011" * 4_095
    restrictions = NO_VENDORS * 2 + f"{450:012b}" + f"{4:06b}00{9:016b}1{0:012b}" * 450
    return {
        "a header of zeros": "DBAB" + "A" * 8_188,
        "a header of ones": "DB" + "_" * 8_190,
        "a header of noise": "DB" + noise[2:],
        "many sections": "DBAB" + "~B" * 4_094,
        "one long section": "DBABBg~B" + "A" * 8_100,
        "a long Canadian section": gpp_text(s5=canadian_core(codes)[:2_048], s6="1YNN"),
        "many Canadian restrictions": gpp_text(s5=canadian_core(restrictions)[:2_048]),
        "many Canadian segments": gpp_text(s5=canadian_core(NO_VENDORS * 2 + NONE) + ".I" * 900),
        "many sections of every kind": "~".join(
            [gpp_text(**{f"s{n}": "" for n in range(5, 60)}).split("~")[0], canadian_core(codes)[:2_048], *[noise[:100]] * 54]
        ),
    }


@pytest.mark.parametrize("text", eight_kib().values(), ids=eight_kib())
def test_decoding_is_bounded(text: str) -> None:
    """No string of 8 KiB takes ten milliseconds of the processor, at its best of five."""
    assert len(text) <= 8_192
    times = []
    for _ in range(5):
        began = time.thread_time()
        parse_value(text)
        times.append(time.thread_time() - began)
    assert min(times) < 0.010
