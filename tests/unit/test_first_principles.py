"""Heads against a network of three layers whose gradients were derived by hand, and both against differences."""

from typing import get_args

import numpy as np
import pytest
import torch
from tests.three_layers import ACTIVATIONS as DERIVED
from tests.three_layers import ThreeLayers, two_moons

from likeness.models.backbones.heads import Activation, Head
from likeness.models.backbones.network import MLP
from likeness.training import losses

ACTIVATIONS = get_args(Activation)
SHARED = [name for name in ACTIVATIONS if name in DERIVED]


@pytest.fixture(scope="module")
def moons() -> tuple[np.ndarray, np.ndarray]:
    return two_moons(200, 0.20, seed=0)


@pytest.mark.parametrize("activation", DERIVED)
def test_the_derived_gradients_are_those_of_differences(moons: tuple[np.ndarray, np.ndarray], activation: str) -> None:
    network = ThreeLayers.random(2, 7, 2, seed=1, activation=activation)
    for value, slope in zip((network.w1, network.b1, network.w2, network.b2), network.gradients(*moons), strict=True):
        for place in np.ndindex(*value.shape):
            kept, loss = value[place], []
            for step in (1e-6, -1e-6):
                value[place] = kept + step
                loss.append(network.loss(*moons))
            value[place] = kept
            assert (loss[0] - loss[1]) / 2e-6 == pytest.approx(slope[place], abs=1e-7)


@pytest.mark.parametrize("activation", SHARED)
def test_a_head_has_the_derived_gradients(moons: tuple[np.ndarray, np.ndarray], activation: str) -> None:
    points, classes = moons
    network = ThreeLayers.random(2, 500, 2, seed=2, activation=activation)
    head = MLP(Head("logits", 2, (500,), 2, activation)).double()  # type: ignore[arg-type]
    with torch.no_grad():
        for linear, weight, bias in zip(head.linears, (network.w1, network.w2), (network.b1, network.b2), strict=True):
            linear.weight.copy_(torch.from_numpy(weight.T))
            linear.bias.copy_(torch.from_numpy(bias))
    loss = losses.cross_entropy()(head(torch.from_numpy(points)), torch.from_numpy(classes))
    loss.backward()
    assert loss.item() == pytest.approx(network.loss(points, classes), abs=1e-12)
    w1, b1, w2, b2 = network.gradients(points, classes)
    for linear, weight, bias in zip(head.linears, (w1, w2), (b1, b2), strict=True):
        np.testing.assert_allclose(linear.weight.grad.numpy().T, weight, atol=1e-12)
        np.testing.assert_allclose(linear.bias.grad.numpy(), bias, atol=1e-12)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_heads_gradients_are_those_of_differences(activation: str) -> None:
    rng = torch.Generator().manual_seed(3)
    head = MLP(Head("logits", 5, (4, 3), 3, activation)).double()  # type: ignore[arg-type]
    rows, classes = torch.randn(6, 5, generator=rng, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1, 2])

    def loss(*values: torch.Tensor) -> torch.Tensor:
        named = dict(zip((name for name, _ in head.named_parameters()), values, strict=True))
        return losses.cross_entropy()(torch.func.functional_call(head, named, (rows,)), classes)

    assert torch.autograd.gradcheck(loss, tuple(value.detach().clone().requires_grad_() for value in head.parameters()))


def test_two_moons_are_told_apart(moons: tuple[np.ndarray, np.ndarray]) -> None:
    network = ThreeLayers.random(2, 500, 2, seed=0)
    before = network.loss(*moons)
    network.learn(*moons, steps=2000, rate=0.5)
    points, classes = two_moons(1000, 0.20, seed=1)
    right = (network.probabilities(points).argmax(axis=1) == classes).mean()
    assert network.loss(*moons) < before / 3
    assert right > 0.95, "a straight line reaches 0.87"
