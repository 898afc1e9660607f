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

        Every rank calls this and the function, which gathers all weights at once. It needs memory for another copy of them.
        """
        rank, world_size = ranks.rank_and_world_size()
        parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
        some = next(iter(parameters.values()))
        sizes = [piece.numel() for piece in self.pieces]
        of_ranks = ranks.gather(list(zip(self.places.items(), sizes, strict=True)))
        longest = max(sum(size for _, size in of_rank) for of_rank in of_ranks)
        gathered = some.new_empty(world_size, longest)
        mine = torch.empty_like(gathered[rank]) if world_size > 1 else gathered[0]
        own_pieces = list(mine[: sum(sizes)].split(sizes))
        there, here = [], []
        for row, of_rank in zip(gathered, of_ranks, strict=True):
            start = 0
            for (name, place), size in of_rank:
                there.append(row[start:][:size])
                here.append(parameters[name].view(-1)[place:][:size])
                start += size

        def refresh(pieces: list[torch.Tensor]) -> None:
            torch._foreach_copy_(own_pieces, pieces)
            ranks.gather_tensors(gathered, mine)
            torch._foreach_copy_(here, there)

        return refresh
