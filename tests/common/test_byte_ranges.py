"""Byte ranges of a web server that does not know them."""

from __future__ import annotations

import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from common.byte_ranges import fetch_ranges


def test_a_server_without_byte_ranges_is_named(tmp_path: Path) -> None:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            """Nothing: every request would be printed."""

    (tmp_path / "modis-train-000000.tar").write_bytes(bytes(1000))
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        with pytest.raises(
            ValueError, match=r"modis-train-000000.tar: \d+ bytes came where 100 were asked for: the server knows no"
        ):
            fetch_ranges([(f"http://127.0.0.1:{server.server_port}/modis-train-000000.tar", 50, 150)])
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
