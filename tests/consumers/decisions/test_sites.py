"""The groups of sites whose refusals count for a decision."""

import json
from pathlib import Path

from consumers.decisions.sites import CHECK_S, SiteGroups
from streams.collector.write_keys import create_key, revoke_keys
from streams.consent.policy import PACKAGED, parse_policy

PLAIN = parse_policy(PACKAGED.read_text(), "plain")
GROUPED = parse_policy(
    PACKAGED.read_text().replace("site_groups: {}", "site_groups: {shops: [shop.example, www.shop.example]}"), "grouped"
)


class Clock:
    """Seconds that a test sets."""

    now = 0.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


def test_an_origin_is_its_hosts_group(tmp_path: Path) -> None:
    """An origin is mapped in any case, with any port and trailing dot; sites of a group share one."""
    sites = SiteGroups(GROUPED, tmp_path / "keys.json", ())
    for origin in ("https://shop.example", "HTTPS://WWW.Shop.Example:8443", "https://shop.example."):
        assert sites.groups(origin) == ("shops",)
    assert sites.groups("http://other.example") == ("other.example",)


def test_without_a_page_every_known_group_counts(tmp_path: Path) -> None:
    """They are those of keys, including revoked ones, of allowed origins and of the policy."""
    file = tmp_path / "keys.json"
    create_key(file, "shop", site="shop.example")
    create_key(file, "old", site="old.example")
    assert revoke_keys(file, "old") == 1
    sites = SiteGroups(GROUPED, file, ("https://blog.example:444",))
    for origin in ("", "null", "app://here"):
        assert sites.groups(origin) == ("blog.example", "old.example", "shops")


def test_new_keys_are_known_soon_and_broken_files_change_nothing(tmp_path: Path) -> None:
    """The file is checked once a second; an invalid file leaves the known sites."""
    file, clock = tmp_path / "keys.json", Clock()
    sites = SiteGroups(PLAIN, file, (), clock)
    assert sites.groups("") == ()
    create_key(file, "shop", site="shop.example")
    assert sites.groups("") == ()
    clock.now += CHECK_S
    assert sites.groups("") == ("shop.example",)
    file.write_text(json.dumps({"keys": 7}))
    clock.now += CHECK_S
    assert sites.groups("") == ("shop.example",)
    file.unlink()
    clock.now += CHECK_S
    assert sites.groups("") == ()
