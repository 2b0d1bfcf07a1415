"""Passwords in URLs: they arrive whole at the client, or the message says how to write them."""

from urllib.parse import quote

import clickhouse_connect
import pytest
import redis

from infra.clients.clickhouse import client_options
from infra.errors import ConfigError
from infra.settings import load_settings, without_login

PASSWORDS = ["a/b", "a#b", "a?b", "a@b/c", "a b", "[", "50%ff", "p\u00e4ss/", ":/", "a%2Fb", "p&q=r", "a\tb"]


@pytest.mark.parametrize("password", PASSWORDS)
def test_an_encoded_password_arrives(password: str) -> None:
    """Each character has an encoded form that Redis's and ClickHouse's clients decode."""
    encoded = quote(password, safe="")
    settings = load_settings(redis=f"redis://u:{encoded}@127.0.0.1:1/3", clickhouse=f"http://u:{encoded}@127.0.0.1:1")
    arguments = redis.Redis.from_url(settings.redis).connection_pool.connection_kwargs
    assert (arguments["password"], arguments["db"]) == (password, 3)
    assert clickhouse_login(settings.clickhouse) == ("u", password)


@pytest.mark.parametrize("password", ["a@b", "a:b", "a&b", "a+b", "a,b", "100%", "p\u00e4ss", "a=b"])
def test_a_password_that_ends_nothing_arrives_as_it_is(password: str) -> None:
    """What can be read in one way only needs no encoding."""
    settings = load_settings(redis=f"redis://:{password}@127.0.0.1:1", clickhouse=f"http://u:{password}@127.0.0.1:1")
    assert redis.Redis.from_url(settings.redis).connection_pool.connection_kwargs["password"] == password
    assert clickhouse_login(settings.clickhouse) == ("u", password)


@pytest.mark.parametrize("password", ["hidden/b", "hidden#b", "hidden?b", "hid@den/c", "hidden b", "hidden[", "hidden%ff"])
@pytest.mark.parametrize(
    ("variable", "url"),
    [
        ("REDIS", "redis://:{}@127.0.0.1:6379/0"),
        ("IDENTITY_REDIS", "cluster+redis://u:{}@127.0.0.1:6379,127.0.0.2:6379"),
        ("IDENTITY_REDIS", "rediss://u:{}@127.0.0.1:6379"),
        ("CLICKHOUSE", "http://u:{}@127.0.0.1:8123"),
        ("SCHEMA_REGISTRY", "https://u:{}@registry.example"),
    ],
)
def test_a_password_that_must_be_encoded_is_refused(
    variable: str, url: str, password: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line names the variable and shows the encoding, without a part of the password."""
    monkeypatch.setenv(f"HEADWATER_{variable}", url.format(password))
    with pytest.raises(ConfigError, match=rf"^HEADWATER_{variable}: .*percent-encode .* as p%40ss%2Fw%23rd%25$") as wrong:
        load_settings()
    assert "hid" not in str(wrong.value)


@pytest.mark.parametrize(
    ("variable", "url", "message"),
    [
        ("CLICKHOUSE", "clickhouse.example:8123", r"expected http\(s\)://"),
        ("CLICKHOUSE", "http://", r"expected http\(s\)://"),
        ("CLICKHOUSE", "http://h:port", r"expected http\(s\)://"),
        ("CLICKHOUSE", "http://h:99999", r"expected http\(s\)://"),
        ("COLLECTOR_URL", "ftp://h", r"expected http\(s\)://"),
        ("REDIS", "redis://h/shop", "database must be a number"),
        ("REDIS", "redis.example:6379", "expected redis://"),
        ("IDENTITY_REDIS", "cluster+http://h:1", r"cluster\+redis://host:port,host:port"),
    ],
)
def test_an_address_says_its_form(variable: str, url: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the variable and the expected form."""
    monkeypatch.setenv(f"HEADWATER_{variable}", url)
    with pytest.raises(ConfigError, match=rf"^HEADWATER_{variable}: .*{message}"):
        load_settings()


def test_messages_show_addresses_without_logins() -> None:
    """User and password do not appear in messages."""
    assert without_login("https://u:p%40w@clickhouse.example:8443") == "https://clickhouse.example:8443"


def clickhouse_login(url: str) -> tuple[str, str]:
    """Return the user and the password that ClickHouse's client would send."""
    parse = clickhouse_connect.driver._parse_connection_params
    _, user, password, *_ = parse(None, None, "", None, None, None, False, url, {})
    return user, password


def test_https_is_https_on_any_port() -> None:
    """The password must not leave in clear because the port is not one that the client takes for TLS."""
    with pytest.raises(clickhouse_connect.driver.exceptions.OperationalError, match="HTTPSConnection"):
        clickhouse_connect.get_client(**client_options("https://u:p@127.0.0.1:1"))
    with pytest.raises(clickhouse_connect.driver.exceptions.OperationalError, match="HTTPConnection"):
        clickhouse_connect.get_client(**client_options("http://u:p@127.0.0.1:1"))
