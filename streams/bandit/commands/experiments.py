"""`headwater experiments`: publish, stop, list and show experiments."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import confluent_kafka as ck
import typer

from infra.clients.kafka import settings_with_kafka
from infra.errors import ConfigError, Retryable
from infra.settings import Settings
from schemas.codec import decode, encode
from schemas.registry import Registry
from streams.bandit.catalogue import Catalogue
from streams.bandit.experiment import Experiment, Mode, parse
from streams.bandit.snapshots.kernel import InvalidDistribution
from streams.bandit.snapshots.snapshot import Snapshot, from_record
from streams.bandit.statistics import MergedStats, StatsRecord

EXAMPLE = Path(__file__).with_name("example.json")
TOPIC = "bandit.experiments"
WAIT_S = 15.0
"""Seconds to wait for Kafka."""
READERS = 8
"""Partitions that are read concurrently."""

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    no_args_is_help=True,
    help="Publish and list experiments.",
    epilog="Example: headwater experiments list",
)


def publish_experiment(settings: Settings, experiment: Experiment) -> Experiment:
    """Publish a version and wait for Kafka's acknowledgement. ConfigError where `check_epoch` or Kafka refuses it."""
    current = load_experiments(settings).get(experiment.key)
    if current is not None:
        check_epoch(current, experiment)
    _produce(settings, experiment)
    return experiment


def check_epoch(current: Experiment, new: Experiment) -> None:
    """Raise ConfigError where `new` changes the meaning of existing statistics without a new epoch."""
    if new.epoch < current.epoch:
        raise ConfigError(f"{new.key}: epoch {new.epoch} is over, the current one is {current.epoch}")
    same = (
        new.arm_ids == current.arm_ids
        and new.reward == current.reward
        and new.exposure == current.exposure
        and new.salt == current.salt
        and new.control == current.control
    )
    if new.epoch == current.epoch and not same:
        raise ConfigError(
            f"{new.key}: arms, reward, exposure, salt or control differ from the running version, so old statistics would lie "
            f"about it: set epoch to {current.epoch + 1}"
        )


def load_experiments(settings: Settings) -> Catalogue:
    """Read the current experiments. ConfigError where Kafka does not answer."""
    catalogue = Catalogue(Registry(settings.contracts))
    for records in _read_partition(settings, TOPIC, 0):
        catalogue.apply(records)
    return catalogue


def load_snapshot(settings: Settings, key: str) -> Snapshot | None:
    """Read the newest published snapshot of an experiment; None where there is none."""
    registry, snapshot = Registry(settings.contracts), None
    for records in _read_partition(settings, "bandit.snapshots", 0):
        for name, value in records:
            if name == key.encode() and value is not None:
                try:
                    snapshot = from_record(decode(registry, value)[1])
                except InvalidDistribution:
                    continue
    return snapshot


def load_statistics(settings: Settings) -> MergedStats:
    """Read and merge the statistics of all experiments."""
    registry, merged = Registry(settings.contracts), MergedStats()
    with ThreadPoolExecutor(READERS) as pool:
        partitions = pool.map(lambda number: _read_partition(settings, "bandit.stats", number), range(settings.partitions))
        for _, value in chain.from_iterable(chain.from_iterable(partitions)):
            if value is not None:
                merged.add(StatsRecord.of(decode(registry, value)[1]))
    return merged


def _read_partition(settings: Settings, topic: str, partition: int) -> list[list[tuple[bytes | None, bytes | None]]]:
    from streams.runtime.follow import read_partition

    deadline = time.monotonic() + WAIT_S
    while True:
        try:
            return list(read_partition(settings, topic, partition))
        except (Retryable, ck.KafkaException) as error:
            # A topic that was just created, or a broker that just started, has no leader for a moment.
            if time.monotonic() > deadline:
                raise ConfigError(
                    f"Kafka at {settings.kafka}: {error}. Is it running (`headwater up`), "
                    "and are the topics there (`headwater topics apply`)?"
                ) from None
        time.sleep(0.3)


def _produce(settings: Settings, experiment: Experiment) -> None:
    from infra.clients.kafka import producer

    record = {"experiment": experiment.key, "config_version": experiment.version, "config": experiment.text()}
    value = encode(Registry(settings.contracts).latest(TOPIC), record)
    failed: list[str] = []
    client = producer(settings, message_timeout_ms=int(WAIT_S * 1_000))
    client.produce(
        TOPIC, value, experiment.key.encode(), on_delivery=lambda error, _: failed.append(error.str()) if error else None
    )
    if client.flush(WAIT_S + 1) or failed:
        raise ConfigError(f"Kafka at {settings.kafka} did not take the experiment: {', '.join(failed) or 'no answer'}")


AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
KeyArgument = Annotated[str, typer.Argument(help="Key of the experiment.")]


@app.command("put", epilog="Example: headwater experiments put streams/bandit/commands/example.json")
def put(
    file: Annotated[Path, typer.Argument(help="Experiment as JSON; `example` for the packaged one.")], as_json: AsJson = False
) -> None:
    """Validate an experiment and publish it; decisions and learning follow within seconds."""
    path = EXAMPLE if str(file) == "example" else file
    try:
        text = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}") from None
    experiment = parse(text, str(file))
    _print_summary(publish_experiment(settings_with_kafka(), experiment), as_json)


@app.command("mode", epilog="Example: headwater experiments mode hero-banner control")
def mode(
    key: KeyArgument, to: Annotated[str, typer.Argument(help="run, freeze, control or off.")], as_json: AsJson = False
) -> None:
    """The kill switch: `control` and `off` take effect within 2 seconds, `freeze` stops the model from moving."""
    settings = settings_with_kafka()
    experiment = _load_experiment(settings, key)
    allowed: tuple[Mode, ...] = ("run", "freeze", "control", "off")
    if to not in allowed:
        raise ConfigError(f"mode must be one of {', '.join(allowed)}")
    _print_summary(publish_experiment(settings, experiment.model_copy(update={"mode": to})), as_json)


@app.command("list", epilog="Example: headwater experiments list")
def list_command(as_json: AsJson = False) -> None:
    """Print all experiments."""
    summaries = [_summary(experiment) for experiment in load_experiments(settings_with_kafka())]
    if as_json:
        typer.echo(json.dumps(summaries))
        return
    for summary in summaries:
        arms = ", ".join(summary["arms"])
        typer.echo(f"{summary['key']}  epoch {summary['epoch']}  {summary['mode']}  arms {arms}  version {summary['version']}")
    if not summaries:
        typer.echo("no experiments; publish one with `headwater experiments put example`")


@app.command("show", epilog="Example: headwater experiments show hero-banner --json")
def show(key: KeyArgument, as_json: AsJson = False) -> None:
    """Print an experiment, its published probabilities, and what was counted per group and arm."""
    settings = settings_with_kafka()
    experiment, snapshot, merged = _load_experiment(settings, key), load_snapshot(settings, key), load_statistics(settings)
    counted = {
        group: {arm: sums._asdict() for arm, sums in sorted(merged.totals(key, experiment.epoch, group).items())}
        for group in ("bandit", "control")
    }
    published = None if snapshot is None else {"version": snapshot.version, "probabilities": snapshot.weights()}
    if as_json:
        typer.echo(json.dumps({"experiment": json.loads(experiment.text()), "snapshot": published, "statistics": counted}))
        return
    _print_summary(experiment, as_json=False)
    typer.echo(f"snapshot {snapshot.version if snapshot else '- (none published yet)'}")
    for arm in experiment.arm_ids:
        chance = f"{snapshot.weights().get(arm, 0):.3f}" if snapshot else "-"
        per_group = "  ".join(_format_counts(group, arms[arm]) for group, arms in counted.items() if arm in arms)
        typer.echo(f"  {arm:<16} {chance}  {per_group}")


def _format_counts(group: str, sums: dict[str, Any]) -> str:
    return f"{group}: {sums['conversions']:.0f} of {sums['exposures']:.0f}"


def _load_experiment(settings: Settings, key: str) -> Experiment:
    experiment = load_experiments(settings).get(key)
    if experiment is None:
        raise ConfigError(f"no experiment {key}; `headwater experiments list` shows what there is")
    return experiment


def _summary(experiment: Experiment) -> dict[str, Any]:
    return {
        "key": experiment.key,
        "epoch": experiment.epoch,
        "mode": experiment.mode,
        "arms": list(experiment.arm_ids),
        "version": experiment.version,
    }


def _print_summary(experiment: Experiment, as_json: bool) -> None:
    summary = _summary(experiment)
    typer.echo(json.dumps(summary) if as_json else "  ".join(f"{name} {value}" for name, value in summary.items()))
