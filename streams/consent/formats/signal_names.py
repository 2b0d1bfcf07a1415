"""Names of consent signals: every usual spelling of the standard ones, and how names are compared. Pure.

Signals are the contract's `signals` map, as senders wrote them. A name that came twice with different values is there again as
`name#2`, `name#3`. Names are compared without regard to case, blanks, `_` and `-`.
"""

import re
import unicodedata
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType

Signals = Mapping[str, str]

CONSENT_MODE_SIGNALS = ("ad_storage", "analytics_storage", "ad_user_data", "ad_personalization")
"""In the order of gcd's letters."""
MODE = tuple(f"cm.{name}" for name in CONSENT_MODE_SIGNALS)
CMP = "cmp."
"""Prefix of a consent platform's own choices."""
WHOLE = "consent"
"""Name of a consent object that is no object; it is unreadable for every purpose."""

CHOICES = frozenset({"gcs", "gcd", "tc_string", "gpp", "us_privacy", "gpc", "npa", *MODE})
"""Standard signals that can be a choice."""
DETAILS = frozenset({"gdpr_applies", "tc_event_status", "chosen_ts", "platform", "platform_version", "platform_event", "dma"})
"""Standard signals that describe a choice."""

SPELLINGS: Mapping[str, str] = MappingProxyType(
    {
        "xgagcs": "gcs", "xgagcd": "gcd", "gcsparam": "gcs", "gcdparam": "gcd", "nonpersonalizedads": "npa",
        "tcf": "tc_string", "tcfstring": "tc_string", "tcdata": "tc_string", "tcstring": "tc_string", "iabtcf": "tc_string",
        "iabtcfstring": "tc_string", "iabtcftcstring": "tc_string", "euconsent": "tc_string", "euconsentv2": "tc_string",
        "gdprconsent": "tc_string", "gdprconsentstring": "tc_string", "consentstring": "tc_string",
        "eventstatus": "tc_event_status", "tcfeventstatus": "tc_event_status", "tceventstatus": "tc_event_status",
        "gdprapplies": "gdpr_applies", "tcfgdprapplies": "gdpr_applies",
        "iabtcfgdprapplies": "gdpr_applies", "subjecttogdpr": "gdpr_applies",
        "gppstring": "gpp", "iabgpp": "gpp", "iabgpphdrgppstring": "gpp", "gppconsent": "gpp",
        "usprivacy": "us_privacy", "usprivacystring": "us_privacy", "iabusprivacystring": "us_privacy", "ccpa": "us_privacy",
        "uspstring": "us_privacy", "usp": "us_privacy",
        "secgpc": "gpc", "globalprivacycontrol": "gpc", "isgpcenabled": "gpc", "gpcenabled": "gpc", "gpcsignal": "gpc",
        "chosenat": "chosen_ts", "chosents": "chosen_ts", "cmpname": "platform", "cmpplatform": "platform",
        "dmacps": "dma",
        **{name.replace("_", ""): name for name in (*CHOICES, *DETAILS) if not name.startswith("cm.")},
        **{name.replace("_", ""): f"cm.{name}" for name in CONSENT_MODE_SIGNALS},
        **{f"cm.{name.replace('_', '')}": f"cm.{name}" for name in CONSENT_MODE_SIGNALS},
    }
)  # fmt: skip
"""Folded name -> standard name."""

_REPEAT_SUFFIX = re.compile(r"#\d+$")
_IGNORED = re.compile(r"[\s_\-]+")


@lru_cache(8_192)
def fold(name: str) -> str:
    """Fold a name for comparison: NFKC, without case, blanks, `_`, `-` and repeat suffix."""
    return _IGNORED.sub("", unicodedata.normalize("NFKC", _REPEAT_SUFFIX.sub("", name)).casefold())


@lru_cache(8_192)
def standard_name(name: str) -> str | None:
    """The standard signal of a name, or of the part behind its last dot (`tcf.gdprApplies`); None for other names."""
    folded = fold(name)
    standard = SPELLINGS.get(folded)
    if standard is None and "." in folded:
        standard = SPELLINGS.get(folded.rpartition(".")[2])
        if folded.startswith(CMP) and standard not in CHOICES:
            return None  # a platform's own choice, whatever its name
    return standard


def standard_parent(folded: str) -> str:
    """The standard signal above a dotted, folded name, which has one."""
    while folded not in SPELLINGS:
        folded = folded.rpartition(".")[0]
    return SPELLINGS[folded]


__all__ = [
    "CHOICES",
    "CMP",
    "CONSENT_MODE_SIGNALS",
    "DETAILS",
    "MODE",
    "SPELLINGS",
    "WHOLE",
    "Signals",
    "fold",
    "standard_name",
    "standard_parent",
]
