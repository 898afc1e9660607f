"""Weights of which each rank holds a share, as ZeRO divides them: the share, and whole tensors made of those of all ranks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import nn

from common import ranks


class WeightShards:
    """This rank's pieces of a model's fp32 weights, which all ranks hold together. A weight is at most one piece on each rank.

    Attributes:
        shapes: shape of each whole weight by its name, the same on all ranks.
        places: by name, the weights of which this rank has a piece: the place of its first number in the flattened weight.
        pieces: these pieces, float32 (n,), in the order of `places`. They share the memory that the optimizer updates.
    """

    def __init__(self, shapes: Mapping[str, torch.Size], pieces: Mapping[str, tuple[int, torch.Tensor]]) -> None:
        self.shapes = dict(shapes)
        self.places = {name: place for name, (place, _) in pieces.items()}
        self.pieces = [piece for _, piece in pieces.values()]

    @classmethod
    def whole(cls, model: nn.Module) -> WeightShards:
        """The weights of a model on one rank, each of them whole."""
        weights = {name: parameter.detach() for name, parameter in model.named_parameters()}
        return cls({n: w.shape for n, w in weights.items()}, {n: (0, w.view(-1)) for n, w in weights.items()})

    def cut(self, weights: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
        """This rank's pieces of whole weights, in the order of `places`. Raises KeyError for a weight that is missing."""
        sizes = (piece.numel() for piece in self.pieces)
        return [weights[name].view(-1)[place:][:size] for (name, place), size in zip(self.places.items(), sizes, strict=True)]

    def gather(self, pieces: Sequence[torch.Tensor], device: torch.device) -> Iterator[tuple[str, torch.Tensor]]:
        """Name and whole tensor, one after the other, of what all ranks hold in `pieces` like these. Every rank calls this."""
        mine = dict(zip(self.places, pieces, strict=True))
        for name, shape in self.shapes.items():
            whole = torch.zeros(math.prod(shape), device=device)
            if name in mine:
                whole[self.places[name] :][: mine[name].numel()] = mine[name]
            yield name, ranks.sum_over_ranks(whole).view(shape)

    def refresher(self, model: nn.Module) -> Callable[[list[torch.Tensor]], None]:
        """A function that sets the weights of `model`, in their precision, to what all ranks hold in pieces like these.

        Every rank calls this and the function, which gathers all weights at once. Meanwhile it needs memory for another copy.
        """
        parameters = {name: parameter.detach().view(-1) for name, parameter in model.named_parameters()}
        of_ranks = ranks.gather([(n, place, p.numel()) for (n, place), p in zip(self.places.items(), self.pieces, strict=True)])
        sizes = [[size for _, _, size in of_rank] for of_rank in of_ranks]
        longest, mine = max(map(sum, sizes)), sizes[ranks.rank_and_world_size()[0]]
        here = [parameters[name][place:][:size] for of_rank in of_ranks for name, place, size in of_rank]
        some = here[0]

        def refresh(pieces: list[torch.Tensor]) -> None:
            padded = some.new_zeros(longest)
            torch._foreach_copy_(list(padded[: sum(mine)].split(mine)), pieces)
            rows = zip(ranks.gather_tensors(padded), sizes, strict=True)
            torch._foreach_copy_(here, [piece for row, of_row in rows for piece in row[: sum(of_row)].split(of_row)])

        return refresh
