"""Jars: pinned by hash, downloaded once, by one process at a time."""

import fcntl
import hashlib
import json
import threading
from pathlib import Path

import pytest

from infra.errors import ConfigError
from infra.ops.embedded.servers import jars


@pytest.fixture
def one_jar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> jars.Jar:
    """An empty cache and a lock file with a single made-up jar."""
    content = {"kafka": "0.0", "jars": {"g:a:1": hashlib.sha256(b"bytes").hexdigest()}}
    (tmp_path / "lock.json").write_text(json.dumps(content))
    monkeypatch.setattr(jars, "LOCK_FILE", tmp_path / "lock.json")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return jars.read_lock()[1][0]


def arrive(content: bytes) -> object:
    """A download that brings `content` for each jar."""

    def fetch(absent: list[jars.Jar], staging: Path, folder: Path) -> None:
        for jar in absent:
            (staging / jar.file_name).write_bytes(content)
            jars._store_verified(jar, staging / jar.file_name, folder)

    return fetch


def test_every_jar_is_pinned_by_hash() -> None:
    """The lock file names Kafka itself, all with a SHA-256, and no two jars collide in the cache."""
    version, pinned = jars.read_lock()
    assert f"kafka_2.13-{version}.jar" in {jar.file_name for jar in pinned}
    assert all(len(jar.sha256) == 64 for jar in pinned)
    assert len({jar.file_name for jar in pinned}) == len(pinned)


def test_other_bytes_are_refused(one_jar: jars.Jar, monkeypatch: pytest.MonkeyPatch) -> None:
    """A jar whose bytes are not the pinned ones never reaches the cache."""
    monkeypatch.setattr(jars, "_download_with_jgo", arrive(b"other"))
    with pytest.raises(ConfigError, match=r"a-1\.jar came with other bytes"):
        jars.classpath()
    assert jars.missing_jars(jars.jar_folder(), [one_jar]) == [one_jar]


def test_half_a_download_is_cleared_away(one_jar: jars.Jar, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a killed download has left is removed by the next, which completes."""
    rest = jars.jar_folder() / "partial-killed"
    rest.mkdir(parents=True)
    (rest / one_jar.file_name).write_bytes(b"byt")
    monkeypatch.setattr(jars, "_download_with_jgo", arrive(b"bytes"))
    assert [file.read_bytes() for file in jars.classpath()] == [b"bytes"]
    assert not rest.exists()


def test_second_process_waits_and_does_not_download_again(
    one_jar: jars.Jar, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A second process waits for the first and uses its download."""
    monkeypatch.setattr(jars, "_download_with_jgo", arrive(b"other"))  # would be refused
    folder = jars.jar_folder()
    folder.mkdir(parents=True)
    with (folder / ".lock").open("w") as first:
        fcntl.flock(first, fcntl.LOCK_EX)
        paths: list[Path] = []
        second = threading.Thread(target=lambda: paths.extend(jars.classpath()))
        second.start()
        (folder / one_jar.file_name).write_bytes(b"bytes")
    second.join(20)
    assert paths == [folder / one_jar.file_name]


def test_failed_download_says_what_to_do(one_jar: jars.Jar, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without network and without mvn the message names the alternatives."""

    def refuse(*_: object) -> None:
        raise RuntimeError("ConnectionError")

    monkeypatch.setattr(jars, "_download_with_jgo", refuse)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ConfigError, match=r"ConnectionError.*proxy.*--kafka HOST:PORT"):
        jars.classpath()


def test_maven_is_the_second_way(one_jar: jars.Jar, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where the direct download fails, mvn downloads exactly these jars, and they are verified too."""

    def refuse(*_: object) -> None:
        raise RuntimeError("ProxyError")

    maven = tmp_path / "bin" / "mvn"
    maven.parent.mkdir()
    maven.write_text(
        "#!/bin/sh\n"
        'for word; do case "$word" in -DoutputDirectory=*) to="${word#*=}";; *pom.xml) pom="$word";; esac; done\n'
        '/bin/grep -q "<artifactId>a</artifactId><version>1</version>" "$pom" || exit 1\n'
        '/bin/mkdir -p "$to" && printf bytes > "$to/a-1.jar"\n'
    )
    maven.chmod(0o755)
    monkeypatch.setattr(jars, "_download_with_jgo", refuse)
    monkeypatch.setenv("PATH", str(maven.parent))
    assert [file.read_bytes() for file in jars.classpath()] == [b"bytes"]
