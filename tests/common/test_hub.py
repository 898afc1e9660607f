"""Models at Hugging Face's hub: URLs, fetching, the cache, publishing, and what is said when it fails."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("huggingface_hub")

from huggingface_hub import constants

from common.command_line import run_command
from common.errors import InfrastructureError, RefusedError
from common.hub import HubPath, ModelPath, fetch, hub_path, model_path, pinned, upload, without_tokens
from tests.support.hub_models import use_hub
from tests.support.hub_server import TOKEN, Hub, Repository, hub_server

FILE = "encoder.safetensors"
FIRST, SECOND = b"first" * 20_000, b"second" * 20_000
PLACE = HubPath("me/model")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with a repository of two commits."""
    with hub_server() as hub:
        use_hub(hub, tmp_path / "cache", monkeypatch)
        hub.repositories["me/model"] = Repository()
        hub.repositories["me/model"].add({FILE: FIRST, "AgriFM.pth": b"pickle", "evil.bin": b"pickle"})
        yield hub


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("hf://me/my.model-1", HubPath("me/my.model-1")),
        ("hf://me/model/", HubPath("me/model")),
        ("hf://me/model@v1.0", HubPath("me/model", "v1.0")),
        ("hf://me/model@refs/pr/3/a/b.safetensors", HubPath("me/model", "refs/pr/3", "a/b.safetensors")),
        ("hf://me/model/AgriFM.pth", HubPath("me/model", None, "AgriFM.pth")),
    ],
)
def test_urls(url: str, place: HubPath) -> None:
    assert hub_path(url) == place
    assert hub_path(str(place)) == place
    assert model_path(url) == place


@pytest.mark.parametrize("url", ["hf://", "hf://model", "hf://me/", "hf://me/model@", "hf://me/model/../../secret", "hf://a b/c"])
def test_what_is_no_url_of_a_model(url: str) -> None:
    with pytest.raises(ValueError, match="names no model at the hub; expected hf://OWNER/NAME"):
        hub_path(url)


def test_a_token_in_a_url_is_not_shown() -> None:
    with pytest.raises(ValueError, match=r"hf://user:hf_\.\.\.@me/model names no model") as raised:
        hub_path(f"hf://user:{TOKEN}@me/model")
    assert TOKEN not in str(raised.value)
    assert without_tokens(f"a {TOKEN} b") == "a hf_... b"


def test_a_path_is_no_url() -> None:
    assert model_path("runs/tiny") == Path("runs/tiny")


