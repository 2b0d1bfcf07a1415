"""Events into events.resolved: one transactional producer at a bounded rate, one transaction in five aborted."""

import random
import threading
import time

import confluent_kafka as ck

from bench.faults.contents import EventFactory, SentEvents
from bench.faults.world import TOPIC
from infra.clients.kafka import producer
from infra.settings import Settings
from schemas.contract import Contract

ABORTED = 0.2
TRANSACTION_EVENTS = (20, 700)
PATIENCE_S = 60.0


class ProducerError(Exception):
    """The producer ended; its error is the cause."""


class Flow:
    """A producer in a thread. It sends as far as it is allowed to, and pauses between transactions."""

    def __init__(self, settings: Settings, contract: Contract, seed: int, rate: float) -> None:
        self.ledger = SentEvents()
        self._settings, self._rate = settings, rate
        self._factory = EventFactory(contract, seed)
        self._random = random.Random(seed + 1)
        self._allowed = 0.0
        self._wake = threading.Condition()
        self._paused, self._busy, self._stopping = False, False, False
        self._pauses = 0
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="flow", daemon=True)

    @property
    def sent(self) -> int:
        """Events sent so far, whatever became of their transactions."""
        return len(self.ledger.states)

    @property
    def behind(self) -> bool:
        """Whether allowed events are not sent yet. ProducerError where the thread has ended."""
        self.check()
        return self.sent < self._allowed

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def allow(self, events: float) -> None:
        """Let so many more events pass."""
        with self._wake:
            self._allowed += events
            self._wake.notify_all()

    def pause(self) -> None:
        """Return once no transaction is open and none will be begun."""
        with self._wake:
            self._paused, self._pauses = True, self._pauses + 1
            if not self._wake.wait_for(lambda: not self._busy or self._error is not None, PATIENCE_S):
                raise TimeoutError("a transaction of the producer does not end")
        self.check()

    def resume(self) -> None:
        """Go on; with a new producer, because Kafka may be another one."""
        with self._wake:
            self._paused = False
            self._wake.notify_all()

    def stop(self) -> None:
        """End the thread after its transaction."""
        with self._wake:
            self._stopping = True
            self._wake.notify_all()
        self._thread.join(PATIENCE_S)

    def check(self) -> None:
        """Raise ProducerError where the thread has ended."""
        if self._error is not None:
            raise ProducerError(f"the producer ended: {self._error!r}") from self._error

    def _run(self) -> None:
        client: ck.Producer | None = None
        client_pauses = 0
        try:
            while True:
                with self._wake:
                    self._wake.wait_for(lambda: self._stopping or (self.behind and not self._paused))
                    if self._stopping:
                        return
                    self._busy, pauses = True, self._pauses
                if client is None or pauses != client_pauses:
                    client, client_pauses = self._client(), pauses
                begun = time.monotonic()
                events = min(self._random.randint(*TRANSACTION_EVENTS), int(self._allowed - self.sent) + 1)
                self._transaction(client, events)
                with self._wake:
                    self._busy = False
                    self._wake.notify_all()
                time.sleep(max(0.0, events / self._rate - (time.monotonic() - begun)))
        except BaseException as error:  # raised again by `check`
            with self._wake:
                self._error, self._busy = error, False
                self._wake.notify_all()

    def _client(self) -> ck.Producer:
        client = producer(self._settings, transactional_id="bench.faults")
        client.init_transactions(PATIENCE_S)
        return client

    def _transaction(self, client: ck.Producer, events: int) -> None:
        first = self.sent
        client.begin_transaction()
        for number in range(first, first + events):
            value = self._factory.value(number)
            self.ledger.add(value)
            client.produce(TOPIC, value, key=self._random.randbytes(16))
            client.poll(0)
        if self._random.random() < ABORTED:
            # The broker refuses to end a transaction of which nothing has reached it.
            if client.flush(PATIENCE_S):
                raise TimeoutError("Kafka does not take the records of a transaction")
            client.abort_transaction(PATIENCE_S)
            self.ledger.settle(first, SentEvents.ABORTED)
        else:
            client.commit_transaction(PATIENCE_S)
            self.ledger.settle(first, SentEvents.COMMITTED)
