"""Hosts are normalised to one spelling."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.parsing.site import MAX_SITE, page_site, site_of


@pytest.mark.parametrize(
    "text",
    [
        "shop.example", "SHOP.Example", "shop.example.", "shop.example:443", "shop.example:", "https://shop.example",
        " shop.example ", "https://shop.example/", "HTTPS://SHOP.EXAMPLE:8443/a?b=c#d", "//shop.example/a",
        "http://ada:pw@shop.example/", "shop.example/a", "https://shop.example?q=1", "https://shop.example#top",
        "https://shop.example\\a", "shop.example.:443", "https://sh%6Fp.example/", "ｓｈｏｐ.example", "shop。example",
    ],
)  # fmt: skip
def test_spellings_of_one_host(text: str) -> None:
    """Scheme, user, port, path, case, final dot and width of letters make no other site."""
    assert site_of(text) == "shop.example"


@pytest.mark.parametrize(
    "text", ["https://MÜNCHEN.example/", "münchen.example.", "mu\u0308nchen.example", "XN--MNCHEN-3YA.example"]
)
def test_international_names(text: str) -> None:
    """A name in any script and composition is its punycode."""
    assert site_of(text) == "xn--mnchen-3ya.example"


@pytest.mark.parametrize(
    ("text", "site"),
    [
        ("192.0.2.7:8080", "192.0.2.7"), ("http://[2001:DB8::7]:80/", "2001:db8::7"), ("2001:0db8::0007", "2001:db8::7"),
        ("localhost:3000", "localhost"), ("my_app.example", "my_app.example"), ("shop", "shop"),
    ],
)  # fmt: skip
def test_addresses_and_short_names(text: str, site: str) -> None:
    """IP addresses and names without a dot stay what they are."""
    assert site_of(text) == site


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "https://",
        "://",
        "/checkout",
        "a b.example",
        "a|b",
        "https://[zz]/",
        "https://[fe80::1%a|b]/",
        "x" * 254,
        "a..b",
        ".",
        "..",
        "ü" * 300,
        "\u200b.example",
    ],
)
def test_what_names_no_host(text: str) -> None:
    """What is no host is empty, never an error."""
    assert site_of(text) == ""


@pytest.mark.parametrize(
    "address",
    ["shopapp://basket/7", "android-app://com.shop/x", "HomeScreen", "/p", "about:blank", "file:///x", "shop.example"],
)
def test_only_web_pages_have_a_site(address: str) -> None:
    """The host of an app's address, of a path or of a screen's name is no site."""
    assert page_site(address) == ""


@given(st.text())
def test_stable(text: str) -> None:
    """What is read once is read the same again, is short, and holds no blank and no separator of keys."""
    site = site_of(text)
    assert site_of(site) == site
    assert len(site) <= MAX_SITE
    assert not set(site) & set("| \t\n/")
    assert page_site(f"https://{text}") == site_of(f"https://{text}")
