"""The losses of guidance: what they are 0 at, what they do not see, where they lead."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import bind, guidance, process, samplers
from jaxdiff.guidance import pulled, towards
from tests.guidance.problems import calls, waves
from tests.problems import keys_of, tree_denoiser, vector

IMAGE, OTHER = vector(0, 4, 4, 3), vector(1, 4, 4, 3)


def features(x):
    return {"near": jnp.tanh(x), "far": jnp.sin(x[::2, ::2])}


def whole(x):
    return jnp.append(jnp.tanh(x).reshape(-1), 1.0)


def scores(x):
    return jnp.concatenate([x, x**2], axis=-1)


def test_style_does_not_see_where():
    loss, image = jax.jit(guidance.style(features)), np.asarray(IMAGE)
    assert loss(image, np.roll(image, 2, axis=(0, 1))) < 1e-10 < 1e-3 < loss(image, OTHER)
    assert loss(image, np.tile(image, (2, 2, 1))) < 1e-10  # a texture of any size
    hand = np.einsum("hwc,hwd->cd", image, image) / 16
    np.testing.assert_allclose(guidance.gram(IMAGE), hand, rtol=1e-5)


def test_colours_do_not_see_where():
    image = np.asarray(IMAGE)
    shuffled = np.roll(image.reshape(16, 3), 5, axis=0).reshape(4, 4, 3)
    loss = jax.jit(jax.value_and_grad(guidance.palette(16, (-3.0, 3.0))))
    assert loss(image, shuffled)[0] < 1e-10 < 1e-4 < loss(image, OTHER)[0]
    assert guidance.colour(IMAGE, jnp.asarray(image.mean(axis=(0, 1)))) < 1e-12
    # a slope wherever colours differ: grey moves towards white from far away
    grey, white = (np.full((4, 4, 3), c, np.float32) for c in (-2.0, 2.5))
    assert np.all(loss(grey, white)[1] < 0)


def test_segmentation_is_the_cross_entropy_of_what_is_labelled():
    labels = np.random.default_rng(0).integers(-1, 6, (4, 4))
    logs = np.asarray(jax.nn.log_softmax(scores(IMAGE), axis=-1))
    picked = [logs[i, j, labels[i, j]] for i, j in np.argwhere(labels >= 0)]
    loss = jax.jit(jax.value_and_grad(guidance.segmentation(scores)))
    found, slope = loss(IMAGE, labels)
    np.testing.assert_allclose(found, -np.mean(picked), rtol=1e-5)
    assert loss(IMAGE, -np.ones((4, 4), int))[0] == 0
    free = np.asarray(slope)[labels < 0]
    assert free.size and not free.any()


def test_similarity():
    loss, target = guidance.similarity(whole), whole(IMAGE)
    assert abs(loss(IMAGE, 3 * target)) < 1e-6 and abs(loss(IMAGE, -target) - 2) < 1e-6
    late = guidance.noisy_similarity(lambda x, t: t * whole(x))
    assert abs(late(IMAGE, jnp.array(0.3), target)) < 1e-6
    nothing = jax.grad(guidance.similarity(lambda x: x))(jnp.zeros(3), jnp.ones(3))
    assert jnp.isfinite(nothing).all()


def test_every_loss_leads_samples_to_its_targets():
    """One target per sample, one program for all: each loss falls, and each sample's own."""
    denoise, keys = tree_denoiser(process.rectified_flow()), keys_of(2)
    rows, start = samplers.grid(jnp.linspace(1.0, 0.0, 9)), vector(5, 2, 4, 4, 3)
    references = jnp.stack([IMAGE, OTHER])
    cases = {
        "style": (guidance.style(features), references, 30.0),
        "colour": (guidance.colour, jnp.array([[1.0, 0.0, -1.0]]), 3.0),
        "palette": (guidance.palette(8, (-3.0, 3.0)), references, 200.0),
        "segmentation": (guidance.segmentation(scores), jnp.zeros((1, 4, 4), int), 10.0),
        "similarity": (guidance.similarity(whole), jax.vmap(whole)(references), 10.0),
    }

    @jax.jit
    def losses():
        def mean(loss, target, x):
            return jnp.mean(jax.vmap(loss)(x, jnp.broadcast_to(target, (2, *target.shape[1:]))))

        draw = lambda d: samplers.run(keys, d, samplers.euler(), rows, start)  # noqa: E731
        plain, out = draw(denoise), {}
        for name, (loss, target, scale) in cases.items():
            guided = draw(towards(loss, scale, each=(target,))(denoise))
            out[name] = mean(loss, target, plain), mean(loss, target, guided)
        return out

    for name, (before, after) in losses().items():
        assert after < 0.8 * before, name


def late(x, t, target):
    return t * jnp.sum((x - target) ** 2) / 2


def far(x0, target):
    return jnp.sum((x0 - target) ** 2) / 2


@pytest.mark.usefixtures("x64")
def test_each_sample_has_its_own_target():
    """In closed form: J = alpha / (alpha^2 + sigma^2) for N(0, I)."""
    t, x, target, gain = 0.5, vector(0, 3, 2), vector(1, 3, 2), 1 / (1 + 0.5**2)

    @jax.jit
    def both(x):
        denoise = tree_denoiser(process.edm())
        clean = towards(far, 2.0, each=(target,))(denoise)(x, t).x0
        return clean, guidance.noisy(late, 2.0, each=(target[:1],))(denoise)(x, t).x0

    clean, noisy = both(x)
    np.testing.assert_allclose(clean, gain * x - 2 * t**2 * gain * (gain * x - target), atol=1e-12)
    np.testing.assert_allclose(noisy, gain * x - 2 * t**2 * t * (x - target[:1]), atol=1e-12)


def test_calls():
    x, denoise, y = vector(0, 2, 3), bind(waves()), jnp.zeros((1, 3))
    pull = guidance.add(guidance.energy(far, each=(y,)), guidance.energy(far, 2.0, each=(y,)))
    assert calls(lambda x: pulled(pull)(denoise)(x, 0.5).x0, x) == (1, 1)
    assert calls(lambda x: guidance.noisy(late, each=(y,))(denoise)(x, 0.5).x0, x) == (1, 0)


def test_errors():
    x, denoise = vector(0, 2, 3), bind(waves())
    for make in (towards, guidance.noisy):
        for wrong in (jnp.zeros((3, 3)), jnp.zeros(())):
            with pytest.raises(ValueError, match=r"each: a leaf of shape .* for 2 samples"):
                make(late if make is guidance.noisy else far, each=(wrong,))(denoise)(x, 0.5)
    for bins, span in ((1, (-1.0, 1.0)), (0, (-1.0, 1.0)), (4, (1.0, 1.0))):
        with pytest.raises(ValueError, match=f"bins={bins}"):
            guidance.palette(bins, span)
