"""TC strings: the official library's vectors, everything malformed, and no damage that grants more."""

import base64
import contextlib
import json
import random
from pathlib import Path
from typing import Any

import pytest

from streams.consent.formats.gvl import Gvl, Vendor
from streams.consent.formats.reason import ConsentReason
from streams.consent.formats.tc_string import InvalidTcString, TcString, Vendors, decode
from streams.consent.formats.tcf import Demand, judge
from tests.streams.consent.strings import bits, core, ranges, text
from tests.support.scale import examples

VECTORS: list[dict[str, Any]] = json.loads((Path(__file__).parents[3] / "golden/tcf/vectors.json").read_text())
SPECIFIC = [vector["text"] for vector in VECTORS if vector["specific"]]
LARGEST = 65_535


def members(ids: int | Vendors | None) -> set[int] | None:
    """The ids of a set: of a vector (bit n for id n), or of `Vendors`."""
    if isinstance(ids, Vendors):
        return {vendor for vendor in range(ids.largest + 2) if ids.has(vendor)}
    return None if ids is None else {n for n in range(ids.bit_length()) if ids >> n & 1}


def purposes(bits: int, width: int = 24) -> set[int]:
    """The ids of a field of fixed width."""
    return {n for n in range(1, width + 1) if bits >> width - n & 1}


def content(vector: dict[str, Any]) -> list[Any]:
    """What the official library read, restrictions apart."""
    numbers = [vector["created"], vector["last_updated"], *vector["cmp"], vector["gvl"], vector["policy"]]
    sets = [members(None if vector[name] is None else int(vector[name], 16)) for name in SETS]
    return [*numbers, vector["specific"], vector["one"], *sets]


SETS = ("features", "consent", "li", "vendors", "vendors_li", "disclosed")


def ours(tc: TcString) -> list[Any]:
    """The same fields as `decode` reads them."""
    numbers = [tc.created_ms, tc.last_updated_ms, tc.cmp_id, tc.cmp_version, tc.gvl_version, tc.policy_version]
    fixed = [purposes(tc.special_features, 12), purposes(tc.purposes_consent), purposes(tc.purposes_li)]
    vendors = [members(tc.vendors_consent), members(tc.vendors_li), members(tc.disclosed)]
    return [*numbers, tc.service_specific, tc.purpose_one_treatment, *fixed, *vendors]


def restricted(tc: TcString) -> dict[tuple[int, int], set[int]]:
    """(purpose, type) -> vendors."""
    vendors_by_restriction: dict[tuple[int, int], set[int]] = {}
    for purpose, restrictions in tc.restrictions.items():
        for restriction in restrictions:
            vendors = {vendor for first, last in restriction.vendors for vendor in range(first, last + 1)}
            vendors_by_restriction[purpose, restriction.type] = (
                vendors_by_restriction.get((purpose, restriction.type), set()) | vendors
            )
    return vendors_by_restriction


