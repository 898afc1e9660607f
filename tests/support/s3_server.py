"""An S3 server in this process (moto), and a proxy before it that fails as a test tells it to."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from moto.server import ThreadedMotoServer
from s3fs import S3FileSystem

BUCKET = "s3://bucket"
_SENT_ON = {"content-length", "transfer-encoding", "connection", "content-encoding", "host", "expect", "accept-encoding"}
_ERRORS = {403: "AccessDenied", 500: "InternalError", 503: "SlowDown"}

# What a request meets: "" for the server's own answer, a status, "reset", "hang" (no answer), "half" (of the answer's body, then
# the end of the connection), "stall" (half of it, then silence).
Fault = str | int


class FaultyProxy:
    """An HTTP proxy.

    Args:
        upstream: URL of the server behind it.

    Attributes:
        fault: by request, what it meets; a test sets it.
        requests: method and path of all requests.
    """

    def __init__(self, upstream: str) -> None:
        self.fault: Callable[[web.Request], Fault] = lambda _: ""
        self.requests: list[str] = []
        self.port = 0
        self._upstream = upstream
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        self._thread.start()
        self._call(self._set_up())

    def stop(self) -> None:
        self._call(self._tear_down())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _call(self, coroutine: Any) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(timeout=10)

    async def _set_up(self) -> None:
        self._ended = asyncio.Event()
        self._session = aiohttp.ClientSession(auto_decompress=False)
        app = web.Application(client_max_size=1 << 30)
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.port = self._runner.addresses[0][1]

    async def _tear_down(self) -> None:
        self._ended.set()
        await self._runner.cleanup()
        await self._session.close()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(f"{request.method} {request.path_qs}")
        fault = self.fault(request)
        if isinstance(fault, int):
            code = _ERRORS[fault]
            text = f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>{code}</Message></Error>'
            return web.Response(status=fault, text="" if request.method == "HEAD" else text, content_type="application/xml")
        if fault == "reset":
            assert request.transport is not None
            request.transport.abort()
        if fault == "hang":
            await self._ended.wait()
        if fault in ("reset", "hang"):
            return web.Response()
        return await self._pass_on(request, fault)

    async def _pass_on(self, request: web.Request, fault: Fault) -> web.StreamResponse:
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _SENT_ON}
        body = await request.read()
        url = self._upstream + request.raw_path
        async with self._session.request(request.method, url, headers=headers, data=body or None, allow_redirects=False) as found:
            content = await found.read()
            kept = {name: value for name, value in found.headers.items() if name.lower() not in _SENT_ON}
            if request.method == "HEAD":
                kept["Content-Length"] = found.headers.get("Content-Length", "0")
        if fault not in ("half", "stall") or request.method != "GET":
            return web.Response(status=found.status, headers=kept, body=content)
        answer = web.StreamResponse(status=found.status, headers=kept)
        answer.content_length = len(content)
        await answer.prepare(request)
        await answer.write(content[: len(content) // 2])
        if fault == "stall":
            await self._ended.wait()
        assert request.transport is not None
        request.transport.close()
        return answer


@contextmanager
def s3_server() -> Iterator[FaultyProxy]:
    """Serve an empty bucket `BUCKET` through a proxy, which the environment names to this process and its children."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # it would print every request
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    proxy = FaultyProxy(f"http://{host}:{port}")
    proxy.start()
    variables = {
        "AWS_ENDPOINT_URL": proxy.url,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    S3FileSystem.clear_instance_cache()  # of another server
    try:
        make_bucket()
        yield proxy
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
        proxy.stop()
        server.stop()


def make_bucket() -> None:
    """Make the bucket, by another client than the one under test."""
    import boto3

    boto3.client("s3").create_bucket(Bucket=BUCKET.removeprefix("s3://"))


def upload(folder: Path, prefix: str) -> str:
    """Copy a folder into the bucket, by another client than the one under test; return its URL."""
    import boto3

    client = boto3.client("s3")
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            client.upload_file(str(path), BUCKET.removeprefix("s3://"), f"{prefix}/{path.relative_to(folder).as_posix()}")
    return f"{BUCKET}/{prefix}"


def objects(prefix: str = "") -> dict[str, bytes]:
    """Contents of the objects in the bucket by key, by another client than the one under test."""
    import boto3

    client, bucket = boto3.client("s3"), BUCKET.removeprefix("s3://")
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    keys = [entry["Key"] for page in pages for entry in page.get("Contents", [])]
    return {key: client.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys}
