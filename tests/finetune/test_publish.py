"""Models go to the hub and come back: publish.py, predict.py, run.py and load_encoder with hf://."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pystac
import pytest
import torch

pytest.importorskip("huggingface_hub")

from common.hub import HubPath, hub_path
from finetune.model.model_file import load_model, save_model
from finetune.publish import publish
from pretrain.model import build_encoder, load_encoder
from tests.support.finetune_runs import run
from tests.support.hub_models import SHAPE, use_hub, write_encoder, write_model
from tests.support.hub_server import TOKEN, Hub, Repository, hub_server
from tests.support.launching import ROOT
from tests.support.rice_scenes import write_split_scenes

pytestmark = pytest.mark.usefixtures("one_thread")
MODEL, ENCODER = HubPath("me/rice"), HubPath("me/encoder")
SETTINGS: dict[str, Any] = {
    "task": "paddy_rice",
    "override.sources": ["landsat"],
    "override.frames": 4,
    "override.window_px": 32,
    "training.epochs": 1,
    "decoder.channels": 4,
    "maps": False,
}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that lets us write."""
    with hub_server() as hub:
        use_hub(hub, tmp_path / "cache", monkeypatch)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield hub


def assert_equal_weights(one: torch.nn.Module, other: torch.nn.Module) -> None:
    ours, theirs = one.state_dict(), other.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_model_comes_back_with_equal_weights(hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_model(tmp_path / "run/model.safetensors")
    publish(tmp_path / "run", MODEL, "cc-by-4.0")
    model, recipe = load_model(MODEL)
    local, local_recipe = load_model(tmp_path / "run")
    assert_equal_weights(model, local)
    assert recipe == local_recipe
    ((commit, files),) = hub.repositories["me/rice"].commits
    assert hub.repositories["me/rice"].private
    assert f"load them as hf://me/rice@{commit}" in capsys.readouterr().out
    assert sorted(files) == ["README.md", "model.safetensors", "stac_item.json"]
    card = files["README.md"].decode()
    assert "license: cc-by-4.0" in card
    assert "agrifm predict --model hf://me/rice --input SCENE" in card
    item = pystac.Item.from_dict(json.loads(files["stac_item.json"]))
    assert item.properties["license"] == "cc-by-4.0"
    assert sorted(asset.href for asset in item.assets.values()) == ["./README.md", "./model.safetensors"]


def test_the_path_of_a_checkpoint_is_not_sent(hub: Hub, tmp_path: Path) -> None:
    write_model(tmp_path / "run/model.safetensors")
    local, recipe = load_model(tmp_path / "run")
    save_model(tmp_path / "run/model.safetensors", local, replace(recipe, origin="/home/somebody/client/encoder.safetensors"))
    publish(tmp_path / "run", MODEL, "cc-by-4.0")
    ((_, files),) = hub.repositories["me/rice"].commits
    assert not any(b"somebody" in content for content in files.values())
    model, sent = load_model(MODEL)
    assert_equal_weights(model, local)
    assert replace(sent, origin="scratch") == recipe
    weights = json.loads(files["stac_item.json"])["assets"]["weights"]
    assert weights["file:checksum"] == f"1220{hashlib.sha256(files['model.safetensors']).hexdigest()}"
    assert weights["file:size"] == len(files["model.safetensors"])


def test_an_encoder_comes_back_with_equal_weights(hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    encoder = write_encoder(tmp_path / "run/encoder.safetensors")
    publish(tmp_path / "run", ENCODER, "apache-2.0", visibility="public")
    assert not hub.repositories["me/encoder"].private
    for place in ("hf://me/encoder", ENCODER):
        found = load_encoder(place)
        assert_equal_weights(found, encoder)
        assert found.normalization == encoder.normalization
    assert "hf://me/encoder: mapped all" in capsys.readouterr().out
    pystac.Item.from_dict(json.loads(hub.repositories["me/encoder"].commits[0][1]["stac_item.json"]))


def test_what_lies_beside_a_file_of_its_own_is_not_told(hub: Hub, tmp_path: Path) -> None:
    """Its folder may hold the files of anything else."""
    write_encoder(tmp_path / "encoder.safetensors")
    write_model(tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"fingerprint": "of another run"}))
    for name in ("run.json", "metrics.json"):
        (tmp_path / name).write_text(json.dumps({"seed": 4711, "validation": {"modis": {"mae": 0.1, "samples": 4711}}}))
    publish(tmp_path / "encoder.safetensors", ENCODER, "other")
    publish(tmp_path / "model.safetensors", MODEL, "other")
    sent = b"".join(b"".join(repository.commits[0][1].values()) for repository in hub.repositories.values())
    assert b"4711" not in sent
    assert b"of another run" not in sent


def test_started_again_it_sends_only_what_has_changed(hub: Hub, tmp_path: Path) -> None:
    file = tmp_path / "run/model.safetensors"
    write_model(file)
    publish(tmp_path / "run", MODEL, "cc-by-4.0")
    publish(tmp_path / "run", MODEL, "cc-by-4.0")
    commits = hub.repositories["me/rice"].commits
    assert len(commits) == 1
    write_model(file, seed=1)
    publish(tmp_path / "run", MODEL, "cc-by-4.0")
    assert len(commits) == 2
    old, new = (load_model(HubPath("me/rice", commit))[0] for commit, _ in commits)
    assert_equal_weights(new, load_model(tmp_path / "run")[0])
    with pytest.raises(AssertionError):
        assert_equal_weights(old, new)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"to": hub_path("hf://me/rice/model.safetensors")}, "names a file; expected hf://OWNER/NAME"),
        ({"license": "My own"}, "expected an identifier in small letters"),
        ({"datasets": ["rice"]}, "expected names of data sets at the hub, OWNER/NAME"),
        ({"model": Path("/nowhere")}, "no model at /nowhere: expected the folder of a finished run"),
    ],
)
def test_mistakes_are_named_before_anything_is_sent(hub: Hub, tmp_path: Path, options: dict[str, Any], message: str) -> None:
    write_model(tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=message):
        publish(**({"model": tmp_path, "to": MODEL, "license": "other"} | options))
    assert not hub.requests


