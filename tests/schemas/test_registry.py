"""The registry and publishing: ids are never changed, derived contracts follow their source, running readers reload."""

import json
import multiprocessing
import shutil
from pathlib import Path
from typing import Any

import pytest

from schemas.codec import HEADER_BYTES, HeadReader, decode, encode
from schemas.fast.flat_encoder import flat_record_encoder
from schemas.publish import preview, same_schema
from schemas.registry import ContractError, Registry, UnknownContract, derive, lock, read_json, read_lock

FIELD = {"name": "shelf", "type": "string", "purpose": "analytics", "doc": "Shelf it lay on.", "default": ""}
COLUMN = {"name": "consent_extra", "type": "string", "purpose": "exempt", "doc": "More.", "default": ""}


@pytest.fixture
def folder(tmp_path: Path, contracts_dir: Path) -> Path:
    """A copy of the packaged contracts that may be changed."""
    for file in (*contracts_dir.glob("*.avsc"), contracts_dir / "derived.json", contracts_dir / "lock.json"):
        shutil.copy(file, tmp_path)
    return tmp_path


def edit(file: Path, path: tuple[str, ...], item: dict[str, Any]) -> None:
    """Append an item to a list inside a JSON file."""
    content = json.loads(file.read_text())
    inner = content
    for step in path:
        inner = inner[step]
    inner.append(item)
    file.write_text(json.dumps(content))


def test_nothing_changed_publishes_nothing(folder: Path) -> None:
    """The packaged lock is up to date, and locking it again touches no file."""
    before = {file.name: (file.stat().st_mtime_ns, file.stat().st_ino) for file in folder.iterdir()}
    assert lock(folder) == []
    assert {file.name: (file.stat().st_mtime_ns, file.stat().st_ino) for file in folder.iterdir()} == before


def test_an_appended_field_gets_new_ids_with_lineage_and_the_old_ones_stay(folder: Path) -> None:
    """One new raw contract, one consented derived from it, one resolved derived from that; every old entry is as it was."""
    running = Registry(folder)
    raw = running.latest("events.raw")
    old_consented = running.derived(raw.id, "events.consented")
    old_lock = read_lock(folder)["contracts"]
    edit(folder / "events.raw.avsc", ("fields",), FIELD)
    new = lock(folder)
    assert [contract.topic for contract in new] == ["events.raw", "events.consented", "events.resolved"]
    assert [contract.source_id for contract in new] == [None, new[0].id, new[1].id]
    assert [contract.names[-1] for contract in new] == ["shelf"] * 3
    assert read_lock(folder)["contracts"][: len(old_lock)] == old_lock
    # A reader that was running all the time follows when it meets the new id, and still knows the old lineage.
    assert running.by_id(new[0].id) == new[0]
    assert running.derived(new[0].id, "events.consented") == new[1]
    assert running.derived(raw.id, "events.consented") is old_consented
    assert running.latest("events.raw") == new[0]


def test_a_stage_that_changes_its_columns_writes_the_newest_contract_of_each_source(folder: Path) -> None:
    """Columns are published anew for every source version, and the newest one is what a stage writes."""
    edit(folder / "events.raw.avsc", ("fields",), FIELD)
    lock(folder)
    running = Registry(folder)
    raws = [contract.id for contract in running.all() if contract.topic == "events.raw"]
    before = [running.derived(raw, "events.consented") for raw in raws]
    edit(folder / "derived.json", ("events.consented", "columns"), COLUMN)
    new = lock(folder)
    assert [c.source_id for c in new if c.topic == "events.consented"] == raws
    assert running.reload()
    after = [running.derived(raw, "events.consented") for raw in raws]
    assert all(b.version < a.version and "consent_extra" in a.names for b, a in zip(before, after, strict=True))
    # What the old consented contracts lead to is still known: records of both kinds are on their way.
    for consented in (*before, *after):
        resolved = running.derived(consented.id, "events.resolved")
        assert resolved.names[3:] == consented.names
    assert Registry(folder).derived(raws[0], "events.consented") == after[0]
    current = read_json(folder / "events.resolved.avsc")
    assert same_schema(current, running.latest("events.resolved").schema)
    assert running.latest("events.resolved").names[-1] == "shelf"


