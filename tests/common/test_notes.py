"""Notes: each is shown once as one line, workers show none, and a command may collect them."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path

from common.notes import Note, collected_notes, note


def test_notes_of_a_process_and_its_workers(tmp_path: Path) -> None:
    script = tmp_path / "command.py"
    script.write_text(
        "import warnings\n"
        "from common.command_line import run_command\n"
        "from common.executors import map_local\n"
        "from common.notes import note\n"
        "def work(job):\n"
        "    note('seen before')\n"
        "    return job\n"
        "def command():\n"
        "    for text in ('seen before', 'another', 'seen before'):\n"
        "        note(text)\n"
        "        warnings.simplefilter('default')  # Python then forgets what it has shown\n"
        "    assert sorted(done for _, done in map_local(work, [1, 2, 3], workers=2)) == [1, 2, 3]\n"
        "if __name__ == '__main__':\n"
        "    run_command(command)\n"
    )
    root = Path(__file__).parents[2]
    ended = subprocess.run([sys.executable, script], env={"PYTHONPATH": str(root)}, capture_output=True, text=True, check=True)
    assert ended.stderr.splitlines() == ["note: seen before", "note: another"]


def test_collected_notes_are_not_shown_and_other_warnings_are() -> None:
    def work() -> list[str]:
        with collected_notes() as notes:
            note("one")
            note("one")
            warnings.warn("of a library", UserWarning, stacklevel=1)
        note("two")
        return notes

    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        assert work() == ["one", "one"]
    assert [(str(warning.message), warning.category) for warning in shown] == [("of a library", UserWarning), ("two", Note)]