def test_a_damaged_model_is_not_sent(hub: Hub, tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    write_model(file)
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match="cannot be read as safetensors"):
        publish(tmp_path, MODEL, "other")
    file.write_bytes(b"\x80\x04pickle")
    with pytest.raises(ValueError, match="cannot be read as safetensors"):
        publish(file, MODEL, "other")
    assert not hub.requests


def test_a_run_records_the_commit_that_it_began_with(hub: Hub, tmp_path: Path) -> None:
    scenes, output = write_split_scenes(tmp_path / "scenes"), tmp_path / "run"
    write_encoder(tmp_path / "encoder.safetensors")
    publish(tmp_path / "encoder.safetensors", ENCODER, "other")
    assert run(data=scenes, output=output, checkpoint=ENCODER, **SETTINGS) == 0
    commit = hub.repositories["me/encoder"].commits[0][0]
    settings = json.loads((output / "run.json").read_text())
    assert settings["checkpoint_revision"] == f"hf://me/encoder@{commit}"
    assert load_model(output)[1].origin == f"hf://me/encoder@{commit}"
    card = (output / "README.md").read_text()
    assert "base_model: me/encoder" in card
    assert f"hf://me/encoder@{commit}" in card
    assert run(data=scenes, output=output, checkpoint=ENCODER, **SETTINGS) == 0, "finished, and only shown again"

    write_encoder(tmp_path / "encoder.safetensors", seed=1)
    publish(tmp_path / "encoder.safetensors", ENCODER, "other")
    with pytest.raises(
        ValueError, match=rf"\(checkpoint, checkpoint_revision\).* began with --checkpoint hf://me/encoder@{commit}"
    ):
        run(data=scenes, output=output, checkpoint=ENCODER, **SETTINGS)
    assert run(data=scenes, output=output, checkpoint=HubPath("me/encoder", commit), **SETTINGS) == 0


@pytest.mark.usefixtures("hub")
def test_a_model_in_place_of_an_encoder_is_named(tmp_path: Path) -> None:
    write_model(tmp_path / "model.safetensors")
    publish(tmp_path, MODEL, "other")
    with pytest.raises(ValueError, match=r"hf://me/rice/encoder\.safetensors: there is no such file in the repository"):
        load_encoder(MODEL)
    with pytest.raises(ValueError, match="is a safetensors file of format 'agrifm crop mapper 1'; expected"):
        load_encoder("hf://me/rice/model.safetensors")


def test_a_published_pickle_executes_nothing(hub: Hub, tmp_path: Path) -> None:
    """The one pickle that is fetched is read as tensors alone, as on this machine."""

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, (f"touch {tmp_path / 'executed'}",)

    torch.save({"state_dict": Evil()}, tmp_path / "AgriFM.pth")
    hub.repositories["me/evil"] = Repository()
    hub.repositories["me/evil"].add({"AgriFM.pth": (tmp_path / "AgriFM.pth").read_bytes()})
    with pytest.raises(ValueError, match="is not a PyTorch checkpoint of plain tensors"):
        load_encoder("hf://me/evil/AgriFM.pth")
    assert not (tmp_path / "executed").exists()


@pytest.mark.slow
def test_the_commands_as_users_start_them(hub: Hub, tmp_path: Path) -> None:
    """publish.py and predict.py in processes of their own, which know the hub and the token by their environment alone."""
    scenes = write_split_scenes(tmp_path / "scenes")
    write_model(tmp_path / "run/model.safetensors")
    known = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": TOKEN, "OMP_NUM_THREADS": "1"}
    known |= {"HF_HUB_DISABLE_XET": "1", "PYTHONPATH": str(ROOT)}

    def start(*words: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | known
        return subprocess.run(
            [sys.executable, *words], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )

    publish_py, predict_py = str(ROOT / "finetune/publish.py"), str(ROOT / "finetune/predict.py")
    sent = start(publish_py, "--model", "run", "--to", "hf://me/rice", "--license", "other")
    assert sent.returncode == 0, sent.stderr
    mapped = start(predict_py, "--model", "hf://me/rice", "--input", str(scenes / "d"), "--output", "map.tif")
    assert mapped.returncode == 0, mapped.stderr
    local = start(predict_py, "--model", "run", "--input", str(scenes / "d"), "--output", "local.tif")
    assert local.returncode == 0, local.stderr
    assert (tmp_path / "map.tif").read_bytes() == (tmp_path / "local.tif").read_bytes()
    missing = start(predict_py, "--model", "hf://me/none", "--input", str(scenes / "d"), "--output", "map.tif")
    assert missing.returncode == 2
    assert missing.stderr.count("\n") == 1
    assert "hf://me/none/model.safetensors: " in missing.stderr
    assert TOKEN not in "".join(done.stdout + done.stderr for done in (sent, mapped, local, missing))
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()]


def test_the_shape_of_an_encoder_is_kept(hub: Hub, tmp_path: Path) -> None:
    write_encoder(tmp_path / "encoder.safetensors")
    publish(tmp_path / "encoder.safetensors", HubPath("me/encoder", "main"), "other")
    assert load_encoder(ENCODER).config == build_encoder(SHAPE).config
    assert hub.repositories["me/encoder"].commits[0][1]["README.md"].count(b"landsat") > 6
