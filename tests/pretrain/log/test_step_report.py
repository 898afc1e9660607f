"""The report of an interval against plain means and counts, on ranks that are threads here."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from pretrain.log.step_report import StepReport

FLOPS = {"modis": 2e6, "sentinel2": 3e9}


def micro_steps(count: int, batch_size: int) -> list[dict[str, Any]]:
    """Losses of each sample and digests of a made-up run, by micro-step."""
    rng = np.random.default_rng(0)
    return [
        {
            "source": ("modis", "sentinel2", "sentinel2")[number % 3],
            "losses": rng.random((3, batch_size)),  # supervised, consistency, total
            "digests": rng.integers(2**62, 2**63, batch_size).tolist(),
        }
        for number in range(count)
    ]


def reports(steps: list[dict[str, Any]], ranks: int, peak_flops: float | None) -> list[dict[str, Any]]:
    """What each of some ranks, which are threads here, reports of its equal share of every micro-step."""
    meeting, given, results = threading.Barrier(ranks), [torch.empty(0)] * ranks, [{}] * ranks

    def work(rank: int) -> None:
        def sum_over_ranks(mine: torch.Tensor) -> torch.Tensor:
            given[rank] = mine
            meeting.wait()
            total = torch.stack(given).sum(dim=0)
            meeting.wait()
            return total

        report = StepReport(["sentinel2", "modis", "landsat"], FLOPS, peak_flops)
        for step in steps:
            share = step["losses"].shape[1] // ranks
            mine = slice(rank * share, (rank + 1) * share)
            supervised, consistency, total = (torch.tensor(loss[mine].mean(), dtype=torch.float32) for loss in step["losses"])
            pixels = torch.empty(share, 16, 3, 2, 2)
            digest = sum(step["digests"][mine]) % 2**63
            batch = SimpleNamespace(source=step["source"], keys=["k"] * share, pixels=pixels, nbytes=10**6 * share, digest=digest)
            with report.waiting():
                pass
            report.add(batch, supervised, consistency, total)
        results[rank] = report.scalars(sum_over_ranks, ranks)

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(ranks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_report_is_of_all_samples_on_any_number_of_ranks(ranks: int) -> None:
    steps = micro_steps(7, 8)
    for report in reports(steps, ranks, None):
        supervised, consistency, total = np.stack([step["losses"] for step in steps]).mean(axis=2).T
        of_modis = np.array([step["source"] == "modis" for step in steps])
        losses = {name: value for name, value in report.items() if name.startswith("loss/")}
        assert losses == pytest.approx(
            {
                "loss/total": total.mean(),
                "loss/consistency": consistency.mean(),
                "loss/modis": supervised[of_modis].mean(),
                "loss/sentinel2": supervised[~of_modis].mean(),
            },
            rel=1e-6,
        )
        assert int(report["samples_digest"], 16) == sum(sum(step["digests"]) for step in steps) % 2**63
        assert len(report["samples_digest"]) == 16
        assert "speed/mfu" not in report
        now = psutil.Process().memory_info().rss / 1e9
        assert 0.9 * now < report["memory/device_gb"] < 10 * now  # the peak of the process


@pytest.mark.parametrize("ranks", [1, 2])
def test_rates_and_utilisation_follow_from_counts_and_time(monkeypatch: pytest.MonkeyPatch, ranks: int) -> None:
    clock = threading.local()  # of each rank: 8 s pass from one look to the next; two looks for each wait, one at each end

    def now() -> float:
        clock.calls = getattr(clock, "calls", -1) + 1
        return 8.0 * clock.calls

    monkeypatch.setattr(time, "perf_counter", now)
    flops, elapsed = 8 * (2e6 + 3e9 + 3e9), 7 * 8
    for report in reports(micro_steps(3, 8), ranks, 1e10):
        assert report["speed/samples_per_second"] == pytest.approx(24 / elapsed)
        assert report["speed/frames_per_second"] == pytest.approx(24 * 16 / elapsed)
        assert report["speed/read_gb_per_second"] == pytest.approx(24e-3 / elapsed)
        assert report["speed/share_waiting_for_data"] == pytest.approx(3 * 8 / elapsed)
        assert report["speed/mfu"] == pytest.approx(flops / (elapsed * ranks * 1e10))


def test_an_interval_begins_where_the_last_ended_and_a_pause_is_not_in_it() -> None:
    report = StepReport(["modis"], {"modis": 1.0}, None)
    batch = SimpleNamespace(source="modis", keys=["a", "b"], pixels=torch.empty(2, 4, 1, 1, 1), nbytes=7, digest=2**63 - 1)
    for loss in (1.0, 3.0):
        started = time.perf_counter()
        for micro_step in range(2):
            report.add(batch, *torch.tensor([loss, 0.0, loss + micro_step], requires_grad=True).unbind())
            time.sleep(0.05)
        with report.paused():
            time.sleep(0.5)
        values = report.scalars(lambda tensor: tensor, 1)
        assert values["loss/modis"] == loss
        assert values["loss/total"] == loss + 0.5
        assert values["samples_digest"] == f"{2**63 - 2:016x}"
        elapsed = time.perf_counter() - started - 0.5
        assert 0.1 <= 4 / values["speed/samples_per_second"] <= elapsed


def test_counting_a_micro_step_reads_no_loss() -> None:
    """Reading a tensor without data raises an error; on a GPU it would wait for the device."""
    report = StepReport(["modis"], {"modis": 1.0}, None)
    batch = SimpleNamespace(source="modis", keys=["a"], pixels=torch.empty(1, 4, 1, 1, 1), nbytes=7, digest=1)
    report.add(batch, *torch.zeros(3, device="meta").unbind())
    with pytest.raises((NotImplementedError, RuntimeError)):
        report.scalars(lambda tensor: tensor, 1)


def test_a_loss_that_is_overwritten_by_the_next_step_is_reported_as_it_was() -> None:
    report = StepReport(["modis"], {"modis": 1.0}, None)
    batch = SimpleNamespace(source="modis", keys=["a"], pixels=torch.empty(1, 4, 1, 1, 1), nbytes=7, digest=1)
    memory = torch.zeros(3)
    for loss in (1.0, 2.0):
        memory.fill_(loss)
        report.add(batch, *memory)
    assert report.scalars(lambda tensor: tensor, 1)["loss/modis"] == 1.5
