"""What each operator measures, against formulas of another route."""

import functools
import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.fft
import scipy.linalg
import scipy.signal
from PIL import Image

from jaxdiff import inverse
from jaxdiff.inverse.operators.jpeg import quantisation_table
from tests.problems import keys_of


def image(seed, *shape):
    """Random numbers, some beyond [-1, 1]."""
    return jnp.asarray(np.random.default_rng(seed).normal(0, 0.6, shape), jnp.float32)


def projected(operator, x, y):
    assert operator.project is not None
    return operator.project(x, y)


def test_bicubic_is_antialiased_and_mirrors():
    x = image(0, 12, 8, 2)
    for factor in (2, 4):
        wide = np.pad(x, ((12, 12), (8, 8), (0, 0)), "symmetric")
        size = 36 // factor, 24 // factor, 2
        whole = jax.image.resize(wide, size, "cubic")[12 // factor : 24 // factor]
        found = jax.jit(lambda v, f=factor: inverse.bicubic(f, v.shape).A(v))(x)
        assert np.allclose(found, whole[:, 8 // factor : 16 // factor], atol=1e-5)
    rows = inverse.bicubic(2, (12, 12, 1)).A(jnp.eye(12)[..., None])
    # by hand: Keys' cubic at 1/4, 3/4, 5/4, 7/4, halved
    weights = np.array([-3, -9, 29, 111, 111, 29, -9, -3]) / 256
    diagonal = np.convolve(weights, weights)[7]
    assert np.isclose(rows[2, 2, 0], diagonal, atol=1e-6)
    ramp = jnp.broadcast_to(jnp.arange(16.0)[:, None, None], (16, 4, 1))
    down = inverse.bicubic(2, ramp.shape).A(ramp)[2:-2, 0, 0]
    assert np.allclose(down, np.arange(2, 6) * 2 + 0.5, atol=1e-5)


def test_blurs_are_sums_of_shifts():
    x, k = image(1, 5, 6, 2), image(2, 3, 2)
    shifted = lambda i, j: np.roll(x, (i - 1, j - 1), (0, 1))  # noqa: E731
    expected = sum(k[i, j] * shifted(i, j) for i in range(3) for j in range(2))
    assert np.allclose(inverse.blur(k, x.shape).A(x), expected, atol=1e-5)
    kernels = jnp.asarray(image(3, 2, 3, 3))
    left = (jnp.arange(6) < 3)[None].repeat(5, 0)
    found = inverse.varying_blur(kernels, jnp.stack([left, ~left]), x.shape).A(x)
    one, other = (inverse.blur(kernel, x.shape).A(x) for kernel in kernels)
    assert np.allclose(found, jnp.where(left[..., None], one, other), atol=1e-5)
    both = inverse.blind_blur(x.shape, (3, 2, 1))
    assert np.allclose(both.A({"image": x, "kernel": k[..., None]}), expected, atol=1e-5)


def test_kernels():
    i = np.arange(13) - 6
    round_ = inverse.gaussian_kernel(1.5, 13)
    assert np.isclose((round_.sum(0) * i**2).sum(), 1.5**2, rtol=1e-3)
    long = inverse.anisotropic_kernel((2.0, 0.7), 30.0, 13)
    rows, columns = np.meshgrid(i, i, indexing="ij")
    covariance = [[(long * a * b).sum() for b in (columns, rows)] for a in (columns, rows)]
    turn = np.array([[np.cos(np.pi / 6), -0.5], [0.5, np.cos(np.pi / 6)]])
    assert np.allclose(covariance, turn @ np.diag([4.0, 0.49]) @ turn.T, atol=0.05)
    line = inverse.motion_kernel(5.0, 0.0, 7)
    assert np.allclose(line[3], [0, 0.2, 0.2, 0.2, 0.2, 0.2, 0], atol=1e-6)
    assert np.allclose(inverse.motion_kernel(5.0, 90.0, 7), line.T, atol=1e-6)
    slant = np.asarray(inverse.motion_kernel(5.0, 45.0, 7))
    assert (slant * (rows == columns)[3:10, 3:10]).sum() > 0.5  # down to the right
    for kernel in (round_, long, line, slant):
        assert np.isclose(kernel.sum(), 1.0, atol=1e-6)


def test_hadamard_is_that_of_scipy():
    x = image(4, 2, 4, 3)
    expected = scipy.linalg.hadamard(8) / np.sqrt(8) @ x.reshape(8, 3)
    assert np.allclose(inverse.hadamard(6, x.shape).A(x), expected[:6], atol=1e-6)
    drawn = inverse.hadamard(8, x.shape, key=jax.random.key(0)).A(x)
    assert np.isclose((drawn**2).sum(), (x**2).sum(), rtol=1e-5)
    assert not np.allclose(np.sort(drawn, 0), np.sort(expected, 0), atol=1e-2)


def test_fourier_and_coils():
    x, maps = image(5, 4, 6, 2), image(6, 3, 4, 6, 2)
    mask = image(7, 4, 6, 1) > 0
    joined = lambda v: v[..., 0] + 1j * v[..., 1]  # noqa: E731

    def spectrum(v):
        return np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(v), norm="ortho")) * mask[..., 0]

    found = inverse.fourier(mask, x.shape).A(x)
    assert np.allclose(joined(np.asarray(found)), spectrum(joined(np.asarray(x))), atol=1e-5)
    found = inverse.fourier(mask, (4, 6, 1)).A(x[..., :1])
    assert np.allclose(joined(np.asarray(found)), spectrum(x[..., 0]), atol=1e-5)
    found = np.asarray(inverse.coils(mask, maps, x.shape).A(x))
    for y, s in zip(found, maps, strict=True):
        assert np.allclose(
            joined(y), spectrum(joined(np.asarray(s)) * joined(np.asarray(x))), atol=1e-5
        )


def test_radon_of_a_disc():
    """Sums are lengths of chords, whatever the angle; at right angles sums of rows and columns."""
    n, radius, fine = 41, 14.0, np.linspace(-0.4, 0.4, 5)
    at = (np.arange(n) - 20)[:, None] + fine[None]
    inside = np.hypot(at[:, :, None, None], at[None, None]) < radius
    disc = jnp.asarray(inside.mean(axis=(1, 3))[..., None], jnp.float32)
    angles = jnp.array([0.0, 20.0, 45.0, 77.0, 90.0])
    y = np.asarray(jax.jit(lambda d: inverse.radon(angles, d.shape).A(d))(disc))[..., 0]
    t = np.arange(y.shape[1]) - (y.shape[1] - 1) / 2
    chords = 2 * np.sqrt(np.maximum(radius**2 - t**2, 0.0))
    assert np.abs(y - chords[None])[:, np.abs(t) < radius - 2].max() < 0.5
    assert np.abs(y.sum(1) - disc.sum()).max() < 0.005 * disc.sum()
    x = image(8, 5, 5, 1)
    columns, rows = inverse.radon((0.0, 90.0), x.shape, detectors=5).A(x)[..., 0]
    assert np.allclose(columns, x.sum(0)[:, 0], atol=1e-5)
    assert np.allclose(rows, x.sum(1)[:, 0], atol=1e-5)


def test_phase_retrieval_sees_the_autocorrelation():
    x = image(9, 4, 4, 1)
    op = inverse.phase_retrieval(x.shape, pad=2)
    y = np.asarray(op.A(x))
    expected = scipy.signal.correlate(x[..., 0], x[..., 0])
    found = np.fft.fftshift(np.fft.ifft2(8 * y[..., 0] ** 2, norm="ortho").real)
    assert np.allclose(found[1:, 1:], expected, atol=1e-4)
    assert np.allclose(op.A(-x[::-1, ::-1]), y, atol=1e-5)
    slope = jax.grad(lambda v: op.A(v).sum())(jnp.zeros(x.shape))
    assert (slope == 0).all()


def test_clipped_and_rounded_values_are_projected():
    x, z = image(10, 50), image(11, 50)
    exposure = inverse.hdr((50,), gain=2.0)
    y = exposure.A(z)
    assert np.allclose(y, np.clip(2 * z, -1, 1))
    near = projected(exposure, x, y)
    assert np.allclose(exposure.A(near), y, atol=1e-6)
    assert np.allclose(near[y == 1], np.maximum(x, 0.5)[y == 1])
    coarse = inverse.quantise(5, (50,))
    levels = np.linspace(-1, 1, 5)
    y = coarse.A(z)
    assert np.allclose(y, levels[np.abs(np.asarray(z)[:, None] - levels).argmin(1)], atol=1e-6)
    assert np.allclose(jax.grad(lambda v: coarse.A(v).sum())(z), 1.0)
    near = projected(coarse, x, y)
    assert np.all(np.abs(near - y)[np.abs(z) < 1.2] < 0.25 + 1e-6)
    assert np.allclose(projected(coarse, z, y), z)  # what was measured is in the box


def test_light_is_blurred():
    x, k = 0.9 * jnp.tanh(image(12, 4, 4, 2)), inverse.gaussian_kernel(0.8, 3)
    light = ((x + 1) / 2) ** 2.2

    @jax.jit
    def seen(x, light):
        flat, op = (inverse.nonlinear_blur(k, x.shape, gamma=g) for g in (1.0, 2.2))
        slope = jax.grad(lambda v: op.A(v).sum())(jnp.full(x.shape, -2.0))
        linear = jax.vmap(inverse.blur(k, x.shape).A)(jnp.stack([x, light]))
        return flat.A(x), op.A(x), *linear, slope

    flat, curved, linear, blurred, slope = seen(x, light)
    assert np.allclose(flat, linear, atol=1e-5)
    assert np.allclose(((curved + 1) / 2) ** 2.2, blurred, atol=1e-5)
    assert np.isfinite(slope).all()


@pytest.mark.slow
def test_jpeg_is_that_of_a_codec():
    """Against Pillow, which rounds to bytes; its pictures are clipped, ours are not."""
    steps = np.cumsum(image(13, 32, 32, 3), axis=0)
    pixels = np.clip(128 + 12 * np.cumsum(steps, axis=1), 30, 225).astype(np.uint8)
    for quality, c in ((20, 1), (75, 1), (60, 3)):
        picture, file = pixels[..., 0] if c == 1 else pixels, io.BytesIO()
        Image.fromarray(picture).save(file, "jpeg", quality=quality, subsampling=0)
        decoded = np.asarray(Image.open(file), float).reshape(32, 32, c)
        op = inverse.jpeg(quality, (32, 32, c), low=0.0, high=255.0)
        found = op.A(jnp.asarray(picture, float).reshape(32, 32, c))
        off = np.abs(np.clip(found, 0, 255) - decoded)
        # its whole numbers round a coefficient the other way now and then, in colour more often;
        # with the table of luminance for colours too the mean is 8.5
        blocks = off.reshape(4, 8, 4, 8, c).max(axis=(1, 3, 4))
        assert (blocks < 1.1).mean() > 0.8 if c == 1 else np.sqrt((off**2).mean()) < 3.0


def test_jpeg_rounds_coefficients_and_projects_them():
    x, z = image(14, 8, 8, 1), image(15, 8, 8, 1)
    op = inverse.jpeg(30, x.shape)
    table = quantisation_table(30, 1)[..., 0]

    def coefficients(v):
        return scipy.fft.dctn(127.5 * (np.asarray(v)[..., 0] + 1) - 128, norm="ortho") / table

    y = op.A(z)
    assert np.allclose(coefficients(y), np.round(coefficients(z)), atol=1e-3)
    near = projected(op, x, y)
    off = coefficients(near) - np.round(coefficients(z))
    assert np.abs(off).max() < 0.5 + 1e-3
    inside = np.abs(coefficients(x) - np.round(coefficients(z))) < 0.5
    assert np.allclose(coefficients(near)[inside], coefficients(x)[inside], atol=1e-3)
    assert np.allclose(projected(op, z, y), z, atol=1e-5)
    flat = op.A(jnp.full((8, 8, 1), 0.1))
    level = np.round(8 * (127.5 * 1.1 - 128) / table[0, 0]) * table[0, 0] / 8 + 128
    assert np.allclose(flat, level / 127.5 - 1, atol=1e-5)
    assert np.allclose(jax.grad(lambda v: op.A(v).sum())(x), 1.0, atol=1e-4)


def test_masks_hide_what_they_say():
    @jax.jit
    def masks(keys):
        key, other = keys
        wide = functools.partial(inverse.stroke_mask, shape=(32, 32, 3))
        strokes = wide(key, width=4.0), wide(other, width=4.0), wide(key, width=8.0)
        some = [inverse.random_mask(key, (5, 4, 1), s) for s in (0.0, 0.3, 1.0)]
        columns = inverse.column_mask(key, (3, 12, 1), 0.5, centre=3)
        return inverse.box_mask((6, 5, 3), (1, 2), (4, 4)), some, columns, *strokes

    box, some, columns, *strokes, thick = jax.tree.map(np.asarray, masks(keys_of(2)))
    assert box.sum() == 30 - 6
    assert [m.sum() for m in some] == [0, 6, 20]
    assert columns.shape == (3, 12, 1) and (columns == columns[:1]).all()
    assert columns[0].sum() == 6 and columns[0, 5:8].all()
    assert all(0.3 < m.mean() < 0.999 for m in strokes) and (strokes[0] != strokes[1]).any()
    assert (~thick | strokes[0]).all() and thick.sum() < strokes[0].sum()


def test_what_is_not_linear_stays_so_in_company():
    x = image(16, 4, 4, 2)
    pool, dim = inverse.average_pool(2, x.shape), inverse.hdr((2, 2, 2))
    seen = inverse.compose(dim, pool)
    assert isinstance(seen, inverse.Nonlinear) and seen.shape == x.shape
    assert np.allclose(seen.A(x), np.clip(2 * pool.A(x), -1, 1))
    other = inverse.compose(inverse.average_pool(2, x.shape), inverse.hdr(x.shape))
    assert isinstance(other, inverse.Nonlinear)
    both = inverse.stack(pool, inverse.hdr(x.shape))
    assert isinstance(both, inverse.Nonlinear) and len(both.A(x)) == 2
    assert np.allclose(both.A(x)[0], pool.A(x))


def test_a_solve_that_does_not_converge_is_reported():
    weights = 10.0 ** jnp.arange(0, -4, -1)
    make = lambda steps: inverse.linear(lambda x: weights * x, (4,), steps=steps)  # noqa: E731
    with pytest.raises(ValueError, match=r"residual of [\d.]+ at r2=1\.0, s2=1e-08.*more `steps`"):
        inverse.check_solve(make(2), 1.0, 1e-8, jnp.ones(4))
    assert inverse.check_solve(make(20), 1.0, 1e-2).shape == (4,)
    found = jax.jit(lambda v: inverse.residual(make(2), 1.0, 1e-8, v))(jnp.ones(4))
    u = make(2).gram_solve(1.0, 1e-8, jnp.ones(4))
    assert np.isclose(found, np.linalg.norm(weights**2 * u + 1e-8 * u - 1) / 2, rtol=1e-3)
    assert inverse.residual(make(2), 1.0, 0.1, jnp.zeros(4)) == 0.0
    with pytest.raises(ValueError, match="inside a trace"):
        jax.jit(lambda v: inverse.check_solve(make(2), 1.0, 1.0, v).A(v))(jnp.ones(4))


K, FLAT = jnp.ones((3, 3)), jnp.ones((4, 4, 1))


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: inverse.bicubic(3, (4, 4, 1)), "factor=3"),
        (lambda: inverse.average_pool(2, (4, 4)), r"shape=\(4, 4\): give \(h, w, c\)"),
        (lambda: inverse.blur(jnp.ones((5, 3)), (4, 4, 1)), r"kernel of shape \(5, 3\)"),
        (lambda: inverse.blind_blur((4, 4, 1), (3, 5)), r"kernel of shape \(3, 5\)"),
        (lambda: inverse.blind_blur((4, 4, 1), (3, 3, 2)), "kernel_shape"),
        (lambda: inverse.nonlinear_blur(K, (2, 2, 1)), r"kernel of shape \(3, 3\)"),
        (lambda: inverse.nonlinear_blur(K, (4, 4, 1), gamma=0.0), "gamma=0.0"),
        (lambda: inverse.varying_blur(K[None], jnp.ones((2, 4, 4)), (4, 4, 1)), "weights of sh"),
        (lambda: inverse.gaussian_kernel(0.0, 3), "width=0.0"),
        (lambda: inverse.gaussian_kernel(1.0, 4), "size=4.*odd"),
        (lambda: inverse.motion_kernel(-1.0, 0.0, 3), "length=-1.0"),
        (lambda: inverse.motion_kernel(1.0, float("nan"), 3), "angle=nan"),
        (lambda: inverse.colourisation((4, 4, 3), (0.5, 0.5)), r"weights of shape \(2,\)"),
        (lambda: inverse.colourisation((4, 4, 2), (0.0, 0.0)), "all 0"),
        (lambda: inverse.hadamard(2, (3, 4, 1)), "h w = 12 is no power of two"),
        (lambda: inverse.walsh_hadamard(jnp.ones((6, 1))), "power of two"),
        (lambda: inverse.hadamard(17, (4, 4, 1)), "m=17"),
        (lambda: inverse.gaussian_sensing(0, (4,), key=jax.random.key(0)), "m=0"),
        (lambda: inverse.matrix(jnp.ones((2, 3)), (2, 2)), "entries differ"),
        (lambda: inverse.fourier(jnp.ones((4, 3, 1)), (4, 4, 1)), r"mask of shape \(4, 3, 1\)"),
        (lambda: inverse.fourier(0.5 * FLAT, (4, 4, 1)), "besides 0 and 1"),
        (lambda: inverse.fourier(FLAT, (4, 4, 3)), "real images or"),
        (lambda: inverse.coils(FLAT, jnp.ones((2, 4, 4, 1)), (4, 4, 1)), "maps of shape"),
        (lambda: inverse.radon((), (4, 4, 1)), "one or more"),
        (lambda: inverse.radon((0.0, float("inf")), (4, 4, 1)), "need to be numbers"),
        (lambda: inverse.radon((0.0,), (4, 4, 1), detectors=0), "detectors=0"),
        (lambda: inverse.radon((0.0,), (4, 4, 1), steps=0), "steps=0"),
        (lambda: inverse.phase_retrieval((4, 4, 1), pad=-1), "pad=-1"),
        (lambda: inverse.hdr((4,), gain=0.0), "gain=0.0"),
        (lambda: inverse.hdr((4,), low=1.0), "low=1.0, high=1.0"),
        (lambda: inverse.quantise(1, (4,)), "levels=1"),
        (lambda: inverse.jpeg(0, (8, 8, 1)), "quality=0"),
        (lambda: inverse.jpeg(101, (8, 8, 1)), "quality=101"),
        (lambda: inverse.jpeg(50, (8, 12, 1)), "multiples of 8"),
        (lambda: inverse.jpeg(50, (8, 8, 2)), "1 or 3"),
        (lambda: inverse.box_mask((4, 4, 1), (0, 0), (5, 2)), "a box needs"),
        (lambda: inverse.random_mask(jax.random.key(0), (4, 4, 1), 1.5), "seen=1.5"),
        (lambda: inverse.column_mask(jax.random.key(0), (4, 4, 1), 0.5, centre=5), "centre=5"),
        (lambda: inverse.stroke_mask(jax.random.key(0), (4, 4, 1), strokes=0), "strokes=0"),
        (
            lambda: inverse.compose(inverse.hdr((2,)), inverse.average_pool(2, (4, 4, 1))),
            "inner operator gives shape",
        ),
    ],
)
def test_what_they_refuse(make, words):
    with pytest.raises(ValueError, match=words):
        make()
