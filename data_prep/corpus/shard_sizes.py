"""The sizes of the shards of a corpus, by which missing and unfinished copies are found without reading them."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from common.retries import retried
from common.storage import file_system
from data_prep.corpus.dataset import RETRIES, Corpus

_REQUESTS = 32  # requests at a time, where a folder's listing has no sizes


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
    files, root = file_system(folder, None)
    root = root.rstrip("/")

    def listing() -> dict[str, int | None]:
        return {entry["name"].rsplit("/", 1)[-1]: entry["size"] for entry in files.ls(root or "/", detail=True)}

    def size(name: str) -> int | None:
        try:
            found: int | None = retried(partial(files.size, f"{root}/{name}"), RETRIES)
        except FileNotFoundError:
            return None
        return found

    files.invalidate_cache()
    if "https" not in files.protocol:
        return retried(listing, RETRIES)
    with ThreadPoolExecutor(_REQUESTS) as pool:
        return dict(zip(names, pool.map(size, names), strict=True))
