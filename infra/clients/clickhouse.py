"""Options of ClickHouse's client that follow from its URL."""

from urllib.parse import urlsplit


def client_options(url: str) -> dict[str, str]:
    """Return the options that name the server; https in the URL means TLS on any port."""
    # The client takes everything from the URL but its scheme: by itself it would send the password in clear.
    return {"dsn": url, "interface": urlsplit(url).scheme}
