"""Loss and mean teacher: their mathematics against numpy, and a problem whose answer is known."""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import softmax
from scipy.stats import entropy

from pretrain.model import EncoderConfig, build_encoder
from pretrain.model.weight_shards import WeightShards
from pretrain.objective.losses import LossWeights, kl_divergence, land_cover_loss, map_divergence
from pretrain.objective.mean_teacher import MeanTeacher
from pretrain.objective.model import LandCoverModel

RNG = np.random.default_rng(0)


def small_model(drop_path_rate: float = 0.0) -> LandCoverModel:
    torch.manual_seed(0)
    encoder = EncoderConfig(
        sources={"modis": 3},
        patch_size=(4, 2, 2),
        embed_dim=8,
        depths=(1, 1, 1, 1),
        num_heads=(1, 2, 2, 4),
        window_size=(2, 2, 2),
        drop_path_rate=drop_path_rate,
    )
    return LandCoverModel(build_encoder(encoder), 5)


def some_pixels(batch: int = 3) -> torch.Tensor:
    return torch.from_numpy(RNG.normal(size=(batch, 8, 3, 8, 8))).float()


def fractions_loss(
    predicted: torch.Tensor, target: torch.Tensor, taught: torch.Tensor | None, weight: float, loss: str = "kl_divergence"
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The loss of a model without a decoder."""
    of_teacher = None if taught is None else {"fractions": taught}
    weights = LossWeights(loss=loss, consistency_weight=weight)
    return land_cover_loss({"fractions": predicted}, {"fractions": target}, of_teacher, weights)


def drawn_fractions(batch: int = 6, classes: int = 5) -> np.ndarray:
    return RNG.dirichlet(np.ones(classes), batch)


def numpy_consistency(logits: np.ndarray, taught: np.ndarray) -> float:
    """Squared Euclidean distance of softmax(logits) to the teacher's fractions, averaged over samples (N, classes)."""
    powers = np.exp(logits)
    predicted = powers / powers.sum(axis=1)[:, None]
    return float(np.mean([np.linalg.norm(p - t) ** 2 for p, t in zip(predicted, taught, strict=True)]))


def teacher_of(student: torch.nn.Module, decay: float = 0.99) -> MeanTeacher:
    return MeanTeacher(copy.deepcopy(student), WeightShards.whole(student), decay)


def set_weights(model: torch.nn.Module, value: float) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(value)


@pytest.mark.parametrize("loss", ["kl_divergence", "l1"])
def test_loss_is_an_error_of_the_fractions_and_a_weighted_squared_distance(loss: str):
    predicted, target, taught = (drawn_fractions() for _ in range(3))
    expected = {
        "kl_divergence": np.mean([entropy(t, p) for p, t in zip(predicted, target, strict=True)]),  # scipy's
        "l1": np.mean([[abs(a - b) for a, b in zip(p, t, strict=True)] for p, t in zip(predicted, target, strict=True)]),
    }[loss]
    distance = numpy_consistency(np.log(predicted), taught)
    arrays = (torch.from_numpy(a) for a in (predicted, target, taught))
    total, supervised, consistency = fractions_loss(*arrays, 0.7, loss=loss)
    assert supervised.item() == pytest.approx(expected, rel=1e-12)
    assert consistency.item() == pytest.approx(distance, rel=1e-12)
    assert total.item() == pytest.approx(expected + 0.7 * distance, rel=1e-12)
    arrays = torch.from_numpy(predicted), torch.from_numpy(target)
    total, supervised, consistency = fractions_loss(*arrays, None, 0.7, loss=loss)
    assert (total.item(), consistency.item()) == (supervised.item(), 0.0)


@pytest.mark.parametrize("far", [0.0, 3.0, 40.0])  # at 40 the softmax gives a fraction of 2e-35
def test_divergence_moves_logits_by_what_is_wrong_however_wrong_it_is(far: float):
    logits = torch.tensor([[far, 0.0, 0.0], [far, 0.0, -far]], requires_grad=True)
    target = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.25, 0.75]])
    predicted = logits.softmax(dim=-1)
    (2 * fractions_loss(predicted, target, None, 0.0)[1]).backward()  # 2: the mean over two samples
    torch.testing.assert_close(logits.grad, predicted.detach() - target)


def test_divergence_of_fractions_that_were_rounded_to_zero_is_finite():
    logits = torch.tensor([[500.0, 0.0]], requires_grad=True)
    loss = fractions_loss(logits.softmax(dim=-1), torch.tensor([[0.0, 1.0]]), None, 0.0)[0]
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()


