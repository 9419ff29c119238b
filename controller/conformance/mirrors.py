"""A mirror of the transport files that is wrong: other bytes, or none."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_RANGE = re.compile(r"bytes=(\d+)-(\d*)\Z")


@contextmanager
def altered(content: bytes, asked: Callable[[], None]) -> Iterator[str]:
    """Serve the file with every bit of it turned, ranges and all; gives its address.

    ``asked`` is called for each request.
    """
    wrong = bytes(byte ^ 0xFF for byte in content)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked()
            found = _RANGE.match(self.headers.get("Range", ""))
            first = int(found[1]) if found else 0
            last = int(found[2]) if found and found[2] else len(wrong) - 1
            part = wrong[first : last + 1]
            self.send_response(206 if found else 200)
            if found:
                self.send_header("Content-Range", f"bytes {first}-{last}/{len(wrong)}")
            self.send_header("Content-Length", str(len(part)))
            self.end_headers()
            self.wfile.write(part)

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
            """Says nothing: what was asked is counted."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/file"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
