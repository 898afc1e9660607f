"""Embeddings of regions: features of an encoder as maps and tables, for use without this project.

In a notebook:

    from finetune.embedding import EmbedConfig, EmbeddingMap, embed

    (path,) = embed(EmbedConfig(model=Path("runs/agrifm"), input=Path("scenes/delta_2021"), output=Path("embeddings"), year=2021))
    found = EmbeddingMap.open(path)
    values = found.read()      # float32 (dimensions, rows, columns), NaN where there is no data
    found.grid                 # CRS and transform of the cells
"""

from finetune.embedding.config import EmbedConfig
from finetune.embedding.embedding_run import embed
from finetune.embedding.points import embed_points, read_points
from finetune.embedding.projection import Projection, load_projection
from finetune.embedding.reading import EmbeddingMap

__all__ = [
    "EmbedConfig",
    "EmbeddingMap",
    "Projection",
    "embed",
    "embed_points",
    "load_projection",
    "read_points",
]
