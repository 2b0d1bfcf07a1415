"""Which choices the collector understands: what it would take and the gate would not read must not be answered 200. Pure rules.

A choice without an event has no second chance: nobody looks at it again, and the person was told that it counts.
"""

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache

from infra.site import site_of
from streams.collector.choices import Choice, plain_name
from streams.collector.keys import KeyRing
from streams.collector.mask import masked
from streams.collector.policy_source import PolicySource
from streams.collector.signals import MAX_NAME, folded
from streams.consent import gpp, tcstring
from streams.consent.evidence import FINAL_STATUS
from streams.consent.policy import Policy
from streams.consent.signals import (
    CHOICE_NAMES,
    CMP_WORDS,
    DETAIL_NAMES,
    MODE_NAMES,
    Word,
    consent_mode,
    gpc_word,
)

MOST_SITES = 4_096
"""Hosts of events that are remembered."""
MOST_NAMED = 20
"""Sites that a refusal names."""

GRANTED_OR_DENIED = "granted or denied"
YES_OR_NO = "1 or 0"
EXPECTED = {
    "gcs": "G1 and two of 1, 0 and -, as in G100",
    "gcd": "Consent Mode's gcd parameter as Google's tags write it",
    "gpp": "an IAB GPP string",
    "tc_string": "an IAB TCF string",
    "gpc": YES_OR_NO,
    "gdpr_applies": YES_OR_NO,
}
"""What to send, by the name of the signal."""
MODE_KINDS = {"gcs": "gcs", "gcd": "gcd", "xgagcs": "gcs", "xgagcd": "gcd"}
OPEN_STATUS = "cmpuishown"
STATUSES = " or ".join(FINAL_STATUS)


def known_names(policy: Policy) -> frozenset[str]:
    """Folded names of the signals that the gate reads by this policy."""
    return _known(_platform_names(policy))


def _platform_names(policy: Policy) -> tuple[str, ...]:
    return tuple(f"cmp.{name}" for purpose in policy.purposes.values() for name in purpose.cmp)


@lru_cache(16)
def _known(platform_names: tuple[str, ...]) -> frozenset[str]:
    return frozenset(map(folded, CHOICE_NAMES | MODE_NAMES | DETAIL_NAMES | set(platform_names)))


def signal_problem(signals: Mapping[str, str], policy: Policy) -> str:
    """What is not understood about the signals of a choice, and what to send instead; empty where all of them are."""
    known = known_names(policy)
    for name, value in signals.items():
        plain = plain_name(name)
        bare = folded(plain)
        if bare not in known:
            return (
                f"consent.{_shown(plain)} is not known: send gcs, gcd, tc_string, gpp, gpc, cm.<Consent Mode signal>, or what "
                f"the policy names: {', '.join(_platform_names(policy))}"
            )
        if expected := _expected(bare, value, policy):
            return f"consent.{_shown(plain)} cannot be read: send {expected}"
    if not any(_decides(folded(plain_name(name)), value, policy) for name, value in signals.items()):
        return "consent says neither yes nor no of anything: send what was granted or denied"
    return _tcf_problem(signals)


class KnownSites:
    """Sites that choices can be about: those of write keys and beneath them, the policy's, and hosts of events here."""

    def __init__(self, keys: KeyRing, policy: PolicySource) -> None:
        self._keys = keys
        self._policy = policy
        self._hosts: dict[str, None] = {}

    def add(self, host: str) -> None:
        """Remember the host of an event; the oldest are forgotten."""
        if host not in self._hosts:
            if len(self._hosts) >= MOST_SITES:
                del self._hosts[next(iter(self._hosts))]
            self._hosts[host] = None

    def knows(self, site: str) -> bool:
        """Whether events of this site are expected."""
        if site in self._hosts or any(site == one or site.endswith(f".{one}") for one in self._sites()):
            return True
        groups = self._policy.policy().groups
        return any(site in (one, site_of(one)) for pair in groups.items() for one in pair)

    def of_source(self, source: str) -> list[str]:
        """Sites of a source's keys."""
        return sorted({key.site for key in self._keys.in_force() if key.source == source})

    def _sites(self) -> Iterator[str]:
        return (key.site for key in self._keys.in_force())