def test_gradient_of_the_consistency_term_is_that_of_finite_differences():
    logits, taught = RNG.normal(size=(4, 5)), drawn_fractions(4)
    leaf = torch.from_numpy(logits).requires_grad_()
    fractions_loss(leaf.softmax(dim=-1), torch.from_numpy(taught), torch.from_numpy(taught), 1.0)[2].backward()
    step = 1e-6
    for index in np.ndindex(logits.shape):
        nudge = np.zeros_like(logits)
        nudge[index] = step
        slope = (numpy_consistency(logits + nudge, taught) - numpy_consistency(logits - nudge, taught)) / (2 * step)
        assert leaf.grad[index].item() == pytest.approx(slope, rel=1e-5, abs=1e-9)


def test_consistency_balances_the_l1_term_at_the_distance_that_its_weight_implies():
    """|L1's pull| = 1 / classes, consistency's 2 * weight * distance: a sample cannot drag the student farther at a time."""
    classes, weight = 8, 2.0
    distance = 1 / (2 * weight * classes)
    taught = torch.full((1, classes), 1 / classes, dtype=torch.float64)
    predicted = (taught + distance).requires_grad_()
    fractions_loss(predicted, taught + 1, taught, weight, loss="l1")[0].backward()
    assert predicted.grad.abs().max() < 1e-15


def test_a_student_equal_to_its_teacher_is_not_pulled():
    predicted = torch.from_numpy(drawn_fractions()).requires_grad_()
    fractions_loss(predicted, predicted.detach(), predicted.detach().clone(), 1.0)[2].backward()
    assert not predicted.grad.any()


@pytest.mark.parametrize("decay", [0.5, 0.99])
def test_teacher_is_the_exponential_average_in_closed_form(decay: float):
    student = small_model()
    teacher = teacher_of(student, decay)
    start = [p.detach().double().numpy().copy() for p in student.parameters()]
    history = []
    for step in range(40):
        with torch.no_grad():
            for parameter in student.parameters():
                parameter.add_(torch.from_numpy(RNG.normal(size=parameter.shape)))
        history.append([p.detach().double().numpy().copy() for p in student.parameters()])
        teacher.update(step)
    decays = [min(decay, (1 + step) / (10 + step)) for step in range(len(history))]
    # weights = prod(d) * start + sum_i (1 - d_i) * prod_{j > i} d_j * student_i
    shares = [(1 - d) * np.prod(decays[i + 1 :]) for i, d in enumerate(decays)]
    assert np.prod(decays) + sum(shares) == pytest.approx(1)
    for i, mine in enumerate(teacher.model.parameters()):
        expected = np.prod(decays) * start[i] + sum(share * weights[i] for share, weights in zip(shares, history, strict=True))
        np.testing.assert_allclose(mine.numpy(), expected, atol=2e-5)


def test_decay_grows_from_a_tenth_to_its_value():
    student = small_model()
    teacher = teacher_of(student)
    set_weights(student, 1.0)
    kept = []
    for step in (0, 1, 8, 889, 890, 891, 10**6):
        teacher.load({name: torch.zeros_like(weight) for name, weight in student.state_dict().items()})
        teacher.update(step)
        values = torch.cat([p.flatten() for p in teacher.model.parameters()])
        assert values.min() == values.max()
        kept.append(1 - values[0].item())
    assert kept == pytest.approx([0.1, 2 / 11, 0.5, 890 / 899, 0.99, 0.99, 0.99], abs=1e-6)  # (1 + 890) / (10 + 890) = 0.99


def test_teacher_gets_no_gradient_and_stands_apart_from_the_student():
    student = small_model()
    teacher = teacher_of(student)
    before = copy.deepcopy(teacher.model.state_dict())
    pixels = some_pixels()
    taught = teacher(pixels, "modis")["fractions"]
    assert not taught.requires_grad
    torch.testing.assert_close(taught, student(pixels, "modis")["fractions"].detach())
    predicted = student(pixels.flip(-1), "modis")["fractions"]
    fractions_loss(predicted, torch.from_numpy(drawn_fractions(3)).float(), taught, 1.0)[0].backward()
    torch.optim.SGD([*student.parameters(), *teacher.model.parameters()], lr=1.0).step()
    assert all(p.grad is not None for p in student.parameters())
    assert all(p.grad is None for p in teacher.model.parameters())
    assert all(torch.equal(before[name], value) for name, value in teacher.model.state_dict().items())


def test_teacher_has_no_stochastic_depth_while_the_student_trains():
    student = small_model(drop_path_rate=0.9)
    teacher = teacher_of(student)
    student.train()
    pixels = some_pixels(batch=16)
    teacher.update(0)
    assert not torch.equal(*(student(pixels, "modis")["fractions"] for _ in range(2)))
    assert torch.equal(*(teacher(pixels, "modis")["fractions"] for _ in range(2)))


def test_distance_of_the_teacher_is_relative_over_all_parameters():
    student = small_model()
    teacher = teacher_of(student)
    assert teacher.distance() == 0
    before = np.concatenate([p.detach().numpy().ravel() for p in student.parameters()])
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(torch.from_numpy(RNG.normal(size=parameter.shape)))
    after = np.concatenate([p.detach().numpy().ravel() for p in student.parameters()])
    assert teacher.distance() == pytest.approx(np.linalg.norm(after - before) / np.linalg.norm(after), rel=1e-6)


