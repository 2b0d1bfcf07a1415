"""From rounds of facts to readings, with an injected clock."""

from dataclasses import replace

import pytest

from consumers.gauge.cluster import _waiting_for
from consumers.gauge.lag.reading import GaugePartition, GroupFacts, KafkaFacts, LagReading, PartitionEnds, as_json
from consumers.gauge.lag.rules import LagState
from consumers.gauge.lag.store import MemoryTables
from consumers.gauge.lag.watch import LagWatch

HERE = GaugePartition("t", 0)
THERE = GaugePartition("t", 1)


def facts(
    at: float, ends: dict[GaugePartition, int], committed: dict[GaugePartition, int | None], members: int = 1, holds: str = "w"
) -> KafkaFacts:
    """Return one round: partitions that begin at 0, and one group `headwater.g`."""
    assignment = frozenset({(holds, tuple(ends))}) if members else frozenset[tuple[str, tuple[GaugePartition, ...]]]()
    group = GroupFacts("headwater.g", members, False, assignment, committed)
    return KafkaFacts(at, {place: PartitionEnds(0, end, end) for place, end in ends.items()}, (group,))


def run_round(
    watch: LagWatch, round_facts: KafkaFacts, times: dict[tuple[GaugePartition, int], int] | None = None
) -> LagReading:
    """Pass one round through the watch."""
    watch.update_tables(round_facts)
    return watch.build_reading(round_facts, times or {})


def test_time_lag_is_the_age_of_the_first_unread_record() -> None:
    """At 10 records a second, a group 300 records behind is 30 s behind, whatever its own pace."""
    watch = LagWatch()
    for at in range(0, 200, 10):
        reading = run_round(watch, facts(at, {HERE: at * 10}, {HERE: max(0, at * 10 - 300)}))
    (partition,) = reading.groups[0].partitions
    assert partition.lag == 300
    assert partition.time_lag_s == pytest.approx(30, abs=0.2)
    assert partition.time_lag_from == "table"
    assert partition.rate_in == pytest.approx(10)


def test_time_lag_keeps_growing_after_traffic_and_reader_have_stopped() -> None:
    """Lag over rate would be undefined here; the age of a record is not."""
    watch = LagWatch()
    for at in range(0, 110, 10):
        run_round(watch, facts(at, {HERE: at * 10}, {HERE: at * 10}))
    for at in range(110, 2_000, 10):
        reading = run_round(watch, facts(at, {HERE: 1_100}, {HERE: 1_000}, members=0))
    (partition,) = reading.groups[0].partitions
    assert partition.state is LagState.STOPPED
    assert partition.time_lag_s == pytest.approx(1_990 - 100, abs=10)
    assert partition.since == 110


def test_a_record_is_fetched_once_where_the_table_does_not_reach() -> None:
    """A committed offset older than the table needs one record, whose time is cached while it waits."""
    watch = LagWatch()
    first = facts(1_000, {HERE: 500}, {HERE: 200})
    assert watch.update_tables(first) == [(HERE, 200)]
    reading = watch.build_reading(first, {(HERE, 200): 400_000})
    assert reading.groups[0].partitions[0].time_lag_s == 600
    assert reading.groups[0].partitions[0].time_lag_from == "record"
    again = facts(1_010, {HERE: 500}, {HERE: 200})
    assert watch.update_tables(again) == []
    assert watch.build_reading(again, {}).groups[0].partitions[0].time_lag_s == 610


def test_without_the_record_the_age_is_a_lower_bound_and_says_so() -> None:
    """A record that was not read in time is at least as old as the table."""
    watch = LagWatch()
    run_round(watch, facts(1_000, {HERE: 500}, {HERE: 200}))
    reading = run_round(watch, facts(1_010, {HERE: 500}, {HERE: 200}))
    assert reading.groups[0].partitions[0].time_lag_s == 10
    assert reading.groups[0].partitions[0].time_lag_from == "at_least"