def test_vectors_of_the_official_library() -> None:
    """2,000 strings, by default a fifth of them: every field, set and restriction is what the official library reads."""
    assert len(VECTORS) == 2_000
    for vector in VECTORS[:: len(VECTORS) // examples(len(VECTORS))]:
        tc = decode(vector["text"])
        assert ours(tc) == content(vector), vector["text"]
        expected = {(purpose, kind): members(int(vendors, 16)) for purpose, kind, vendors in vector["restrictions"]}
        assert restricted(tc) == expected, vector["text"]


def test_vectors_hold_every_shape() -> None:
    """The vectors cover all segments, bit fields and ranges, restrictions of each type, both scopes, and paddings."""
    assert {vector["disclosed"] is None for vector in VECTORS} == {True, False} == {vector["specific"] for vector in VECTORS}
    assert {kind for vector in VECTORS for _, kind, _ in vector["restrictions"]} == {0, 1, 2}
    assert len({vector["text"].count(".") for vector in VECTORS}) == 4
    assert {bits(vector["text"].split(".")[0])[229] for vector in VECTORS} == {"0", "1"}
    assert {vector["policy"] for vector in VECTORS} == {2, 4, 5}
    assert {len(vector["text"].split(".")[0]) % 4 for vector in VECTORS} == {0, 1, 2}


MALFORMED = {
    "empty": "",
    "null": "null",
    "undefined": "undefined",
    "a macro": "${GDPR_CONSENT_755}" * 3,
    "a macro of another kind": "%%GDPR_CONSENT%%" * 4,
    "white space before": " " + text(core()),
    "white space behind": text(core()) + "\n",
    "too short": text(core())[:40],
    "too long": text(core()) + "." + "A" * 8_192,
    "another alphabet": text(core())[:-1] + "+",
    "padding of base64": text(core()) + "==",
    "an empty segment": text(core()) + "..",
    "cut within the vendors": text(core(vendors=f"{900:016b}0" + "1" * 90)),
    "cut within a range": text(core(vendors=f"{900:016b}1" + ranges((1, 2))[:-20], vendors_li="", restrictions="")),
    "a range that begins at 0": text(core(vendors=f"{900:016b}1" + ranges((0, 2)))),
    "a range that runs backwards": text(core(vendors=f"{900:016b}1" + ranges((7, 2)))),
    "a range beyond the largest id": text(core(vendors=f"{900:016b}1" + ranges((1, 901)))),
    "more ranges announced than there are": text(core(vendors=f"{900:016b}1" + f"{4_000:012b}" + ranges((1, 2))[12:])),
    "a restriction of purpose 0": text(core(restrictions=f"{1:012b}{0:06b}00" + ranges((1, 2)))),
    "a restriction of an unknown type": text(core(restrictions=f"{1:012b}{2:06b}11" + ranges((1, 2)))),
    "a restriction of vendor 0": text(core(restrictions=f"{1:012b}{2:06b}00" + ranges((0, 2)))),
    "something behind its end": text(core(rest="0" * 7 + "1")),
    "a segment twice": text(core(), f"{1:03b}{0:016b}0", f"{1:03b}{0:016b}0"),
    "the core twice": text(core(), core()),
    "a segment of an unknown type": text(core(), f"{5:03b}{0:016b}0"),
    "something behind a segment's end": text(core(), f"{1:03b}{0:016b}01"),
    "a segment cut short": text(core(), f"{3:03b}" + "1" * 30),
}
VERSIONS = {
    "version 1": text(core(version=f"{1:06b}")),
    "version 3": text(core(version=f"{3:06b}")),
    "a real one of version 1": "BOEFEAyOEFEAyAHABDENAI4AAAB9vABAASABOEFEAyOEFEAyAHABDENA",
}


@pytest.mark.parametrize("string", MALFORMED.values(), ids=MALFORMED)
def test_what_is_malformed(string: str) -> None:
    """A malformed string is refused as MALFORMED."""
    with pytest.raises(InvalidTcString) as caught:
        decode(string)
    assert caught.value.reason is ConsentReason.MALFORMED


@pytest.mark.parametrize("string", VERSIONS.values(), ids=VERSIONS)
def test_other_versions(string: str) -> None:
    """A string of another version is refused as VERSION."""
    with pytest.raises(InvalidTcString) as caught:
        decode(string)
    assert caught.value.reason is ConsentReason.VERSION


def test_the_small_one_is_valid() -> None:
    """The string from which the malformed ones are made decodes, so each is refused for its own fault."""
    tc = decode(text(core(), f"{1:03b}{4:016b}00110"))
    assert (tc.cmp_id, tc.gvl_version, purposes(tc.purposes_consent)) == (7, 9, set(range(1, 25)))
    assert (members(tc.vendors_consent), members(tc.disclosed)) == (set(range(1, 31)), {2, 3})
    assert members(decode(text(core(vendors=f"{900:016b}1" + ranges((5, 9), (2, 6), (900, 900))))).vendors_consent) == {
        *range(2, 10),
        900,
    }


LIST = Gvl(
    200,
    {
        vendor: Vendor(frozenset(range(1, 7)), frozenset(range(7, 12)), frozenset({2, 7, 8}), None)
        for vendor in (1, 2, 19, 150, 755, 1_500)
    },
)


def grants(string: str) -> set[tuple[int, int]]:
    """(vendor, purpose) that a string allows, of a choice of vendors; nothing where it is refused."""
    try:
        tc = decode(string)
    except InvalidTcString:
        return set()
    return {
        (vendor, purpose)
        for vendor in (0, *LIST.vendors)
        for purpose in range(1, 12)
        for gvl in (None, LIST)
        if judge(tc, Demand((purpose,), vendor, 100_000), gvl, tc.last_updated_ms)
        in (ConsentReason.OK_CONSENT, ConsentReason.OK_LI)
    }


def test_no_truncation_grants_more() -> None:
    """Prefixes of valid strings (12,000 in full): each is refused, or grants a subset."""
    chance, tried = random.Random(7), 0
    for string in chance.sample(SPECIFIC, examples(600)):
        whole = grants(string)
        for _ in range(20):
            assert grants(string[: chance.randrange(len(string))]) <= whole
            tried += 1
    assert tried == 20 * examples(600)


def test_no_byte_flip_breaks_the_decoder() -> None:
    """Many strings with a flipped byte (100,000 in full): each is refused with a reason, or decodes within its bounds."""
    chance, decoded, strings = random.Random(8), 0, examples(100_000)
    short = [string for string in SPECIFIC if len(string) < 600]
    for _ in range(strings):
        string = chance.choice(short)
        at = chance.randrange(len(string))
        flipped = string[:at] + chr(ord(string[at]) ^ (1 << chance.randrange(8))) + string[at + 1 :]
        try:
            tc = decode(flipped)
        except InvalidTcString:
            continue
        decoded += 1
        for vendors in (tc.vendors_consent, tc.vendors_li, tc.disclosed or Vendors(0)):
            assert vendors.bits.bit_length() <= vendors.largest <= LARGEST
            assert not any(vendors.has(outside) for outside in (-1, 0, vendors.largest + 1))
        assert max(tc.purposes_consent, tc.purposes_li).bit_length() <= 24
    assert strings * 0.1 < decoded < strings * 0.9


def test_random_bytes_are_refused_or_bounded() -> None:
    """Base64 of anything up to 8 KiB, beginning like a string of version 2: no error but the one that names a reason."""
    chance = random.Random(9)
    for _ in range(2_000):
        raw = bytes([8]) + chance.randbytes(chance.randrange(32, 6_000))
        with contextlib.suppress(InvalidTcString):
            decode(base64.urlsafe_b64encode(raw).decode().rstrip("="))
