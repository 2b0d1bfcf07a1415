"""Handles the warehouse's privacy requests: counts rows for a withdrawal, deletes rows for an erasure.

Rows that were collected while consent stood stay. Rows that passed the consent stage in the seconds before it knew of the
withdrawal stay too and are counted here, so that the audit can state their number.
"""

from collections.abc import Mapping
from typing import Any

from consumers.warehouse.erasing import erase_rows, erased_person
from consumers.warehouse.loader.loop import GROUP
from consumers.warehouse.schema.tables import TABLES
from consumers.warehouse.store import Store
from infra.errors import Retryable
from infra.settings import Settings
from streams.consent.policy import BITS
from streams.runtime.privacy.group_progress import GroupProgress

MAX_ERASURES = 1_000
"""Pending erasures whose progress is remembered."""


def count_late_rows(store: Store, request: Mapping[str, Any]) -> str:
    """Handle a withdrawal: count rows that were collected after it under a withdrawn purpose. Retryable."""
    mask = sum(BITS.get(purpose, 0) for purpose in request["purposes"])
    query = (
        f"SELECT count() FROM {store.database}.events WHERE (node IN {{nodes:Array(String)}} "  # noqa: S608 - a name of our own
        "OR profile_id IN {profiles:Array(String)}) AND toUnixTimestamp64Milli(collector_ts) > {since:Int64} "
        "AND bitAnd(consent_purposes, {mask:Int32}) != 0 AND ({site:String} = '' OR site = {site:String})"
    )
    parameters = {
        "nodes": list(request["nodes"]), "profiles": list(request["profiles"]), "since": request["withdrawn_ts"],
        "mask": mask, "site": request["site"],
    }  # fmt: skip
    ((count,),) = store.rows(query, parameters)
    return f"{count} rows were collected between the withdrawal and its arrival at the gate; no further ones are let through"


class Eraser:
    """Erases a person once the loader has loaded everything that its topics held when the erasure was requested."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self._settings = settings
        self._store = store
        self._progress: dict[str, GroupProgress] = {}

    def erase(self, erasure: Mapping[str, Any]) -> str:
        """Handle a record of `privacy.erasures`; return the removed rows by table. Retryable until they are removed."""
        name = erasure["request_id"]
        if name not in self._progress:
            if len(self._progress) >= MAX_ERASURES:
                self._progress.pop(next(iter(self._progress)))
            self._progress[name] = GroupProgress(self._settings, GROUP, TABLES)
        if remaining := self._progress[name].remaining():
            raise Retryable(f"{remaining} records that were there before the erasure are not loaded yet")
        removed = erase_rows(self._store, name, erased_person(erasure))
        del self._progress[name]
        return "rows removed: " + ", ".join(f"{table} {n}" for table, n in removed.items())