def test_records_furthest_behind_are_asked_for_first() -> None:
    """The budget for reading may end before the list does."""
    watch = LagWatch()
    offsets = watch.update_tables(facts(0, {HERE: 500, THERE: 500}, {HERE: 400, THERE: 100}))
    assert offsets == [(THERE, 100), (HERE, 400)]


def test_a_partition_without_a_commit_is_unread() -> None:
    """Without a committed offset everything waits."""
    reading = run_round(LagWatch(), facts(0, {HERE: 7}, {HERE: None}))
    assert reading.groups[0].partitions[0].lag == 7
    assert reading.groups[0].partitions[0].committed is None


def test_the_table_is_kept_until_the_slowest_has_passed() -> None:
    """The table shrinks behind the slowest group and grows while one is behind."""
    watch = LagWatch()
    for at in range(0, 1_000, 10):
        run_round(watch, facts(at, {HERE: at}, {HERE: 0}))
    assert len(watch.tables[HERE]) == 100
    run_round(watch, facts(1_000, {HERE: 1_000}, {HERE: 990}))
    assert len(watch.tables[HERE]) <= 3


def test_a_change_of_assignment_gives_two_minutes_of_grace() -> None:
    """Standing still right after a rebalance is CATCHING_UP, and STALLED after the grace."""
    watch = LagWatch()
    states = {}
    for at in range(0, 700, 10):
        holder = "a" if at < 400 else "b"
        reading = run_round(watch, facts(at, {HERE: 1_000 + at}, {HERE: min(1_000 + at, 1_200)}, holds=holder))
        states[at] = reading.groups[0].state
    assert states[190] is LagState.OK
    assert states[390] is LagState.STALLED
    assert states[400] is LagState.CATCHING_UP
    assert states[510] is LagState.CATCHING_UP
    assert states[520] is LagState.STALLED


def test_a_stuck_partition_is_told_from_a_stalled_group() -> None:
    """When a sibling advances, the partition is STUCK_PARTITION."""
    watch = LagWatch()
    for at in range(0, 300, 10):
        reading = run_round(watch, facts(at, {HERE: 1_000 + at, THERE: 1_000 + at}, {HERE: 900, THERE: 1_000 + at}))
    assert [p.state for p in reading.groups[0].partitions] == [LagState.STUCK_PARTITION, LagState.OK]
    assert reading.groups[0].state is LagState.STUCK_PARTITION


def test_a_partition_that_does_not_answer_hides_nothing_else() -> None:
    """A partition without leader is left out of the round; its neighbour is read, and it returns in the next round."""
    watch = LagWatch()
    run_round(watch, facts(0, {HERE: 10, THERE: 10}, {HERE: 10, THERE: 10}))
    without_leader = facts(10, {THERE: 20}, {HERE: 10, THERE: 10})
    assert [p.partition for p in run_round(watch, without_leader).groups[0].partitions] == [1]
    back = run_round(watch, facts(20, {HERE: 30, THERE: 30}, {HERE: 10, THERE: 10}))
    assert [p.lag for p in back.groups[0].partitions] == [20, 20]


def test_tables_that_were_saved_answer_after_a_restart() -> None:
    """Records from before a restart need not be read."""
    store, watch = MemoryTables(), LagWatch()
    for at in range(0, 200, 10):
        run_round(watch, facts(at, {HERE: at * 10}, {HERE: 500}))
    store.save(watch.tables)
    again = LagWatch(tables=store.load([HERE]))
    after = facts(230, {HERE: 2_300}, {HERE: 500})
    assert again.update_tables(after) == []
    assert again.build_reading(after, {}).groups[0].partitions[0].time_lag_s == pytest.approx(180, abs=1)


def test_groups_that_are_gone_are_forgotten() -> None:
    """Memory is bounded by the existing groups."""
    watch = LagWatch()
    run_round(watch, facts(0, {HERE: 10}, {HERE: 5}))
    run_round(watch, KafkaFacts(10, {}, ()))
    assert not watch.tables
    assert not watch._samples
    assert not watch._groups


