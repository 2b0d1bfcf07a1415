"""`headwater dead`: list, show and replay dead letters."""

import base64
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated

import orjson
import typer

from infra.clients.kafka import settings_with_kafka
from infra.errors import ConfigError
from infra.payload_keyring import PayloadKeyring
from infra.settings import Settings, load_settings
from streams.runtime.dead_letters.replay_rules import OUTCOME_TEXTS, OutcomeCounts, ReplayOutcome, ReplayRules
from streams.runtime.dead_letters.scan import Letter, LetterFilter, LetterScan, letter_filter

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    no_args_is_help=True,
    help="List, show and replay dead letters.",
    epilog="Example: headwater dead list --stage consent",
)

LISTED = 50
"""Letters that `list` prints by default."""
KEY_DAYS = 14
"""For which payloads can be read: as long as letters stay on their topic."""
RATE = 1_000.0
"""Default limit of a replay, records a second."""


def _select(scan: LetterScan, criteria: LetterFilter) -> Iterator[Letter]:
    """Yield the matching letters; if none matches, print the existing stages and reasons to standard error."""
    others: Counter[tuple[str, str]] = Counter()
    any_match = False
    for letter in scan.letters():
        if criteria.matches(letter):
            any_match = True
            yield letter
        elif not any_match:
            others[letter["stage"], letter["reason"]] += 1
    if not any_match and others:
        existing = ", ".join(f"{of_stage} {of_reason}" for of_stage, of_reason in sorted(others))
        typer.echo(f"no dead letter matches; there are: {existing}", err=True)


