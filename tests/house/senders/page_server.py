"""A web server for pages of a shop: its pages, the bundles of SDKs, and the settings that SDKs ask a vendor for."""

import json
import threading
from collections.abc import Mapping
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.support.npm_packages import SENDERS

PAGES = SENDERS / "pages"


class PageServer:
    """Serves on a free port until `stop`."""

    def __init__(self, modules: Path) -> None:
        self._answers: dict[str, tuple[str, str]] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self._answers, modules))
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        # A host of another name than the collector's, so that the browser treats it as another site.
        self.origin = f"http://localhost:{self._server.server_address[1]}"

    def configure(self, key: str, settings: Mapping[str, Any]) -> None:
        """Set what pages read as `SETTINGS`, and what the vendors' services would answer for this write key."""
        segment = {"integrations": {"Segment.io": {"apiKey": key}}, "plan": {"track": {}}}
        off = {"statsCollection": {"errors": {"enabled": False}, "metrics": {"enabled": False}}}
        source = {"id": "source", "name": "shop", "writeKey": key, "enabled": True, "workspaceId": "w", "destinations": []}
        self._answers |= {
            "/favicon.ico": ("image/x-icon", ""),
            "/settings.js": ("text/javascript", f"const SETTINGS = {json.dumps(settings)};"),
            f"/v1/projects/{key}/settings": ("application/json", json.dumps(segment)),
            "/sourceConfig/": ("application/json", json.dumps({"source": {**source, "config": off, "dataplanes": {}}})),
        }

    def stop(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)


def _handler(answers: Mapping[str, tuple[str, str]], modules: Path) -> type[SimpleHTTPRequestHandler]:
    class Handler(SimpleHTTPRequestHandler):
        """Answers from memory, else from one of two folders."""

        def do_GET(self) -> None:
            path = urlsplit(self.path).path
            if path not in answers:
                return super().do_GET()
            content_type, text = answers[path]
            self.send_response(200)
            self.send_header("Content-Type", f"{content_type}; charset=utf-8")
            self.end_headers()
            self.wfile.write(text.encode())
            return None

        def translate_path(self, path: str) -> str:
            path = urlsplit(path).path
            folder = modules if path.startswith("/node_modules/") else PAGES
            file = (folder / path.removeprefix("/node_modules/").lstrip("/")).resolve()
            return str(file if file.is_relative_to(folder.resolve()) else folder / "missing")

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing: the driver's report has each request."""

    return Handler


__all__ = ["PageServer"]
