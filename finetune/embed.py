"""Command: embeddings of scenes and points by an encoder.

    python finetune/embed.py --model runs/tiny --input scenes/ --year 2021 --output embeddings/
    python finetune/embed.py --model runs/tiny --input scenes/ --year 2022 --pca embeddings/pca.safetensors --output embeddings/
    python finetune/embed.py --model runs/tiny --input scenes/ --year 2021 --points plots.csv --output plots/

The first writes a Cloud-Optimised GeoTIFF with 64 bands for each scene. The second writes those of another year, in the same
dimensions. The third writes a table with one row per point. Finished blocks are kept beside the files: an interrupted command
resumes from them when it is started again.
"""

from __future__ import annotations

from typing import NoReturn

from common.command_line import run_command
from finetune.embedding import EmbedConfig, embed


def embed_scenes(config: EmbedConfig) -> None:
    """Embed what `config` names; the files are printed."""
    embed(config)


def main() -> NoReturn:
    """Run the command and exit."""
    run_command(embed_scenes, config_class=EmbedConfig)


if __name__ == "__main__":
    main()