def test_average_keeps_steps_that_the_bf16_copies_of_student_and_teacher_would_lose():
    masters = small_model()  # fp32, as the optimizer has them
    set_weights(masters, 1.0)
    teacher = MeanTeacher(copy.deepcopy(masters).bfloat16(), WeightShards.whole(masters), 0.999)
    moved = 1 + 2**-12  # in bf16 still 1
    set_weights(masters, moved)
    for step in range(10_000, 10_010):
        teacher.update(step)
    expected = 1 + 2**-12 * (1 - 0.999**10)
    for weight in teacher.gather().values():
        assert weight.dtype == torch.float32
        np.testing.assert_allclose(weight.numpy() - 1, expected - 1, rtol=0.1)  # the numbers lie 2**-23 apart
    assert {p.dtype for p in teacher.model.parameters()} == {torch.bfloat16}


@pytest.mark.slow
def test_students_with_a_teacher_learn_less_of_their_maps_errors_by_heart():
    """Three seeds of the known problem, with the loss of the paper.

    The gain in true error differs too much from seed to seed to be asserted (eight seeds: 0.006, standard error 0.003); what
    makes it does not: students alone come 0.012 nearer to their wrong maps.
    """
    sys.path.insert(0, str(Path(__file__).parents[1] / "bench"))
    from bench_teacher import NOISES, Setting, train

    alone, taught = (
        [train(Setting(noise=NOISES["moderate"], loss="l1", consistency_weight=weight), seed) for seed in range(3)]
        for weight in (0.0, 2.0)
    )
    for run in alone + taught:
        assert run["student"] < 0.8 * run["mean"]  # something was learned
    nearer, gain = (
        np.mean([a[name] - t[name] for a, t in zip(alone, taught, strict=True)]) for name in ("student_to_its_maps", "student")
    )
    assert nearer < -0.002
    assert gain > -0.005


def drawn_maps(mapped: float = 0.7) -> tuple[np.ndarray, np.ndarray]:
    """Class scores and shares (3, 4 classes, 5, 6), some pixels of one class, some of several, some not mapped."""
    scores = RNG.normal(size=(3, 4, 5, 6))
    shares = np.moveaxis(RNG.dirichlet(np.full(4, 0.3), (3, 5, 6)), -1, 1)
    shares[0] = np.moveaxis(np.eye(4)[RNG.integers(4, size=(5, 6))], -1, 0)
    return scores, shares * (RNG.random((3, 1, 5, 6)) < mapped)


def test_loss_of_a_map_is_the_mean_divergence_of_the_mapped_pixels_of_each_sample():
    scores, shares = drawn_maps()
    shares[2] = 0  # nothing is mapped
    probabilities = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    expected = [
        np.mean([entropy(s, p) for p, s in zip(*(a.reshape(4, -1).T for a in pair), strict=True) if s.any()])
        for pair in zip(probabilities[:2], shares[:2], strict=True)
    ]
    found = map_divergence(*map(torch.from_numpy, (scores, shares)))
    np.testing.assert_allclose(found, [*expected, 0.0], rtol=1e-10)
    classes = torch.from_numpy(shares[0].argmax(axis=0)).masked_fill(torch.from_numpy(shares[0].sum(axis=0) == 0), -1)
    cross_entropy = torch.nn.functional.cross_entropy(torch.from_numpy(scores[:1]), classes[None], ignore_index=-1)
    assert found[0].item() == pytest.approx(cross_entropy.item(), rel=1e-10)


def test_parts_of_the_loss_with_a_map_and_a_damaged_sample():
    fractions, target, of_teacher = (torch.from_numpy(drawn_fractions(3)) for _ in range(3))
    (scores, shares), (taught, _) = drawn_maps(), drawn_maps()
    arrays = [torch.from_numpy(a) for a in (scores, shares, taught)]
    predicted, true, teacher = ({"fractions": f, "map": m} for f, m in zip((fractions, target, of_teacher), arrays, strict=True))
    weights = LossWeights(fractions_weight=0.25, consistency_weight=0.5)
    usable = torch.tensor([True, False, True])
    total, supervised, consistency = land_cover_loss(predicted, true, teacher, weights, usable)
    each = 0.25 * kl_divergence(fractions, target) + map_divergence(arrays[0], arrays[1])
    assert supervised.item() == pytest.approx((each[0] + each[2]).item() / 3)
    squares = ((fractions - of_teacher) ** 2).sum(1).numpy()
    squares += ((softmax(scores, axis=1) - softmax(taught, axis=1)) ** 2).sum(axis=1).mean(axis=(1, 2))
    assert consistency.item() == pytest.approx((squares[0] + squares[2]) / 3)
    assert total.item() == pytest.approx(supervised.item() + 0.5 * consistency.item())
