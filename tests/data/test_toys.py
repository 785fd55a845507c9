"""The toys have the moments, supports and labels that their formulas say."""

import functools

import jax
import numpy as np
import pytest

from jaxdiff.data import toys

_N = 20000
_ALL = {
    toys.two_moons: 2,
    toys.checkerboard: 8,
    toys.swiss_roll: 4,
    toys.rings: 3,
    toys.gaussians: 8,
}


@functools.cache
def _points(toy, noise=0.0, seed=0, n=_N):
    x, label = jax.jit(lambda key: toy(key, n, noise))(jax.random.key(seed))
    return np.asarray(x), np.asarray(label)


@pytest.mark.parametrize("toy", _ALL)
def test_shapes_labels_and_reach(toy):
    x, label = _points(toy)
    assert (x.shape, x.dtype, label.dtype) == ((_N, 2), np.float32, np.int32)
    share = np.bincount(label) / _N
    assert np.abs(share - 1 / _ALL[toy]).max() < 0.02
    assert len(share) == _ALL[toy]
    assert np.abs(x).max() < 2.4


def test_a_point_does_not_depend_on_how_many_are_drawn():
    few, many = _points(toys.two_moons, n=4), _points(toys.two_moons)
    assert np.allclose(few[0], many[0][:4], atol=1e-6)
    assert not np.allclose(_points(toys.two_moons, n=4, seed=1)[0], few[0])


def test_moons_are_half_circles_that_mirror_each_other():
    x, label = _points(toys.two_moons)
    arc = np.where(label[:, None] == 0, x, -x) + [0.5, 0.25]
    assert np.allclose((arc**2).sum(1), 1, atol=1e-5)
    assert (arc[:, 1] > -1e-5).all()
    assert np.abs(x.mean(0)).max() < 0.03
    # (cos a, sin a) - (1/2, 1/4): mean (-1/2, 2/pi - 1/4)
    assert np.allclose(x[label == 0].mean(0), [-0.5, 2 / np.pi - 0.25], atol=0.03)


def test_the_board_is_uniform_on_the_dark_cells():
    x, label = _points(toys.checkerboard)
    cells = np.floor(x).astype(int)
    assert (cells.sum(1) % 2 == 0).all()
    assert len({(int(a), *map(int, c)) for a, c in zip(label, cells)}) == 8
    inside = x - cells
    assert np.allclose(inside.mean(0), 0.5, atol=0.01)
    assert np.allclose(np.cov(inside.T), np.eye(2) / 12, atol=0.003)


def test_the_roll_is_a_spiral():
    x, label = _points(toys.swiss_roll)
    r = 6 * np.hypot(*x.T)
    assert np.allclose(x, (r * np.stack([np.cos(r), np.sin(r)])).T / 6, atol=1e-4)
    quarter = (r - 1.5 * np.pi) / (0.75 * np.pi)
    assert ((quarter > label - 1e-4) & (quarter < label + 1 + 1e-4)).all()
    assert abs(quarter.mean() - 2) < 0.03


def test_rings_have_their_radii():
    x, label = _points(toys.rings)
    assert np.allclose(np.hypot(*x.T), 2 / 3 * (label + 1), atol=1e-5)
    assert np.abs(x.mean(0)).max() < 0.03


def test_modes_have_their_means_and_noise():
    x, label = _points(toys.gaussians, 0.1)
    angle = np.pi / 4 * label
    rest = x - 2 * np.stack([np.cos(angle), np.sin(angle)], 1)
    assert np.abs(rest.mean(0)).max() < 0.004
    assert np.allclose(np.cov(rest.T), 0.01 * np.eye(2), atol=5e-4)


def test_what_cannot_work_is_refused():
    key = jax.random.key(0)
    with pytest.raises(ValueError, match="n=0"):
        toys.two_moons(key, 0)
    with pytest.raises(ValueError, match=r"noise=-0\.1"):
        toys.checkerboard(key, 4, -0.1)
    with pytest.raises(ValueError, match="count=0"):
        toys.rings(key, 4, count=0)
