"""Validation on one, two and three ranks against a plain loop over the stream, scikit-learn's scores and its ridge regression."""

from __future__ import annotations

import math
import shutil
import socket
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from sklearn.linear_model import Ridge, RidgeCV
from sklearn.metrics import mean_absolute_error, mean_squared_error, r2_score
from sklearn.model_selection import LeaveOneOut, cross_val_predict
from sklearn.preprocessing import StandardScaler
from torch import multiprocessing

from data_prep.archive.sensor import load_sensors
from data_prep.corpus.dataset import Corpus, load_corpus
from pretrain.data.config import StreamConfig
from pretrain.data.storage import DamagedSampleError
from pretrain.data.stream import Stream
from pretrain.evaluation.probe import LinearProbe, penalties
from pretrain.evaluation.validation import Validation, train_mean
from pretrain.model import BatchPart, EncoderConfig, build_encoder
from pretrain.objective.model import FRACTIONS, LandCoverModel, Prediction
from pretrain.objective.targets import LandCoverTargets
from tests.support.archives import CHIPS, CODES, days, make_cube, write_land_cover, write_scene
from tests.support.sharding import run_shard

STREAM = StreamConfig(num_frames=6, global_batch_size=6, num_workers=0)
ENCODER = EncoderConfig(
    patch_size=(2, 2, 2), embed_dim=4, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2), window_size=(2, 3, 3), drop_path_rate=0.0
)
TRAINED, VALIDATED = 16, 9  # samples of Sentinel-2


@pytest.fixture(scope="module")
def corpus_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sentinel-2 to train and validate on; MODIS to train on only, three samples."""
    folder = tmp_path_factory.mktemp("made")
    rng, sensors = np.random.default_rng(1), load_sensors()
    land_cover = {"raster": "landcover.tif", "legend": "glc_fcs30d"}
    gsd = {"sentinel2": 10.0, "modis": 30.0}
    for name, side, split in (("delta", 48, "train"), ("coast", 36, "validation")):
        cubes = {"sentinel2": make_cube(sensors["sentinel2"], side, days(2021, 17), rng)}
        if split == "train":
            cubes["modis"] = make_cube(sensors["modis"], 8, days(2021, 20), rng)
        write_scene(folder / "scenes" / name, cubes, gsd, split=split, land_cover=land_cover)
        write_land_cover(folder / "scenes" / name / "landcover.tif", rng.choice(CODES, (side // 3, side // 3)))
    assert run_shard("--input", folder / "scenes", "--output", folder / "corpus", *CHIPS) == 0
    return folder / "corpus"


@pytest.fixture(scope="module")
def corpus(corpus_folder: Path) -> Corpus:
    return load_corpus(corpus_folder)


@pytest.fixture(scope="module", autouse=True)
def alone():
    """One rank, this process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def statistics(corpus: Corpus) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    return {
        s: (torch.from_numpy(corpus.mean[s]).float(), torch.from_numpy(corpus.std[s]).float()) for s in sorted(corpus.sensors)
    }


def model_of(corpus: Corpus) -> LandCoverModel:
    torch.manual_seed(0)
    encoder = build_encoder(replace(ENCODER, sources={s: corpus.shapes[s][0] for s in corpus.shapes}))
    model = LandCoverModel(encoder, len(LandCoverTargets(corpus, {}).classes)).eval()
    torch.nn.init.normal_(model.head.weight, std=0.5)  # as it starts, it would say the same of all samples
    return model


def scores(
    corpus: Corpus, config: StreamConfig = STREAM, rank: int = 0, ranks: int = 1, samples: int = 100, probe_samples: int = 100
) -> dict[str, dict[str, float]]:
    targets = LandCoverTargets(corpus, {})
    validation = Validation(corpus, config, targets, statistics(corpus), rank, ranks, samples, probe_samples)
    first = validation(model_of(corpus))
    assert_close(validation(model_of(corpus)), first)
    return first


def assert_close(ours: dict[str, dict[str, float]], theirs: dict[str, dict[str, float]]) -> None:
    assert ours.keys() == theirs.keys()
    for source in ours:
        assert ours[source] == pytest.approx(theirs[source], rel=1e-5, nan_ok=True)