def test_a_partition_says_what_it_waits_for_while_records_wait() -> None:
    """The reason in a commit's metadata is the detail until nothing waits."""
    watch, place = LagWatch(), GaugePartition("t", 0)
    waiting = {place: "ClickHouse: its disk is full (code 243)"}
    for at, committed, detail in ((0.0, 5, "waits: ClickHouse: its disk is full (code 243)"), (10.0, 9, "up to date")):
        round_facts = facts(at, {place: 9}, {place: committed})
        group = replace(round_facts.groups[0], waiting=waiting)
        assert run_round(watch, replace(round_facts, groups=(group,))).groups[0].partitions[0].detail == detail


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ('{"topic_id": "x", "intent": [1, 2], "waiting": "ClickHouse"}', "ClickHouse"),
        ('{"topic_id": "x"}', ""),
        ('{"waiting": ["x"]}', ""),
        ("v1:5-9", ""),
        ("[1]", ""),
        ("7", ""),
        ("", ""),
        (None, ""),
    ],
)
def test_metadata_of_any_form_is_read(metadata: str | None, reason: str) -> None:
    """Metadata of other groups may have any form."""
    assert _waiting_for(metadata) == reason


def test_json_has_the_sum_that_scripts_wait_for() -> None:
    """`lag_total` 0 means drained; times are milliseconds."""
    body = as_json(run_round(LagWatch(), facts(5, {HERE: 10, THERE: 10}, {HERE: 4, THERE: 10})))
    assert (body["at"], body["lag_total"]) == (5_000, 6)
    assert [p["lag"] for p in body["groups"][0]["partitions"]] == [6, 0]


def test_a_recreated_topic_begins_without_history() -> None:
    """Under another topic id no age comes from old offsets, and no group is a REWIND."""
    watch = LagWatch()
    for at in range(0, 300, 10):
        run_round(watch, replace(facts(at, {HERE: at, THERE: at}, {HERE: at, THERE: at}), topic_ids={"t": "first"}))
    anew = replace(facts(300, {HERE: 400, THERE: 20}, {HERE: 100, THERE: 0}), topic_ids={"t": "second"})
    assert watch.update_tables(anew) == [(HERE, 100), (THERE, 0)]
    (partitions,) = (
        group.partitions for group in watch.build_reading(anew, {(HERE, 100): 299_000, (THERE, 0): 298_000}).groups
    )
    assert [p.state for p in partitions] == [LagState.OK, LagState.OK]
    assert (partitions[0].time_lag_s, partitions[0].time_lag_from) == (1, "record")
    assert {table.topic_id for table in watch.tables.values()} == {"second"}


def test_a_round_without_ids_changes_nothing() -> None:
    """A topic that a round does not describe keeps its id."""
    watch = LagWatch()
    for at in range(0, 100, 10):
        round_facts = facts(at, {HERE: at * 10}, {HERE: at * 5})
        run_round(watch, replace(round_facts, topic_ids={"t": "first"}) if at != 50 else round_facts)
    assert watch.tables[HERE].topic_id == "first"
    assert watch.tables[HERE].time_of(450) == pytest.approx(45_000, abs=100)


@pytest.mark.parametrize(("topic_id", "source"), [("first", "table"), ("second", "at_least"), ("", "at_least")])
def test_a_saved_table_counts_for_its_topic_id_only(topic_id: str, source: str) -> None:
    """After a restart, a table of another topic id, or of none, is not used."""
    before = LagWatch()
    for at in range(0, 200, 10):
        round_facts = facts(at, {HERE: at * 10}, {HERE: 0})
        run_round(before, replace(round_facts, topic_ids={"t": topic_id}) if topic_id else round_facts)
    store = MemoryTables()
    store.save(before.tables)
    watch = LagWatch(tables=store.load([HERE]))
    reading = run_round(watch, replace(facts(200, {HERE: 2_000}, {HERE: 1_000}), topic_ids={"t": "first"}))
    assert reading.groups[0].partitions[0].time_lag_from == source
