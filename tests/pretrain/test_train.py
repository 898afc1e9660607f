"""Pretraining by the real launcher on two ranks, against a plain PyTorch loop in one process."""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from data_prep.corpus.dataset import load_corpus
from pretrain.config import OptimizerConfig
from pretrain.data.stream import Stream
from pretrain.model import EncoderConfig, MapDecoder, MapDecoderConfig, build_encoder, load_decoder, load_encoder
from pretrain.model.weight_shards import WeightShards
from pretrain.objective.losses import LossWeights, land_cover_loss
from pretrain.objective.mean_teacher import MeanTeacher, as_student_sees, views
from pretrain.objective.model import LandCoverModel
from pretrain.objective.targets import LandCoverTargets
from pretrain.schedule import scheduled_learning_rate
from tests.support.pretraining import ENCODER, ROOT, STREAM, free_port, options
from tests.support.small_corpus import write_corpus

SAMPLES = {"modis": 8, "landsat": 8, "sentinel2": 8}
OPTIMIZER = OptimizerConfig(learning_rate=1e-3, gradient_clipping=0.5)
STEPS = 3
MAP = ["--objective.predict", "map", "--objective.decoder_channels", "16", "--stream.teacher_dates", "own"]
FRACTIONS = ["--objective.predict", "fractions", "--stream.teacher_dates", "same"]


def launch(corpus: Path, output: Path, *more: str, ranks: int = 2) -> subprocess.CompletedProcess[str]:
    """`deepspeed launch/pretrain.sh` as a user types it."""
    command = [str(Path(sys.executable).parent / "deepspeed"), "--num_accelerators", str(ranks), "--master_port", free_port()]
    command += [str(ROOT / "launch/pretrain.sh"), "--data", str(corpus), "--output", str(output), "--precision", "fp32"]
    command += ["--num_steps", str(STEPS), "--save_every", "2", *options(ENCODER, "encoder"), *options(STREAM, "stream")]
    command += [*options(OPTIMIZER, "optimizer"), *MAP, *more]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, timeout=300, check=False)


def one_process(
    corpus_folder: Path, loss_name: str = "kl_divergence", predict: str = "map"
) -> tuple[LandCoverModel, MeanTeacher]:
    """The same steps on the same global batches with nothing but PyTorch."""
    corpus = load_corpus(corpus_folder)
    stream = Stream(corpus, "train", replace(STREAM, teacher_dates="own" if predict == "map" else "same"))
    targets = LandCoverTargets(corpus, {}, has_map=predict == "map")
    torch.manual_seed(0)
    sources = {name: corpus.shapes[name][0] for name in stream.draws.sources}
    encoder = build_encoder(EncoderConfig(**{**ENCODER.to_dict(), "sources": sources}))
    shape = MapDecoderConfig(frames=STREAM.num_frames, num_classes=len(targets.classes), channels=16)
    decoder = MapDecoder(encoder, tuple(sources), shape) if predict == "map" else None
    model = LandCoverModel(encoder, len(targets.classes), decoder)
    teacher = MeanTeacher(copy.deepcopy(model), WeightShards.whole(model), 0.99)
    matrices = [p for n, p in model.named_parameters() if p.ndim > 1 and "bias_table" not in n]
    others = [p for n, p in model.named_parameters() if not (p.ndim > 1 and "bias_table" not in n)]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": OPTIMIZER.weight_decay}, {"params": others, "weight_decay": 0.0}],
        betas=OPTIMIZER.betas,
    )
    micro_step = 0
    for step in range(STEPS):
        optimizer.zero_grad()
        for group in optimizer.param_groups:
            group["lr"] = scheduled_learning_rate(OPTIMIZER, step, STEPS)
        weight = 1.0 * min(1.0, (step + 1) / max(1, 0.2 * STEPS))
        for _ in range(len(SAMPLES)):
            batch = stream.batch(micro_step)
            mean, std = (torch.from_numpy(a[batch.source]).float() for a in (corpus.mean, corpus.std))
            seen, as_it_lies = views(batch, mean, std, num_frames=STREAM.num_frames)
            taught = as_student_sees(teacher(as_it_lies, batch.source), batch)
            weights = LossWeights(loss=loss_name, consistency_weight=weight)
            loss, *_ = land_cover_loss(model(seen, batch.source), targets(batch), taught, weights)
            (loss / len(SAMPLES)).backward()
            micro_step += 1
        torch.nn.utils.clip_grad_norm_(model.parameters(), OPTIMIZER.gradient_clipping)
        optimizer.step()
        teacher.update(step)
    return model, teacher


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"), SAMPLES, side=12, maps=True)


