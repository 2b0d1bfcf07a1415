"""`python -m bench.faults.control_loader NAME`: a loader that lacks a safeguard, to show what the safeguard is for.

`product` lacks none. With BENCH_DIE_AFTER_INSERT=p the process, whichever loader it is, kills itself with probability p when
rows are inserted, not committed yet, and followed by more records: what its successor reads first ends elsewhere.
"""

import argparse
import os
import random
import signal
import time

import confluent_kafka as ck

from consumers.warehouse.loader.batch import InsertBatch
from consumers.warehouse.loader.intent import read_metadata, token
from consumers.warehouse.loader.loop import STAGE, Warehouse
from consumers.warehouse.loader.rows import RejectedRecord, RowLoader
from consumers.warehouse.loader.topic_check import TopicReplaced
from consumers.warehouse.schema.migrating import apply_schema
from consumers.warehouse.store import Store
from consumers.warehouse.topic_partition import TopicPartition
from infra.errors import EXIT_FENCED, Retryable
from infra.settings import load_settings
from infra.telemetry.logs import configure_logs, get_logger
from infra.telemetry.metrics import Metrics
from schemas.registry import Registry

DIE = float(os.environ.get("BENCH_DIE_AFTER_INSERT", "0"))
FOLLOWED_S = 2.0


class TokenOnlyLoader(RowLoader):
    """Trusts the de-duplication token: never checks which rows are present, nor their number."""

    def highest(self, source: TopicPartition) -> int:  # noqa: ARG002 - the loop's call
        """Not looked up."""
        return -1

    def load(self, batch: InsertBatch) -> list[RejectedRecord]:
        """Insert; an answer of 200 counts as inserted."""
        bad: list[RejectedRecord] = []
        for contract, rows in self._by_contract(batch, bad).items():
            bad += self._insert(batch, contract, rows, token(batch.source, batch.intent, contract.id))
        return bad

    def reload(self, batch: InsertBatch) -> list[RejectedRecord]:
        """The same again, under the same token."""
        return self.load(batch)


class NoCountLoader(RowLoader):
    """Does not count the rows of a first insert, as versions before the count did."""

    load = TokenOnlyLoader.load


class DyingWarehouse(Warehouse):
    """The product's loop, which may kill itself between an insert and its commit."""

    _dies_before = 0.0
    """Until then ended inserts are not collected, so that records follow."""

    def _collect(self) -> None:
        if not DIE or not self._holds_back():
            super()._collect()

    def _holds_back(self) -> bool:
        """Whether to wait for records to follow the insert; kills the process once they do."""
        now, in_flight = time.monotonic(), self._inserter.in_flight
        if not in_flight or self._inserter._done.qsize() < len(in_flight):
            return now < self._dies_before
        if not self._dies_before and random.random() < DIE:
            self._dies_before = now + FOLLOWED_S
        if self._dies_before and any(len(insertion.buffer.offsets) > len(insertion.batch.offsets) for insertion in in_flight):
            os.kill(os.getpid(), signal.SIGKILL)
        if now < self._dies_before:
            return True
        self._dies_before = 0.0
        return False


class NoIntentWarehouse(DyingWarehouse):
    """Commits no intents: a successor makes other batches under other tokens."""

    def _commit(self, offsets: list[ck.TopicPartition]) -> None:
        super()._commit([offset for offset in offsets if read_metadata(offset.offset, offset.metadata).intent is None])


LOADERS: dict[str, tuple[type[Warehouse], type[RowLoader]]] = {
    "product": (DyingWarehouse, RowLoader),
    "token-only": (DyingWarehouse, TokenOnlyLoader),
    "no-intent": (NoIntentWarehouse, TokenOnlyLoader),
    "no-count": (DyingWarehouse, NoCountLoader),
}


def main() -> None:
    """Load until a signal."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.faults.control_loader",
        description=__doc__,
        epilog="Example: python -m bench.faults.control_loader no-intent",
    )
    parser.add_argument("name", choices=sorted(LOADERS))
    warehouse_type, loader_type = LOADERS[parser.parse_args().name]
    configure_logs(STAGE)
    settings, stopping = load_settings(), []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _frame: stopping.append(received))
    metrics, registry, store = Metrics(), Registry(settings.contracts), Store(settings)
    metrics.serve(settings.metrics_port, settings.metrics_host)
    while not stopping:
        try:
            apply_schema(store, registry)
            break
        except Retryable as error:
            get_logger().warning("waiting", error=str(error))
            time.sleep(1)
    try:
        warehouse_type(settings, loader_type(store, registry, metrics), registry, metrics).run(lambda: bool(stopping))
    except (TopicReplaced, ck.KafkaException) as error:
        raise SystemExit(EXIT_FENCED) from error
    finally:
        store.close()


if __name__ == "__main__":
    main()
