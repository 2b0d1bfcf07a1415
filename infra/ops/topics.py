"""`headwater topics`: applies the table of topics to Kafka, and reports differences."""

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource, NewTopic

from infra.clients.kafka import admin
from infra.errors import ConfigError
from infra.settings import Settings, load_settings
from schemas.topics import TOPICS, Topic

TIMEOUT_S = 30.0
CONNECT_S = 10.0

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Create and check Kafka topics.",
    epilog="Example: headwater topics apply",
    rich_markup_mode=None,
)


@dataclass(frozen=True)
class TopicShape:
    """Partitions, replicas and configuration of a topic."""

    partitions: int
    replication: int
    config: Mapping[str, str]
    single: bool = False
    """One partition by design, independent of the installation's `partitions`."""


@dataclass(frozen=True)
class TopicDifference:
    """One property of one topic that differs from the table. `actual` is None where the topic is missing."""

    topic: str
    setting: str
    expected: str
    actual: str | None

    @property
    def text(self) -> str:
        """The difference in one line."""
        if self.actual is None:
            return f"{self.topic}: missing ({self.expected})"
        return f"{self.topic}: {self.setting} is {self.actual}, should be {self.expected}"

    def to_json(self) -> dict[str, str | None]:
        """The keys that `headwater topics diff --json` prints."""
        return {"topic": self.topic, "what": self.setting, "wanted": self.expected, "found": self.actual}


@dataclass(frozen=True)
class TopicPlan:
    """Topics to create, configurations to set, and conflicts that no command resolves by itself."""

    create: Mapping[str, TopicShape]
    configs: Mapping[str, Mapping[str, str]]
    differences: tuple[TopicDifference, ...]
    conflicts: tuple[str, ...]


def expected_shapes(topics: Iterable[Topic], partitions: int, replication: int) -> dict[str, TopicShape]:
    """Return topic -> expected shape in an installation with this many partitions and replicas."""
    # acks=all guarantees durability only while more than one replica must acknowledge; one may be in maintenance.
    config = {"min.insync.replicas": str(max(1, replication - 1))}
    return {
        topic.name: TopicShape(
            1 if topic.spread == "one" else partitions, replication, topic.config() | config, topic.spread == "one"
        )
        for topic in topics
    }


def plan(target: Mapping[str, TopicShape], current: Mapping[str, TopicShape]) -> TopicPlan:
    """Compare expected and current shapes. Topics that are not in the table are ignored."""
    create = {name: shape for name, shape in target.items() if name not in current}
    configs: dict[str, dict[str, str]] = {}
    differences = [
        TopicDifference(name, "topic", f"{shape.partitions} partitions, replication {shape.replication}", None)
        for name, shape in create.items()
    ]
    conflicts: list[str] = []
    for name, shape in target.items():
        if name not in current:
            continue
        actual = current[name]
        if actual.partitions != shape.partitions:
            differences.append(TopicDifference(name, "partitions", str(shape.partitions), str(actual.partitions)))
            conflicts.append(_partition_conflict(name, shape, actual.partitions))
        if actual.replication != shape.replication:
            differences.append(TopicDifference(name, "replication", str(shape.replication), str(actual.replication)))
            conflicts.append(
                f"{name} has replication {actual.replication}, wanted {shape.replication}: set HEADWATER_REPLICATION to what "
                "it has, or move its replicas with kafka-reassign-partitions.sh first"
            )
        for key, value in shape.config.items():
            if actual.config.get(key) != value:
                differences.append(TopicDifference(name, key, value, actual.config.get(key, "not set")))
                configs.setdefault(name, {})[key] = value
    return TopicPlan(create, configs, tuple(differences), tuple(conflicts))


def _partition_conflict(name: str, target: TopicShape, partitions: int) -> str:
    text = f"{name} has {partitions} partitions, wanted {target.partitions}: "
    if target.single:
        return text + "it must have one; delete it with kafka-topics.sh once its readers have stopped, then apply again"
    # Another count moves keys to other partitions: order per key breaks, and restored state is on the wrong partition.
    return (
        text + f"set HEADWATER_PARTITIONS={partitions} to keep it, or, to grow, drain the stages, stop the house, "
        "add partitions to all event topics alike with kafka-topics.sh --alter, and start again"
    )


def observe(client: Any, names: Iterable[str], timeout_s: float = TIMEOUT_S) -> dict[str, TopicShape]:
    """Return the shapes of the topics that exist."""
    listed = client.list_topics(timeout=min(timeout_s, CONNECT_S)).topics
    existing = [name for name in names if name in listed and listed[name].error is None]
    if not existing:
        return {}
    resources = [ConfigResource(ConfigResource.Type.TOPIC, name) for name in existing]
    configs = {
        resource.name: {key: entry.value for key, entry in future.result(timeout_s).items()}
        for resource, future in client.describe_configs(resources, request_timeout=timeout_s).items()
    }
    return {
        name: TopicShape(
            partitions=len(listed[name].partitions),
            replication=min(len(partition.replicas) for partition in listed[name].partitions.values()),
            config=configs[name],
        )
        for name in existing
    }


