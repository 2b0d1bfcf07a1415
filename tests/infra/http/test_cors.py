"""Which origins are allowed, and which lists of them are refused at the start."""

import pytest

from infra.errors import ConfigError
from infra.http.cors import AllowedOrigins


@pytest.mark.parametrize(
    ("origin", "spelling"),
    [
        ("https://shop.example/", "https://shop.example"),
        ("https://shop.example/en?a=b", "https://shop.example"),
        ("shop.example", "https://shop.example"),
        ("https://Shop.Example", "https://shop.example"),
        ("https://shop.example:443", "https://shop.example"),
        ("http://shop.example:80", "http://shop.example"),
        ("HTTPS://shop.example", "https://shop.example"),
        ("https://käse.example", "https://xn--kse-qla.example"),
        ("https://a:b@shop.example", "https://shop.example"),
        ("https://*.shop.example/", r"https://\*.shop.example"),
    ],
)
def test_an_origin_that_no_browser_sends_is_refused_with_the_right_spelling(origin: str, spelling: str) -> None:
    """So that the list cannot fail in silence."""
    with pytest.raises(ConfigError, match=f"write {spelling}$"):
        AllowedOrigins([origin])


@pytest.mark.parametrize(
    "origin",
    [
        "*",
        "null",
        "",
        "https://",
        "https://*",
        "https://*.example",
        "https://a.*.example",
        "https://*shop.example",
        "https://*.*.example",
        "https://shop.example:99999",
    ],
)
def test_an_origin_that_is_none_is_refused(origin: str) -> None:
    """A bare * would let every page of the web read the answers."""
    with pytest.raises(ConfigError, match=r"origin|subdomains"):
        AllowedOrigins([origin])


@pytest.mark.parametrize(
    ("allowed", "origin", "matches"),
    [
        ("https://shop.example", "https://shop.example", True),
        ("https://shop.example", "http://shop.example", False),
        ("http://127.0.0.1:18090", "http://127.0.0.1:18090", True),
        ("http://[::1]:8080", "http://[::1]:8080", True),
        ("capacitor://localhost", "capacitor://localhost", True),
        ("https://*.shop.example", "https://a.shop.example", True),
        ("https://*.shop.example", "https://a.b.shop.example", True),
        ("https://*.shop.example", "https://shop.example", False),
        ("https://*.shop.example", "https://.shop.example", False),
        ("https://*.shop.example", "https://evilshop.example", False),
        ("https://*.shop.example", "http://a.shop.example", False),
        ("https://*.shop.example", "https://a.shop.example:8443", False),
        ("https://*.shop.example:8443", "https://a.shop.example:8443", True),
        ("https://*.shop.example", "https://evil.example/.shop.example", False),
        ("https://*.shop.example", "https://a.shop.example.evil.example", False),
        ("https://*.shop.example", "", False),
        ("https://*.shop.example", "null", False),
    ],
)
def test_which_origins_match(allowed: str, origin: str, matches: bool) -> None:
    """Listed ones exactly; a wildcard stands for subdomains of any depth, with the same scheme and port."""
    assert AllowedOrigins([allowed]).allows(origin) is matches


def test_an_empty_list_allows_nothing() -> None:
    """And is false."""
    assert not AllowedOrigins()
    assert not AllowedOrigins().allows("https://shop.example")
