"""Whether a decision may be personal: what the consent room decides about the same signals, by the same policy file."""

import time
from collections.abc import Callable, Mapping

from infra.settings import Settings
from streams.consent.decide import decide
from streams.consent.evidence import Reader
from streams.consent.gvl import GvlFolder
from streams.consent.policy import BITS, PACKAGED, load_policy

PERSONALIZATION = BITS["personalization"]
EVENT = "widget_viewed"
"""What a decision leads to; which purposes are granted does not depend on it."""


def gate(settings: Settings) -> Callable[[Mapping[str, str], str], bool]:
    """(signals, region) -> whether personalization is granted. ConfigError where the policy does not load."""
    policy = load_policy(settings.policy or PACKAGED)
    reader = Reader(policy, GvlFolder(settings.gvl_dir))

    def granted(signals: Mapping[str, str], region: str) -> bool:
        evidence = reader.read(region, signals, int(time.time() * 1000))
        return bool(decide(policy, EVENT, evidence).mask & PERSONALIZATION)

    return granted
