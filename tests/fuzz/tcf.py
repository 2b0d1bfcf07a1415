"""Coverage-guided fuzzing of the TC string decoder; no part of the test run.

    python tests/fuzz/tcf.py -max_total_time=1800 CORPUS_FOLDER

Needs atheris. The corpus begins with the vectors of the official library. Ends with a crash file on the first finding.
"""

import json
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["streams.consent"]):
    from streams.consent.formats.reason import ConsentReason
    from streams.consent.formats.tc_string import InvalidTcString, TcString, Vendors, decode
    from streams.consent.formats.tcf import Demand, judge

VECTORS = Path(__file__).parents[1] / "golden/tcf/vectors.json"
LARGEST = 65_536


def grants(tc: TcString) -> set[tuple[int, int]]:
    """(vendor, purpose) that it allows, of a choice of vendors."""
    return {
        (vendor, purpose)
        for vendor in (0, 1, 19, 755)
        for purpose in range(1, 12)
        if judge(tc, Demand((purpose,), vendor, 100_000), None, tc.last_updated_ms)
        in (ConsentReason.OK_CONSENT, ConsentReason.OK_LI)
    }


def test_one(data: bytes) -> None:
    """Any text is refused with a reason or decodes within its bounds; cut in half, it grants no more."""
    text = data.decode("latin-1")
    try:
        tc = decode(text)
    except InvalidTcString:
        return
    for vendors in (tc.vendors_consent, tc.vendors_li, tc.disclosed or Vendors(0)):
        assert vendors.bits.bit_length() <= vendors.largest < LARGEST
        assert not any(vendors.has(outside) for outside in (-1, 0, vendors.largest + 1))
    whole = grants(tc)
    for length in {len(text) - 1, len(text) // 2, text.rfind(".")}:
        try:
            cut = decode(text[: max(0, length)])
        except InvalidTcString:
            continue
        assert grants(cut) <= whole


def main() -> None:
    """Fill the corpus, then fuzz."""
    folders = [Path(argument) for argument in sys.argv[1:] if not argument.startswith("-")]
    for folder in folders[:1]:
        folder.mkdir(parents=True, exist_ok=True)
        for at, vector in enumerate(json.loads(VECTORS.read_text())):
            (folder / f"vector-{at}").write_text(vector["text"])
    atheris.Setup(sys.argv, test_one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
