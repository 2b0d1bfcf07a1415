"""`headwater dead`: list, show and replay dead letters."""

import base64
import time
from collections import Counter
from collections.abc import Iterator
from typing import Annotated, Any

import confluent_kafka as ck
import orjson
import typer

from infra.errors import ConfigError
from infra.kafka import settings_with_kafka
from infra.settings import Settings

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    no_args_is_help=True,
    help="List, show and replay dead letters.",
    epilog="Example: headwater dead list --stage consent",
)

Letter = dict[str, Any]
LISTED = 50


def letters(settings: Settings) -> Iterator[Letter]:
    """Every dead letter that is on the topic now, with its own place (`dead_partition`, `dead_offset`)."""
    from schemas.codec import decode
    from schemas.registry import Registry
    from streams.runtime.follow import read_messages, topic_partitions

    registry = Registry(settings.contracts)
    for partition in topic_partitions(settings, "events.dead"):
        for messages in read_messages(settings, "events.dead", partition):
            for message in messages:
                _, record = decode(registry, message.value() or b"")
                yield {**record, "dead_partition": partition, "dead_offset": message.offset()}


def _chosen(settings: Settings, stage: str | None, reason: str | None) -> Iterator[Letter]:
    """Those of a stage and a reason; where there is none, say which there are (standard error)."""
    others: Counter[tuple[str, str]] = Counter()
    found = False
    for letter in letters(settings):
        if (stage is None or letter["stage"] == stage) and (reason is None or letter["reason"] == reason):
            found = True
            yield letter
        elif not found:
            others[letter["stage"], letter["reason"]] += 1
    if not found and others:
        there = ", ".join(f"{of_stage} {of_reason}" for of_stage, of_reason in sorted(others))
        typer.echo(f"no dead letter is of this stage and reason; there are: {there}", err=True)


Stage = Annotated[str | None, typer.Option(help="Only letters of this stage.")]
Reason = Annotated[str | None, typer.Option(help="Only letters with this reason.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]


@app.command("list", epilog="Example: headwater dead list --stage consent")
def list_letters(
    stage: Stage = None,
    reason: Reason = None,
    limit: Annotated[int | None, typer.Option(min=1, help="The newest so many; 50 unless told otherwise, as JSON all.")] = None,
    as_json: AsJson = False,
) -> None:
    """Count the dead letters by stage and reason, and list the newest."""
    from rich.console import Console
    from rich.table import Table

    settings, most = settings_with_kafka(), limit or LISTED
    counts: Counter[tuple[str, str]] = Counter()
    newest: list[Letter] = []
    for letter in _chosen(settings, stage, reason):
        counts[letter["stage"], letter["reason"]] += 1
        if as_json and limit is None:
            _echo(letter)
            continue
        newest.append(letter)
        if len(newest) > 10 * most:
            newest = sorted(newest, key=_age)[:most]
    newest = sorted(newest, key=_age)[:most]
    if as_json:
        for letter in newest:
            _echo(letter)
        return
    console = Console()
    table = Table("place", "stage", "reason", "source", "when (UTC)", "detail", title=f"{counts.total():,} dead letters")
    for letter in newest:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(letter["dead_ts"] / 1000))
        table.add_row(_place(letter), letter["stage"], letter["reason"], letter["source"], when, letter["detail"])
    console.print(table)
    for (of_stage, of_reason), n in counts.most_common():
        console.print(f"{n:>10,}  {of_stage}  {of_reason}", highlight=False)


def _echo(letter: Letter) -> None:
    typer.echo(orjson.dumps({k: v for k, v in letter.items() if k != "payload"}).decode())


def _age(letter: Letter) -> int:
    return -int(letter["dead_ts"])


def _place(letter: Letter) -> str:
    return f"{letter['dead_partition']}:{letter['dead_offset']}"


@app.command(epilog="Example: headwater dead show 2:17")
def show(
    place: Annotated[str, typer.Argument(help="partition:offset on events.dead, as `list` prints it.")],
    as_json: AsJson = False,
) -> None:
    """Show one dead letter with its bytes, decrypted with the key at hand. It may hold personal data: mind where it goes."""
    from infra.keyring import KeyGone, KeyRing
    from streams.runtime.deadletter import open_letter

    settings = settings_with_kafka()
    letter = next((letter for letter in letters(settings) if _place(letter) == place), None)
    if letter is None:
        raise ConfigError(f"no dead letter at {place}: places are partition:offset, as `headwater dead list` prints them")
    try:
        key, value = open_letter(letter, KeyRing(settings.keyring_dir, settings.master))
    except KeyGone as error:
        raise ConfigError(str(error)) from error
    shown = {k: v for k, v in letter.items() if k != "payload"}
    if as_json:
        shown |= {"key_base64": None if key is None else base64.b64encode(key).decode()}
        typer.echo(orjson.dumps({**shown, "value_base64": base64.b64encode(value).decode()}).decode())
        return
    for name, content in shown.items():
        typer.echo(f"{name:>18}: {content}")
    typer.echo(f"{'key':>18}: {key!r}\n{'value':>18}: {value!r}")


@app.command(epilog="Example: headwater dead replay --stage consent --reason UNDECODABLE --send")
def replay(
    stage: Stage = None,
    reason: Reason = None,
    send: Annotated[bool, typer.Option("--send", help="Really send; without it, only say what would be sent.")] = False,
    rate: Annotated[float, typer.Option(help="Records a second at the most.")] = 1_000,
) -> None:
    """Send dead letters back to their topic once what refused them is mended. Those from a door cannot be sent again.

    Each run sends all that there were when it began: what it sends and is refused once more is a letter for the next one.
    """
    from infra.kafka import producer
    from infra.keyring import KeyGone, KeyRing
    from streams.runtime.deadletter import open_letter

    settings = settings_with_kafka()
    keyring = KeyRing(settings.keyring_dir, settings.master)
    out = producer(settings) if send else None
    counts: Counter[str] = Counter()
    began = int(time.time() * 1_000)
    for letter in _chosen(settings, stage, reason):
        if letter["dead_ts"] >= began:
            continue
        topic = letter["source_topic"]
        if not topic:
            counts["from a door: cannot be sent again"] += 1
            continue
        try:
            key, value = open_letter(letter, keyring)
        except KeyGone:
            counts["key destroyed with its retention"] += 1
            continue
        if out is not None:
            _send(out, topic, key, value)
            time.sleep(1 / rate)
        counts[f"{'sent' if send else 'would be sent'} to {topic}"] += 1
    if out is not None and out.flush(60):
        raise ConfigError("Kafka did not take all of them within 60 s: run it again, duplicates die in identity")
    for what, n in counts.most_common():
        typer.echo(f"{n:>10,}  {what}")
    if not counts:
        typer.echo("no dead letters match")


def _send(out: ck.Producer, topic: str, key: bytes | None, value: bytes) -> None:
    while True:
        try:
            out.produce(topic, value, key)
            out.poll(0)
            return
        except BufferError:
            out.poll(0.1)
