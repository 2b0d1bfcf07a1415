"""Dead letters keep the record's bytes encrypted and open only with the right key."""

from pathlib import Path

import pytest

from infra.payload_keyring import KeyDestroyed, PayloadKeyring
from infra.secrets import Secret
from infra.telemetry.metrics import Metrics
from schemas.codec import decode
from schemas.registry import Registry
from streams.runtime.dead_letters.dead_letter import DeadLetterCause, DeadLetters, RecordPosition, open_letter

SECRET = Secret("for tests only, forty characters long...")
NOW = 1_790_000_000.0
DAY_S = 86_400


@pytest.mark.parametrize("key", [None, b"", b"key"])
@pytest.mark.parametrize("value", [b"", b"\xff\x00 bytes"])
def test_key_and_value_come_back_as_they_were(contracts_dir: Path, tmp_path: Path, key: bytes | None, value: bytes) -> None:
    """No key, an empty key and a key stay distinct."""
    registry, keyring = Registry(contracts_dir), PayloadKeyring(tmp_path, SECRET)
    refusal = DeadLetterCause("UNDECODABLE", "no frame", RecordPosition("events.raw", 2, 17), "web")
    place, written, _ = DeadLetters(registry, keyring, "consent", Metrics()).build(refusal, key, value, NOW)
    assert place == b"events.raw:2:17"
    _, record = decode(registry, written or b"")
    assert not value or value not in record["payload"]
    assert open_letter(record, keyring) == (key, value)


def test_letters_from_a_door_have_distinct_keys() -> None:
    """Letters of a door have distinct keys."""
    assert RecordPosition.at_door().key != RecordPosition.at_door().key


def test_each_letter_is_counted_by_stage_and_reason(contracts_dir: Path, tmp_path: Path) -> None:
    """Every stage and door builds its letters here, so all of them count alike."""
    registry, keyring, metrics = Registry(contracts_dir), PayloadKeyring(tmp_path, SECRET), Metrics()
    for stage, reason in (("consent", "UNDECODABLE"), ("consent", "UNDECODABLE"), ("collector", "CONTRACT")):
        cause = DeadLetterCause(reason, "", RecordPosition.at_door())
        DeadLetters(registry, keyring, stage, metrics).build(cause, None, b"value", NOW)
    counts = [
        metrics.registry.get_sample_value("headwater_dead_total", {"stage": stage, "reason": reason})
        for stage, reason in (("consent", "UNDECODABLE"), ("collector", "CONTRACT"))
    ]
    assert counts == [2, 1]


def test_a_destroyed_key_opens_nothing(contracts_dir: Path, tmp_path: Path) -> None:
    """Once a day's salt is deleted, that day's payloads are unreadable; other days' are not."""
    registry, keyring = Registry(contracts_dir), PayloadKeyring(tmp_path, SECRET)
    letters = DeadLetters(registry, keyring, "consent", Metrics())
    refusal = DeadLetterCause("UNDECODABLE", "", RecordPosition.at_door())
    old, new = (decode(registry, letters.build(refusal, None, b"v", at)[1] or b"")[1] for at in (NOW - 20 * DAY_S, NOW))
    assert len(keyring.destroy_before(NOW, days=14)) == 1
    with pytest.raises(KeyDestroyed):
        open_letter(old, keyring)
    assert open_letter(new, keyring) == (None, b"v")


def test_another_secret_or_changed_bytes_open_nothing(contracts_dir: Path, tmp_path: Path) -> None:
    """AES-GCM authenticates: a payload opens unchanged or not at all."""
    registry, keyring = Registry(contracts_dir), PayloadKeyring(tmp_path, SECRET)
    _, written, _ = DeadLetters(registry, keyring, "consent", Metrics()).build(
        DeadLetterCause("R", "", RecordPosition.at_door()), None, b"value", NOW
    )
    _, record = decode(registry, written or b"")
    with pytest.raises(KeyDestroyed):
        open_letter(record, PayloadKeyring(tmp_path, Secret("another secret of at least forty characters")))
    changed = record["payload"][:-1] + bytes([record["payload"][-1] ^ 1])
    with pytest.raises(KeyDestroyed):
        open_letter({**record, "payload": changed}, keyring)