def test_the_order_of_the_lock_file_decides_nothing(folder: Path) -> None:
    """A merge may order entries otherwise; the newest version is the one with the highest number."""
    edit(folder / "derived.json", ("events.resolved", "columns"), COLUMN | {"name": "identity_extra"})
    older, new = lock(folder)
    assert (older.topic, new.topic, new.version) == ("events.resolved", "events.resolved", older.version + 1)
    state = json.loads((folder / "lock.json").read_text())
    state["contracts"][-2:] = reversed(state["contracts"][-2:])
    (folder / "lock.json").write_text(json.dumps(state))
    registry = Registry(folder)
    assert new.source_id is not None
    assert registry.derived(new.source_id, "events.resolved") == new
    assert registry.latest("events.resolved") == new


def test_a_preview_changes_nothing(folder: Path) -> None:
    """What would be published is told without publishing it."""
    edit(folder / "events.raw.avsc", ("fields",), FIELD)
    before = (folder / "lock.json").read_text()
    assert preview(folder) == preview(folder) != []
    assert (folder / "lock.json").read_text() == before


def test_a_storm_of_unknown_ids_reads_the_file_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unknown ids look whether the file has changed; they do not read it."""
    registry = Registry(folder)
    reads: list[Path] = []

    def counting(at: Path) -> dict[str, Any]:
        reads.append(at)
        return read_lock(at)

    monkeypatch.setattr("schemas.registry.read_lock", counting)
    for unknown in range(1000, 2000):
        with pytest.raises(UnknownContract):
            registry.by_id(unknown)
        with pytest.raises(UnknownContract):
            registry.derived(unknown, "events.consented")
    assert reads == []
    edit(folder / "events.raw.avsc", ("fields",), FIELD)
    lock(folder)
    for _ in range(10):
        with pytest.raises(UnknownContract):
            registry.by_id(1000)
    assert reads == [folder]


def test_an_unknown_topic_is_said_with_its_folder(folder: Path) -> None:
    """The message helps to find a wrong setting."""
    with pytest.raises(UnknownContract, match="no contract for topic nowhere in"):
        Registry(folder).latest("nowhere")


def test_an_empty_folder_is_a_registry_that_fills_later(tmp_path: Path, folder: Path) -> None:
    """A reader may start before the first publication."""
    empty = tmp_path / "later"
    empty.mkdir()
    registry = Registry(empty)
    with pytest.raises(UnknownContract):
        registry.by_id(1)
    shutil.copy(folder / "lock.json", empty)
    assert registry.by_id(1).id == 1


@pytest.mark.parametrize(
    ("breakage", "words"),
    [
        (lambda s: s["contracts"].append({**s["contracts"][0], "version": 99}), "stands twice"),
        (lambda s: s["contracts"].append({**s["contracts"][0], "id": s["next_id"] - 1}), "stands twice"),
        (lambda s: s.update(next_id=1), "not below next_id"),
        (lambda s: s["contracts"][-1].update(source_id=9999), "does not stand before it"),
    ],
)
def test_a_lock_that_a_merge_has_damaged_is_refused(folder: Path, breakage: Any, words: str) -> None:
    """Two branches that allocated the same id must not both win."""
    state = json.loads((folder / "lock.json").read_text())
    breakage(state)
    (folder / "lock.json").write_text(json.dumps(state))
    with pytest.raises(ContractError, match=words):
        Registry(folder)


def test_a_broken_file_names_its_place(folder: Path) -> None:
    """Line and column of a syntax error, and a key that stands twice."""
    (folder / "events.raw.avsc").write_text('{\n  "type": record\n}')
    with pytest.raises(ContractError, match=r"events\.raw\.avsc, line 2, column 11"):
        lock(folder)
    (folder / "events.raw.avsc").write_text('{"type": "record", "type": "record"}')
    with pytest.raises(ContractError, match="'type' stands twice"):
        lock(folder)


def test_what_is_no_avro_gets_no_id(folder: Path) -> None:
    """Ids are for ever, so nothing broken may get one."""
    before = (folder / "lock.json").read_text()
    edit(folder / "events.raw.avsc", ("fields",), {"name": "shelf", "type": "strnig"})
    with pytest.raises(ContractError, match=r"events\.raw\.avsc: no Avro record"):
        lock(folder)
    assert (folder / "lock.json").read_text() == before


def test_a_derived_contract_stands_after_its_source(folder: Path) -> None:
    """derived.json is read from top to bottom."""
    columns = json.loads((folder / "derived.json").read_text())
    (folder / "derived.json").write_text(json.dumps(dict(reversed(columns.items()))))
    with pytest.raises(ContractError, match=r"events\.resolved stands before events\.consented"):
        lock(folder)


def _publish_in(folder: str, name: str) -> None:
    file = Path(folder) / f"{name}.avsc"
    # Renamed into place, as an editor does it: the others read the folder meanwhile.
    draft = file.with_suffix(".draft")
    draft.write_text(json.dumps({"type": "record", "name": name, "fields": [{"name": "x", "type": "int"}]}))
    draft.replace(file)
    lock(Path(folder))


def test_two_publishers_at_once_allocate_different_ids(folder: Path) -> None:
    """The folder is locked while ids are allocated."""
    spawn = multiprocessing.get_context("spawn")
    publishers = [spawn.Process(target=_publish_in, args=(str(folder), f"twin{i}")) for i in range(3)]
    for publisher in publishers:
        publisher.start()
    for publisher in publishers:
        publisher.join(60)
    assert [publisher.exitcode for publisher in publishers] == [0, 0, 0]
    twins = [contract for contract in Registry(folder).all() if contract.topic.startswith("twin")]
    assert len({contract.id for contract in twins}) == 3


def test_equal_contracts_are_equal_and_hashable(folder: Path) -> None:
    """Contracts of two registries are equal and hashable."""
    first, second = Registry(folder).latest("events.raw"), Registry(folder).latest("events.raw")
    assert {first: 1}[second] == 1


def test_old_and_new_records_flow_side_by_side(folder: Path) -> None:
    """A stage that was running reads, prepends and passes on both versions, each in its own lineage."""
    registry = Registry(folder)
    reader = HeadReader(registry, "identifiers")
    record = {
        "event_id": "e",
        "event_name": "n",
        "source": "s",
        "site": "w",
        "heartbeat": False,
        "collector_ts": 1,
        "region": "",
        "signals": {},
        "identifiers": [],
        "event_ts": 1,
        "event_ts_source": "device",
        "protocol": "p",
    }
    old = encode(registry.latest("events.raw"), record)
    reader.read(old)
    edit(folder / "events.raw.avsc", ("fields",), FIELD)
    lock(folder)
    new = encode(Registry(folder).latest("events.raw"), record | {"shelf": "top"})
    columns = {
        "consent_outcome": "pass",
        "consent_purposes": 7,
        "consent_reasons": "",
        "consent_policy": "p",
        "consent_evidence": "e",
    }
    for value, shelf in ((old, None), (new, "top")):
        contract, head = reader.read(value)
        target = registry.derived(contract.id, "events.consented")
        _, back = decode(registry, flat_record_encoder(target.columns(), target.header)(columns) + value[HEADER_BYTES:])
        assert (head["event_id"], back["consent_purposes"], back.get("shelf")) == ("e", 7, shelf)


def test_deriving_is_prepending(contracts_dir: Path) -> None:
    """Columns first, then the source's fields as they are."""
    columns = read_json(contracts_dir / "derived.json")["events.consented"]
    source = read_json(contracts_dir / "events.raw.avsc")
    derived = derive(columns, source)
    assert derived["fields"] == columns["columns"] + source["fields"]
    assert derived["prepended"] == len(columns["columns"])