@pytest.fixture(scope="module")
def run(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("runs") / "two_ranks"
    finished = launch(corpus, output)
    assert finished.returncode == 0, finished.stderr[-3000:] + finished.stdout[-3000:]
    return output


def saved(run: Path, name: str = "student", step: int = STEPS) -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoints" / f"step-{step:08d}" / f"{name}.safetensors")


def assert_same_weights(ours: dict, theirs: dict) -> None:
    # The ranks' gradients are means over halves of the batch, added in another order: fp32 rounding, about 1e-7 a gradient.
    # Adam's first steps divide by the gradient's own size, so a vanishing gradient, which is little but rounding, may move its
    # weight by some hundredths of the learning rate 1e-3 otherwise. Such weights are few: the mean stays near rounding.
    # A mixed-up gradient would show as 1e-3 in many.
    assert ours.keys() == theirs.keys()
    for name in ours:
        difference = (ours[name].double() - theirs[name].double()).abs()
        if name.endswith("qkv.bias"):  # a bias of all keys changes no attention: its gradient is nothing but rounding
            difference = difference.view(3, -1)[[0, 2]]
        assert difference.max() < 1e-4, name
        assert difference.mean() < 1e-7, name


def test_two_ranks_equal_one_process_over_three_sources(run: Path, corpus: Path):
    """They predict maps; the teacher sees dates of its own, and each rank's batches leave the decoders of two sources idle."""
    model, teacher = one_process(corpus)
    assert_same_weights(saved(run), model.state_dict())
    assert_same_weights(saved(run, "teacher"), teacher.gather())
    torch.manual_seed(0)
    start = LandCoverModel(build_encoder(model.encoder.config), model.head.out_features).state_dict()
    assert all(not torch.equal(start[n], v) for n, v in model.state_dict().items() if n.startswith("encoder.patch_embeds"))


@pytest.mark.slow
def test_two_ranks_that_predict_fractions_equal_one_process(corpus: Path, tmp_path: Path):
    finished = launch(corpus, tmp_path / "run", *FRACTIONS)
    assert finished.returncode == 0, finished.stderr[-3000:]
    assert_same_weights(saved(tmp_path / "run"), one_process(corpus, predict="fractions")[0].state_dict())
    assert load_decoder(tmp_path / "run", load_encoder(tmp_path / "run")) is None


@pytest.mark.slow
def test_the_loss_of_the_paper_is_learned_when_it_is_asked_for(run: Path, corpus: Path, tmp_path: Path):
    finished = launch(corpus, tmp_path / "run", "--objective.loss", "l1", *FRACTIONS, ranks=1)
    assert finished.returncode == 0, finished.stderr[-3000:]
    learned = saved(tmp_path / "run")
    assert_same_weights(learned, one_process(corpus, "l1", "fractions")[0].state_dict())
    assert not torch.equal(learned["head.weight"], saved(run)["head.weight"])


@pytest.mark.slow
@pytest.mark.parametrize("zero", ["zero2", "zero3", "zero2_offload", "zero3_offload"])
def test_two_ranks_of_any_zero_stage_equal_one_process(zero: str, corpus: Path, tmp_path: Path):
    finished = launch(corpus, tmp_path / "run", "--zero", str(ROOT / f"launch/{zero}.json"))
    assert finished.returncode == 0, finished.stderr[-3000:]
    model, teacher = one_process(corpus)
    assert_same_weights(saved(tmp_path / "run"), model.state_dict())
    assert_same_weights(saved(tmp_path / "run", "teacher"), teacher.gather())


def test_run_leaves_an_encoder_logs_and_metrics(run: Path):
    encoder = load_encoder(run)
    assert encoder.config.sources == {"modis": 7, "landsat": 6, "sentinel2": 10}
    assert encoder.normalization is not None
    assert encoder.normalization["modis"]["std"] == [500.0] * 7
    decoder = load_decoder(run, encoder)
    assert decoder is not None
    weights = {name.removeprefix("decoder."): w for name, w in saved(run, "teacher").items() if name.startswith("decoder.")}
    assert_same_weights(decoder.state_dict(), weights)
    assert json.loads((run / "metrics.json").read_text())["steps"] == STEPS
    assert list(run.glob("**/events.out.tfevents.*"))
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert any("loss/total" in line for line in lines)


@pytest.mark.slow
def test_resumes_bit_for_bit_and_skips_a_damaged_checkpoint(run: Path, corpus: Path, tmp_path: Path):
    """A run whose last checkpoint was cut continues from the one before and ends with the same bits."""
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    last = copy / "checkpoints" / f"step-{STEPS:08d}" / "optimizer.safetensors"
    last.write_bytes(last.read_bytes()[:-1000])
    (copy / "encoder.safetensors").unlink()
    resumed = launch(corpus, copy)
    assert resumed.returncode == 0, resumed.stderr[-3000:]
    assert "damaged and skipped" in resumed.stdout
    assert "resuming after step 2" in resumed.stdout
    for file in ("student", "teacher", "optimizer"):
        resumed_tensors = saved(copy, file)
        for name, tensor in saved(run, file).items():
            assert torch.equal(tensor, resumed_tensors[name]), name


@pytest.mark.slow
def test_several_ranks_begin_a_new_run_that_must_be_new_and_refuse_it_later_with_one_line(corpus: Path, tmp_path: Path):
    """Rank 0 alone looks at the folder: it changes as soon as a run begins there."""
    begun = launch(corpus, tmp_path / "run", "--resume", "never")
    assert begun.returncode == 0, begun.stderr[-3000:]
    assert not list((tmp_path / "run").glob(".lock*"))
    refused = launch(corpus, tmp_path / "run", "--resume", "never")
    assert refused.returncode == 2
    errors = [line for line in refused.stderr.splitlines() if line.startswith("error: ")]
    assert errors == [f"error: {tmp_path / 'run'} holds a run already; give another --output, or resume it with --resume auto"]


@pytest.mark.slow
def test_a_finished_run_is_lengthened_on_the_schedule_of_its_new_length(run: Path, corpus: Path, tmp_path: Path):
    longer = Path(shutil.copytree(run, tmp_path / "longer"))
    (longer / "encoder.safetensors").unlink()
    resumed = launch(corpus, longer, "--num_steps", str(2 * STEPS), "--log_every", "1", ranks=1)
    assert resumed.returncode == 0, resumed.stderr[-3000:]
    before, after = (scheduled_learning_rate(OPTIMIZER, *place) for place in ((STEPS - 1, STEPS), (STEPS, 2 * STEPS)))
    assert f"learning rate goes from {before:.3g} to {after:.3g}" in resumed.stdout
    lines = [json.loads(line) for line in (longer / "metrics.jsonl").read_text().splitlines()]
    rates = {line["step"]: line["optimizer/learning_rate"] for line in lines if "optimizer/learning_rate" in line}
    for step in range(STEPS, 2 * STEPS):
        assert rates[step + 1] == pytest.approx(scheduled_learning_rate(OPTIMIZER, step, 2 * STEPS))
    assert json.loads((longer / "metrics.json").read_text())["steps"] == 2 * STEPS
    assert load_encoder(longer).config == load_encoder(run).config
    assert saved(longer, step=2 * STEPS)
    assert launch(corpus, longer, "--num_steps", str(STEPS), ranks=1).returncode == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--stream.global_batch_size", "5"], "global_batch_size of source"),
        (["--optimizer.learing_rate", "1"], "did you mean optimizer.learning_rate?"),
        (["--activation_checkpointing", "[0, 2]"], "the stages are numbered 1 to 4"),
    ],
)
def test_users_mistakes_are_one_line_and_exit_code_2(arguments: list[str], expected: str, corpus: Path, tmp_path: Path):
    finished = launch(corpus, tmp_path / "none", *arguments)
    lines = [line for line in finished.stderr.splitlines() if "error: " in line and "[" not in line[:4]]
    assert finished.returncode == 2, finished.stderr[-2000:]
    assert len(lines) == 1, finished.stderr[-2000:]
    assert expected in lines[0]
    assert "Traceback" not in finished.stderr
    assert not (tmp_path / "none").exists()


