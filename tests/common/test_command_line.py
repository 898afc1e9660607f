"""The command line all commands share: how options may be written."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from common.command_line import as_arguments, parse, run_command
from common.exit_codes import USER_ERROR
from data_prep.shard import RENAMED as RENAMED_SHARD_OPTIONS
from data_prep.shard import ShardConfig, shard
from pretrain.config import CONFIGS, RENAMED_OPTIONS, PretrainConfig
from pretrain.train import pretrain

ROOT = Path(__file__).parents[2]
FOLDERS = ["--input", "in", "--output", "out-put_1"]


def options(*arguments: str) -> dict[str, object]:
    return vars(parse(shard, [*FOLDERS, *arguments], config_class=ShardConfig, renamed=RENAMED_SHARD_OPTIONS))


@pytest.mark.parametrize(
    ("written", "underscores"),
    [
        (["--min-frames", "8"], ["--min_frames", "8"]),
        (["--min-frames=8"], ["--min_frames=8"]),
        (["--split-block-km", "50", "--max-failed-share", "0.5"], ["--split_block_km", "50", "--max_failed_share", "0.5"]),
        (["--chip-px.modis", "4", "--chip-px.landsat=8"], ["--chip_px.modis", "4", "--chip_px.landsat=8"]),
        (["--chip-px", "{modis: 4}"], ["--chip_px", "{modis: 4}"]),
        (["--chip-px.my-sensor_b", "4"], ["--chip_px.my-sensor_b", "4"]),  # a dictionary's key is the user's own
        (["--shards", "0-4", "--sites=a-b=c_d.csv"], ["--shards", "0-4", "--sites=a-b=c_d.csv"]),  # and so are values
        (["--plan-only"], ["--plan_only", "true"]),
        (["--plan_only"], ["--plan_only", "true"]),
        (["--plan-only", "--workers", "3"], ["--plan_only", "true", "--workers", "3"]),
        (["--plan-only", "false", "--retry-failed"], ["--plan_only", "false", "--retry_failed", "true"]),
        (["--plan-only=false"], ["--plan_only", "false"]),
    ],
)
def test_dashes_and_lone_booleans_say_the_same(written: list[str], underscores: list[str]) -> None:
    assert options(*written) == options(*underscores)


WRITING_COMMANDS = {
    "data_prep.simulate": [],
    "data_prep.draw_sites": ["--land_cover", "tiles", "--count", "3"],
    "data_prep.fetch_real": [],
    "pretrain.train": ["--data", "s3://bucket/corpus"],
    "finetune.run": ["--task", "cropland", "--data", "scenes"],
    "finetune.compare": ["--tasks", "cropland", "--data", "scenes"],
    "finetune.predict": ["--model", "run", "--input", "scene"],
    "finetune.fields": ["--map", "map.tif", "--class_name", "rice"],
}


@pytest.mark.parametrize("command", WRITING_COMMANDS)
def test_no_command_writes_to_a_local_folder_named_like_a_url(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["command.py", *WRITING_COMMANDS[command], "--output", "s3://bucket/results.parquet"])
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(command).main()
    assert ended.value.code == USER_ERROR
    assert capsys.readouterr().err == (
        "command.py: error: output: s3://bucket/results.parquet is a URL; expected a path on this machine: copy to it what is "
        "to be read, or write to it and copy the result\n"
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("protocol", ["https", "sftp"])
@pytest.mark.parametrize(
    ("command", "given"),
    [
        ("data_prep.shard", ["--input", "scenes"]),
        ("data_prep.add_maps", ["--input", "scenes", "--corpus", "former"]),
        ("data_prep.describe", ["corpus"]),
        ("data_prep.quicklook", ["corpus"]),
    ],
)
def test_what_cannot_be_written_whole_is_refused_before_anything_is_made(
    command: str,
    given: list[str],
    protocol: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["command.py", *given, "--output", f"{protocol}://server/samples.png"])
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(command).main()
    assert ended.value.code == USER_ERROR
    assert capsys.readouterr().err.startswith(
        f"error: {protocol}://server/samples.png cannot be written to; expected a path on this machine, or a URL of abfs://, "
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("where", ["command line", "YAML"])
def test_urls_of_inputs_that_are_read_here_are_refused(where: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "options.yaml").write_text("{stream: {cache: 'gs://bucket/cache'}, data: 's3://bucket/corpus'}")
    given = ["--stream.cache", "gs://bucket/cache"] if where == "command line" else ["--config", str(tmp_path / "options.yaml")]
    with pytest.raises(SystemExit):
        parse(pretrain, ["--data", "s3://bucket/corpus", "--output", "run", *given], config_class=PretrainConfig)
    assert "error: stream.cache: gs://bucket/cache is a URL; expected a path on this machine" in capsys.readouterr().err


def test_a_url_of_an_input_that_may_be_one_is_kept() -> None:
    parsed = parse(pretrain, ["--data", "s3://bucket/corpus", "--output", "s3"], config_class=PretrainConfig)
    assert (parsed.data, parsed.output) == ("s3://bucket/corpus", Path("s3"))


def test_values_are_those_that_were_given() -> None:
    """The test above compares two ways through one parser; this one looks at what comes out."""
    parsed = options("--plan-only", "--min-frames", "8", "--chip-px.my-sensor_b", "4", "--shards", "0-4")
    assert (parsed["plan_only"], parsed["min_frames"], parsed["shards"]) == (True, 8, "0-4")
    assert parsed["chip_px"] == {"my-sensor_b": 4}
    assert (parsed["retry_failed"], parsed["output"]) == (False, Path("out-put_1"))
    assert options("--plan-only", "false")["plan_only"] is False


def test_nested_options_of_a_configuration() -> None:
    arguments = ["--data", "c", "--output", "o", "--stream.num-workers", "2", "--stream.check-reads", "--stream.augment=false"]
    parsed = parse(pretrain, [*arguments, "--encoder.drop-path-rate", "0.5", "--compile"], config_class=PretrainConfig)
    assert (parsed.stream.num_workers, parsed.stream.check_reads, parsed.stream.augment) == (2, True, False)
    assert (parsed.encoder.drop_path_rate, parsed.compile) == (0.5, True)


def test_a_configuration_file_keeps_underscores(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.yaml").write_text("plan_only: true\nmin_frames: 4\n")
    (tmp_path / "b.yaml").write_text("plan-only: true\n")
    parsed = options("--config", str(tmp_path / "a.yaml"), "--min-frames", "5")
    assert (parsed["plan_only"], parsed["min_frames"]) == (True, 5)
    with pytest.raises(SystemExit) as stopped:
        options("--config", str(tmp_path / "b.yaml"))
    assert stopped.value.code == 2
    assert "did you mean plan_only?" in capsys.readouterr().err


def test_options_with_positionals(tmp_path: Path) -> None:
    def command(corpus: Path, dry_run: bool = False, num_samples: int = 1) -> None:
        """Do nothing."""

    for order in (
        [str(tmp_path), "--dry-run"],
        ["--num-samples", "1", str(tmp_path), "--dry-run"],
        ["--dry-run=true", str(tmp_path)],
    ):
        assert vars(parse(command, order, positional=True)) == {"corpus": tmp_path, "dry_run": True, "num_samples": 1}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--plan-onyl"], "did you mean plan_only?"),
        (["--plan-only", "perhaps"], "plan_only"),
        (["--plan_only=perhaps"], "plan_only"),
        (["--min-frames"], "expected one argument"),  # only booleans may stand alone
        (["--min-frames", "--workers", "2"], "expected one argument"),
        (["-plan-only"], "unrecognized"),
    ],
)
def test_mistakes(wrong: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        options(*wrong)
    error = capsys.readouterr().err
    assert stopped.value.code == 2
    assert message in error
    assert len(error.splitlines()) == 1


def test_help_shows_one_form(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        run_command(shard, ["--help"], config_class=ShardConfig)
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert "--plan_only [{true,false}]" in text
    assert "--plan-only" not in text
    assert "--min-frames" not in text


def test_arguments_for_another_process_still_round_trip() -> None:
    once = options("--plan-only", "--chip-px.modis", "4")
    assert options(*as_arguments({k: v for k, v in once.items() if k not in ("input", "output")})) == once


def test_a_real_command(tmp_path: Path) -> None:
    """As a user types it: the plan is written and nothing else, and an option with a dash counts."""
    scenes, corpus = tmp_path / "scenes", tmp_path / "corpus"
    small = ["--regions", "1", "--landsat-px", "48", "--sentinel2-px", "48"]

    def python(*command: str) -> str:
        done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    python("data_prep/simulate.py", "--output", str(scenes), *small)
    sides = ["--chip-px.sentinel2", "16", "--chip-px.landsat", "16", "--chip-px.modis", "2"]
    python("data_prep/shard.py", "--input", str(scenes), "--output", str(corpus), *sides, "--min-frames", "4", "--plan-only")
    assert (corpus / "plan.json").is_file()
    assert not list(corpus.glob("*.tar"))


def listing(names: list[str], shares: list[float] | None = None, text: str = "") -> None:
    """Takes lists."""


@pytest.mark.parametrize(
    ("words", "names", "shares"),
    [
        (["--names", "a", "b-c"], ["a", "b-c"], None),
        (["--names", "a", "--shares", "0.1", "-1", "--text", "t"], ["a"], [0.1, -1.0]),
        (["--names", "[a, b]", "--shares=[1]"], ["a", "b"], [1.0]),
        (["--shares", "null", "--names", "a"], ["a"], None),
    ],
)
def test_lists_are_words_or_yaml(words: list[str], names: list[str], shares: list[float] | None) -> None:
    parsed = parse(listing, words)
    assert (parsed.names, parsed.shares) == (names, shares)


def positional(folder: Path, shares: list[float] | None = None) -> None:
    """Takes a positional, too."""


def test_a_positional_is_not_taken_into_a_list() -> None:
    parsed = parse(positional, ["--shares", "0.5", "corpus"], positional=True)
    assert (parsed.folder, parsed.shares) == (Path("corpus"), [0.5])


def test_an_option_without_its_list_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(listing, ["--names", "--text", "t"])
    assert "names" in capsys.readouterr().err


def nested(run: dict[str, Any] | None = None, only: dict[str, dict[str, Any]] | None = None, jobs: int = 1) -> None:
    """Dictionaries of dictionaries."""


@pytest.mark.parametrize(
    ("words", "run", "only"),
    [
        (
            ["--run.training.steps", "100", "--run.training.batch_size=4", "--run.maps", "false", "--run.training.rate", "0.5"],
            {"training": {"steps": 100, "batch_size": 4, "rate": 0.5}, "maps": False},
            None,
        ),
        (["--run.training", "{steps: 1, epochs: 2}", "--run.training.steps", "3"], {"training": {"steps": 3, "epochs": 2}}, None),
        (["--run.a.b.c", "1", "--jobs", "2", "--run.a.b.d", "x y"], {"a": {"b": {"c": 1, "d": "x y"}}}, None),
        (["--run.a.on", "2021-03-01", "--run.a.list", "[1, 2]"], {"a": {"on": "2021-03-01", "list": [1, 2]}}, None),
        (
            ["--only.unet", "{decoder.channels: 16}", "--only.unet.training.steps", "3", "--only.scratch.maps", "true"],
            None,
            {"unet": {"decoder.channels": 16, "training": {"steps": 3}}, "scratch": {"maps": True}},
        ),
    ],
)
def test_every_key_of_a_dictionary_of_dictionaries_is_kept(words: list[str], run: Any, only: Any) -> None:
    parsed = parse(nested, words)
    assert (parsed.run, parsed.only) == (run, only)


def test_a_nested_key_without_its_value_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--run.training.steps", "--jobs", "2"], ["--run.training.steps"]):
        with pytest.raises(SystemExit):
            parse(nested, words)
        assert "expected one argument" in capsys.readouterr().err


RENAMED = {"chips": "chip_px", "fewest": "min_frames", "old": "stream.seed", "stream.readers": "stream.num_workers"}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (["--fewest", "3"], ["--min_frames", "3"]),
        (["--fewest=3"], ["--min_frames", "3"]),
        (["--chips.landsat", "8"], ["--chip_px.landsat", "8"]),
    ],
)
def test_a_renamed_option_keeps_its_old_name_with_a_warning(
    old: list[str], new: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert vars(parse(shard, [*FOLDERS, *old], config_class=ShardConfig, renamed=RENAMED)) == options(*new)
    warning = capsys.readouterr().err
    assert warning.count("\n") == 1
    assert f"was renamed to {new[0].split('.')[0]}" in warning


def test_renamed_keys_of_a_configuration_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = ["--data", "c", "--output", "o", "--config", str(tmp_path / "a.yaml")]
    (tmp_path / "a.yaml").write_text("old: 7\nstream: {readers: 2}\n")
    parsed = parse(pretrain, folders, config_class=PretrainConfig, renamed=RENAMED)
    assert (parsed.stream.seed, parsed.stream.num_workers) == (7, 2)
    assert capsys.readouterr().err.splitlines() == [
        "warning: old was renamed to stream.seed; the old name still works",
        "warning: stream.readers was renamed to stream.num_workers; the old name still works",
    ]
    (tmp_path / "a.yaml").write_text("old: 7\nstream: {seed: 2}\n")
    with pytest.raises(SystemExit) as stopped:
        parse(pretrain, folders, config_class=PretrainConfig, renamed=RENAMED)
    assert stopped.value.code == 2
    assert "both are given" in capsys.readouterr().err


def test_a_key_that_repeats_in_a_configuration_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The parser would keep the last one in silence."""
    (tmp_path / "a.yaml").write_text("stream: {seed: 2}\nstream: {num_workers: 3}\n")
    with pytest.raises(SystemExit) as stopped:
        parse(pretrain, ["--data", "c", "--output", "o", "--config", str(tmp_path / "a.yaml")], config_class=PretrainConfig)
    assert stopped.value.code == 2
    assert "the key 'stream' is in lines 1 and 2; expected each key once" in capsys.readouterr().err


