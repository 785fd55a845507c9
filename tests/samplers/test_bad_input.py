"""What a user may get wrong with samplers, and what he is told; and noise of his own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from jaxdiff import process, samplers
from jaxdiff.denoise import Denoiser
from jaxdiff.types import Estimate
from tests.problems import keys_of, tree_denoiser, vector

FLOW = process.rectified_flow()
GRID = process.uniform(FLOW, 4)
KEY = jax.random.key(0)
X = vector(0, 2, 3)


def answering(fn):
    return Denoiser(FLOW, Partial(fn))


def walked(denoise, sampler=None, keys=None, x=X, rows=None):
    keys = keys_of(len(x)) if keys is None else keys
    return samplers.run(keys, denoise, sampler or samplers.euler(), rows or samplers.grid(GRID), x)


def test_an_answer_of_another_shape():
    wide = answering(lambda x, t, now: Estimate(jnp.concatenate([x, x], axis=-1)))
    with pytest.raises(ValueError, match=r"shape \(2, 6\) to x of shape \(2, 3\)"):
        walked(wide)


def test_an_answer_of_another_type():
    half = answering(lambda x, t, now: Estimate(x.astype(jnp.bfloat16)))
    with pytest.raises(TypeError, match="x_0 in bfloat16 to x in float32"):
        walked(half)


def test_an_answer_of_another_structure():
    tree = answering(lambda x, t, now: Estimate({"image": x}))
    with pytest.raises(ValueError, match="structure of x"):
        walked(tree)


@pytest.mark.parametrize(
    ("key", "told"),
    [
        (jax.random.PRNGKey(0), "ONE typed key"),
        (jax.random.split(KEY, 2), "ONE typed key"),
        (jnp.zeros(()), "ONE typed key"),
    ],
)
def test_a_key_of_the_wrong_kind(key, told):
    with pytest.raises(TypeError, match=told):
        samplers.sample.__wrapped__(key, tree_denoiser(FLOW), shape=(2, 3))


@pytest.mark.parametrize(
    ("keys", "error", "told"),
    [
        (KEY, ValueError, "one key per sample"),
        (keys_of(3), ValueError, "for 2 samples"),
        (jax.random.split(jax.random.PRNGKey(0), 2), TypeError, "typed keys"),
    ],
)
def test_keys_of_the_wrong_kind(keys, error, told):
    with pytest.raises(error, match=told):
        samplers.run.__wrapped__(
            keys, tree_denoiser(FLOW), samplers.euler(), samplers.grid(GRID), X
        )


def test_noise_of_the_caller_is_what_is_drawn():
    z = vector(1, 4, 2, 3)
    first = walked(tree_denoiser(FLOW), samplers.ddpm(), samplers.tape(z))
    other = walked(tree_denoiser(FLOW), samplers.ddpm(), samplers.tape(z.at[0].add(1.0)))
    last = walked(tree_denoiser(FLOW), samplers.ddpm(), samplers.tape(z.at[3].add(1.0)))
    assert jnp.max(jnp.abs(first - other)) > 1e-2
    assert jnp.array_equal(first, last)  # the step to clean data draws nothing


def test_noise_of_the_caller_through_the_front_door():
    z, start = vector(1, 4, 2, 3), vector(2, 2, 3)
    denoise, tape = tree_denoiser(FLOW), samplers.tape(z)
    found = [
        samplers.sample(k, denoise, samplers.ddpm(), start=start, times=GRID, noise=tape)
        for k in (KEY, jax.random.key(9))
    ]
    assert jnp.array_equal(*found)
    assert jnp.array_equal(found[0], walked(denoise, samplers.ddpm(), tape, start))


def test_a_tape_as_traced_argument():
    go = jax.jit(lambda noise: walked(tree_denoiser(FLOW), samplers.ddpm(), noise))
    z = vector(1, 4, 2, 3)
    assert np.allclose(
        go(samplers.tape(z)), walked(tree_denoiser(FLOW), samplers.ddpm(), samplers.tape(z))
    )


@pytest.mark.parametrize(
    ("tape", "told"),
    [
        (samplers.tape(jnp.zeros((3, 2, 3))), "3.* rows of noise for 4 steps"),
        (
            samplers.tape(jnp.zeros((4, 2, 2))),
            r"\(2, 2\) a row for samples of shape \(2, 3\)",
        ),
        (samplers.tape(churn=jnp.zeros((4, 2, 3))), r"no noise for 'solver': give tape\("),
    ],
)
def test_a_tape_that_does_not_fit(tape, told):
    with pytest.raises(ValueError, match=told):
        walked(tree_denoiser(FLOW), samplers.ddpm(), tape)


def spoils(x, t, now):
    bad = (now.i >= 2) & (jnp.arange(len(x)) == 1)
    return Estimate(jnp.where(bad[:, None], jnp.nan, x))


@pytest.mark.parametrize("compiled", [False, True])
def test_where_nan_begins(compiled):
    go = lambda x: walked(answering(spoils), samplers.checked(samplers.euler()), x=x)  # noqa: E731
    told = r"step 2 of 4 \(t = 0\.5\) in x_0, the denoiser's answer: samples \[1\]"
    with pytest.raises(Exception, match=told):
        jax.block_until_ready((jax.jit(go) if compiled else go)(X))
    assert jnp.isnan(walked(answering(spoils))).any()  # unchecked, it goes through


def test_nan_of_the_sampler_itself():
    def fix(now, proc, x, est):
        return jnp.where(now.i == 1, jnp.inf, x)

    broken = samplers.checked(samplers.after(fix)(samplers.euler()))
    with pytest.raises(Exception, match=r"step 1 of 4 .* x_s, made by the sampler"):
        jax.block_until_ready(walked(tree_denoiser(FLOW), broken))
