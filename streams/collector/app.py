"""`headwater collect`: serves the collector's HTTP doors until SIGTERM or SIGINT."""

from typing import Annotated

import typer

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command(epilog="Example: headwater collect --port 8080 --cors-origin https://shop.example")
def collect(  # noqa: PLR0913, PLR0917 - each parameter is an option of the command
    host: Annotated[str, typer.Option(help="Address to serve on; loopback unless told otherwise.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to serve on.")] = 8080,
    region_header: Annotated[
        str | None, typer.Option(help="Header in which a trusted proxy sets the visitor's region; default: the installation's.")
    ] = None,
    forwarded: Annotated[
        bool | None, typer.Option(help="Trust X-Forwarded-For: only behind a proxy that sets it; default: the installation's.")
    ] = None,
    cors_origin: Annotated[
        list[str] | None, typer.Option(help="Origin of pages that may send from a browser; repeat it.")
    ] = None,
    budget: Annotated[float, typer.Option(min=0.1, help="Seconds to wait for Kafka before an event goes to the spool.")] = 1.5,
    spool_bytes: Annotated[int, typer.Option(min=4_194_304, help="Largest size of the spool.")] = 1_073_741_824,
    micro: Annotated[
        bool, typer.Option(help="Serve /micro/*: the last events, for setting tags up. Not for production.")
    ] = False,
) -> None:
    """Serve the collector. A 200 means that Kafka's in-sync replicas, or the fsynced spool, have the event."""
    import uvloop

    from infra.settings import load_settings
    from infra.telemetry.logs import configure_logs
    from streams.collector.http.server import CollectorOptions
    from streams.collector.http.serving import SpoolLimits, serve

    configure_logs("collector")
    settings = load_settings()
    header = settings.region_header if region_header is None else region_header
    options = CollectorOptions(
        header, settings.forwarded if forwarded is None else forwarded, frozenset(cors_origin or ()), micro
    )
    uvloop.run(serve(settings, options, (host, port), SpoolLimits(budget, spool_bytes)))