def test_arguments_for_another_process_are_the_same() -> None:
    given_ = [
        "--input",
        "in",
        "--output",
        "out put",
        "--chip_px.modis",
        "4",
        "--sources",
        "[modis,landsat]",
        "--retry_failed=true",
        "--split.block_km=20",
        "--split.shares.test=0.2",
    ]
    once = vars(parse(shard, given_, config_class=ShardConfig))
    assert vars(parse(shard, as_arguments(once), config_class=ShardConfig)) == once


def test_a_wrong_value_in_a_group_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """The check of a nested dataclass is its own: the parser knows types alone."""
    arguments = ["--data", "c", "--output", "o"]
    with pytest.raises(SystemExit) as stopped:
        parse(pretrain, [*arguments, "--encoder.num_heads", "[3,6,12]"], config_class=PretrainConfig)
    assert stopped.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_built_in_configuration_has_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folders = ["--data", "c", "--output", "o"]
    for words in (["--config", "tiny"], ["--config=tiny"], ["--config", str(CONFIGS / "tiny.yaml")]):
        parsed = parse(pretrain, [*folders, *words], config_class=PretrainConfig, renamed=RENAMED_OPTIONS, built_in=CONFIGS)
        assert parsed.encoder.embed_dim == 32
    Path("tiny").write_text("seed: 7\n")  # a user's own file is preferred
    parsed = parse(pretrain, [*folders, "--config", "tiny"], config_class=PretrainConfig, built_in=CONFIGS)
    assert (parsed.seed, parsed.encoder.embed_dim) == (7, 128)
    assert parse(pretrain, ["--data", "tiny", "--output", "o"], config_class=PretrainConfig, built_in=CONFIGS).data == "tiny"
