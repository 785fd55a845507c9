"""Attention against the formula in float64, fused and written out, with and without a mask."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxdiff.nets.attention import Attention, attend
from jaxdiff.types import Site

PLACE = Site("here", "", "middle", 0, 0, "cross", (2, 3), 2)


def _qkv(dtype=jnp.float32):
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.standard_normal((2, n, 2, 8)), dtype) for n in (6, 5, 5)]


def _formula(q, k, v, mask=None):
    q, k, v = (np.asarray(a, np.float64).transpose(0, 2, 1, 3) for a in (q, k, v))
    weight = np.exp(q @ k.swapaxes(2, 3) / np.sqrt(8))
    if mask is not None:
        weight = weight * np.asarray(mask)[:, None, None, :]
    return (weight / weight.sum(-1, keepdims=True) @ v).transpose(0, 2, 1, 3)


def _on(port, function):
    return lambda site: function if site.port == port else None


@pytest.mark.parametrize("control", [None, _on("probs", lambda p: p), _on("logits", lambda p: p)])
@pytest.mark.parametrize("masked", [False, True])
def test_formula(control, masked, jit):
    q, k, v = _qkv()
    mask = jnp.array([[True] * 5, [True, False, True, False, False]]) if masked else None
    run = jit(lambda *qkv: attend(*qkv, mask=mask, control=control, place=PLACE))
    out = run(q, k, v)
    np.testing.assert_allclose(out, _formula(q, k, v, mask), atol=1e-6)


@pytest.mark.parametrize("control", [None, _on("probs", lambda p: p)])
def test_no_token_at_all_gives_zero_and_no_nan_gradient(control, jit):
    q, k, v = _qkv()
    mask = jnp.array([[True] * 5, [False] * 5])

    def total(q):
        out = attend(q, k, v, mask=mask, control=control, place=PLACE)
        return out.sum(), out

    gradient, out = jit(jax.grad(total, has_aux=True))(q)
    assert float(jnp.abs(out[1]).max()) == 0
    assert float(jnp.abs(out[0]).max()) > 0
    assert bool(jnp.isfinite(gradient).all())


def test_ports_see_what_the_table_says(jit):
    seen = {}

    def control(site):
        def look(value):
            seen[site.port] = jax.tree.map(lambda a: (a.shape, a.dtype), value)
            return value

        return look

    q, k, v = _qkv(jnp.bfloat16)
    out = jit(lambda *qkv: attend(*qkv, control=control, place=PLACE))(q, k, v)
    half, full = jnp.dtype(jnp.bfloat16), jnp.dtype(jnp.float32)
    assert seen["qkv"] == (((2, 6, 2, 8), half), ((2, 5, 2, 8), half), ((2, 5, 2, 8), half))
    assert seen["logits"] == seen["probs"] == ((2, 2, 6, 5), full)
    assert seen["out"] == ((2, 6, 2, 8), half)
    assert out.dtype == half
    np.testing.assert_allclose(out.astype(jnp.float32), _formula(q, k, v), atol=0.03)


def test_controls_act():
    q, k, v = _qkv()
    first = jnp.zeros(5).at[0].set(1.0)
    only = attend(
        q, k, v, control=_on("probs", lambda p: jnp.broadcast_to(first, p.shape)), place=PLACE
    )
    np.testing.assert_allclose(only, jnp.broadcast_to(v[:, :1], only.shape), atol=1e-6)
    ban = attend(
        q,
        k,
        v,
        control=_on("logits", lambda z: z - 1e9 * (1 - first.reshape(1, 1, 1, 5))),
        place=PLACE,
    )
    np.testing.assert_allclose(ban, only, atol=1e-6)
    swapped = attend(q, k, v, control=_on("qkv", lambda t: (t[0], t[1], 2 * t[2])), place=PLACE)
    np.testing.assert_allclose(swapped, 2 * attend(q, k, v, place=PLACE), atol=1e-5)
    assert (
        float(jnp.abs(attend(q, k, v, control=_on("out", jnp.zeros_like), place=PLACE)).max()) == 0
    )


def test_heads_must_divide():
    with pytest.raises(ValueError, match="heads is 3: it must divide the width 16"):
        Attention(16, 3, rngs=nnx.Rngs(0))
