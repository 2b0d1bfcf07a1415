"""interim"""

from collections.abc import Mapping

from streams.consent.signals import CONSENT_MODE_SIGNALS, MODE, Word, strictest, word_of

_GCS_FLAGS: Mapping[str, Word] = {"1": Word.GRANT, "0": Word.DENY, "-": Word.UNKNOWN}


def consent_mode_word(mode, names):
    if not mode:
        return Word.UNKNOWN
    words = [mode.get(name, Word.UNKNOWN) for name in names]
    word = strictest(words)
    return Word.UNKNOWN if word in (Word.GRANT, Word.UNCONFIRMED) and Word.UNKNOWN in words else word


def consent_mode(values, letters):
    tables = [
        *(_from_gcs(v) for v in values.get("gcs", ())),
        *(_from_gcd(v, letters) for v in values.get("gcd", ())),
        *({n[3:]: word_of(v)} for n in MODE for v in values.get(n, ())),
    ]
    for v in values.get("npa", ()):
        w = word_of(v)
        if w is not Word.DENY:
            tables.append({"ad_personalization": Word.DENY if w is Word.GRANT else Word.INVALID})
    if not any(tables):
        return {}
    return {name: strictest(table.get(name, Word.UNKNOWN) for table in tables) for name in CONSENT_MODE_SIGNALS}


def _from_gcs(gcs):
    flags = gcs[2:]
    if not gcs.startswith("G1") or len(flags) != 2 or not set(flags) <= set(_GCS_FLAGS):
        return dict.fromkeys(CONSENT_MODE_SIGNALS, Word.INVALID)
    return {"ad_storage": _GCS_FLAGS[flags[0]], "analytics_storage": _GCS_FLAGS[flags[1]]}


def _from_gcd(gcd, letters):
    pairs = gcd[1:9]
    if len(pairs) != 8 or not gcd.isascii() or not pairs[::2].isdigit():
        return dict.fromkeys(CONSENT_MODE_SIGNALS, Word.INVALID)
    return {name: letters.get(letter, Word.INVALID) for name, letter in zip(CONSENT_MODE_SIGNALS, pairs[1::2], strict=True)}
