"""Command: put comparisons on several data side by side, in one document and one figure.

    python finetune/join_comparisons.py --comparisons same/ held_out/ --titles same "held out" --output joined/

The folders are those of `finetune/compare.py`. Nothing is run.
"""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

from common.command_line import run_command
from finetune.comparison.result_files import DIFFERENCES, DOCUMENT, write_joined_files


def join_comparisons(comparisons: list[Path], output: Path, titles: list[str] | None = None) -> None:
    """Put comparisons on several data side by side: one document, and one figure of differences on a common axis.

    Args:
        comparisons: output folders of finetune/compare.py.
        output: folder of comparison.md and comparison_differences.png.
        titles: what to call the data of each comparison; by default the names of the folders.
    """
    names = titles or [folder.resolve().name for folder in comparisons]
    if not names or len(names) != len(comparisons) or len(set(names)) < len(names):
        raise ValueError(
            f"--titles are {names} for --comparisons {[*map(str, comparisons)]}; expected one for each, all different"
        )
    if output.resolve() in [folder.resolve() for folder in comparisons]:
        raise ValueError(f"--output {output} is one of the comparisons; choose another folder")
    write_joined_files(output, dict(zip(names, comparisons, strict=True)))
    print((output / DOCUMENT).read_text())
    print(f"{output / DOCUMENT}; {DIFFERENCES}")


def main() -> NoReturn:
    """Run the command and exit."""
    run_command(join_comparisons)


if __name__ == "__main__":
    main()