class ChoiceRules:
    """Judges choices by the policy in force and the sites that are known."""

    def __init__(self, policy: PolicySource, keys: KeyRing) -> None:
        self._policy = policy
        self.sites = KnownSites(keys, policy)

    def problem(self, choice: Choice, source: str) -> str:
        """Why a choice is refused, naming the field and what to send; empty where it is understood."""
        if choice.site and not self.sites.knows(choice.site):
            sites = ", ".join(self.sites.of_source(source)[:MOST_NAMED])
            return f"site is none of which events come: leave it out, or send the host of the page, such as {sites}"
        # A withdrawal says what it withdraws by itself.
        return signal_problem(choice.signals, self._policy.policy()) if choice.kind == "choice" else ""


def _expected(bare: str, value: str, policy: Policy) -> str:
    """What a signal should be, where its value is none that can be read; else nothing."""
    text = value.strip()
    if bare.startswith(("cm.", "cmp.")):
        return "" if text.lower() in CMP_WORDS else GRANTED_OR_DENIED
    kind = MODE_KINDS.get(bare) or next((one for one in EXPECTED if folded(one) == bare), "")
    if not kind:
        return STATUSES if bare == "tceventstatus" and text.lower() not in (*FINAL_STATUS, OPEN_STATUS) else ""
    return "" if _readable(kind, text, policy) else EXPECTED[kind]


def _decides(bare: str, value: str, policy: Policy) -> bool:
    """Whether a readable signal says yes or no of a purpose; flags that are `-`, and `gpc` of 0, say neither."""
    if bare.startswith(("cm.", "cmp.")) or bare in ("tcstring", "gpp"):
        return True
    if bare == "gpc":
        return gpc_word({"gpc": value}) is not Word.UNKNOWN
    words = consent_mode({MODE_KINDS[bare]: value.strip()}, policy.letters) if bare in MODE_KINDS else {}
    return bool(set(words.values()) - {Word.UNKNOWN})


def _readable(kind: str, text: str, policy: Policy) -> bool:
    if kind in ("gcs", "gcd"):
        words = consent_mode({kind: text}, policy.letters)
        return bool(words) and Word.INVALID not in words.values()
    if kind in ("gpc", "gdpr_applies"):
        return text.lower() in ("1", "true", "0", "false")
    try:
        if kind == "gpp":
            gpp.decode(text)
        else:
            tcstring.decode(text)
    except (gpp.InvalidGpp, tcstring.InvalidTcString):
        return False
    return True


def _tcf_problem(signals: Mapping[str, str]) -> str:
    """A TC string counts only once the banner is closed and where GDPR applies: without both words it would be forgotten."""
    values: dict[str, list[str]] = {}
    for name, value in signals.items():
        values.setdefault(folded(plain_name(name)), []).append(value.strip().lower())
    texts = [value.strip() for name, value in signals.items() if folded(plain_name(name)) == "gpp"]
    field = "tc_string" if "tcstring" in values else "gpp" if any(gpp.decode(text).tc_string for text in texts) else ""
    if not field:
        return ""
    if not values.get("tceventstatus"):
        return f"consent.tc_event_status is missing: beside {field} send {STATUSES}"
    if OPEN_STATUS in values["tceventstatus"]:
        return f"consent.tc_event_status says that the banner is open: beside {field} send {STATUSES}"
    if not values.get("gdprapplies"):
        return f"consent.gdpr_applies is missing: beside {field} send 1"
    if set(values["gdprapplies"]) & {"0", "false"}:
        return f"consent.gdpr_applies must be 1 beside {field}: where GDPR does not apply the string says nothing"
    return ""


def _shown(name: str) -> str:
    """A name as a message may hold it."""
    return re.sub(r"[^\x20-\x7e]", "?", masked(name[:MAX_NAME]))[:64]


__all__ = ["ChoiceRules", "KnownSites", "known_names", "signal_problem"]
