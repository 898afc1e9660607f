"""Command: draw a few samples of each source of a corpus.

python data_prep/quicklook.py corpus/ --output samples.png
"""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

from common.atomic_files import whole_file
from common.command_line import run_command
from common.storage import AnyPath, check_writable
from data_prep.corpus.dataset import load_corpus
from data_prep.plots.contact_sheet import contact_sheet, evenly_spread_samples


def quicklook(
    corpus: AnyPath, output: AnyPath = Path("samples.png"), samples: int = 3, frames: int = 12, split: str = "train"
) -> None:
    """Draw samples of each source of a corpus: their year in colour composites, and their land-cover fractions.

    Args:
        corpus: corpus written by shard.py, a folder or a URL.
        output: PNG to write.
        samples: samples of each source, evenly spread over the split.
        frames: images of each sample: the clearest in each of so many equal parts of its dates.
        split: train, validation or test.
    """
    if samples < 1 or frames < 1:
        raise ValueError(f"samples and frames must be at least 1, got {samples} and {frames}")
    if output.suffix.lower() != ".png":
        raise ValueError(f"output is {output}; expected a name that ends in .png")
    check_writable(output)
    loaded = load_corpus(corpus)
    chosen = {source: evenly_spread_samples(loaded, source, split, samples) for source in sorted(loaded.sensors)}
    chosen = {source: entries for source, entries in chosen.items() if entries}
    if not chosen:
        raise ValueError(f"{corpus} has no samples in the split {split!r}; it has {sorted({s.split for s in loaded.shards})}")
    figure = contact_sheet(loaded, chosen, frames)
    output.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(output) as temporary:
        figure.savefig(temporary, format="png", dpi=110, metadata={"Software": None})
    print(f"{output} shows {sum(map(len, chosen.values()))} samples of {', '.join(chosen)}")


def main() -> NoReturn:
    """Run the command and exit."""
    run_command(quicklook, positional=True)


if __name__ == "__main__":
    main()
