"""The mixture of sources: a cycle that holds each in proportion to its weight."""

from __future__ import annotations

from collections.abc import Mapping


def mixture_cycle(weights: Mapping[str, float], longest: int = 100) -> list[str]:
    """The shortest list of sources that holds each in proportion to its weight, as well as a list of `longest` can.

    The largest remainders get the last slots. Raises ValueError for weights that are not positive, or so small that they get no
    slot.
    """
    wrong = {source: weight for source, weight in weights.items() if not 0 < weight < float("inf")}
    if wrong or not weights:
        raise ValueError(
            f"mixture weights must be positive numbers, got {wrong or 'none'}; leave out sources that are not wanted"
        )
    total = sum(weights.values())
    shares = {source: weight / total for source, weight in sorted(weights.items())}

    def slots(length: int) -> dict[str, int]:
        counts = {source: int(share * length + 1e-9) for source, share in shares.items()}
        by_remainder = sorted(shares, key=lambda source: (counts[source] - shares[source] * length, source))
        for source in by_remainder[: length - sum(counts.values())]:
            counts[source] += 1
        return counts

    def error(length: int) -> float:
        return round(max(abs(count / length - shares[source]) for source, count in slots(length).items()), 9)

    best = slots(min(range(len(shares), max(longest, len(shares)) + 1), key=error))
    absent = [source for source, count in best.items() if count == 0]
    if absent:
        raise ValueError(f"mixture weights of {absent} are below 1 in {longest} of the total; raise them or leave them out")
    return [source for source, count in best.items() for _ in range(count)]
