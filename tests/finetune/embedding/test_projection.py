"""Components of embeddings: scikit-learn, one byte, files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from common.notes import collected_notes
from finetune.embedding.projection import LARGEST_CODE, NO_DATA_CODE, Projection, fit_projection, load_projection


def sample_of(rows: int = 500, columns: int = 20, seed: int = 0) -> np.ndarray:
    """Correlated features of very different size."""
    rng = np.random.default_rng(seed)
    mixed = rng.normal(size=(rows, columns)) @ rng.normal(size=(columns, columns))
    return (mixed * 10.0 ** rng.uniform(-2, 3, columns) + rng.normal(size=columns) * 100).astype(np.float32)


def fit(sample: np.ndarray, dimensions: int) -> Projection:
    return fit_projection(sample, dimensions, {"levels": [0]}, {"seed": 0})


def test_components_are_those_of_scikit_learn() -> None:
    sample, others = sample_of(), sample_of(seed=1)
    projection = fit(sample, 6)
    weight, bias = projection.affine()
    found = others @ weight.T + bias
    pipeline = make_pipeline(StandardScaler(), PCA(6, svd_solver="full")).fit(sample.astype(np.float64))
    expected = pipeline.transform(others.astype(np.float64))
    signs = np.sign((found * expected).sum(axis=0))
    np.testing.assert_allclose(found * signs, expected, rtol=1e-3, atol=1e-2 * expected.std())
    np.testing.assert_allclose(projection.variance, pipeline[-1].explained_variance_ratio_, rtol=1e-4)
    assert projection.names[:2] == ["e00", "e01"]


def test_a_number_in_one_byte_is_wrong_by_half_a_step_at_most() -> None:
    sample = sample_of()
    projection = fit(sample, 6)
    weight, bias = projection.affine()
    values = (sample @ weight.T + bias).T.reshape(6, 20, 25)
    seen = np.random.default_rng(2).random((20, 25)) < 0.8
    codes, clipped = projection.quantized(values, seen)
    assert codes.dtype == np.int8
    assert clipped == 0
    assert (codes[:, ~seen] == NO_DATA_CODE).all()
    assert (np.abs(codes[:, seen].astype(int)) <= LARGEST_CODE).all()
    decoded = codes * projection.scale[:, None, None] + projection.offset[:, None, None]
    error = np.abs(decoded - values)[:, seen] / projection.scale[:, None]
    assert error.max() <= 0.5 + 1e-3
    assert error.max() > 0.4, "the bound is reached, so this test can fail"
    assert (projection.scale < 0.1 * values.std(axis=(1, 2))).all(), "steps are small beside what is stored"


def test_numbers_beyond_one_byte_are_counted() -> None:
    projection = fit(sample_of(), 3)
    values = np.zeros((3, 2, 2), np.float32) + projection.offset[:, None, None]
    values[1, 0, 1] += 1000 * projection.scale[1]
    values[2, 1, 1] -= 1000 * projection.scale[2]
    codes, clipped = projection.quantized(values, np.array([[True, True], [True, False]]))
    assert clipped == 1
    assert codes[1, 0, 1] == LARGEST_CODE
    assert codes[2, 1, 1] == NO_DATA_CODE


def test_without_components_the_features_stay() -> None:
    sample = sample_of(columns=4)
    projection = fit(sample, 0)
    assert projection.components is None
    assert projection.dimensions == 4
    codes, clipped = projection.quantized(sample.T.reshape(4, 20, 25), np.ones((20, 25), bool))
    assert clipped == 0
    decoded = codes * projection.scale[:, None, None] + projection.offset[:, None, None]
    assert (np.abs(decoded.reshape(4, -1).T - sample) <= 0.501 * projection.scale).all()


def test_features_that_are_constant_in_the_sample_do_not_drown_the_others() -> None:
    """Rounding alone tells them apart there; in another scene they vary."""
    sample = sample_of(columns=5)
    sample[:, 2] = 3 + np.random.default_rng(0).normal(size=len(sample)) * 1e-7
    with collected_notes() as notes:
        projection = fit(sample, 5)
    assert any("only 4 of 5 dimensions have a variance" in note for note in notes)
    other = sample.copy()
    other[:, 2] = 4.0
    weight, bias = projection.affine()
    before, after = sample @ weight.T + bias, other @ weight.T + bias
    assert np.abs(after - before).max() < 0.05 * before.std()
    assert (after[:, 4] == 0).all()


def test_a_file_keeps_everything(tmp_path: Path) -> None:
    for dimensions in (4, 0):
        projection = fit(sample_of(), dimensions)
        projection.save(tmp_path / "pca.safetensors")
        read = load_projection(tmp_path / "pca.safetensors")
        assert read.digest == projection.digest
        assert (read.features, read.sample) == ({"levels": [0]}, {"seed": 0})
        for mine, theirs in zip(read.affine(), projection.affine(), strict=True):
            np.testing.assert_array_equal(mine, theirs)
        assert read.names == projection.names
    assert [path.name for path in tmp_path.iterdir()] == ["pca.safetensors"]


def test_what_is_no_file_of_components_is_refused(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    path = tmp_path / "pca.safetensors"
    with pytest.raises(ValueError, match="no components at"):
        load_projection(path)
    fit(sample_of(), 3).save(path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match="cannot be read as safetensors"):
        load_projection(path)
    save_file({"mean": np.zeros(3, np.float32)}, path)
    with pytest.raises(ValueError, match="holds no components of embeddings"):
        load_projection(path)


@pytest.mark.parametrize(("rows", "dimensions"), [(500, 21), (5, 6)])
def test_more_dimensions_than_can_be_known_are_refused(rows: int, dimensions: int) -> None:
    with pytest.raises(ValueError, match=rf"--dimensions is {dimensions}; there are 20 features and {rows} cells"):
        fit(sample_of(rows), dimensions)
