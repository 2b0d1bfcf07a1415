"""Nodes over a limit by all evidence: counted in bounded memory, judged by independent members."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.identity.graph.limits import LIMITS
from streams.identity.graph.union_find import Nodes
from streams.identity.repair.hubs import (
    DegreeSketch,
    LimitRules,
    Members,
    collect,
    exceeded_limit,
    find_suspects,
    joins_strangers,
)

NODES = [f"{tier}{n * 0x01010101:08x}{n:024x}" for tier in "0123" for n in range(40)]
COMBINATION = st.lists(st.sampled_from(NODES), min_size=2, max_size=5, unique=True).map(lambda some: tuple(sorted(some)))
USER, EMAIL, OTHER_EMAIL, DEVICE, COOKIE = "0" + "a" * 32, "3" + "b" * 32, "3" + "c" * 32, "1" + "d" * 32, "2" + "e" * 32


def cookies(n: int) -> list[str]:
    """Build that many cookies."""
    return [f"2{number:032x}" for number in range(n)]


def members(holder: str, evidence: Sequence[Nodes], every: int = 1) -> Members:
    """Collect the members of a holder, one event each `every` days."""
    by_holder: dict[str, dict[str, int]] = {}
    for n, nodes in enumerate(evidence):
        collect(by_holder, nodes, n * every, [holder])
    return by_holder[holder]


@given(st.lists(COMBINATION, max_size=80))
def test_the_sketch_never_misses_one(world: list[Nodes]) -> None:
    """Shared counters count too much, never too little."""
    sketch, by_holder = DegreeSketch(1_000), dict[str, dict[str, int]]()
    for nodes in world:
        sketch.add(nodes)
        collect(by_holder, nodes, 0, nodes)
    assert [node for node in find_suspects(by_holder) if not sketch.may_exceed(node)] == []


def test_the_sketch_tells_most_apart() -> None:
    """Ten thousand ordinary persons give hardly a suspect."""
    sketch = DegreeSketch()
    people = [
        (f"0{n * 7_919:08x}{n:024x}", f"2{n * 104_729:08x}{n:024x}", f"3{n * 1_299_709:08x}{n:024x}") for n in range(10_000)
    ]
    for nodes in people:
        sketch.add(nodes)
    assert sum(sketch.may_exceed(node) for nodes in people for node in nodes) < 10


@pytest.mark.parametrize(("every", "over"), [(1, True), (3, True), (4, False)])
def test_days_count_as_for_events(every: int, over: bool) -> None:
    """Nine cookies of an e-mail within any thirty days are one too many; slower ones are not."""
    evidence: list[Nodes] = [(cookie, EMAIL) for cookie in cookies(9)]
    assert (exceeded_limit(EMAIL, members(EMAIL, evidence, every)) is not None) == over


def test_a_part_counts_once() -> None:
    """Cookies that a user links count once; without the user each counts."""
    some = cookies(12)
    evidence: list[Nodes] = [(cookie, EMAIL) for cookie in some]
    behind: list[Nodes] = [tuple(sorted((USER, cookie))) for cookie in some]
    of_email = members(EMAIL, evidence)
    assert find_suspects({EMAIL: of_email}) == [EMAIL]
    assert not joins_strangers(EMAIL, of_email, [USER, *some], [EMAIL], behind)
    assert joins_strangers(EMAIL, of_email, [USER, *some], [EMAIL], behind[:2])
    assert joins_strangers(EMAIL, of_email, [USER, *some], [EMAIL, USER], behind), "a suspect vouches for nobody"


def test_a_suspect_vouches_where_independence_is_counted() -> None:
    """User and e-mail of a person with three browsers that drop their cookies weekly for a year are not found."""
    some = cookies(150)
    evidence: list[Nodes] = [tuple(sorted((USER, cookie, EMAIL))) for cookie in some]
    of_user = {cookie: 365 * n // 150 for n, cookie in enumerate(some)} | {EMAIL: 0}
    assert exceeded_limit(USER, of_user, rules=LimitRules.PLAIN) is None
    assert exceeded_limit(USER, of_user, rules=LimitRules.INDEPENDENT) is not None
    assert not joins_strangers(USER, of_user, [EMAIL, *some], [USER, EMAIL], evidence)
    assert joins_strangers(USER, of_user, [EMAIL, *some], [USER], [])


def test_contacts_that_nothing_else_links_are_strangers() -> None:
    """A shop's phone with one e-mail more than the limit, over months, is found."""
    most = LIMITS["3", "3"][0].most
    emails = [f"3{n:032x}" for n in range(most + 1)]
    evidence: list[Nodes] = [tuple(sorted((OTHER_EMAIL, email))) for email in emails]
    of_phone = members(OTHER_EMAIL, evidence, 20)
    assert joins_strangers(OTHER_EMAIL, of_phone, emails, [OTHER_EMAIL], [])
    assert not joins_strangers(OTHER_EMAIL, of_phone, [USER, *emails], [OTHER_EMAIL], [(USER, *emails[:2])])


def test_memory_of_one_holder_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A constant with millions of members is found by the first of them."""
    monkeypatch.setattr("streams.identity.repair.hubs.MOST_MEMBERS", 20)
    assert len(members(DEVICE, [(DEVICE, cookie) for cookie in cookies(100)])) == 20
    assert members(DEVICE, [(DEVICE, COOKIE), (DEVICE, COOKIE)]) == {COOKIE: 0}


def test_what_is_no_longer_linked_does_not_count() -> None:
    """Evidence of links that a split or an expiry has removed does not count."""
    some = cookies(12)
    of_email = members(EMAIL, [(cookie, EMAIL) for cookie in some])
    assert joins_strangers(EMAIL, of_email, some[:9], [EMAIL], [])
    assert not joins_strangers(EMAIL, of_email, some[:8], [EMAIL], [])
