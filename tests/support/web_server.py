"""Folders served by HTTP from this process, by aiohttp, which knows byte ranges."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aiohttp import web


def _list_of(folder: Path) -> web.Response:
    """A page with a link to each file and folder, as most web servers have it: links to folders end with a slash."""
    names = sorted(f"{path.name}/" if path.is_dir() else path.name for path in folder.iterdir())
    links = "".join(f'<a href="{name}">{name}</a>' for name in ("../", *names))
    return web.Response(text=f'<html><a href="?C=N;O=D">Name</a>{links}</html>', content_type="text/html")


@contextmanager
def web_server() -> Iterator[Callable[..., str]]:
    """A function that serves a folder and returns its URL.

    Its second argument is called with each request; a web.HTTPException that it raises is the answer, and the seconds that it may
    return are by how much the answer is late. Further arguments are routes that come before the files of the folder.
    """
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    runners = []

    def run(coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result(timeout=10)

    def start(folder: Path, before: Callable[[web.Request], float | None], *routes: web.RouteDef) -> str:
        @web.middleware
        async def answer(request: web.Request, handler: Any) -> Any:
            await asyncio.sleep(before(request) or 0)
            path = folder / request.path.lstrip("/")
            return _list_of(path) if path.is_dir() else await handler(request)

        app = web.Application(middlewares=[answer])
        app.add_routes(routes)
        app.router.add_static("/", folder)
        runner = web.AppRunner(app)
        run(runner.setup())
        run(web.TCPSite(runner, "127.0.0.1", 0).start())
        runners.append(runner)
        return f"http://127.0.0.1:{runner.addresses[0][1]}"

    yield start
    for runner in runners:
        run(runner.cleanup())
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()
