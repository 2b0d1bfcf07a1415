"""Settings that hold several values, in every form that env files give them."""

import pytest

from infra.errors import ConfigError
from infra.settings import load_settings
from infra.settings.values import read_brokers, read_kafka_options, read_origins


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ('{"linger.ms": 20, "socket.keepalive.enable": true}', {"linger.ms": "20", "socket.keepalive.enable": "true"}),
        ('{"linger.ms": 0.5, "log.connection.close": false}', {"linger.ms": "0.5", "log.connection.close": "false"}),
        ('{"max.in.flight": 3.0}', {"max.in.flight": "3"}),
        ('{\n  "client.id": "a, b=c"\n}', {"client.id": "a, b=c"}),
        ("client.rack=a", {"client.rack": "a"}),
        (" client.rack = a , linger.ms=20,", {"client.rack": "a", "linger.ms": "20"}),
        ("sasl.username=shop,sasl.password=dGVzdA==", {"sasl.username": "shop", "sasl.password": "dGVzdA=="}),
        ("{}", {}),
    ],
)
def test_options_are_written_as_librdkafka_reads_them(text: str, options: dict[str, str]) -> None:
    """JSON and pairs give texts; numbers and booleans are librdkafka's words."""
    assert read_kafka_options(text) == options


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"linger.ms": null}', "linger.ms: expected text, a number, true or false"),
        ('{"ssl.cipher.suites": ["A", "B"]}', "ssl.cipher.suites: expected text"),
        ('{"linger.ms": 1, "linger.ms": 2}', "linger.ms stands there twice"),
        ('{"linger.ms": Infinity}', "Infinity is no JSON number"),
        ('{\n"linger.ms": }', "line 2, column 14: .*expected a JSON object"),
        ('["linger.ms"]', "expected a JSON object"),
        ("linger.ms", "entry 1 is not key=value"),
        ("sasl.username=u,sasl.password=hidden,word", "entry 3 is not key=value .a value with a comma needs JSON"),
        ("Linger=1", "entry 1 is not key=value"),
        ("linger.ms=1,linger.ms=2", "linger.ms stands there twice"),
        ("sasl.password='hidden'", "sasl.password: its value is in quotes"),
    ],
)
def test_an_ambiguous_option_is_refused(text: str, message: str) -> None:
    """The message names the key or the entry, never a value."""
    with pytest.raises(ValueError, match=message) as wrong:
        read_kafka_options(text)
    assert "hidden" not in str(wrong.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no.such.thing=1", 'No such configuration property: "no.such.thing"'),
        ("session.timeout.ms=soon", '"session.timeout.ms": expected a number'),
        ("session.timeout.ms=0", '"session.timeout.ms" value 0 is outside allowed range'),
        ("security.protocol=SAFE", 'Invalid value "SAFE" for configuration property "security.protocol"'),
        ("security.protocol=SSL,ssl.ca.location=/nowhere.pem", "ssl.ca.location"),
        ("error_cb=print", "error_cb"),
    ],
)
def test_librdkafka_judges_the_options_at_the_start(text: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong name or value is one line that names the variable and the key, before any client is made."""
    monkeypatch.setenv("HEADWATER_KAFKA_OPTIONS", text)
    with pytest.raises(ConfigError, match=rf"^HEADWATER_KAFKA_OPTIONS: .*{message}") as wrong:
        load_settings()
    assert "\n" not in str(wrong.value)


@pytest.mark.parametrize(
    "text",
    [
        "https://shop.example,http://localhost:3000",
        " https://Shop.Example/ , http://localhost:3000 ",
        '["https://shop.example:443", "http://localhost:3000"]',
    ],
)
def test_origins_are_read_as_browsers_write_them(text: str) -> None:
    """Lower case, no slash at the end, no default port."""
    assert read_origins(text) == ["https://shop.example", "http://localhost:3000"]


@pytest.mark.parametrize("text", ["shop.example", "*", "https://shop.example/cart", '["https://a.example"', "[5]", "null"])
def test_what_is_no_origin_is_refused(text: str) -> None:
    """An origin that no browser sends would never match."""
    with pytest.raises(ValueError, match=r"expected https://host"):
        read_origins(text)


def test_brokers_are_hosts_with_ports() -> None:
    """Blanks do not count; a scheme, a missing or an impossible port is named by its entry."""
    assert read_brokers("a.example:9092, [::1]:9093,") == "a.example:9092,[::1]:9093"
    for text in ("a.example", "PLAINTEXT://a.example:9092", "a.example:70000", "a.example:0", "user@a.example:1"):
        with pytest.raises(ValueError, match="entry 2 is not host:port"):
            read_brokers(f"b.example:9092,{text}")
    with pytest.raises(ValueError, match="expected host:port"):
        read_brokers(" , ")