def rows(corpus: Corpus, split: str, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fractions of the map, the model's fractions and features of the first samples, one sample a batch."""
    config = replace(STREAM, mixture={"sentinel2": 1.0}, augment=False, global_batch_size=1)
    stream, model, targets = Stream(corpus, split, config), model_of(corpus), LandCoverTargets(corpus, {})
    found = []
    with torch.no_grad():
        for batch in stream.batches(0, count):
            pixels = batch.normalized(*statistics(corpus)["sentinel2"])
            features = model.encoder.tokens(pixels, "sentinel2")[-1].flatten(1, 3).mean(dim=1)
            fractions = (of[FRACTIONS][0].numpy() for of in (targets(batch), model(pixels, "sentinel2")))
            found.append((*fractions, features[0].numpy()))
    target, predicted, features = (np.stack(column).astype(np.float64) for column in zip(*found, strict=True))
    return target, predicted, features


def pooled_r2(target: np.ndarray, predicted: np.ndarray) -> float:
    """Over all classes; scikit-learn's `variance_weighted` leaves out those that do not vary, whose errors count here."""
    return float(1 - mean_squared_error(target, predicted) / target.var(axis=0).mean())


@pytest.mark.parametrize(("samples", "probe_samples"), [(100, 100), (9, 7), (5, 16), (1, 2)])
def test_scores_are_those_of_scikit_learn(corpus: Corpus, samples: int, probe_samples: int) -> None:
    target, predicted, features = rows(corpus, "validation", min(samples, VALIDATED))
    ours = scores(corpus, samples=samples, probe_samples=probe_samples)
    assert set(ours) == {"sentinel2"}  # MODIS has nothing to validate on
    got = ours["sentinel2"]
    classes = LandCoverTargets(corpus, {}).classes
    mean = np.mean([e.land_cover for e in corpus.samples("sentinel2", "train")], axis=0)  # 16 px of the map a sample
    mean = np.array([sum(mean[i] for i, g in enumerate(corpus.legends["glc_fcs30d"].groups) if g == name) for name in classes])
    mean = np.broadcast_to(mean / mean.sum(), target.shape)
    assert got["samples"] == len(target) == min(samples, VALIDATED)
    assert got["mae"] == pytest.approx(mean_absolute_error(target, predicted), rel=1e-5)
    assert got["mae_of_mean"] == pytest.approx(mean_absolute_error(target, mean), rel=1e-5)
    by_class = {name: mean_absolute_error(target, predicted, multioutput="raw_values")[i] for i, name in enumerate(classes)}
    assert {name: got[f"mae/{name}"] for name in classes} == pytest.approx(by_class, rel=1e-5)
    by_class = {name: mean_absolute_error(target, mean, multioutput="raw_values")[i] for i, name in enumerate(classes)}
    assert {name: got[f"mae_of_mean/{name}"] for name in classes} == pytest.approx(by_class, rel=1e-5)
    varying = [i for i in range(len(classes)) if len(set(target[:, i])) > 1]
    assert 0 <= len(varying) < len(classes)
    assert [i for i, name in enumerate(classes) if not math.isnan(got[f"r2/{name}"])] == varying
    if varying:
        assert got["r2"] == pytest.approx(pooled_r2(target, predicted), rel=1e-4)
        raw = r2_score(target, predicted, multioutput="raw_values")
        assert [got[f"r2/{classes[i]}"] for i in varying] == pytest.approx([raw[i] for i in varying], rel=1e-4)

    known_target, _, known_features = rows(corpus, "train", min(probe_samples, TRAINED))
    scaler = StandardScaler().fit(known_features)
    ridge = RidgeCV(alphas=penalties(len(known_target))).fit(scaler.transform(known_features), known_target)
    read = ridge.predict(scaler.transform(features))
    # the scaling enlarges the rounding of features that hardly differ between two samples
    assert got["probe_mae"] == pytest.approx(mean_absolute_error(target, read), rel=1e-4 if probe_samples > 2 else 1e-2)
    if varying:
        assert got["probe_r2"] == pytest.approx(pooled_r2(target, read), rel=1e-3, abs=1e-5)


def validate_as_rank(rank: int, ranks: int, folder: Path, config: StreamConfig, samples: int, port: int, results: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=ranks)
    found = scores(load_corpus(folder), config, rank, ranks, samples, probe_samples=10)
    torch.save(found, results / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 3])
