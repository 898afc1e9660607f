"""Signed URLs: files that a storage gives out only with a token in their URL, which expires.

So URLs are signed when bytes are asked for, and never stored. Planetary Computer gives a token for each container of a storage
account to anybody. Its package `planetary-computer` does the same; it was last released in 2023, and its errors name neither the
file nor what to do.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Protocol

from common.storage import RemotePath
from data_prep.archive.stac_collections import NO_SIGNER

RENEWED_BEFORE = timedelta(minutes=5)  # a token is renewed so long before it expires: a read may take minutes, clocks differ
_ASKING = threading.Lock()  # of threads that need a token, one asks for it


class Signer(Protocol):
    """Signs URLs. Raises ValueError for a URL that is not of its storage."""

    def __call__(self, url: str) -> str: ...


def unsigned(url: str) -> str:
    """The URL itself."""
    return url


@dataclass
class TokenSigner:
    """Appends to each URL the token of its container, which it asks for and keeps until it expires.

    Attributes:
        name: name of the signer.
        files: regular expression of the URLs of files, with the named groups `account` and `container`.
        token_url: where the token of an account and a container comes from, as JSON with `token` and `msft:expiry`.
    """

    name: str
    files: str
    token_url: str
    _tokens: dict[str, tuple[str, datetime]] = field(default_factory=dict)

    def __call__(self, url: str) -> str:
        match = re.match(self.files, url)
        if match is None:
            raise ValueError(f"{url}: signer {self.name} has no token for this host; give `signer: {NO_SIGNER}` in scene.yaml")
        source = self.token_url.format(**match.groupdict())
        with _ASKING:
            token, expiry = self._tokens.get(source, ("", datetime.min.replace(tzinfo=UTC)))
            if datetime.now(UTC) + RENEWED_BEFORE > expiry:
                token, expiry = self._tokens[source] = _token_at(source)
        return f"{url}{'&' if '?' in url else '?'}{token}"


def _token_at(source: str) -> tuple[str, datetime]:
    """The token that a URL gives out, and when it expires."""
    try:
        values = json.loads(RemotePath(source).read_bytes())
        return values["token"], datetime.fromisoformat(values["msft:expiry"])
    except FileNotFoundError as error:
        raise ValueError(f"{source}: no token there; the account and container are those in the URL of the file") from error
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{source}: gives no token: {error!r}; expected JSON with `token` and `msft:expiry`") from error


SIGNERS: Mapping[str, Signer] = {
    NO_SIGNER: unsigned,
    "planetary_computer": TokenSigner(
        name="planetary_computer",
        files=r"https://(?P<account>\w+)\.blob\.core\.windows\.net/(?P<container>[\w-]+)/",
        token_url="https://planetarycomputer.microsoft.com/api/sas/v1/token/{account}/{container}",
    ),
}


def signer_named(name: str, origin: str) -> Signer:
    """The signer of this name. Raises ValueError that names the known ones."""
    if name not in SIGNERS:
        raise ValueError(f"{origin}: signer is {name!r}; expected one of {', '.join(SIGNERS)}")
    return SIGNERS[name]
