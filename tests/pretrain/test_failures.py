"""Storage that is lost, samples that are damaged and a disk that is full while a run trains: it saves, and all ranks say so."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from aiohttp import web

from common.exit_codes import INFRASTRUCTURE, STOPPED, USER_ERROR
from data_prep.corpus.dataset import load_corpus
from pretrain.checkpoint import finished_steps
from pretrain.data.stream import Stream
from tests.support.disturbed_training import assert_same_bits, log_of
from tests.support.pretraining import ENCODER, STREAM, options
from tests.support.rank_programs import Ended, run_ranks
from tests.support.small_corpus import damage, write_corpus
from tests.support.web_server import web_server

SAMPLES = {"modis": 16, "landsat": 16}  # with batches of four an epoch is four steps
STEPS = 10
Serve = Callable[[Path, Callable[[], bool], type[web.HTTPException]], str]


def arguments(corpus: Path, output: Path, *more: str) -> list[str]:
    words = ["--data", str(corpus), "--output", str(output), "--precision", "fp32", "--num_steps", str(STEPS), "--log_every", "1"]
    return [*words, *options(ENCODER, "encoder"), *options(STREAM, "stream"), *more]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"), SAMPLES, side=12)


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Serve a folder by HTTP as long as a function is true; then this error answers all that ask for a shard."""
    with web_server() as server:

        def start(folder: Path, is_there: Callable[[], bool], error: type[web.HTTPException]) -> str:
            def before(request: web.Request) -> None:
                if request.path.endswith(".tar") and not is_there():
                    raise error

            return server(folder, before)

        yield start


def assert_ended_after_saving(ended: Ended, run: Path, code: int) -> int:
    """All ranks ended with this exit code and one error, and the only checkpoint is that of the last finished step."""
    assert ended.codes == [code, code], ended.stderr[-3000:]
    assert len(ended.errors) == 1, ended.stderr[-3000:]
    assert "Traceback" not in ended.stderr
    done = max(log_of(run))
    assert finished_steps(run / "checkpoints") == [done]
    return done


@pytest.mark.slow
@pytest.mark.parametrize(
    ("num_workers", "error", "named"), [(0, web.HTTPNotFound, "FileNotFoundError"), (2, web.HTTPForbidden, "RefusedError")]
)
def test_storage_that_one_rank_loses_ends_all_after_saving(
    corpus: Path, serve: Serve, num_workers: int, error: type[web.HTTPException], named: str, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    url = serve(corpus, lambda: max(log_of(run), default=0) < 2, error)
    words = arguments(corpus, run, "--stream.num_workers", str(num_workers))
    ended = run_ranks(words, last_rank=["--data", url])
    done = assert_ended_after_saving(ended, run, INFRASTRUCTURE)
    assert 2 <= done < STEPS
    assert f"rank 1 on {socket.gethostname()} cannot read its next batch: {named}: {url}" in ended.errors[0]

    if not num_workers:
        return  # resuming takes long
    resumed, whole = run_ranks(words), run_ranks(arguments(corpus, tmp_path / "whole"))
    assert resumed.codes == whole.codes == [0, 0]
    assert f"resuming after step {done}" in resumed.stdout
    assert log_of(run) == log_of(tmp_path / "whole")
    assert_same_bits(run, tmp_path / "whole", STEPS)


@pytest.mark.slow
def test_a_damaged_sample_ends_all_ranks_after_saving(corpus: Path, tmp_path: Path) -> None:
    damaged = shutil.copytree(corpus, tmp_path / "corpus")
    loaded = load_corpus(damaged)
    draws = Stream(loaded, "train", STREAM, rank=1, world_size=2).draws
    fourth_step = next(draws.share(step) for step in (6, 7) if draws.source_of(step) == "modis")
    (key,) = damage(damaged, loaded, fourth_step.samples[:1].tolist())
    run = tmp_path / "run"
    ended = run_ranks(arguments(damaged, run))
    assert assert_ended_after_saving(ended, run, USER_ERROR) == 3
    assert f"frames read of {key} are not as they were written" in ended.errors[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["encoder.safetensors", "metrics.json"])
def test_a_last_file_that_cannot_be_written_is_one_error_of_all_ranks(corpus: Path, tmp_path: Path, name: str) -> None:
    """A folder in the place of the file stands for a storage that refuses it."""
    run = tmp_path / "run"
    words = arguments(corpus, run, "--num_steps", "1")
    (run / name).mkdir(parents=True)
    ended = run_ranks(words)
    assert ended.codes == [INFRASTRUCTURE] * 2, ended.stderr[-3000:]
    assert len(ended.errors) == 1, ended.stderr[-3000:]
    assert f"{run / name} cannot be written" in ended.errors[0]
    if name == "metrics.json":
        (run / name).rmdir()
        assert run_ranks(words).codes == [0, 0]


@pytest.mark.slow
def test_a_checkpoint_that_cannot_be_written_ends_all_ranks(corpus: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "checkpoints").touch()
    ended = run_ranks(arguments(corpus, run, "--save_every", "2"))
    assert ended.codes == [INFRASTRUCTURE, INFRASTRUCTURE], ended.stderr[-3000:]
    assert len(ended.errors) == 1
    assert "step-00000002 cannot be written" in ended.errors[0]
    assert "Traceback" not in ended.stderr
    assert max(log_of(run)) == 4  # the next checkpoint finds out


@pytest.mark.slow
def test_a_run_gets_past_a_validation_that_always_fails(corpus: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = arguments(corpus, run, "--num_steps", "4", "--validate_every", "2")
    program, environment = "tests.support.disturbed_validation", {"VALIDATION": "fail"}
    for last in (2, 4):
        ended = run_ranks(words, program=program, environment=environment)
        assert ended.codes == [INFRASTRUCTURE, INFRASTRUCTURE], ended.stderr[-3000:]
        assert max(finished_steps(run / "checkpoints")) == max(log_of(run)) == last
    assert (run / "encoder.safetensors").is_file()
    assert not (run / "metrics.json").exists()
    finished = run_ranks(words)
    assert finished.codes == [0, 0], finished.stderr[-3000:]
    assert json.loads((run / "metrics.json").read_text())["steps"] == 4


@pytest.mark.slow
def test_a_run_that_is_asked_to_stop_saves_and_does_not_validate(corpus: Path, tmp_path: Path) -> None:
    words = arguments(corpus, tmp_path / "run", "--num_steps", "2", "--validate_every", "1")
    ended = run_ranks(words, program="tests.support.disturbed_validation", environment={"VALIDATION": "stop"})
    assert ended.codes == [STOPPED, STOPPED], ended.stderr[-3000:]
    assert ended.stdout.count("validated") == 2  # after the first step, by two ranks
    assert "asked to stop: saved after step 2 of 2" in ended.stdout
    assert max(finished_steps(tmp_path / "run" / "checkpoints")) == 2
    assert not (tmp_path / "run" / "metrics.json").exists()
    assert run_ranks(words).codes == [0, 0]  # it only validates and finishes
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["steps"] == 2
