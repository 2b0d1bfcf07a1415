"""Consent at the decision door: the consent room's rules, with the region where a proxy names one."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from consumers.decisions.consent import gate
from infra.errors import ConfigError
from infra.settings import load_settings

GRANTED = {"cmp.personalization": "granted"}


@pytest.mark.parametrize(
    ("signals", "region", "granted"),
    [
        (GRANTED, "DE", True),
        (GRANTED, "", True),
        ({}, "DE", False),
        ({}, "", False),
        ({}, "US", True),
        ({}, "us-ca", True),
        ({}, "USA! anything", False),
        ({"gpc": "1"}, "US", False),
        (GRANTED | {"gpc": "1"}, "DE", False),
        ({"cmp.personalization": "denied"}, "US", False),
        ({"cmp.personalization": "yes please"}, "US", False),
        ({"cmp.analytics": "granted"}, "DE", False),
        ({"tc_string": "null"}, "US", False),
    ],
)
def test_only_the_consent_rooms_yes_is_a_yes(tmp_path: Path, signals: Mapping[str, str], region: str, granted: bool) -> None:
    """Silence follows the region, a no and an unreadable signal are a no, and a region that is none is the strictest."""
    assert gate(load_settings(state_dir=tmp_path))(signals, region) is granted


def test_a_policy_that_does_not_load_stops_the_start(tmp_path: Path) -> None:
    """A missing policy file is a configuration error, never a yes."""
    with pytest.raises(ConfigError):
        gate(load_settings(state_dir=tmp_path, policy=tmp_path / "missing.yaml"))
