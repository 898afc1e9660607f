"""Models at Hugging Face's hub: `hf://OWNER/NAME[@REVISION][/FILE]`, fetched and sent by the package huggingface_hub.

A revision is a branch, a tag or a commit; without one the default branch is meant. What is fetched lies in the cache of
huggingface_hub (HF_HOME), under its commit. A file that lies there is used without asking the hub again when its commit is given
and when HF_HUB_OFFLINE=1 forbids to ask; and, with a note, when the hub cannot be reached. A file appears in the cache whole or
not at all.

huggingface_hub reads tokens itself, from the variable HF_TOKEN or from where `hf auth login` has put it. Nothing here reads one,
and no message shows one.

Only safetensors are fetched: a pickle from elsewhere could run code. The callers allow known names beside them, and read these
files without executing anything.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias

from common.errors import InfrastructureError, MissingPackageError, RefusedError
from common.model_card import LIBRARY
from common.notes import note
from common.retries import one_line

SCHEME = "hf://"
SAFE_SUFFIX = ".safetensors"
_PART = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_URL = re.compile(
    rf"hf://(?P<repository>{_PART}/{_PART})(?:@(?P<revision>refs/(?:pr|convert)/[^/@]+|[^/@]+))?(?:/(?P<file>[^@]+))?"
)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_TOKEN = re.compile(r"hf_[A-Za-z0-9]{8,}")
NO_MODEL = "names no model at the hub; expected"
HUB_FORM = "hf://OWNER/NAME, hf://OWNER/NAME@REVISION or either with /FILE at its end"


class HubPath:
    """A repository of the hub at a revision, or one file in it.

    It is no dataclass, since jsonargparse takes these for groups of options.

    Attributes:
        repository: OWNER/NAME.
        revision: branch, tag or commit; None for the default branch.
        file: path of a file in the repository; None for the file that is usual for what is looked for.
    """

    __slots__ = ("file", "repository", "revision")

    def __init__(self, repository: str, revision: str | None = None, file: str | None = None) -> None:
        self.repository, self.revision, self.file = repository, revision, file

    def __str__(self) -> str:
        revision = "" if self.revision is None else f"@{self.revision}"
        return f"{SCHEME}{self.repository}{revision}{'' if self.file is None else f'/{self.file}'}"

    def __repr__(self) -> str:
        return f"HubPath({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, HubPath) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))


ModelPath: TypeAlias = Path | HubPath


def is_hub_url(text: object) -> bool:
    """Return True for a text that begins like the URL of a model at the hub."""
    return str(text).startswith(SCHEME)


def hub_path(text: str) -> HubPath:
    """The place that a URL of the hub names. Raises ValueError when it is none."""
    found = _URL.fullmatch(text.rstrip("/"))
    parts = PurePosixPath((found and found["file"]) or "").parts
    if found is None or ".." in parts:
        raise ValueError(f"{without_tokens(text)} {NO_MODEL} {HUB_FORM}")
    return HubPath(found["repository"], found["revision"], found["file"])


def model_path(text: ModelPath | str) -> ModelPath:
    """The place that a path or a URL of the hub names. Raises ValueError for a wrong URL of the hub."""
    if isinstance(text, str) and is_hub_url(text):
        return hub_path(text)
    return Path(text) if isinstance(text, str) else text


def fetch(place: HubPath, usual: str, also: Collection[str] = ()) -> Path:
    """The path in the cache of a file from the hub, fetched if it is not there.

    Args:
        place: what to fetch.
        usual: file that is meant where `place` names none.
        also: names of files that may be fetched although they are no safetensors.

    Raises:
        ValueError: the repository, its revision or the file does not exist or is hidden from this user; the file is of a kind
            that is not fetched; huggingface_hub is not installed; or the file is not in the cache and HF_HUB_OFFLINE forbids to
            ask.
        RefusedError: the hub refuses access.
        InfrastructureError: the hub cannot be reached, and the file is not in the cache.
    """
    name = place.file or usual
    if not name.endswith(SAFE_SUFFIX) and PurePosixPath(name).name not in also:
        allowed = " or ".join([f"a {SAFE_SUFFIX} file", *also])
        raise ValueError(f"{place}: {name} is not fetched from the hub, as such a file could run code; expected {allowed}")
    with _named_errors(HubPath(place.repository, place.revision, name), f"fetching {name}"):
        from huggingface_hub import hf_hub_download

        cached = _cached_without_the_hub(place, name)
        if cached is not None:
            return cached
        return Path(hf_hub_download(place.repository, name, revision=place.revision, library_name=LIBRARY))


def _cached_without_the_hub(place: HubPath, name: str) -> Path | None:
    """The newest file of a branch or tag that lies in the cache, with a note, where the hub cannot be asked for a newer one.

    None where it can be asked, and where nothing lies in the cache. huggingface_hub would use such a file without a word, also
    where the hub refuses access. Raises what the hub answers when it refuses.
    """
    from huggingface_hub import constants, errors, get_hf_file_metadata, hf_hub_url, try_to_load_from_cache

    if constants.HF_HUB_OFFLINE or (place.revision is not None and _COMMIT.fullmatch(place.revision)):
        return None  # huggingface_hub takes what lies in the cache, as the user asks
    try:
        get_hf_file_metadata(hf_hub_url(place.repository, name, revision=place.revision), library_name=LIBRARY)
    except Exception as error:
        if isinstance(error, errors.HfHubHTTPError) and error.response.status_code < 500:
            raise
        found = try_to_load_from_cache(place.repository, name, revision=place.revision)
        if not isinstance(found, str):
            return None  # huggingface_hub asks again, several times
        note(
            f"{place}: {constants.ENDPOINT} cannot be asked for a newer version ({_reason(error)}); the one in the cache is "
            f"used, of commit {commit_of(Path(found))}"
        )
        return Path(found)
    return None


def pinned(place: HubPath, usual: str, also: Collection[str] = ()) -> HubPath:
    """The same place at the commit that its revision means now; fetches the file. Raises what `fetch` raises."""
    return HubPath(place.repository, commit_of(fetch(place, usual, also)), place.file)


def commit_of(path: Path) -> str:
    """The commit of a file in the cache of huggingface_hub, which lies in `snapshots/COMMIT/`."""
    folders = path.parts
    commit = folders[len(folders) - 1 - folders[::-1].index("snapshots") + 1]
    assert _COMMIT.fullmatch(commit), path
    return commit


def upload(place: HubPath, files: Mapping[str, Path | bytes], message: str, private: bool) -> str:
    """Send files to a repository in one commit, and return the commit. The repository is made if there is none.

    Args:
        place: repository, and branch; without a revision the default branch.
        files: content, or a file that holds it, by path in the repository. Equal content is not sent again.
        message: of the commit.
        private: whether a new repository is hidden from others; one that exists stays as it is.

    Raises:
        ValueError: there is no such branch, the hub refuses the metadata of README.md, or huggingface_hub is not installed.
        RefusedError: without a token, or with one that may not write there.
        InfrastructureError: the hub cannot be reached.
    """
    with _named_errors(place, "publishing"):
        from huggingface_hub import CommitOperationAdd, HfApi

        hub = HfApi(library_name=LIBRARY)
        hub.create_repo(place.repository, private=private, exist_ok=True)
        additions = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=content) for name, content in files.items()]
        return str(hub.create_commit(place.repository, additions, commit_message=message, revision=place.revision).oid)


def without_tokens(text: str) -> str:
    """A text with `hf_...` for each token in it."""
    return _TOKEN.sub("hf_...", text)


@contextmanager
def _named_errors(place: HubPath, doing: str) -> Iterator[None]:
    """Turn what huggingface_hub raises into one line that names the place, what was done and what to do."""
    try:
        yield
    except ImportError as error:
        raise MissingPackageError(
            f"{place}: the package huggingface_hub is not installed ({error}); pip install '.[hub]'"
        ) from error
    except Exception as error:
        named = _named(error, place, doing)
        if named is None:
            raise
        raise named from error


def _named(error: Exception, place: HubPath, doing: str) -> Exception | None:
    """The error to raise in place of one of huggingface_hub; None for one that has nothing to do with the hub."""
    from huggingface_hub import constants, errors

    hub, where = constants.ENDPOINT, without_tokens(str(place))
    reason = _reason(error.__cause__ or error)
    log_in = "log in with `hf auth login`, or give a token in the variable HF_TOKEN"
    if isinstance(error, errors.GatedRepoError):
        return RefusedError(f"{where}: the repository is restricted; ask for access at {hub}/{place.repository}, and {log_in}")
    if isinstance(error, errors.RepositoryNotFoundError):
        return ValueError(f"{where}: {hub} has no repository {place.repository}, or it is private; check the name, or {log_in}")
    if isinstance(error, errors.RevisionNotFoundError):
        return ValueError(f"{where}: {place.repository} has no revision {place.revision!r}; see {hub}/{place.repository}/commits")
    if isinstance(error, errors.EntryNotFoundError) and not isinstance(error, errors.LocalEntryNotFoundError):
        return ValueError(f"{where}: there is no such file in the repository; see {hub}/{place.repository}/tree/main")
    if isinstance(error, errors.LocalEntryNotFoundError | errors.OfflineModeIsEnabled):
        if constants.HF_HUB_OFFLINE:
            return ValueError(f"{where}: is not in the cache {constants.HF_HUB_CACHE}, and HF_HUB_OFFLINE forbids to ask {hub}")
        return InfrastructureError(f"{where}: {doing} failed, as {hub} cannot be reached, and it is not in the cache: {reason}")
    if isinstance(error, errors.HfHubHTTPError):
        return _of_status(error, f"{where}: {doing}", f"{reason}; {log_in}", reason)
    if isinstance(error, errors.LocalTokenNotFoundError):
        return RefusedError(f"{where}: {doing} needs a token; {log_in}")
    is_network = type(error).__module__.partition(".")[0] in ("httpx", "httpx2", "requests", "hf_xet")
    if is_network or isinstance(error, ConnectionError | TimeoutError) or (isinstance(error, OSError) and error.errno is None):
        return InfrastructureError(f"{where}: {doing} failed between here and {hub}: {reason}")
    return ValueError(f"{where}: {doing} failed: {reason}") if isinstance(error, ValueError) else None


def _reason(error: BaseException) -> str:
    """The text of an error on one line, without tokens and without the pointers of httpx to an encyclopedia."""
    return without_tokens(re.sub(r" For more information check: \S+", "", one_line(error)))


def _of_status(error: Any, failed: str, refused: str, reason: str) -> Exception:
    """The error that stands for an answer of the hub with an HTTP status of 400 or more."""
    status = error.response.status_code
    if status in (401, 403, 407):
        return RefusedError(f"{failed} is refused (HTTP {status}): {refused}")
    if status >= 500 or status in (408, 425, 429):
        return InfrastructureError(f"{failed} failed (HTTP {status}): {reason}")
    return ValueError(f"{failed} failed (HTTP {status}): {reason}")
