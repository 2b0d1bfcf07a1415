"""`headwater dead` on a real topic: which letters are listed, shown and sent again."""

import json
import time
from collections.abc import Callable

import pytest
from typer.testing import CliRunner, Result

from infra.clients.kafka import producer
from infra.ops.topics import apply
from infra.payload_keyring import PayloadKeyring
from infra.settings import Settings
from infra.telemetry.metrics import Metrics
from schemas.registry import Registry
from streams.runtime.dead_letters.app import app
from streams.runtime.dead_letters.dead_letter import DeadLetterCause, DeadLetters, RecordPosition
from streams.runtime.follow import read_messages, topic_partitions

SECRET = "for tests only, forty characters long..."
RAW = "events.raw"
DAY_S = 86_400

Run = Callable[..., Result]


@pytest.fixture(scope="module")
def settings(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A broker with two letters of the consent stage, one of a door, and one of ten days ago, whose key is destroyed."""
    installation = Settings(kafka=kafka, state_dir=tmp_path_factory.mktemp("dead"), secret=SECRET, partitions=2)
    apply(installation)
    registry, keyring, now = (
        Registry(installation.contracts),
        PayloadKeyring(installation.keyring_dir, installation.master),
        time.time() - 60,
    )
    consent, door = (DeadLetters(registry, keyring, name, Metrics()) for name in ("consent", "collector"))
    letters = [
        consent.build(DeadLetterCause("UNDECODABLE", "no frame", RecordPosition(RAW, 0, 7)), b"key", b"first", now),
        consent.build(
            DeadLetterCause("UNDECODABLE", "no frame", RecordPosition(RAW, 1, 9), "web-de"), None, b"second", now + 1
        ),
        consent.build(DeadLetterCause("TOO_LONG", "much too long", RecordPosition(RAW, 1, 3)), None, b"old", now - 10 * DAY_S),
        door.build(DeadLetterCause("NO_NAME", "event_name is missing", RecordPosition.at_door()), None, b"{}", now),
    ]
    keyring.destroy_before(now, 5)
    client = producer(installation)
    for key, value, _ in letters:
        client.produce("events.dead", value, key)
    assert client.flush(10) == 0
    return installation


@pytest.fixture
def run(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs `headwater dead` on this broker."""
    for name in ("kafka", "state_dir"):
        monkeypatch.setenv(f"HEADWATER_{name.upper()}", str(getattr(settings, name)))
    monkeypatch.setenv("HEADWATER_SECRET", SECRET)
    return lambda *words: CliRunner().invoke(app, words)


def raw(settings: Settings) -> list[tuple[bytes | None, bytes | None]]:
    """Return (key, value) of the records of events.raw."""
    partitions = topic_partitions(settings, RAW)
    return [
        (message.key(), message.value()) for at in partitions for some in read_messages(settings, RAW, at) for message in some
    ]


def test_letters_are_counted_listed_and_chosen(run: Run) -> None:
    """The newest letters come first, up to a limit; JSON omits the payload."""
    output = run("list").output
    assert "4 dead letters" in output
    assert "2  consent  UNDECODABLE" in output
    letters = [json.loads(line) for line in run("list", "--json", "--limit", "2", "--stage", "consent").output.splitlines()]
    assert [letter["source_offset"] for letter in letters] == [9, 7]
    assert all("payload" not in letter for letter in letters)


def test_without_a_match_the_existing_letters_are_named(run: Run) -> None:
    """When no letter matches, the existing stages and reasons are printed."""
    result = run("list", "--stage", "consnet")
    assert "0 dead letters" in result.output
    assert "there are: collector NO_NAME, consent TOO_LONG, consent UNDECODABLE" in result.stderr
    assert "there are" not in run("list", "--stage", "consent").stderr


def test_one_is_shown_with_its_bytes(run: Run) -> None:
    """A letter is decrypted where its key exists; an unknown position is an error."""
    letters = [json.loads(line) for line in run("list", "--json").output.splitlines()]
    places = {letter["source_offset"]: f"{letter['dead_partition']}:{letter['dead_offset']}" for letter in letters}
    assert "b'first'" in run("show", places[7]).output
    assert "key" in str(run("show", places[3]).exception)
    assert "no dead letter at 0:99" in str(run("show", "0:99").exception)


def test_replay_sends_what_can_be_sent_once(run: Run, settings: Settings) -> None:
    """Keys and values are unchanged; letters from a door, or without a key, are counted and stay."""
    assert "2  would be sent to events.raw" in run("replay").output
    assert raw(settings) == []
    output = run("replay", "--send").output
    assert all(line in output for line in ("2  sent to events.raw", "1  from a door", "1  key destroyed"))
    once = [(None, b"second"), (b"key", b"first")]
    assert sorted(raw(settings), key=str) == once
    assert "2  sent before" in run("replay").output
    again = run("replay", "--send", "--rate", "0").output
    assert "2  sent before" in again
    assert "sent to" not in again
    assert sorted(raw(settings), key=str) == once
    assert "2  would be sent to events.raw" in run("replay", "--again").output
    assert "2  sent to events.raw" in run("replay", "--send", "--again").output
    assert sorted(raw(settings), key=str) == sorted(once * 2, key=str)
    result = run("replay", "--stage", "identity", "--send")
    assert "no dead letters match" in result.output
    assert "there are: " in result.stderr


def test_the_list_marks_replayed_letters(run: Run) -> None:
    """A letter stays on its topic and is marked as replayed."""
    run("replay", "--send")
    letters = [json.loads(line) for line in run("list", "--json").output.splitlines()]
    assert {letter["source_offset"]: letter["replayed"] for letter in letters if letter["source_topic"]} == {
        7: True,
        9: True,
        3: False,
    }
    assert "replayed" in run("list").output


@pytest.mark.parametrize(
    ("words", "offsets"),
    [
        (("--since", "2h"), {7, 9}),
        (("--until", "2h"), {3}),
        (("--since", "20d", "--until", "9d"), {3}),
        (("--since", "20d", "--topic", RAW, "--reason", "TOO_LONG"), {3}),
        (("--topic", RAW), {3, 7, 9}),
        (("--source", "web-de"), {9}),
        (("--topic", "events.consented"), set()),
        (("--since", "2020-01-01", "--until", "2020-02-01T00:00Z"), set()),
    ],
)
def test_letters_are_chosen_by_time_topic_and_source(run: Run, words: tuple[str, ...], offsets: set[int]) -> None:
    """A letter must meet all criteria."""
    letters = [json.loads(line) for line in run("list", "--json", *words).stdout.splitlines()]
    assert {letter["source_offset"] for letter in letters if letter["source_topic"]} == offsets
    outcomes = json.loads(run("replay", "--json", "--again", *words).stdout)["outcomes"]
    assert sum(row["letters"] for row in outcomes if row["topic"] == RAW) == len(offsets)
    assert {row["outcome"] for row in outcomes} <= {"would_send", "key_destroyed", "from_a_door"}


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("--since", "yesterday"), "--since 'yesterday' is no time: give an ISO time"),
        (("--until", "2h30"), "--until '2h30' is no time"),
        (("--since", "1h", "--until", "2h"), "--since is not before --until"),
    ],
)
def test_an_unreadable_time_is_refused(run: Run, words: tuple[str, ...], error: str) -> None:
    """Both commands refuse an unreadable time before they read, and show the format."""
    for command in (("list",), ("replay", "--send")):
        assert error in str(run(*command, *words).exception)
