"""Checks of URLs that may contain a user and a password. No message repeats a part of a URL that has them."""

import re
from urllib.parse import SplitResult, unquote, urlsplit

CLUSTER = "cluster+"
ENCODE = "percent-encode special characters of user and password, e.g. p@ss/w#rd% as p%40ss%2Fw%23rd%25"
HTTP_FORM = "http(s)://[user:password@]host[:port]"
REDIS_FORM = "redis://[user:password@]host[:port][/database], or rediss:// or unix://"
CLUSTER_FORM = f"{REDIS_FORM}, or cluster+redis://host:port,host:port"


def check_http_url(url: str) -> str:
    """Return the URL of an HTTP service. ValueError says what is expected."""
    _check(url, ("http", "https"), HTTP_FORM)
    return url


def check_redis_url(url: str) -> str:
    """Return the URL of one Redis. ValueError says what is expected."""
    return _check_redis(url, REDIS_FORM)


def check_graph_url(url: str) -> str:
    """Return the URL of one Redis or of a Redis Cluster. ValueError says what is expected."""
    if not url.startswith((f"{CLUSTER}redis://", f"{CLUSTER}rediss://")):
        return _check_redis(url, CLUSTER_FORM)
    scheme, _, rest = url.removeprefix(CLUSTER).partition("://")
    authority = re.split("[/?#]", rest, maxsplit=1)[0]
    login, at, hosts = authority.rpartition("@")
    first = hosts.partition(",")[0]  # of the others the client checks host and port
    _check_redis(f"{scheme}://{login}{at}{first}{rest[len(authority) :]}", CLUSTER_FORM)
    return url


def without_login(url: str) -> str:
    """Return a URL for messages, without user and password."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _check_redis(url: str, form: str) -> str:
    if url.startswith("unix://"):  # its path may contain whatever a path may
        return url
    parts = _check(url, ("redis", "rediss"), form)
    # redis-py takes another word for database 0.
    if not re.fullmatch(r"/?|/\d+/?", parts.path):
        raise ValueError(f"the database must be a number: expected {form}")
    return url


def _check(url: str, schemes: tuple[str, ...], form: str) -> SplitResult:
    scheme, separator, rest = url.partition("://")
    if not separator or scheme.lower() not in schemes:
        raise ValueError(f"expected {form}")
    authority = re.split("[/?#]", rest, maxsplit=1)[0]
    # Behind the authority an @ is the end of a password that a / ? or # has cut.
    if "@" in rest[len(authority) :] or not url.isprintable() or " " in url:
        raise ValueError(ENCODE)
    try:
        parts = urlsplit(url)
        port = parts.port
        unquote(authority.rpartition("@")[0], errors="strict")
    except ValueError:
        raise ValueError(f"expected {form}; {ENCODE}") from None
    if not parts.hostname or port == 0:
        raise ValueError(f"expected {form}")
    return parts
