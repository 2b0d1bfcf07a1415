"""Options of `headwater collect` that concern its HTTP side."""

from dataclasses import dataclass, field

from infra.http.cors import AllowedOrigins
from streams.collector.http.id_cookie import IdCookies, IdCookieSettings


@dataclass(frozen=True)
class CollectorOptions:
    """Options of the command."""

    region_header: str = ""
    """Header that a trusted proxy sets to the visitor's region; it must drop what a client sends under that name."""
    trusted_proxies: int = 0
    """Proxies in front of the collector that append to X-Forwarded-For."""
    origins: AllowedOrigins = field(default_factory=AllowedOrigins)
    micro: bool = False
    base_path: str = ""
    """Path beneath which the doors lie too; empty, or with a leading and no final slash."""
    snowplow_paths: tuple[str, ...] = ()
    """Further POST paths of Snowplow trackers."""
    id_cookie: IdCookieSettings | None = None
    """None: no cookie is set or read."""
    id_cookies: IdCookies | None = None
    """The cookies of this process, made of `id_cookie`: they hold a policy, which is handed to no other process."""


__all__ = ["CollectorOptions"]
