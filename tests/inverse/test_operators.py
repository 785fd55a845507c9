"""Every operator is linear, and its adjoint, pseudo-inverse and gram solve are what they say."""

import functools

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import inverse
from jaxdiff.trees import combine
from tests.inverse.problems import BY_CG, OPERATORS, SHAPE, dense, example, gap, measured
from tests.problems import vector

ALIKE = {
    "average_pool by 3", "blur along a line", "hadamard", "linear", "linear of a partial",
    "luminance", "matrix on images",
}  # fmt: skip
NAMES = [pytest.param(n, marks=pytest.mark.slow) if n in ALIKE else n for n in OPERATORS]
R2, S2 = (0.7, 0.7, 0.0), (0.2, 0.0, 0.0)


def close(found, expected):
    assert found.shape == expected.shape
    assert np.max(np.abs(found - expected), initial=0.0) < 1e-10
    return True


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", NAMES)
def test_the_contract_of_an_operator(name):
    """Against the linear algebra of its matrix."""
    operator = OPERATORS[name]()
    m = jax.jit(dense)(operator, (jnp.array(R2), jnp.array(S2)))
    m, x = jax.tree.map(np.asarray, (m, jax.flatten_util.ravel_pytree(example(operator))[0]))
    A, gram = m["A"], m["A"] @ m["A"].T
    assert close(A @ x, m["point"])
    assert close(m["At"], A.T)
    assert close(m["pinv"], np.linalg.pinv(A, rcond=1e-9))
    noisy, clean, none = m["gram"]
    whole = R2[0] * gram + S2[0] * np.eye(len(A))
    assert close(whole @ noisy[:, : len(A)], np.eye(len(A)))
    assert close(R2[1] * gram @ clean[:, len(A) :], A)  # without noise, on the range
    assert close(none, 0 * none)  # neither spread nor noise: no division by zero
    assert (name in BY_CG) == ("values" not in m)
    if "values" in m:
        assert_singular_values(A, m)


def assert_singular_values(A, m):
    """A = U S V^T in the coordinates z."""
    values = m["values"].reshape(-1)

    def real(z):  # complex coordinates as (real, imaginary): what v and u take
        return np.concatenate([z.real, z.imag]) if np.iscomplexobj(z) else z

    seen = values[:, None] * m["vt"]
    eye = np.eye(A.shape[1])
    assert close(m["v"] @ real(m["vt"]), eye) and close(real(m["vt"]).T @ real(m["vt"]), eye)
    assert close(m["u"] @ real(seen), A) and close(m["ut"] @ A, seen)
    assert close(real(seen).T @ real(seen), A.T @ A)
    assert close(m["u"] @ real(m["ut"]) @ A, A)
    unseen = np.tile(values == 0, m["u"].shape[1] // len(values))
    assert values.min() >= 0
    assert not m["ut"][values == 0].any() and not m["u"][:, unseen].any()


@pytest.mark.usefixtures("x64")
def test_the_pseudo_inverse_is_that_of_the_matrix():
    for rows in (vector(5, 3, 6), vector(6, 6, 3), vector(7, 4, 2) @ vector(8, 2, 5)):
        y = vector(1, rows.shape[0])
        found = jax.jit(lambda rows, y: inverse.matrix(rows).pinv(y))(rows, y)
        assert np.allclose(found, np.linalg.pinv(rows) @ np.asarray(y), atol=1e-10)


@pytest.mark.slow
def test_single_precision_is_kept():
    operators = {name: make() for name, make in OPERATORS.items()}

    def errors(operators):
        for name, operator in operators.items():
            y = measured(operator)
            found = operator.gram_solve(1.0, 1e-3, y)
            assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(found)), name
            yield gap(combine((1.0, operator.A(operator.At(found))), (1e-3, found)), y)

    for name, error in zip(operators, jax.jit(lambda o: list(errors(o)))(operators), strict=True):
        assert error < 1e-4, name


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: inverse.inpainting(jnp.ones((3, 4, 1)), SHAPE), r"mask of shape \(3, 4, 1\)"),
        (lambda: inverse.inpainting(0.5 * jnp.ones((4, 4, 1)), SHAPE), "besides 0 and 1"),
        (lambda: inverse.inpainting(255 * jnp.ones((4, 4, 1)), SHAPE), "besides 0 and 1"),
        (lambda: inverse.average_pool(3, SHAPE), "factor=3"),
        (lambda: inverse.average_pool(0, SHAPE), "factor=0"),
        (lambda: inverse.linear(lambda x: x + 1, SHAPE), "not linear"),
        (lambda: inverse.linear(jnp.cos, SHAPE), "not linear"),
        (lambda: inverse.linear(jnp.abs, SHAPE), "not linear"),
        (lambda: inverse.stack(), "stack"),
        (
            lambda: inverse.stack(inverse.average_pool(2, SHAPE), inverse.matrix(jnp.eye(2))),
            "one shape",
        ),
    ],
)
def test_what_operators_refuse(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_the_conjugate_gradient():
    """Exact in d steps, per sample, at rest on a right-hand side of zero."""
    roots = vector(0, 3, 4, 4)
    matrices = jnp.einsum("bij,bkj->bik", roots, roots) + 0.3 * jnp.eye(4)[None]
    b = vector(1, 3, 4).at[1].set(0.0)

    @functools.partial(jax.jit, static_argnames="steps")
    def solve(m, b, steps):
        return inverse.cg(lambda v: jnp.einsum("bij,bj->bi", m, v), b, steps=steps)

    truth = np.linalg.solve(matrices, b[..., None])[..., 0]
    whole = solve(matrices, b, steps=4)
    assert jnp.max(jnp.abs(whole - truth)) < 1e-3
    assert (whole[1] == 0).all()
    whole, alone = solve(matrices, b, steps=2), solve(matrices[:1], b[:1], steps=2)
    assert jnp.max(jnp.abs(whole[:1] - alone)) < 1e-6
    slope = jax.jit(jax.grad(lambda b: solve(matrices, b, steps=40).sum()))(b)
    assert jnp.isfinite(slope).all()


@pytest.mark.usefixtures("x64")
def test_the_conjugate_gradient_rests():
    matrix, b = (
        jnp.diag(jnp.array([1.0, 2.0, 3.0, 4.0])),
        jnp.stack([jnp.ones(4), 1e-6 * jnp.ones(4)]),
    )

    @functools.partial(jax.jit, static_argnames=("steps", "tolerance"))
    def solve(b, steps, tolerance=0.0):
        return inverse.cg(lambda v: v @ matrix, b, steps=steps, tolerance=tolerance)

    for tolerance in (1e-1, 1e-3):
        rest = jnp.linalg.norm(b - solve(b, steps=50, tolerance=tolerance) @ matrix, axis=1)
        assert jnp.all(rest <= tolerance * jnp.linalg.norm(b, axis=1)) and jnp.all(rest > 0)
    truth = b @ jnp.linalg.inv(matrix)
    slope = jax.jit(jax.jacobian(lambda b: solve(b[None], steps=9)[0]))
    assert jnp.allclose(solve(b, steps=50), truth, rtol=1e-12)
    # more steps than dimensions leave the derivative what it is
    assert jnp.allclose(slope(b[0] + vector(0, 4)), jnp.linalg.inv(matrix), atol=1e-9)
    tree = inverse.cg(lambda v: {"a": 2 * v["a"], "b": 4 * v["b"]}, {"a": b, "b": b}, steps=2)
    assert jnp.allclose(tree["a"], b / 2) and jnp.allclose(tree["b"], b / 4)
