"""Limits of how many members a node may be linked with and still belong to one person. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

USER = "0"
"""Tier digit of user nodes. The parent in their slot is a label: the profile id of their events."""


class Limit(NamedTuple):
    """How many new members a node may be linked with in some days and still belong to one person."""

    rule: str
    most: int
    days: int
    independent: bool = False
    """Count only members that nothing except the holder links with the holder's component; a cookie that is new each week does
    not count where the login names user and e-mail."""


LIMITS: Mapping[tuple[str, str], Sequence[Limit]] = {
    ("0", "1"): (
        Limit("devices_per_user_and_day", 5, 1),
        Limit("devices_per_user", 30, 30),
        Limit("devices_per_user_and_year", 40, 365, independent=True),
    ),
    ("0", "2"): (
        Limit("cookies_per_user_and_day", 10, 1),
        Limit("cookies_per_user", 60, 30),
        Limit("cookies_per_user_and_year", 120, 365, independent=True),
    ),
    ("0", "3"): (Limit("contacts_per_user", 15, 365),),
    ("1", "1"): (Limit("devices_per_device", 6, 365),),
    ("1", "2"): (
        Limit("cookies_per_device", 12, 30),
        Limit("cookies_per_device_and_year", 60, 365, independent=True),
    ),
    ("1", "3"): (Limit("contacts_per_device", 6, 365),),
    ("2", "1"): (Limit("devices_per_cookie", 6, 365),),
    ("2", "2"): (
        Limit("cookies_per_cookie", 8, 30),
        Limit("cookies_per_cookie_and_year", 60, 365, independent=True),
    ),
    ("2", "3"): (Limit("contacts_per_cookie", 6, 365),),
    ("3", "1"): (
        Limit("devices_per_email", 8, 30),
        Limit("devices_per_email_and_year", 20, 365, independent=True),
    ),
    ("3", "2"): (
        Limit("cookies_per_email", 8, 30),
        Limit("cookies_per_email_and_year", 60, 365, independent=True),
    ),
    ("3", "3"): (Limit("contacts_per_contact", 6, 365),),
}
"""(Tier of a holder, tier of its members) -> limits. Contacts are e-mails and phones. Users as members have none: an id of two
users is demoted at once.

Limits find constants where nobody logs in: a placeholder user id, a web view's cookie, a shop's phone number. Cookies are
limited by days, because a browser that drops its cookies weekly would pass any lifetime limit; independent members also over a
year, because a constant that joins one visitor a day stays under a month's limit. One person's contacts and devices are few in
a year.
"""

NOTHING: Mapping[str, str] = {}


class Pair(NamedTuple):
    """A holder and a new member, under a limit."""

    holder: str
    member: str
    limit: Limit


def limited_pairs(
    nodes: Sequence[str], renamed: Mapping[str, str] = NOTHING, roots: Mapping[str, str] | None = None
) -> Iterable[Pair]:
    """Yield the pairs of these linked nodes that count towards limits, each node as holder and as member.

    A former node does not count beside the newer one, and only users have limits under both names: one of them is the root.
    `roots`: root of each node before it was linked with the others; without it every member counts as linked with the holder.
    """
    for holder in nodes:
        if holder in renamed and holder[0] != USER:
            continue
        for member in nodes:
            if member in renamed or member == holder:
                continue
            limits = LIMITS.get((holder[0], member[0]), ())
            if limits and limits[-1].independent and _vouched(holder, member, renamed, roots or dict.fromkeys(nodes, "")):
                limits = limits[:-1]
            yield from (Pair(holder, member, limit) for limit in limits)


def _vouched(holder: str, member: str, renamed: Mapping[str, str], roots: Mapping[str, str]) -> bool:
    """Return whether another node links the member with the holder's component, in this event or before."""
    root = roots[holder]
    return (root == roots[member] != "") or any(
        other_root == root and other not in (holder, member) and other not in renamed and renamed.get(holder) != other
        for other, other_root in roots.items()
    )
