"""Everything that one event's signals say, purpose by purpose and format by format; and when it was chosen.

Strings are decoded once and kept, failures too: what a visitor chose stays the same string for months.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

from streams.consent.ledger import Said
from streams.consent.policy import Policy, Purpose, Regime
from streams.consent.reason import Reason
from streams.consent.signals import (
    Signals,
    Word,
    claims_gdpr,
    cmp_word,
    consent_mode,
    consent_mode_word,
    gpc_word,
    gpp_word,
    has_explicit_choice,
    tc_word,
)

SKEW_MS = 300_000
"""How far a sender's clock may be ahead before the time of a choice is not believed."""


WHY: Mapping[Word, Reason] = {Word.GRANT: Reason.OK_CONSENT, Word.INVALID: Reason.MALFORMED}
"""The reason of a word where its format gives no finer one."""


class Heard(NamedTuple):
    """What one format says about one purpose, and why."""

    word: Word
    reason: Reason


@dataclass(frozen=True, slots=True)
class Evidence:
    """What one event's signals say under one policy, in one region, on one day."""

    regime: Regime
    heard: Mapping[str, Mapping[str, Heard]]
    """Purpose -> format -> what it says."""
    said: Said
    """What the visitor chose, as far as it is remembered."""
    platform: str = ""
    """Consent platform: the TC string's CMP id, or its name."""
    gvl: int = 0
    """Vendor list version of the TC string."""
    fingerprint: tuple[tuple[str, str], ...] = ()
    """Name and version of the platform, vendor list, policy version, its services: what changes when its set-up does."""


class Reader:
    """Reads signals by one policy."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    def regime(self, region: str, signals: Signals) -> Regime:
        """What silence means for this event."""
        return Regime.OPT_IN if claims_gdpr(signals) else self._policy.regime(region)

    def read(self, region: str, signals: Signals, now: int) -> Evidence:
        """The evidence of an event. `now`: collector time, of which only the day matters."""
        return self.hear(self.regime(region, signals), signals, now)

    def hear(self, regime: Regime, signals: Signals, now: int) -> Evidence:  # noqa: ARG002 - for TC strings
        """The same under a given regime."""
        heard = {name: self._hear(purpose, regime, signals) for name, purpose in self._policy.purposes.items()}
        at = chosen_at(signals)
        return Evidence(regime, heard, _said(heard, at, at), signals.get("platform", ""), fingerprint=fingerprint(signals))

    def _hear(self, purpose: Purpose, regime: Regime, signals: Signals) -> dict[str, Heard]:
        mode = consent_mode_word(consent_mode(signals, self._policy.letters), purpose.consent_mode)
        if mode is Word.UNCONFIRMED and regime is Regime.OPT_OUT:
            mode = Word.GRANT
        if mode is Word.GRANT and has_explicit_choice(signals):
            mode = Word.UNKNOWN  # it narrows what the platform's own words grant, and adds nothing to them
        objection = purpose.denied_by_gpc
        words = {
            "cmp": cmp_word(signals, purpose.cmp),
            "consent_mode": mode,
            "gpc": gpc_word(signals) if objection else Word.UNKNOWN,
            "tc_string": tc_word(signals),
            # Under opt-out a GPP string speaks about sale and sharing, which is what GPC objects to as well.
            "gpp": gpp_word(signals) if objection or regime is Regime.OPT_IN else Word.UNKNOWN,
        }
        return {name: Heard(word, WHY.get(word, Reason.PURPOSE)) for name, word in words.items() if word is not Word.UNKNOWN}


def _said(heard: Mapping[str, Mapping[str, Heard]], granted_at: int, denied_at: int) -> Said:
    """Purposes that are granted by all that is heard, and those that the visitor denies. What is unreadable is neither."""
    words = {purpose: {one.word for one in formats.values()} for purpose, formats in heard.items()}
    return Said(
        frozenset(purpose for purpose, said in words.items() if said == {Word.GRANT}),
        frozenset(purpose for purpose, said in words.items() if Word.DENY in said),
        granted_at,
        denied_at,
    )


def chosen_at(signals: Signals) -> int:
    """When the choice was made, if the sender says so: `chosen_ts`, milliseconds or ISO 8601. 0 = unknown."""
    value = signals.get("chosen_ts", "").strip()
    if not value:
        return 0
    try:
        return int(value) if value.isascii() and value.isdigit() else _iso(value)
    except (ValueError, OverflowError):
        return 0


def believed(said: Said, now: int) -> Said:
    """The same, without the times of a clock that is ahead: such a choice counts as one of unknown time."""
    if max(said.granted_at, said.denied_at) > now + SKEW_MS:
        return said._replace(granted_at=0, denied_at=0)
    return said._replace(granted_at=min(said.granted_at, now), denied_at=min(said.denied_at, now))


def _iso(text: str) -> int:
    found = datetime.fromisoformat(text)
    return int((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp() * 1000)


def fingerprint(signals: Signals) -> tuple[tuple[str, str], ...]:
    """How the consent platform is set up, as far as an event shows it: its metadata, and which services it names."""
    found = {name: signals[name][:64] for name in ("platform", "platform_version", "platform_event") if signals.get(name)}
    services = sorted(name for name in signals if name.startswith("cmp."))
    if services:
        found["services"] = hashlib.sha256("|".join(services).encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return tuple(sorted(found.items()))