def test_any_number_of_ranks_gives_the_same_scores(corpus_folder: Path, tmp_path: Path, ranks: int) -> None:
    """Nine samples in batches of 6: the second batch runs on into the next epoch, where samples come again with other frames."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.spawn(validate_as_rank, (ranks, corpus_folder, STREAM, 9, port, tmp_path), ranks)
    expected = scores(load_corpus(corpus_folder), samples=9, probe_samples=10)
    for rank in range(ranks):
        assert_close(torch.load(tmp_path / f"{rank}.pt"), expected)


@pytest.mark.parametrize("size", [1, 4, 24, {"sentinel2": 7, "modis": 50}])
def test_batch_size_bears_on_no_score_even_when_the_split_is_smaller(corpus: Corpus, size: int | dict[str, int]) -> None:
    assert_close(scores(corpus, replace(STREAM, global_batch_size=size)), scores(corpus))


def test_augmentation_and_threads_bear_on_no_score(corpus: Corpus) -> None:
    assert_close(scores(corpus, replace(STREAM, augment=True, num_workers=2)), scores(corpus, replace(STREAM, augment=False)))


def test_without_a_probe_there_are_no_scores_of_it(corpus: Corpus) -> None:
    with_probe, without = scores(corpus)["sentinel2"], scores(corpus, probe_samples=0)["sentinel2"]
    assert with_probe.keys() - without.keys() == {"probe_mae", "probe_r2"}


def test_batches_of_the_configured_size_reach_the_teacher(corpus: Corpus) -> None:
    sizes = []

    class Counting(LandCoverModel):
        def forward(self, pixels: torch.Tensor, source: str, part: BatchPart | None = None) -> Prediction:
            sizes.append((source, len(pixels)))
            return super().forward(pixels, source, part)

    model, targets = model_of(corpus), LandCoverTargets(corpus, {})
    teacher = Counting(model.encoder, len(targets.classes))
    config = replace(STREAM, global_batch_size={"sentinel2": 4, "modis": 2})
    Validation(corpus, config, targets, statistics(corpus), 0, 1, 5, 0)(teacher)
    assert sizes == [("sentinel2", 4)] * 2  # two batches hold the first five


def test_a_damaged_sample_counts_in_no_score_and_is_named(corpus_folder: Path, tmp_path: Path) -> None:
    copied = tmp_path / "corpus"
    shutil.copytree(corpus_folder, copied)
    corpus = load_corpus(copied)
    config = replace(STREAM, mixture={"sentinel2": 1.0}, augment=False)
    eighth = Stream(corpus, "validation", config).draws.keys(1)[1]
    entry = next(entry for entry in corpus.samples("sentinel2", "validation") if entry.key == eighth)
    content = bytearray(entry.shard.read_bytes())
    pixels = entry.members["pixels.npy"]
    content[pixels.offset + 128 : pixels.offset + pixels.size] = bytes(pixels.size - 128)
    entry.shard.write_bytes(content)
    with pytest.raises(DamagedSampleError, match=eighth):
        scores(corpus, samples=8, probe_samples=0)
    skipping = replace(STREAM, skip_damaged=1, data_echoing=2)
    targets = LandCoverTargets(corpus, {})
    validation = Validation(corpus, skipping, targets, statistics(corpus), 0, 1, 8, 0)
    whole = load_corpus(corpus_folder)
    assert_close(validation(model_of(corpus)), scores(whole, samples=7, probe_samples=0))
    assert [skipped.key for stream in validation.streams for skipped in stream.take_skipped()] == [eighth]


@pytest.mark.parametrize(("samples", "probe_samples"), [(0, 10), (10, 1), (10, -1)])
def test_numbers_of_samples_that_cannot_be_are_refused(corpus: Corpus, samples: int, probe_samples: int) -> None:
    with pytest.raises(ValueError, match="expected"):
        scores(corpus, samples=samples, probe_samples=probe_samples)


def test_train_mean_is_the_mean_of_the_samples(corpus: Corpus) -> None:
    targets = LandCoverTargets(corpus, {})
    fractions = rows(corpus, "train", TRAINED)[0]
    np.testing.assert_allclose(train_mean(corpus, "sentinel2", targets), fractions.mean(axis=0), atol=1e-7)


def features_and_target(samples: int, features: int, noise: float) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(samples)
    made = rng.normal(3, 2, (samples, features)) * rng.uniform(0.01, 10, features)
    made[:, 0] = 5.1  # says nothing
    logits = made[:, 1:4] / made[:, 1:4].std(axis=0) + noise * rng.normal(size=(samples, 3))
    return made, np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


@pytest.mark.parametrize(("samples", "features", "noise"), [(60, 10, 0.1), (60, 10, 3.0), (30, 80, 0.5), (12, 5, 100.0)])
def test_probe_is_ridge_with_the_penalty_that_leaving_one_out_prefers(samples: int, features: int, noise: float) -> None:
    made, target = features_and_target(samples, features, noise)
    probe = LinearProbe.fit(made, target)
    standard = StandardScaler().fit_transform(made)
    errors = []
    for penalty in penalties(samples):  # by really leaving out one after the other
        left_out = cross_val_predict(Ridge(alpha=penalty), standard, target, cv=LeaveOneOut())
        errors.append(((left_out - target) ** 2).mean())
    assert probe.penalty == penalties(samples)[np.argmin(errors)]
    others = features_and_target(200, features, noise)[0]
    ridge = Ridge(alpha=probe.penalty, solver="svd").fit(standard, target)
    expected = ridge.predict(StandardScaler().fit(made).transform(others))
    np.testing.assert_allclose(probe(others), expected, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(probe(others).sum(axis=1), 1, atol=1e-6)


def test_probe_of_two_equal_samples_says_their_mean() -> None:
    probe = LinearProbe.fit(np.ones((2, 3), np.float32), np.array([[0.2, 0.8], [0.4, 0.6]], np.float32))
    np.testing.assert_allclose(probe(np.random.default_rng(0).normal(size=(4, 3))), [[0.3, 0.7]] * 4, atol=1e-7)
