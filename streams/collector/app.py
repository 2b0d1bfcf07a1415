"""`headwater collect`: serves the collector's HTTP doors until SIGTERM or SIGINT."""

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from infra.settings import Settings
    from streams.collector.http.id_cookie import IdCookieSettings

app = typer.Typer(add_completion=False, rich_markup_mode=None)

RegionHeader = Annotated[
    str | None, typer.Option(help="Header in which a trusted proxy sets the visitor's region; default: the installation's.")
]
TrustedProxies = Annotated[
    int | None,
    typer.Option(
        min=0, max=10, help="Proxies in front that append to X-Forwarded-For; 1 = its last entry. Default: the installation's."
    ),
]
CorsOrigins = Annotated[
    list[str] | None,
    typer.Option(help="Origin of pages that may send from a browser, also https://*.shop.example; repeat it."),
]
BasePath = Annotated[str, typer.Option(help="Path beneath which the doors lie too, behind a proxy that adds one, e.g. /t.")]
SnowplowPaths = Annotated[
    list[str] | None, typer.Option(help="Further POST path of Snowplow trackers, e.g. com.acme/track; repeat it.")
]
Micro = Annotated[bool, typer.Option(help="Serve /micro/*: the last events, for setting tags up. Not for production.")]

Processes = Annotated[
    int, typer.Option(min=1, max=64, help="Processes that share the port; /metrics of any shows the sums over all.")
]
IdCookie = Annotated[
    str | None,
    typer.Option(
        help="Name of a first-party id cookie, set where an event grants storage; default: the installation's, or none."
    ),
]
IdCookieDomain = Annotated[
    str | None, typer.Option(help="Domain of the cookie, e.g. shop.example; default: the collector's host alone.")
]
IdCookieDays = Annotated[
    int | None, typer.Option(min=1, max=400, help="Days that the cookie lives after the last such event; default: 395.")
]


def _cookie_settings(settings: "Settings", name: str | None, domain: str | None, days: int | None) -> "IdCookieSettings | None":
    """Return the settings of the id cookie, options before the installation's; None without a name."""
    from streams.collector.http.id_cookie import IdCookieSettings

    name = settings.id_cookie if name is None else name
    domain = settings.id_cookie_domain if domain is None else domain
    return IdCookieSettings(name, domain, days or settings.id_cookie_days) if name else None


@app.command(epilog="Example: headwater collect --port 8080 --cors-origin https://shop.example")
def collect(  # noqa: PLR0913, PLR0917 - each parameter is an option of the command
    host: Annotated[str, typer.Option(help="Address to serve on; loopback unless told otherwise.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to serve on.")] = 8080,
    region_header: RegionHeader = None,
    trusted_proxies: TrustedProxies = None,
    forwarded: Annotated[bool, typer.Option("--forwarded", help="The same as --trusted-proxies 1.")] = False,
    cors_origin: CorsOrigins = None,
    base_path: BasePath = "",
    snowplow_path: SnowplowPaths = None,
    budget: Annotated[float, typer.Option(min=0.1, help="Seconds to wait for Kafka before an event goes to the spool.")] = 1.5,
    spool_bytes: Annotated[int, typer.Option(min=4_194_304, help="Largest size of the spool of each process.")] = 1_073_741_824,
    micro: Micro = False,
    processes: Processes = 1,
    id_cookie: IdCookie = None,
    id_cookie_domain: IdCookieDomain = None,
    id_cookie_days: IdCookieDays = None,
) -> None:
    """Serve the collector. A 200 means that Kafka's in-sync replicas, or the fsynced spool, have the event."""
    import uvloop

    from infra.http.cors import AllowedOrigins
    from infra.settings import load_settings
    from infra.telemetry.logs import configure_logs
    from streams.collector.http.options import CollectorOptions
    from streams.collector.http.routes import check_base_path
    from streams.collector.http.serving import CollectorProcess, SpoolLimits, serve, serve_by_processes

    configure_logs("collector")
    settings = load_settings()
    origins = AllowedOrigins([*settings.cors_origins, *(cors_origin or ())])
    cookie = _cookie_settings(settings, id_cookie, id_cookie_domain, id_cookie_days)
    options = CollectorOptions(
        settings.region_header if region_header is None else region_header,
        (1 if forwarded else settings.trusted_proxies) if trusted_proxies is None else trusted_proxies,
        origins,
        micro,
        check_base_path(base_path),
        tuple(snowplow_path or ()),
        cookie,
    )
    process = CollectorProcess(options, (host, port), SpoolLimits(budget, spool_bytes), processes)
    serve_by_processes(process) if processes > 1 else uvloop.run(serve(settings, options, process.address, process.limits))
