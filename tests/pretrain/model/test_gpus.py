"""Peaks of GPUs by their names, and numbers of their datasheets."""

from pretrain.model.gpus import GPUS, peak_flops


def test_peak_is_that_of_the_card_or_unknown():
    known = {
        "NVIDIA H100 80GB HBM3": 989.4e12,
        "NVIDIA A100-SXM4-80GB": 312e12,
        "NVIDIA A100-PCIE-40GB": 312e12,
        "NVIDIA L40S": 362e12,
        "NVIDIA L40": 181e12,
        "Tesla V100-SXM2-32GB": 125e12,
    }
    assert {name: peak_flops(name) for name in known} == known
    unknown = ["NVIDIA H100 PCIe", "NVIDIA H100 NVL", "Tesla V100-PCIE-16GB", "NVIDIA GH200 480GB", "NVIDIA L4", "cpu"]
    assert [peak_flops(name) for name in unknown] == [None] * len(unknown)


def test_numbers_of_the_datasheets() -> None:
    """FLOP per byte at which arithmetic takes as long as memory traffic: 153 for an A100, 295 for an H100, 206 for an H200."""
    balance = {name: round(flops / bandwidth) for name, (flops, _, bandwidth) in GPUS.items()}
    assert balance == {"a100": 153, "h100": 295, "h200": 206, "l40": 209, "l40s": 419, "v100": 139}
