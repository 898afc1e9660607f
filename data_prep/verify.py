"""Command: check that every byte of a corpus is as it was written. Exit code 0; 1 with a list of faults; 2 for no corpus.

python data_prep/verify.py corpus/ [--workers N]
"""

from __future__ import annotations

from typing import NoReturn

from common.command_line import run_command
from common.executors import open_executor
from common.json_files import read_json
from common.storage import AnyPath
from data_prep.corpus.corpus_checks import corpus_faults
from data_prep.corpus.dataset import DATASET


def verify(corpus: AnyPath, workers: int = 1) -> int:
    """Read a whole corpus and compare it with its plan, its indexes and dataset.json.

    Args:
        corpus: folder or URL that `data_prep/shard.py` wrote.
        workers: processes that read at the same time.
    """
    with open_executor("local", workers) as map_jobs:
        faults = corpus_faults(corpus, map_jobs)
    for fault in faults:
        print(fault)
    if faults:
        files = len({fault.file for fault in faults})
        print(f"{corpus}: {len(faults)} faults in {files} files")
        return 1
    values = read_json(corpus / DATASET)
    size = sum(shard["bytes"] for shard in values["shards"]) / 1e6
    print(f"{corpus}: {len(values['shards'])} shards, {size:.1f} MB, every byte as written; fingerprint {values['fingerprint']}")
    return 0


def main() -> NoReturn:
    """Run the command and exit."""
    run_command(verify, positional=True)


if __name__ == "__main__":
    main()
