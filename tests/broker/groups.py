"""Commits offsets for a group from outside it."""

import time

import confluent_kafka as ck

STARTING = {
    ck.KafkaError.COORDINATOR_LOAD_IN_PROGRESS, ck.KafkaError.COORDINATOR_NOT_AVAILABLE, ck.KafkaError.NOT_COORDINATOR,
}  # fmt: skip
"""Errors of a coordinator that has just started; librdkafka does not mark all of them retriable."""


def commit_offsets(consumer: ck.Consumer, offsets: list[ck.TopicPartition], seconds: float = 30) -> None:
    """Commit synchronously. KafkaException for an error that is not transient, or after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            consumer.commit(offsets=offsets, asynchronous=False)
            return
        except ck.KafkaException as error:
            passes = error.args[0].retriable() or error.args[0].code() in STARTING
            if not passes or time.monotonic() > deadline:
                raise
        time.sleep(0.1)