Stage = Annotated[str | None, typer.Option(help="Only letters of this stage.")]
Reason = Annotated[str | None, typer.Option(help="Only letters with this reason.")]
Source = Annotated[str | None, typer.Option(help="Only letters of this source, as write keys name it.")]
Topic = Annotated[str | None, typer.Option(help="Only letters about records of this topic.")]
Since = Annotated[str | None, typer.Option(help="Only letters from then on: an ISO time, or how long ago, e.g. 2h, 3d.")]
Until = Annotated[str | None, typer.Option(help="Only letters from before then: an ISO time, or how long ago.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]


@app.command("list", epilog="Example: headwater dead list --stage consent --since 2h")
def list_letters(  # noqa: PLR0913, PLR0917 - each is an option of the command line
    stage: Stage = None,
    reason: Reason = None,
    source: Source = None,
    topic: Topic = None,
    since: Since = None,
    until: Until = None,
    limit: Annotated[int | None, typer.Option(min=1, help="The newest so many; 50 unless told otherwise, as JSON all.")] = None,
    as_json: AsJson = False,
) -> None:
    """Count the dead letters by stage and reason, and list the newest, and whether they were sent back."""
    from streams.runtime.dead_letters.replay import letter_position, read_replayed

    options = {"stage": stage, "reason": reason, "source": source, "topic": topic, "since": since, "until": until}
    criteria = letter_filter(options, _now_ms())
    settings, most = settings_with_kafka(), limit or LISTED
    replayed = read_replayed(settings)
    counts: Counter[tuple[str, str]] = Counter()
    newest: list[Letter] = []
    for letter in _select(LetterScan(settings, criteria.since), criteria):
        letter["replayed"] = letter_position(letter) in replayed
        counts[letter["stage"], letter["reason"]] += 1
        if as_json and limit is None:
            _print_json(letter)
            continue
        newest.append(letter)
        if len(newest) > 10 * most:
            newest = sorted(newest, key=_newest_first)[:most]
    newest = sorted(newest, key=_newest_first)[:most]
    if as_json:
        for letter in newest:
            _print_json(letter)
        return
    _print_table(newest, counts)


def _print_table(newest: list[Letter], counts: Counter[tuple[str, str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    columns = ("place", "stage", "reason", "source", "when (UTC)", "detail", "replayed")
    table = Table(*columns, title=f"{counts.total():,} dead letters")
    for letter in newest:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(letter["dead_ts"] / 1000))
        replayed = "yes" if letter["replayed"] else ""
        table.add_row(
            _format_position(letter), letter["stage"], letter["reason"], letter["source"], when, letter["detail"], replayed
        )
    console.print(table)
    for (of_stage, of_reason), n in counts.most_common():
        console.print(f"{n:>10,}  {of_stage}  {of_reason}", highlight=False)


def _now_ms() -> int:
    return int(time.time() * 1000)


def _print_json(letter: Letter) -> None:
    typer.echo(orjson.dumps({k: v for k, v in letter.items() if k != "payload"}).decode())


def _newest_first(letter: Letter) -> int:
    return -int(letter["dead_ts"])


def _format_position(letter: Letter) -> str:
    return f"{letter['dead_partition']}:{letter['dead_offset']}"


@app.command(epilog="Example: headwater dead show 2:17")
def show(
    place: Annotated[str, typer.Argument(help="partition:offset on events.dead, as `list` prints it.")],
    as_json: AsJson = False,
) -> None:
    """Show one dead letter with its bytes, decrypted with the key at hand. It may hold personal data: mind where it goes."""
    from infra.payload_keyring import KeyDestroyed
    from streams.runtime.dead_letters.dead_letter import open_letter

    settings = settings_with_kafka()
    letter = next((letter for letter in LetterScan(settings).letters() if _format_position(letter) == place), None)
    if letter is None:
        raise ConfigError(f"no dead letter at {place}: places are partition:offset, as `headwater dead list` prints them")
    try:
        key, value = open_letter(letter, PayloadKeyring(settings.keyring_dir, settings.master))
    except KeyDestroyed as error:
        raise ConfigError(str(error)) from error
    shown = {k: v for k, v in letter.items() if k != "payload"}
    if as_json:
        shown |= {"key_base64": None if key is None else base64.b64encode(key).decode()}
        typer.echo(orjson.dumps({**shown, "value_base64": base64.b64encode(value).decode()}).decode())
        return
    for name, content in shown.items():
        typer.echo(f"{name:>18}: {content}")
    typer.echo(f"{'key':>18}: {key!r}\n{'value':>18}: {value!r}")


@app.command(epilog="Example: headwater dead replay --stage consent --since 2h --send")
def replay(  # noqa: PLR0913, PLR0917 - each is an option of the command line
    stage: Stage = None,
    reason: Reason = None,
    source: Source = None,
    topic: Topic = None,
    since: Since = None,
    until: Until = None,
    send: Annotated[bool, typer.Option("--send", help="Really send; without it, only say what would be sent.")] = False,
    again: Annotated[bool, typer.Option("--again", help="Send also what was sent before.")] = False,
    rate: Annotated[float, typer.Option(min=0, help="Records a second at the most; 0 = as fast as possible.")] = RATE,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Send dead letters back to their topic once what refused them is mended. Those from a door cannot be sent again.

    No letter is sent twice, whenever the command was stopped and however often it is run, unless --again says so. Each run
    takes all that there were when it began: what it sends and is refused once more is a letter for the next one.
    """
    options = {"stage": stage, "reason": reason, "source": source, "topic": topic, "since": since, "until": until}
    criteria = letter_filter(options, _now_ms())
    settings = settings_with_kafka()
    counts = (
        _send(settings, criteria, rate, as_json=as_json, again=again)
        if send
        else _count_replayable(settings, criteria, as_json, again)
    )
    if as_json:
        rows = [
            {"outcome": outcome.value, "topic": record_topic, "letters": n}
            for (outcome, record_topic), n in counts.most_common()
        ]
        typer.echo(orjson.dumps({"outcomes": rows}).decode())
        return
    for (outcome, record_topic), n in counts.most_common():
        typer.echo(f"{n:>10,}  {OUTCOME_TEXTS[outcome].format(topic=record_topic)}")
    if not counts:
        typer.echo("no dead letters match")


def _count_replayable(settings: Settings, criteria: LetterFilter, as_json: bool, again: bool) -> OutcomeCounts:
    """Count the letters by what a replay would do with them."""
    from streams.runtime.dead_letters.replay import read_replayed

    scan, counts = LetterScan(settings, criteria.since), OutcomeCounts()
    rules = ReplayRules(settings, read_replayed(settings), again=again)
    with _progress("reading", scan, as_json) as advance:
        for letter in _select(scan, criteria):
            counts[rules.decide(letter).outcome, letter["source_topic"]] += 1
            advance()
    return counts


def _send(settings: Settings, criteria: LetterFilter, rate: float, *, as_json: bool, again: bool) -> OutcomeCounts:
    """Send the letters and count them by outcome."""
    from streams.runtime.dead_letters.replay import Replay, letter_position

    with Replay(settings, rate) as run:
        scan, counts = LetterScan(settings, criteria.since), OutcomeCounts()
        rules = ReplayRules(settings, run.replayed, again=again)
        with _progress("sending", scan, as_json) as advance:
            for letter in _select(scan, criteria):
                (outcome, key, value), topic = rules.decide(letter), letter["source_topic"]
                if outcome is ReplayOutcome.WOULD_SEND:
                    run.send(letter_position(letter), topic, key, value)
                    outcome = ReplayOutcome.SENT
                run.commit_due()
                counts[outcome, topic] += 1
                advance()
    return counts


@app.command("destroy-keys", epilog="Example: headwater dead destroy-keys --days 14")
def destroy_keys(
    days: Annotated[int, typer.Option(min=1, help="Keys of older days are destroyed.")] = KEY_DAYS,
    as_json: AsJson = False,
) -> None:
    """Destroy the keys of old days, so that nobody can read their payloads again. `headwater upkeep` does so daily.

    While the collector's spool holds records nothing is destroyed: the spool is encrypted with the same keys.
    """
    settings = load_settings()
    spool = settings.state_dir / "spool"
    if any(spool.glob("*.spool")):
        raise ConfigError(f"{spool} holds events that Kafka has not taken yet: keys are destroyed once it is empty")
    destroyed = PayloadKeyring(settings.keyring_dir, settings.master).destroy_before(time.time(), days)
    if as_json:
        typer.echo(orjson.dumps({"destroyed": destroyed}))
    else:
        typer.echo(f"destroyed the keys of {len(destroyed)} days" + (f", up to {destroyed[-1]}" if destroyed else ""))


@contextmanager
def _progress(text: str, scan: LetterScan, quiet: bool) -> Iterator[Callable[[], None]]:
    """Show the progress of the scan on a terminal's standard error; the yielded function counts one matching letter."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[letters]:,} letters, {task.fields[rate]:,.0f}/s"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    console, began, letters = Console(stderr=True), time.monotonic(), 0
    with Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal) as bar:
        task = bar.add_task(text, total=scan.total, letters=0, rate=0.0)

        def advance() -> None:
            nonlocal letters
            letters += 1
            seconds = max(time.monotonic() - began, 1e-3)
            bar.update(task, completed=scan.scanned, letters=letters, rate=letters / seconds)

        yield advance
