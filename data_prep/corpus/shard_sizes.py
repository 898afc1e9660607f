"""The sizes of the shards of a corpus, by which missing and unfinished copies are found without reading them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from common.storage import REQUESTS, any_path
from common.threads import in_threads
from data_prep.corpus.dataset import Corpus


def check_shard_sizes(corpus: Corpus, split: str) -> None:
    """Raise ValueError when shards of a split are missing or have another size than dataset.json states.

    Lists the folder once; a web server, which lists no sizes, gets one request per shard. No shard is opened.
    """
    shards = [shard for shard in corpus.shards if shard.split == split]
    sizes = _sizes(corpus.folder, [shard.name for shard in shards])
    wrong = [shard for shard in shards if sizes.get(shard.name) != shard.bytes]
    if wrong:
        found = sizes.get(wrong[0].name)
        state = "is missing" if found is None else f"has {found} of {wrong[0].bytes} bytes"
        raise ValueError(
            f"{len(wrong)} of {len(shards)} shards of split {split!r} are missing or of another size, first {wrong[0].path}, "
            f"which {state}; copy them again, or run data_prep/verify.py"
        )


def _sizes(folder: str, names: Sequence[str]) -> dict[str, int | None]:
    """Return the bytes of at least the files `names` in a folder; missing files are left out or None."""
    place = any_path(folder)

    def size(name: str) -> int | None:
        try:
            return (place / name).stat().st_size
        except FileNotFoundError:
            return None

    if isinstance(place, Path):
        with os.scandir(place) as entries:
            return {entry.name: entry.stat().st_size for entry in entries}
    if place.lists_sizes:
        return place.sizes()
    return dict(zip(names, in_threads(size, names, REQUESTS), strict=True))