def diff(settings: Settings, topics: Iterable[Topic] | None = None) -> TopicPlan:
    """Return the differences between the table and Kafka. ConfigError where Kafka does not answer."""
    target = expected_shapes(TOPICS.values() if topics is None else topics, settings.partitions, settings.replication)
    try:
        return plan(target, observe(admin(settings), target))
    except KafkaException as error:
        raise _unreachable(settings, error) from None


def apply(settings: Settings, topics: Iterable[Topic] | None = None, timeout_s: float = TIMEOUT_S) -> list[str]:
    """Create missing topics, set configs that differ, wait for leaders. Return the changes; none on a second call.

    ConfigError, before anything is changed, where a topic has another number of partitions or replicas than it should.
    """
    target = expected_shapes(TOPICS.values() if topics is None else topics, settings.partitions, settings.replication)
    client = admin(settings)
    try:
        todo = plan(target, observe(client, target, timeout_s))
        if todo.conflicts:
            raise ConfigError("; ".join(todo.conflicts))
        _create(client, todo.create, timeout_s)
        _configure(client, todo.configs, timeout_s)
        _wait_for_leaders(client, target, timeout_s)
    except KafkaException as error:
        raise _unreachable(settings, error) from None
    changes = [f"created {name} ({shape.partitions} partitions)" for name, shape in todo.create.items()]
    return changes + [f"set {key}={value} on {name}" for name, config in todo.configs.items() for key, value in config.items()]


def _unreachable(settings: Settings, error: KafkaException) -> ConfigError:
    reason = error.args[0]
    return ConfigError(
        f"Kafka at {settings.kafka}: {reason.str() if isinstance(reason, KafkaError) else reason}. "
        "Is it running (`headwater up` starts one), and is HEADWATER_KAFKA right?"
    )


def _create(client: Any, create: Mapping[str, TopicShape], timeout_s: float) -> None:
    if not create:
        return
    new = [NewTopic(name, shape.partitions, shape.replication, config=dict(shape.config)) for name, shape in create.items()]
    for future in client.create_topics(new, operation_timeout=timeout_s, request_timeout=timeout_s).values():
        try:
            future.result(timeout_s)
        except KafkaException as error:
            # Another process applies the same table at the same time.
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise


def _configure(client: Any, configs: Mapping[str, Mapping[str, str]], timeout_s: float) -> None:
    if not configs:
        return
    resources = [
        ConfigResource(
            ConfigResource.Type.TOPIC,
            name,
            incremental_configs=[ConfigEntry(k, v, incremental_operation=AlterConfigOpType.SET) for k, v in config.items()],
        )
        for name, config in configs.items()
    ]
    for future in client.incremental_alter_configs(resources, request_timeout=timeout_s).values():
        future.result(timeout_s)


def _wait_for_leaders(client: Any, target: Mapping[str, TopicShape], timeout_s: float) -> None:
    """Wait until each partition has a leader: until then a new topic answers with errors."""
    deadline = time.monotonic() + timeout_s
    while True:
        listed = client.list_topics(timeout=timeout_s).topics
        waiting = [name for name, shape in target.items() if not _has_leaders(listed.get(name), shape)]
        if not waiting:
            return
        if time.monotonic() > deadline:
            raise ConfigError(f"no leader after {timeout_s:.0f} s for {', '.join(waiting)}: are enough brokers up?")
        time.sleep(0.05)


def _has_leaders(topic: Any, shape: TopicShape) -> bool:
    if topic is None or topic.error is not None or len(topic.partitions) != shape.partitions:
        return False
    return all(partition.leader >= 0 for partition in topic.partitions.values())


AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("apply", epilog="Example: headwater topics apply")
def apply_command(as_json: AsJson = False) -> None:
    """Create missing topics and set their configs; refuses where a topic has another number of partitions."""
    changes = apply(load_settings())
    if as_json:
        typer.echo(json.dumps({"done": changes}))
        return
    for line in changes or [f"all {len(TOPICS)} topics are as they should be"]:
        typer.echo(line)


@app.command("diff", epilog="Example: headwater topics diff --json")
def diff_command(as_json: AsJson = False) -> None:
    """Tell where Kafka differs from the table; exits 1 if it does."""
    topic_plan = diff(load_settings())
    if as_json:
        differences = [difference.to_json() for difference in topic_plan.differences]
        typer.echo(json.dumps({"differences": differences, "conflicts": topic_plan.conflicts}))
    else:
        for difference in topic_plan.differences:
            typer.echo(difference.text)
        for conflict in topic_plan.conflicts:
            typer.echo(f"! {conflict}")
        if not topic_plan.differences:
            typer.echo(f"all {len(TOPICS)} topics are as they should be")
    if topic_plan.differences:
        raise typer.Exit(1)
