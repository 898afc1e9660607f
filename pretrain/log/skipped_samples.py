"""The list of damaged samples that a run has skipped."""

from __future__ import annotations

from pathlib import Path

from common import ranks
from common.json_files import append_json_lines, read_json_lines
from pretrain.data.stream import Stream

SKIPPED_FILE = "skipped.jsonl"
TRAINING, VALIDATION = "training", "validation"


class SkippedSamples:
    """Damaged samples that training and validation have skipped, in a file in the run's folder. Every rank has one.

    A line has the sample, the rank that found it, and whether in `training` or in `validation`. A rank lists a sample once in
    the whole run. A run that resumes on another number of ranks counts the samples of rank R for rank R modulo that number.

    Args:
        output: folder of the run.
        streams: those of training and of validation on this rank, which get the samples that the run has skipped before.
    """

    def __init__(self, output: Path, streams: dict[str, list[Stream]]) -> None:
        self._path, self._streams = output / SKIPPED_FILE, streams
        rank, world_size = ranks.rank_and_world_size()
        for line in read_json_lines(self._path):
            # Runs of earlier versions listed those of training only, without the rank.
            if line.get("rank", 0) % world_size == rank:
                for stream in streams.get(line.get("found_in", TRAINING), []):
                    if line.get("split", stream.split) == stream.split and line.get("source") in (None, *stream.draws.sources):
                        stream.count_as_damaged(line["key"])

    def list_new(self) -> None:
        """List the samples that any rank has skipped since the last call, and print their number. Every rank calls this."""
        rank, _ = ranks.rank_and_world_size()
        mine = [
            {"found_in": found_in, "rank": rank, **vars(sample)}
            for found_in, streams in self._streams.items()
            for stream in streams
            for sample in stream.take_skipped()
        ]
        new = [line for of_rank in ranks.gather(mine) for line in of_rank]
        if new and rank == 0:
            append_json_lines(self._path, new)
            print(f"{len(new)} damaged samples skipped, last {new[-1]['key']}; all are in {self._path}", flush=True)
