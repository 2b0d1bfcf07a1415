"""`headwater topics`: planning, and the commands against a real broker."""

import json
from pathlib import Path

import pytest
from confluent_kafka.admin import NewTopic
from typer.testing import CliRunner

from infra.clients.kafka import admin
from infra.errors import ConfigError
from infra.ops.topics import TopicShape, app, apply, diff, expected_shapes, plan
from infra.settings import load_settings
from schemas.registry import Registry
from schemas.topics import TOPICS, Topic

RAW = Topic("t.raw", "subject", 7)
STATE = Topic("t.state", "node", None, "one")


def test_every_topic_of_the_table_has_a_contract_and_every_contract_a_topic(contracts_dir: Path) -> None:
    """Topics and contracts correspond one to one."""
    assert {contract.topic for contract in Registry(contracts_dir).all()} == set(TOPICS)


def test_an_empty_kafka_needs_every_topic() -> None:
    """Missing topics are created with the installation's partitions, single ones with one."""
    target = expected_shapes((RAW, STATE), 4, 3)
    topic_plan = plan(target, {})
    assert topic_plan.create == target
    assert (target["t.raw"].partitions, target["t.state"].partitions) == (4, 1)
    assert topic_plan.conflicts == ()
    assert [d.text for d in topic_plan.differences] == [
        "t.raw: missing (4 partitions, replication 3)",
        "t.state: missing (1 partitions, replication 3)",
    ]


def test_what_is_written_again_replaces_what_was_there() -> None:
    """Compacted topics are cleaned within a day, also one whose records run out; nothing else is compacted."""
    policies = {name: topic.config()["cleanup.policy"] for name, topic in TOPICS.items()}
    assert (policies["privacy.requests"], policies["identity.links"]) == ("compact,delete", "compact")
    assert (policies["events.raw"], policies["privacy.audit"]) == ("delete", "delete")
    lags = {name for name, topic in TOPICS.items() if topic.config().get("max.compaction.lag.ms") == "86400000"}
    assert lags == {name for name, policy in policies.items() if "compact" in policy}


def test_two_of_three_replicas_must_answer() -> None:
    """`acks=all` promises something only while more than one replica has to answer."""
    assert expected_shapes((RAW,), 1, 3)["t.raw"].config["min.insync.replicas"] == "2"
    assert expected_shapes((RAW,), 1, 1)["t.raw"].config["min.insync.replicas"] == "1"


def test_nothing_to_do_where_all_is_well() -> None:
    """Kafka's other settings do not count as differences."""
    target = expected_shapes((RAW,), 2, 1)
    current = {"t.raw": TopicShape(2, 1, {**target["t.raw"].config, "segment.bytes": "1"}), "foreign": TopicShape(1, 1, {})}
    nothing = plan(target, current)
    assert (nothing.create, nothing.configs, nothing.differences, nothing.conflicts) == ({}, {}, (), ())


def test_a_config_that_differs_is_set_alone() -> None:
    """Only what differs is written."""
    target = expected_shapes((RAW,), 2, 1)
    current = {"t.raw": TopicShape(2, 1, {**target["t.raw"].config, "retention.ms": "1"})}
    assert plan(target, current).configs == {"t.raw": {"retention.ms": str(7 * 86_400_000)}}


@pytest.mark.parametrize(("topic", "advice"), [(RAW, "HEADWATER_PARTITIONS=3"), (STATE, "it must have one")])
def test_another_partition_count_is_a_conflict_that_says_what_to_do(topic: Topic, advice: str) -> None:
    """Growing a topic moves keys to other partitions, so no command does it alone."""
    target = expected_shapes((topic,), 4, 1)
    current = {topic.name: TopicShape(3, 1, target[topic.name].config)}
    (conflict,) = plan(target, current).conflicts
    assert advice in conflict


def test_another_replication_is_a_conflict_that_says_what_to_do() -> None:
    """Replicas are moved by Kafka's own tool, never by us in silence."""
    target = expected_shapes((RAW,), 4, 3)
    (conflict,) = plan(target, {"t.raw": TopicShape(4, 1, target["t.raw"].config)}).conflicts
    assert "kafka-reassign-partitions.sh" in conflict


def test_a_broker_that_is_away_is_said_so() -> None:
    """The message names the address and what to do."""
    with pytest.raises(ConfigError, match="HEADWATER_KAFKA"):
        apply(load_settings(kafka="127.0.0.1:9"), (RAW,), timeout_s=0.5)


def test_apply_creates_then_does_nothing_then_repairs(kafka: str) -> None:
    """Applying twice changes nothing; a changed setting is put back; diff agrees each time."""
    settings = load_settings(kafka=kafka, partitions=2)
    topics = (Topic("topics-app.raw", "subject", 7), Topic("topics-app.state", "node", None, "one"))
    assert apply(settings, topics) == ["created topics-app.raw (2 partitions)", "created topics-app.state (1 partitions)"]
    assert apply(settings, topics) == []
    assert diff(settings, topics).differences == ()
    longer = (Topic("topics-app.raw", "subject", 8), topics[1])
    assert [d.setting for d in diff(settings, longer).differences] == ["retention.ms"]
    assert apply(settings, longer) == [f"set retention.ms={8 * 86_400_000} on topics-app.raw"]
    assert apply(settings, longer) == []


def test_apply_refuses_to_grow_and_changes_nothing_before(kafka: str) -> None:
    """A partition-count mismatch stops everything, also the creation of other topics."""
    settings = load_settings(kafka=kafka, partitions=2)
    client = admin(settings)
    for future in client.create_topics([NewTopic("topics-app.small", 1, 1)]).values():
        future.result(30)
    topics = (Topic("topics-app.small", "subject", 7), Topic("topics-app.never", "subject", 7))
    with pytest.raises(ConfigError, match=r"topics-app\.small has 1 partitions, wanted 2"):
        apply(settings, topics)
    assert "topics-app.never" not in client.list_topics(timeout=30).topics


def test_the_command_says_what_it_did(kafka: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`diff` exits 1 before `apply` and 0 after it."""
    monkeypatch.setenv("HEADWATER_KAFKA", kafka)
    monkeypatch.setenv("HEADWATER_STATE_DIR", str(tmp_path))
    table = {"topics-app.shown": Topic("topics-app.shown", "subject", 7)}
    monkeypatch.setattr("infra.ops.topics.TOPICS", table)
    run = CliRunner()
    assert run.invoke(app, ["diff"]).exit_code == 1
    changes = json.loads(run.invoke(app, ["apply", "--json"]).stdout)["done"]
    assert changes == ["created topics-app.shown (4 partitions)"]
    after = run.invoke(app, ["diff", "--json"])
    assert (after.exit_code, json.loads(after.stdout)) == (0, {"differences": [], "conflicts": []})