@pytest.mark.slow
def test_a_dry_run_says_what_it_costs_and_writes_nothing(corpus: Path, tmp_path: Path):
    finished = launch(corpus, tmp_path / "run", "--dry-run", "--gradient_accumulation_steps", "2")
    assert finished.returncode == 0, finished.stderr[-3000:]
    for source in SAMPLES:
        row = next(line for line in finished.stdout.splitlines() if line.startswith(source))
        assert row.split()[1] == "2"  # of 4 samples each of two ranks has half
        assert all(float(number) > 0 for number in row.split()[-4:])
    epochs = next(line for line in finished.stdout.splitlines() if line.startswith("epochs"))
    assert "landsat 1.50, modis 1.50, sentinel2 1.50" in epochs  # 3 steps of 4 of 8 samples
    assert "an optimizer step" in finished.stdout
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_damaged_samples_are_skipped_and_listed(corpus: Path, tmp_path: Path):
    damaged = shutil.copytree(corpus, tmp_path / "corpus")
    entry = load_corpus(damaged).samples("modis", "train")[0]
    content = bytearray(entry.shard.read_bytes())
    place = entry.members["pixels.npy"]
    for at in range(place.offset + 128, place.offset + place.size, 2):
        content[at] ^= 1
    entry.shard.write_bytes(content)
    stopped = launch(damaged, tmp_path / "stopped")
    assert stopped.returncode == 2
    errors = [line for line in stopped.stderr.splitlines() if line.startswith("error: ")]
    assert any(entry.key in line and "modis-train-000000.tar" in line for line in errors), stopped.stderr[-2000:]
    finished = launch(damaged, tmp_path / "run", "--stream.skip_damaged", "1")
    assert finished.returncode == 0, finished.stderr[-3000:]
    lines = [json.loads(line) for line in (tmp_path / "run" / "skipped.jsonl").read_text().splitlines()]
    assert {line["key"] for line in lines} == {entry.key}
    assert "1 damaged samples skipped" in finished.stdout


