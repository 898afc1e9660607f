"""A stand-in for Hugging Face's hub: the few requests of huggingface_hub that fetching and publishing of models need.

Repositories lie in memory. Like the hub it tells a repository that is hidden from one that does not exist by nothing, resolves
branches to commits, and takes large files apart from the commit.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_StandInTokenOfTheTests"


def oid_of(content: bytes) -> str:
    """Git's name of a blob, which the hub uses as ETag."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class Repository:
    """A repository: its commits, oldest first, each a name and the files by path."""

    commits: list[tuple[str, dict[str, bytes]]] = field(default_factory=list)
    private: bool = False
    gated: bool = False

    def add(self, files: dict[str, bytes | None]) -> str:
        """Commit files; None removes one. Returns the commit."""
        before = dict(self.commits[-1][1]) if self.commits else {}
        after = {name: content for name, content in (before | files).items() if content is not None}
        summary = repr([(name, oid_of(content)) for name, content in sorted(after.items())])
        commit = hashlib.sha1(f"{len(self.commits)} {summary}".encode()).hexdigest()
        self.commits.append((commit, after))
        return commit

    def at(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """Name and files of a commit, or of the newest one for `main`; None where there is none."""
        if revision == "main":
            return self.commits[-1] if self.commits else None
        return next((commit for commit in self.commits if commit[0] == revision), None)


@dataclass
class Hub:
    """The stand-in.

    Attributes:
        url: where it answers.
        repositories: by OWNER/NAME.
        requests: method, path and Authorization header of each request.
        break_after: if given, an answer with a file ends after so many bytes, once for each file.
        refuse: HTTP status of all answers; None for none.
        refuse_after_break: whether every answer after a broken one is 403.
        large: files of at least so many bytes are sent apart from the commit.
    """

    url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    requests: list[tuple[str, str, str]] = field(default_factory=list)
    break_after: int | None = None
    broken: set[str] = field(default_factory=set)
    refuse: int | None = None
    refuse_after_break: bool = False
    large: int = 1 << 30
    objects: dict[str, bytes] = field(default_factory=dict)


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Nothing is printed."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path, body = unquote(urlsplit(self.path).path), self.rfile.read(int(self.headers.get("Content-Length") or 0))
        authorization = self.headers.get("Authorization", "")
        self.hub.requests.append((self.command, path, authorization))
        knows_us = authorization == f"Bearer {TOKEN}"
        if self.hub.refuse is not None:
            self._send(self.hub.refuse, {"error": "refused"})
        elif path == "/api/validate-yaml":
            self._send(200, {"errors": [], "warnings": []})
        elif path == "/api/repos/create":
            self._create(json.loads(body), knows_us)
        elif match := re.fullmatch(r"/upload/(\w+)", path):
            self.hub.objects[match[1]] = body
            self._send(200, {})
        elif match := re.fullmatch(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
            self._large_files(match[1], json.loads(body))
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(preupload|commit|revision)/(.+))?", path):
            self._api(match[1], match[2], match[3] or "main", body, knows_us)
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._file(match[1], match[2], match[3], knows_us)
        else:
            self._send(404, {"error": "not found"})

    def _repository(self, name: str, knows_us: bool) -> Repository | None:
        """The repository, or None after an answer that it is hidden or not there."""
        found = self.hub.repositories.get(name)
        if found is None or (found.private and not knows_us):
            self._send(401, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
            return None
        if found.gated and not knows_us:
            self._send(403, {"error": "gated"}, {"X-Error-Code": "GatedRepo"})
            return None
        return found

    def _create(self, wanted: dict[str, Any], knows_us: bool) -> None:
        name = f"{wanted['organization']}/{wanted['name']}"
        if not knows_us:
            self._send(401, {"error": "Invalid username or password."})
        elif name in self.hub.repositories:
            self._send(409, {"error": "You already created this model repo", "url": f"{self.hub.url}/{name}"})
        else:
            private = bool(wanted.get("private")) or wanted.get("visibility") == "private"
            self.hub.repositories[name] = Repository(private=private)
            self._send(200, {"url": f"{self.hub.url}/{name}", "id": name})

    def _api(self, name: str, what: str | None, revision: str, body: bytes, knows_us: bool) -> None:
        repository = self._repository(name, knows_us)
        if repository is None:
            return
        commit, files = repository.at(revision) or ("", {})
        if what == "preupload":
            modes = [
                {
                    "path": each["path"],
                    "uploadMode": "lfs" if each["size"] >= self.hub.large else "regular",
                    "shouldIgnore": False,
                    "oid": self._oid(files.get(each["path"])),
                }
                for each in json.loads(body)["files"]
            ]
            self._send(200, {"files": modes})
        elif what == "commit":
            added: dict[str, bytes | None] = {}
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    added[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    added[value["path"]] = self.hub.objects[value["oid"]]
            new = repository.add(added)
            self._send(200, {"commitUrl": f"{self.hub.url}/{name}/commit/{new}", "commitOid": new})
        else:
            siblings = [{"rfilename": path} for path in files]
            self._send(200, {"id": name, "modelId": name, "sha": commit, "siblings": siblings, "private": repository.private})

    def _oid(self, content: bytes | None) -> str | None:
        """The hub's name of a file's content: of large ones the sha256."""
        if content is None:
            return None
        return hashlib.sha256(content).hexdigest() if len(content) >= self.hub.large else oid_of(content)

    def _large_files(self, name: str, wanted: dict[str, Any]) -> None:
        assert name in self.hub.repositories
        objects = [
            each | {"actions": {"upload": {"href": f"{self.hub.url}/upload/{each['oid']}", "header": {}}}}
            for each in wanted["objects"]
        ]
        self._send(200, {"transfer": "basic", "objects": objects})

    def _file(self, name: str, revision: str, path: str, knows_us: bool) -> None:
        repository = self._repository(name, knows_us)
        if repository is None:
            return
        found = repository.at(revision)
        if found is None:
            self._send(404, {"error": "Invalid rev id"}, {"X-Error-Code": "RevisionNotFound"})
        elif path not in found[1]:
            self._send(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": found[0]})
        else:
            self._send_file(found[0], path, found[1][path])

    def _send_file(self, commit: str, path: str, content: bytes) -> None:
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        start = int(wanted[1]) if wanted else 0
        stop = int(wanted[2]) + 1 if wanted and wanted[2] else len(content)
        self.send_response(206 if wanted else 200)
        self.send_header("X-Repo-Commit", commit)
        self.send_header("ETag", f'"{oid_of(content)}"')
        self.send_header("Content-Length", str(stop - start))
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(content)}")
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.hub.break_after is not None and path not in self.hub.broken:
            self.hub.broken.add(path)
            self.wfile.write(content[start : start + self.hub.break_after])
            self.close_connection = True
            self.hub.refuse = 403 if self.hub.refuse_after_break else None
            return
        self.wfile.write(content[start:stop])

    def _send(self, status: int, values: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        content = json.dumps(values).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


@contextmanager
def hub_server() -> Iterator[Hub]:
    """A stand-in that answers on this machine until the `with` ends."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
