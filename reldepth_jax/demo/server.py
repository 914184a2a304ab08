"""A server of one folder for this machine alone."""

import functools
import http.server
import os
from typing import Any


class _Handler(http.server.SimpleHTTPRequestHandler):
    """Hands out files, and lets the page share memory between threads.

    Browsers allow `SharedArrayBuffer`, which WebAssembly's threads need, to pages that are isolated
    from others by the first two headers.
    """

    # The system's table may say something else, and modules of another type are not run.
    extensions_map = {
        "": "application/octet-stream",
        ".css": "text/css; charset=utf-8",
        ".html": "text/html; charset=utf-8",
        ".jpg": "image/jpeg",
        ".js": "text/javascript",
        ".json": "application/json",
        ".mjs": "text/javascript",
        ".svg": "image/svg+xml",
    }

    def end_headers(self) -> None:
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        # Another network may be served at this address next time.
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Stay silent: who looks at the page sees what is missing."""


def server(folder: str | os.PathLike[str], port: int = 0) -> http.server.ThreadingHTTPServer:
    """Return a server of `folder` that listens on 127.0.0.1, at a free port if `port` is 0.

    Raises OSError if the port is taken.
    """
    handler = functools.partial(_Handler, directory=os.fspath(folder))
    made = http.server.ThreadingHTTPServer(("127.0.0.1", port), handler)
    made.daemon_threads = True
    return made
