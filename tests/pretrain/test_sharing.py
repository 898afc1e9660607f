"""The card and the STAC item of an encoder say what its file and its run say."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pystac
import pytest
import yaml
from pystac.extensions.mlm import MLMExtension

from data_prep.archive.sensor import load_sensors
from pretrain.export import export
from pretrain.model import EncoderConfig, build_encoder, load_encoder, save_encoder
from pretrain.sharing import describe_encoder, encoder_card, encoder_item, encoder_record

SHAPE = EncoderConfig(
    sources={"landsat": 6, "drone": 3}, patch_size=(4, 2, 2), embed_dim=8, depths=(1, 1, 1, 1), num_heads=(1, 2, 2, 4)
)
NORMALIZATION = {"landsat": {"mean": [1.5] * 6, "std": [2.0] * 6}}
CONFIG = {"fingerprint": "ab" * 32, "num_steps": 120, "seed": 3, "stream": {"num_frames": 16}, "data": "/home/me/corpus"}
METRICS = {"steps": 120, "validation": {"landsat": {"mae": 0.05, "r2": 0.4, "probe_r2": 0.3, "samples": 77}}}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a finished run."""
    encoder = build_encoder(SHAPE)
    encoder.normalization = NORMALIZATION
    folder = tmp_path / "run"
    folder.mkdir()
    save_encoder(encoder, folder / "encoder.safetensors")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "metrics.json").write_text(json.dumps(METRICS))
    return folder


def test_both_lie_beside_the_file_under_its_name(run: Path) -> None:
    file = run / "encoder.safetensors"
    record = encoder_record(file, run)
    describe_encoder(file, record)
    assert (run / "encoder.README.md").read_text() == encoder_card(record)
    values = json.loads((run / "encoder.stac_item.json").read_text())
    item = pystac.Item.from_dict(values)
    assert json.loads(json.dumps(item.to_dict(include_self_link=False))) == values
    assert all((run / asset.href).is_file() for asset in item.assets.values())
    assert not (run / "README.md").exists(), "an encoder may lie in a folder that has a README of its own"


def test_the_card_says_what_is_recorded(run: Path) -> None:
    card = encoder_card(encoder_record(run / "encoder.safetensors", run))
    metadata = yaml.safe_load(card.split("---\n")[1])
    assert metadata["library_name"] == "agrifm-pretrain"
    assert "license" not in metadata
    assert {"landsat", "drone"} <= set(metadata["tags"])
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in card.splitlines() if line.startswith("|")]
    assert ["fingerprint", "ab" * 32] in cells
    assert ["num_steps", "120"] in cells
    assert ["stream.num_frames", "16"] in cells
    assert ["landsat", "0.0500", "0.4000", "0.3000", "77"] in cells
    landsat = load_sensors()["landsat"]
    assert [row[1] for row in cells if row[0] == "landsat" and len(row) == 6] == list(landsat.bands)
    assert [row[1] for row in cells if row[0] == "drone"] == ["0", "1", "2"], "a sensor that nobody described has numbered bands"
    assert "/home/me" not in card


def test_the_item_says_what_the_file_holds(run: Path) -> None:
    file = run / "encoder.safetensors"
    item = pystac.Item.from_dict(encoder_item(encoder_record(file, run)))
    model = MLMExtension.ext(item)
    assert model.total_parameters == sum(weight.numel() for weight in load_encoder(file).parameters())
    assert model.pretrained_source == f"corpus {'ab' * 32}"
    assert [(source.name, len(source.bands)) for source in model.input] == list(SHAPE.sources.items())
    landsat, drone = (source.properties["value_scaling"] for source in model.input)
    assert landsat == [{"type": "z-score", "mean": 1.5, "stddev": 2.0}] * 6
    assert drone is None
    checksum = item.assets["weights"].extra_fields["file:checksum"]
    assert checksum == f"1220{hashlib.sha256(file.read_bytes()).hexdigest()}"
    assert item.geometry is None


def test_a_file_alone_says_that_nothing_else_is_recorded(run: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone.safetensors"
    alone.write_bytes((run / "encoder.safetensors").read_bytes())
    card = encoder_card(encoder_record(alone))
    assert "Not recorded: there is no config.json of the run beside the encoder." in card
    assert "No scores are recorded." in card
    assert encoder_item(encoder_record(alone))["properties"]["mlm:pretrained_source"] == "corpus not recorded"


def test_an_export_has_no_scores_of_other_weights(run: Path, tmp_path: Path) -> None:
    """The scores of metrics.json are those of the last step; an export may be of an earlier one."""
    from tests.pretrain.test_export import write

    write(run, [4, 8])
    output = tmp_path / "exported" / "mine.safetensors"
    export(run, output, step=4, weights="student")
    card = (output.parent / "mine.README.md").read_text()
    assert "These are the weights of the student after step 4." in card
    assert "No scores are recorded." in card
    assert sorted(path.name for path in output.parent.iterdir()) == ["mine.README.md", "mine.safetensors", "mine.stac_item.json"]
