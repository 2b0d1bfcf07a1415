"""Kafka to ClickHouse: `python -m bench.warehouse 300000` fills events.resolved, then times one loader emptying it."""

import sys
import tempfile
import time
from pathlib import Path

import psutil

from consumers.warehouse.migrating import migrate
from infra import topics_app
from infra.embedded.child import Child, Program
from infra.embedded.clickhouse import EmbeddedClickHouse
from infra.embedded.kafka import EmbeddedKafka
from infra.kafka import producer
from infra.settings import Settings, load_settings
from schemas.codec import encode
from schemas.registry import Registry

SECRET = "a secret of the benchmark, long enough"  # noqa: S105 - protects made-up events


def values(settings: Settings) -> list[bytes]:
    """A thousand different events of about 500 bytes."""
    contract = Registry(settings.contracts).latest("events.resolved")
    now = int(time.time() * 1000)
    made = {
        "string": "some text",
        "int": 3,
        "boolean": False,
        "double": 0.5,
        "long": now,
        "map": {"gcs": "G111"},
        "array": ["1" * 33],
    }
    fields = contract.schema["fields"]
    record = {
        f["name"]: made[f["type"] if isinstance(f["type"], str) else f["type"]["type"]] for f in fields if "default" not in f
    }
    record |= {
        "page_url": "https://shop.example/products/shoes?colour=blue",
        "user_agent": "Mozilla/5.0 (X11; Linux x86_64) " * 2,
    }
    return [
        encode(
            contract,
            record | {"event_id": f"{n:032}", "event_name": f"name_{n % 20}", "properties": {"item": str(n), "list": "a" * 40}},
        )
        for n in range(1_000)
    ]


def main() -> None:
    """Fill, load, print."""
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 300_000
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with EmbeddedKafka(folder / "kafka") as kafka, EmbeddedClickHouse(folder / "clickhouse") as clickhouse:
            environment = {
                "HEADWATER_KAFKA": kafka.address,
                "HEADWATER_CLICKHOUSE": clickhouse.url,
                "HEADWATER_STATE_DIR": name,
                "HEADWATER_SECRET": SECRET,
            }
            settings = load_settings(kafka=kafka.address, clickhouse=clickhouse.url, state_dir=folder)
            topics_app.apply(settings)
            migrate(settings)
            client, made = producer(settings), values(settings)
            for n in range(rows):
                client.produce("events.resolved", made[n % 1_000], partition=n % settings.partitions)
                if n % 10_000 == 0:
                    client.flush()
            client.flush()
            seconds, counted = measure(folder, environment, clickhouse, rows)
            load = psutil.getloadavg()[0]
            print(f"{counted} rows of {len(made[0])} bytes, {seconds:.1f} s: {counted / seconds:,.0f} rows/s; load {load:.1f}")


def measure(folder: Path, environment: dict[str, str], clickhouse: EmbeddedClickHouse, rows: int) -> tuple[float, int]:
    """Seconds from the first insert that is seen to the last, and the rows that came in between."""
    import clickhouse_connect

    client = clickhouse_connect.get_client(dsn=clickhouse.url, autogenerate_session_id=False)
    command = [sys.executable, "-c", "from infra.cli import main; main()", "warehouse"]
    loader = Child(Program("warehouse", command, folder / "warehouse.log", environment))
    try:
        process, begun, cpu, first = psutil.Process(loader.pid), 0.0, 0.0, 0
        while (found := client.query("SELECT count() FROM headwater.events").result_rows[0][0]) < rows:
            if found and not begun:
                begun, cpu, first = time.monotonic(), sum(process.cpu_times()[:2]), found
            time.sleep(0.05)
        spent = sum(process.cpu_times()[:2]) - cpu
        print(f"loader: {spent:.1f} CPU seconds, {process.memory_info().rss / 1e6:.0f} MB")
        return time.monotonic() - begun, found - first
    finally:
        loader.stop()


if __name__ == "__main__":
    main()
