"""The encoder of a run that is not done, from its newest good checkpoint."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from common.command_line import run_command
from pretrain import export as module
from pretrain.checkpoint import CheckpointWriter
from pretrain.export import export
from pretrain.model import EncoderConfig, build_encoder, load_encoder
from pretrain.model.encoder_files import encoder_metadata
from pretrain.objective.model import LandCoverModel
from tests.support.pretraining import ENCODER, ROOT, STREAM, options
from tests.support.small_corpus import write_corpus

SHAPE = EncoderConfig(
    sources={"landsat": 6, "modis": 7}, patch_size=(4, 2, 2), embed_dim=8, depths=(1, 1, 1, 1), num_heads=(1, 2, 2, 4)
)
NORMALIZATION = {"landsat": {"mean": [0.5] * 6, "std": [2.0] * 6}, "modis": {"mean": [0.25] * 7, "std": [4.0] * 7}}


def model(seed: int) -> LandCoverModel:
    torch.manual_seed(seed)
    encoder = build_encoder(SHAPE)
    encoder.normalization = NORMALIZATION
    return LandCoverModel(encoder, 5)


def write(run: Path, steps: list[int]) -> None:
    """Checkpoints whose student is `model(step)` and whose teacher is `model(1000 + step)`."""
    writer = CheckpointWriter(run / "checkpoints", 100, 0, encoder_metadata(model(0).encoder))
    for step in steps:
        weights = {name: dict(model(seed).state_dict()) for name, seed in (("student", step), ("teacher", 1000 + step))}
        writer.start(step, weights | {"optimizer": {"nothing": torch.zeros(1)}})
    writer.wait()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    write(tmp_path / "run", [4, 8, 12])
    return tmp_path / "run"


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def assert_holds(path: Path, seed: int) -> None:
    """The file is the encoder of `model(seed)`: weights, outputs, shape and normalisation."""
    expected, found = model(seed).encoder.eval(), load_encoder(path).eval()
    weights = load_file(path)
    assert weights.keys() == expected.state_dict().keys()
    assert all(torch.equal(weights[name], tensor) for name, tensor in expected.state_dict().items())
    assert (found.config, found.normalization) == (SHAPE, NORMALIZATION)
    pixels = torch.randn(1, 8, 7, 6, 6)
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(found(pixels, "modis"), expected(pixels, "modis"), strict=True))


def test_newest_checkpoint_teacher_by_default(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "new" / "encoder.safetensors"
    export(run, output)
    assert "the teacher's encoder after step 12" in capsys.readouterr().out
    assert_holds(output, 1012)


def test_step_and_weights_can_be_chosen(run: Path, tmp_path: Path) -> None:
    output = tmp_path / "encoder.safetensors"
    export(run, output, step=4, weights="student")
    assert_holds(output, 4)
    export(run, output, step=8)  # written over
    assert_holds(output, 1008)


def test_damaged_and_unfinished_ones_are_passed_over(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damage(run / "checkpoints/step-00000012/optimizer.safetensors")
    (run / "checkpoints/step-00000016.tmp").mkdir()
    export(run, tmp_path / "encoder.safetensors")
    said = capsys.readouterr().out
    assert "step-00000012 is damaged and skipped: optimizer.safetensors" in said
    assert "after step 8" in said
    assert_holds(tmp_path / "encoder.safetensors", 1008)


def test_a_checkpoint_that_the_run_removes_meanwhile(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the moment it is found good and the moment it is read, the run saves two more and removes it."""
    found, calls = module.newest_good, []

    def newest_good(folder: Path, step: int | None = None) -> Path | None:
        checkpoint = found(folder, step)
        calls.append(checkpoint)
        if len(calls) == 1:
            assert checkpoint is not None
            checkpoint.rename(tmp_path / "away")
            write(run, [16])
        return checkpoint

    monkeypatch.setattr(module, "newest_good", newest_good)
    export(run, tmp_path / "encoder.safetensors")
    assert [path.name for path in calls if path] == ["step-00000012", "step-00000016"]
    assert_holds(tmp_path / "encoder.safetensors", 1016)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{tmp}/nothing", "{tmp}/e.safetensors"], "no checkpoints in .*nothing; expected the --output of a pretraining"),
        (["{tmp}/empty", "{tmp}/e.safetensors"], r"no checkpoint in .* is complete and undamaged; there are none"),
        (["{tmp}/run", "{tmp}/e.safetensors", "--step", "9"], r"no checkpoint after step 9 in .* there are \[4, 8, 12\]"),
        (["{tmp}/bad", "{tmp}/e.safetensors"], r"no checkpoint in .* is complete and undamaged; there are \[3\]"),
        (
            ["{tmp}/bad", "{tmp}/e.safetensors", "--step", "3"],
            r"no checkpoint after step 3 in .* is complete and undamaged; there are \[3\]",
        ),
        (["{tmp}/run", "{tmp}/file/e.safetensors"], "file"),  # the folder cannot be made
        (["{tmp}/run", "/proc/e.safetensors"], "/proc"),  # nor written to, not even by root
        (["{tmp}/run", "{tmp}"], "expected a name that ends in .safetensors"),
        (["{tmp}/run", "{tmp}/e.pth"], "expected a name that ends in .safetensors"),
        (["{tmp}/run", "{tmp}/e.safetensors", "--weights", "pupil"], "weights"),
        (["{tmp}/run"], "output"),
    ],
)
@pytest.mark.usefixtures("run")
def test_mistakes_are_one_line(tmp_path: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty" / "checkpoints").mkdir(parents=True)
    (tmp_path / "file").touch()
    write(tmp_path / "bad", [3])
    damage(tmp_path / "bad/checkpoints/step-00000003/teacher.safetensors")
    with pytest.raises(SystemExit) as stopped:
        run_command(export, [word.format(tmp=tmp_path) for word in arguments], positional=True)
    assert stopped.value.code == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1
    assert re.search(message, errors[0]), errors[0]
    assert not (tmp_path / "e.safetensors").exists()


def test_load_encoder_says_how_to_get_one(run: Path) -> None:
    with pytest.raises(ValueError, match=rf"python -m pretrain.export {run} encoder.safetensors"):
        load_encoder(run)
    export(run, run / "encoder.safetensors")
    assert load_encoder(run).config == SHAPE


@pytest.mark.slow
def test_of_a_real_run_it_is_what_the_run_itself_writes(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    corpus = write_corpus(tmp_path / "corpus", {"modis": 4, "landsat": 4, "sentinel2": 4})
    training = ["launch/pretrain.sh", "--data", str(corpus), "--output", str(tmp_path / "run"), "--precision", "fp32"]
    training += ["--num-steps", "2", "--save-every", "1", *options(ENCODER, "encoder"), *options(STREAM, "stream")]
    exporting = ["-m", "pretrain.export", str(tmp_path / "run"), str(tmp_path / "exported.safetensors")]
    for command in (training, exporting):
        subprocess.run([sys.executable, *command], cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=True, timeout=120)
    exported, own = tmp_path / "exported.safetensors", tmp_path / "run/encoder.safetensors"
    with safe_open(exported, "pt") as mine, safe_open(own, "pt") as theirs:
        assert mine.metadata() == theirs.metadata()
    weights, expected = load_file(exported), load_file(own)
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