@pytest.mark.slow
def test_begins_with_the_weights_of_another_encoder(run: Path, corpus: Path, tmp_path: Path):
    finished = launch(corpus, tmp_path / "next", "--initial_encoder", str(run), "--optimizer.learning_rate", "1e-30")
    assert finished.returncode == 0, finished.stderr[-3000:]
    expected = load_encoder(run).state_dict()
    for name, tensor in load_encoder(tmp_path / "next").state_dict().items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-6, atol=1e-7)
    other = launch(corpus, tmp_path / "other", "--initial_encoder", str(run), "--encoder.embed_dim", "16")
    assert other.returncode == 2
    assert "is an encoder of" in other.stderr


@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_all_ranks_and_names_the_samples(corpus: Path, tmp_path: Path):
    finished = launch(corpus, tmp_path / "run", "--optimizer.learning_rate", "1e36", "--optimizer.gradient_clipping", "0")
    assert finished.returncode not in (0, 2)
    report = json.loads(next((tmp_path / "run").glob("non_finite_step_*.json")).read_text())
    assert len(report["ranks"]) == 2
    stream = Stream(load_corpus(corpus), "train", STREAM)
    for micro_step, parts in enumerate(zip(*report["ranks"], strict=True)):
        keys = [key for part in parts for key in part["keys"]]
        assert keys == stream.draws.keys(len(SAMPLES) * report["step"] + micro_step)
    assert "nan" in str(report) or "inf" in str(report)
    errors = [line for line in finished.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "is not finite" in errors[0]
    assert not list((tmp_path / "run" / "checkpoints").glob(f"step-{report['step'] + 1:08d}"))
