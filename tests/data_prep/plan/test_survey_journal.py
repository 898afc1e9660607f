"""Planning that was interrupted opens only what it has not opened yet, and gives the plan of an undisturbed run."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from common.errors import InfrastructureError, MissingPackageError
from data_prep.plan import survey
from data_prep.plan.build import make_plan
from data_prep.plan.settings import PlanSettings
from data_prep.plan.survey_journal import JOURNAL
from tests.support.archives import write_archive
from tests.support.interruptions import contents

SETTINGS = PlanSettings(chip_px={"sentinel2": 12, "modis": 4})


class Stopped(BaseException):
    """As when the process is told to stop."""


class Jobs:
    """Runs jobs in this process, backwards, and stops after some of them. `done`: how many it has run."""

    def __init__(self, stop_after: int = 99, error: BaseException | None = None) -> None:
        self.done, self._stop_after, self._error = 0, stop_after, error or Stopped()

    def __call__(self, function: Callable[[Any], Any], jobs: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
        for job in reversed(jobs):
            if self.done == self._stop_after:
                raise self._error
            self.done += 1
            yield job, function(job)


@pytest.fixture
def scenes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The archive, and four more of one of its scenes; each is a job."""
    monkeypatch.setattr(survey, "SCENES_PER_JOB", 1)
    write_archive(tmp_path / "scenes")
    first = min(path.parent for path in (tmp_path / "scenes").glob("*/scene.yaml"))
    for number in range(4):
        copy = shutil.copytree(first, first.with_name(f"{first.name}{number}"))
        text = (copy / "scene.yaml").read_text()
        (copy / "scene.yaml").write_text(text.replace(f"name: {first.name}", f"name: {copy.name}"))
    return tmp_path / "scenes"


def number_of_jobs(scenes: Path, output: Path, settings: PlanSettings = SETTINGS) -> int:
    jobs = Jobs()
    make_plan(scenes, output, settings, jobs)
    return jobs.done


@pytest.mark.parametrize(
    "error", [Stopped(), InfrastructureError("the storage is away"), MissingPackageError("pyhdf is not installed")]
)
def test_what_was_opened_is_not_opened_again(scenes: Path, tmp_path: Path, error: BaseException) -> None:
    whole = number_of_jobs(scenes, tmp_path / "whole")
    assert whole > 2
    for stop in (2, 1):
        with pytest.raises(type(error)):
            make_plan(scenes, tmp_path / "plan", SETTINGS, Jobs(stop, error))
        assert [*contents(tmp_path / "plan")] == [JOURNAL]
    assert number_of_jobs(scenes, tmp_path / "plan") == whole - 3
    assert contents(tmp_path / "plan") == contents(tmp_path / "whole")
    assert number_of_jobs(scenes, tmp_path / "plan") == 0


def test_a_journal_beside_a_finished_plan_goes(scenes: Path, tmp_path: Path) -> None:
    """A kill came after the plan was written, and before its journal was removed."""
    with pytest.raises(Stopped):
        make_plan(scenes, tmp_path / "plan", SETTINGS, Jobs(2))
    journal = (tmp_path / "plan" / JOURNAL).read_bytes()
    assert number_of_jobs(scenes, tmp_path / "plan") > 0
    whole = contents(tmp_path / "plan")
    (tmp_path / "plan" / JOURNAL).write_bytes(journal)
    assert number_of_jobs(scenes, tmp_path / "plan") == 0
    assert contents(tmp_path / "plan") == whole


@pytest.mark.parametrize("damage", [b'{"job": "00', b"\x00\x00\n", b'{"found": []}\n'])
def test_a_last_line_that_is_damaged_is_forgotten(scenes: Path, tmp_path: Path, damage: bytes) -> None:
    whole = number_of_jobs(scenes, tmp_path / "whole")
    with pytest.raises(Stopped):
        make_plan(scenes, tmp_path / "plan", SETTINGS, Jobs(2))
    journal = tmp_path / "plan" / JOURNAL
    head, *lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(head + lines[0] + damage)
    with pytest.raises(Stopped):
        make_plan(scenes, tmp_path / "plan", SETTINGS, Jobs(1))
    assert number_of_jobs(scenes, tmp_path / "plan") == whole - 2
    assert contents(tmp_path / "plan") == contents(tmp_path / "whole")


@pytest.mark.parametrize("error", [Stopped(), InfrastructureError("the storage is away"), ValueError("damaged")])
def test_a_run_that_fails_leaves_the_plan_of_another_one(scenes: Path, tmp_path: Path, error: BaseException) -> None:
    """Two hosts plan one new corpus; the first has finished, and writes shards, when the second is stopped."""
    number_of_jobs(scenes, tmp_path / "whole")

    class LateJobs(Jobs):
        def __call__(self, function: Callable[[Any], Any], jobs: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
            for number, result in enumerate(super().__call__(function, jobs)):
                if number == 1:
                    make_plan(scenes, tmp_path / "plan", SETTINGS)
                    raise error
                yield result

    with pytest.raises(type(error)):
        make_plan(scenes, tmp_path / "plan", SETTINGS, LateJobs())
    assert number_of_jobs(scenes, tmp_path / "plan") == 0
    assert contents(tmp_path / "plan") == contents(tmp_path / "whole")


def test_other_arguments_begin_anew(scenes: Path, tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        make_plan(scenes, tmp_path / "plan", SETTINGS, Jobs(2))
    other = PlanSettings(chip_px={"sentinel2": 6, "modis": 4})
    assert number_of_jobs(scenes, tmp_path / "plan", other) == number_of_jobs(scenes, tmp_path / "whole", other)
    assert contents(tmp_path / "plan") == contents(tmp_path / "whole")


def test_what_was_rejected_is_opened_again(scenes: Path, tmp_path: Path) -> None:
    """All jobs but one are done when the run is stopped; then the scene is mended."""
    whole = number_of_jobs(scenes, tmp_path / "whole")
    store = max(scenes.glob("*/sentinel2.zarr"))  # the last scene, which is the first job
    shutil.move(store, tmp_path / "away")
    with pytest.raises(Stopped):
        make_plan(scenes, tmp_path / "plan", SETTINGS, Jobs(whole - 1))
    shutil.move(tmp_path / "away", store)
    assert number_of_jobs(scenes, tmp_path / "plan") == 2
    assert contents(tmp_path / "plan") == contents(tmp_path / "whole")


def test_an_archive_that_gives_nothing_leaves_nothing(scenes: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing to write"):
        make_plan(scenes, tmp_path / "plan", PlanSettings(chip_px={"sentinel2": 12}, sources=("sentinel2",), min_frames=300))
    assert not (tmp_path / "plan").exists()