def test_an_option_takes_a_path_or_a_model_at_the_hub(capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[object] = []

    def command(model: ModelPath, other: ModelPath | None = None) -> None:
        """A command.

        Args:
            model: a model.
            other: another one.
        """
        seen.extend([model, other])

    for arguments in (["--model", "hf://me/model@v1", "--other", "runs/tiny"], ["--model", "runs/tiny"]):
        with pytest.raises(SystemExit) as ended:
            run_command(command, arguments)
        assert not ended.value.code
    assert seen == [HubPath("me/model", "v1"), Path("runs/tiny"), Path("runs/tiny"), None]
    with pytest.raises(SystemExit):
        run_command(command, ["--model", "s3://bucket/model"])
    assert "is a URL; expected a path on this machine" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run_command(command, ["--model", "hf://model"])
    assert "names no model at the hub" in capsys.readouterr().err


def test_several_checkpoints_by_name() -> None:
    seen: list[object] = []

    def command(checkpoints: dict[str, ModelPath]) -> None:
        """A command.

        Args:
            checkpoints: models by name.
        """
        seen.append(checkpoints)

    with pytest.raises(SystemExit):
        run_command(command, ["--checkpoints.map", "hf://me/model@v1", "--checkpoints.local", "runs/tiny"])
    assert seen == [{"map": HubPath("me/model", "v1"), "local": Path("runs/tiny")}]


def test_fetched_once_and_then_from_the_cache(hub: Hub) -> None:
    path = fetch(PLACE, FILE)
    assert path.read_bytes() == FIRST
    assert fetch(PLACE, FILE) == path
    assert len([path for method, path, _ in hub.requests if method == "GET" and "/resolve/" in path]) == 1


def test_a_pinned_revision_stays_what_it_was(hub: Hub) -> None:
    first = pinned(PLACE, FILE)
    assert first.revision == hub.repositories["me/model"].commits[0][0]
    hub.repositories["me/model"].add({FILE: SECOND})
    second = pinned(PLACE, FILE)
    assert second.revision != first.revision
    assert (fetch(first, FILE).read_bytes(), fetch(second, FILE).read_bytes()) == (FIRST, SECOND)
    hub.requests.clear()
    assert fetch(first, FILE).read_bytes() == FIRST
    assert not hub.requests, "a commit that lies in the cache needs no network"


def test_a_download_that_breaks_off_is_resumed_and_the_file_is_whole(hub: Hub) -> None:
    hub.break_after = 1000
    assert fetch(PLACE, FILE).read_bytes() == FIRST


def test_a_download_that_ends_for_good_leaves_nothing_that_counts(hub: Hub) -> None:
    hub.break_after, hub.refuse_after_break = 1000, True
    with pytest.raises((RefusedError, InfrastructureError), match=r"me/model/encoder.safetensors: fetching"):
        fetch(PLACE, FILE)
    hub.refuse = None
    assert fetch(PLACE, FILE).read_bytes() == FIRST


def test_only_safetensors_and_named_files_are_fetched(hub: Hub) -> None:
    with pytest.raises(ValueError, match=r"evil.bin is not fetched .*, as such a file could run code; expected a \.safe"):
        fetch(HubPath("me/model", None, "evil.bin"), FILE)
    with pytest.raises(ValueError, match=r"AgriFM\.pth is not fetched"):
        fetch(HubPath("me/model", None, "AgriFM.pth"), FILE)
    assert fetch(HubPath("me/model", None, "AgriFM.pth"), FILE, ("AgriFM.pth",)).read_bytes() == b"pickle"
    assert not [request for request in hub.requests if "evil" in request[1]]


@pytest.mark.parametrize(
    ("place", "error", "message"),
    [
        (HubPath("me/none"), ValueError, "has no repository me/none, or it is private; check the name, or log in"),
        (HubPath("me/private"), ValueError, "has no repository me/private, or it is private"),
        (HubPath("me/model", "v9"), ValueError, "me/model has no revision 'v9'"),
        (HubPath("me/model", None, "other.safetensors"), ValueError, "there is no such file in the repository"),
        (HubPath("me/gated"), RefusedError, "the repository is restricted; ask for access at"),
    ],
)
def test_what_is_not_there_or_hidden(hub: Hub, place: HubPath, error: type[Exception], message: str) -> None:
    hub.repositories["me/private"] = Repository(private=True)
    hub.repositories["me/gated"] = Repository(gated=True)
    for name in ("me/private", "me/gated"):
        hub.repositories[name].add({FILE: FIRST})
    with pytest.raises(error, match=message):
        fetch(place, FILE)


def test_a_token_opens_a_private_repository_and_is_shown_nowhere(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.repositories["me/private"] = Repository(private=True)
    hub.repositories["me/private"].add({FILE: FIRST})
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert fetch(HubPath("me/private"), FILE).read_bytes() == FIRST
    hub.refuse = 403
    with pytest.raises(RefusedError, match=r"is refused \(HTTP 403\)") as raised:
        fetch(HubPath("me/private", None, "other.safetensors"), FILE)
    shown = capsys.readouterr()
    assert TOKEN not in str(raised.value) + shown.out + shown.err
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()]


def nobody_answers() -> str:
    """A URL at which nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


def test_without_a_network(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = fetch(PLACE, FILE)
    hub.repositories["me/model"].add({FILE: SECOND})
    use_hub(nobody_answers(), tmp_path / "cache", monkeypatch)
    with pytest.warns(UserWarning, match=r"cannot be asked for a newer version .*; the one in the cache is used, of commit"):
        assert fetch(PLACE, FILE) == path
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)
    with pytest.raises(InfrastructureError, match=r"me/model/other.safetensors: fetching .* cannot be reached"):
        fetch(HubPath("me/model", None, "other.safetensors"), FILE)


def test_offline_by_choice(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    path = fetch(PLACE, FILE)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.requests.clear()
    assert fetch(PLACE, FILE) == path
    assert pinned(PLACE, FILE).revision == hub.repositories["me/model"].commits[0][0]
    with pytest.raises(ValueError, match=r"is not in the cache .*, and HF_HUB_OFFLINE forbids to ask"):
        fetch(HubPath("me/other"), FILE)
    assert not hub.requests


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ValueError, match=r"the package huggingface_hub is not installed .*; pip install '\.\[hub\]'"):
        fetch(PLACE, FILE)


@pytest.mark.parametrize("large", [1 << 30, 1000], ids=["in the commit", "apart from it"])
def test_what_is_sent_is_what_is_fetched(hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, large: int) -> None:
    hub.large = large
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    (tmp_path / "weights").write_bytes(SECOND)
    files: dict[str, Path | bytes] = {"model.safetensors": tmp_path / "weights", "README.md": b"---\na: 1\n---\n"}
    commit = upload(HubPath("me/new"), files, "Add it", private=True)
    repository = hub.repositories["me/new"]
    assert repository.private
    assert repository.commits == [(commit, {"model.safetensors": SECOND, "README.md": b"---\na: 1\n---\n"})]
    assert fetch(HubPath("me/new", commit), "model.safetensors").read_bytes() == SECOND
    assert upload(HubPath("me/new"), files, "Add it", private=True) == commit, "equal content makes no commit"


def test_nothing_is_sent_without_a_token(hub: Hub) -> None:
    with pytest.raises(RefusedError, match=r"hf://me/new: publishing is refused \(HTTP 401\).*log in with `hf auth login`"):
        upload(HubPath("me/new"), {"README.md": b"a"}, "Add it", private=True)
    assert "me/new" not in hub.repositories
