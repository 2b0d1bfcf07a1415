"""Offsets committed for a group by whoever is not in it."""

import time

import confluent_kafka as ck

STARTING = {
    ck.KafkaError.COORDINATOR_LOAD_IN_PROGRESS, ck.KafkaError.COORDINATOR_NOT_AVAILABLE, ck.KafkaError.NOT_COORDINATOR,
}  # fmt: skip
"""What a coordinator that has just been made says for a moment; librdkafka calls not all of it retriable."""


def commit_offsets(consumer: ck.Consumer, offsets: list[ck.TopicPartition], seconds: float = 30) -> None:
    """Commit, and wait for it. KafkaException for what does not pass by itself, or in time."""
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
