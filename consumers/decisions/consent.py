"""Whether a decision may be personal: what the consent room decides about the same signals, by the same policy file."""

import re
from collections.abc import Callable, Mapping

from infra.errors import ConfigError
from infra.settings import Settings
from streams.consent.decide import decide
from streams.consent.policy import load_policy, policy_file

PURPOSE = "personalization"

_REGION = re.compile(r"^[A-Z]{2}(-[A-Z0-9]{1,3})?$")  # ISO 3166-1 country or 3166-2 region


def gate(settings: Settings) -> Callable[[Mapping[str, str], str], bool]:
    """(signals, region) -> whether personalization is granted. ConfigError where the policy does not know the purpose."""
    file = policy_file(settings.policy)
    policy = load_policy(file)
    if PURPOSE not in policy.purposes:
        raise ConfigError(f"consent policy {file} has no purpose {PURPOSE}: without it no decision may be made")

    def granted(signals: Mapping[str, str], region: str) -> bool:
        # A region that is no region is an unknown one, which is the strictest.
        known = region.upper() if _REGION.match(region.upper()) else ""
        return decide(signals, known, policy).verdicts[PURPOSE].granted

    return granted
