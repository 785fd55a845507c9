"""Every kernel of attention computes the same; the choice among them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.nets import kernels
from jaxdiff.nets.kernels import attending, chunks, fused, splash


def _qkv(n=128, m=128, heads=2, d=64, dtype=jnp.float32, b=2):
    keys = jax.random.split(jax.random.key(0), 3)
    return [jax.random.normal(k, (b, s, heads, d), dtype) for k, s in zip(keys, (n, m, m))]


def _plain(q, k, v, mask=None):
    """In double precision, by numpy."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    logits = np.einsum("bnhd,bmhd->bhnm", q, k) / np.sqrt(q.shape[3])
    if mask is not None:
        logits = np.where(np.asarray(mask)[:, None, None], logits, -np.inf)
    probs = np.exp(logits - logits.max(-1, keepdims=True))
    return np.einsum("bhnm,bmhd->bnhd", probs / probs.sum(-1, keepdims=True), v)


MASK = jnp.arange(128)[None] < jnp.array([[128], [70]])


@pytest.mark.parametrize("mask", [None, MASK], ids=["whole", "masked"])
def test_the_tpu_kernel_interpreted(mask):
    q, k, v = _qkv()
    out = splash(q, k, v, mask, interpret=True)
    np.testing.assert_allclose(out, _plain(q, k, v, mask), atol=2e-5)


@pytest.mark.parametrize("mask", [None, MASK], ids=["whole", "masked"])
def test_chunks_of_queries_change_nothing(mask, monkeypatch):
    q, k, v = _qkv(d=8)

    def loss(q, k, v):
        return jnp.sum(fused(q, k, v, mask) ** 2)

    whole = jax.value_and_grad(loss, (0, 1, 2))(q, k, v)
    monkeypatch.setattr(kernels, "LIMIT", 2 * 4 * 2 * 128 * 16)
    text = jax.jit(fused).lower(q, k, v, mask).as_text()
    assert "while" in text
    parts = jax.value_and_grad(loss, (0, 1, 2))(q, k, v)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), whole, parts)


@pytest.mark.parametrize(
    ("n", "each", "limit"), [(100, 10, 99), (64, 1, 7), (7, 100, 1), (1, 9, 1)]
)
def test_pieces_are_equal_and_the_fewest(n, each, limit):
    pieces = chunks(n, each, limit)
    assert n % pieces == 0
    fits = [p for p in range(1, n + 1) if n % p == 0 and n // p * each <= limit]
    assert pieces == (fits[0] if fits else n)


def test_a_word_that_is_no_kernel():
    with pytest.raises(ValueError, match="way is 'fast'"), attending("fast"):
        pass


def test_the_choice_ends_with_its_block():
    with attending("xla"):
        assert kernels._WAY.get() == "xla"
    assert kernels._WAY.get() == "auto"


def test_cudnn_is_probed_once_and_falls_back_with_one_warning(monkeypatch):
    """Here there is no cuDNN: a machine that says it is a GPU has to warn and go on."""
    if jax.default_backend() != "cpu":
        pytest.skip("this machine may have cuDNN")
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    kernels._cudnn_works.cache_clear()
    kernels._widest.cache_clear()
    q, k, v = _qkv(d=8, dtype=jnp.bfloat16)
    with pytest.warns(UserWarning, match="cuDNN's attention does not work here"):
        first = fused(q, k, v)
    second = fused(q, k, v)  # a second warning would be an error
    kernels._cudnn_works.cache_clear()
    np.testing.assert_array_equal(first, second)
    np.testing.assert_allclose(first, _plain(q, k, v), atol=2e-2)


@pytest.mark.gpu
def test_cudnn_equals_xla():
    q, k, v = _qkv(n=256, m=256, d=72, dtype=jnp.bfloat16)
    with attending("cudnn"):
        flash = jax.jit(fused)(q, k, v, None)
    np.testing.assert_allclose(flash, _plain(q, k, v), atol=2e-2)
