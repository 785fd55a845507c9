"""Seven measurements of 28 x 28 grey images, noise of standard deviation 0.05 on [-1, 1]."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxdiff import inverse, trees

SHAPE = (28, 28, 1)
NOISE = 0.05

LINEAR = {
    "box": lambda: inverse.inpainting(inverse.box_mask(SHAPE, (7, 7), (14, 14)), SHAPE),
    "random": lambda: inverse.inpainting(inverse.random_mask(jax.random.key(7), SHAPE, 0.2), SHAPE),
    "SR x2": lambda: inverse.average_pool(2, SHAPE),
    "SR x4": lambda: inverse.average_pool(4, SHAPE),
    "blur": lambda: inverse.blur(inverse.gaussian_kernel(1.5, 9), SHAPE),
    "sensing": lambda: inverse.gaussian_sensing(98, SHAPE, key=jax.random.key(8)),
}
NONLINEAR = {"phase": lambda: inverse.phase_retrieval(SHAPE, pad=14)}
EVERY, MASKS, POOLS = (*LINEAR, *NONLINEAR), ("box", "random"), ("SR x2", "SR x4")
WORDS = {
    "box": "a square of 7 x 7 pixels hidden",
    "random": "one pixel in five seen",
    "SR x2": "means of 2 x 2 pixels",
    "SR x4": "means of 4 x 4 pixels",
    "blur": "Gaussian blur of width 1.5, circular",
    "sensing": "98 Gaussian random numbers of 784 pixels",
    "phase": "the magnitudes of an oversampled Fourier transform",
}


def measure(key: Any, operator: Any, x: Any) -> Any:
    """y = A x + 0.05 n; what a mask hides stays 0."""
    y = jax.vmap(operator.A)(x)
    noisy = y + NOISE * trees.normal(trees.keys_for(key, jnp.arange(len(y))), y)
    return jnp.where(hidden(operator)[None], 0.0, noisy)


def hidden(operator: Any) -> Any:
    """Which entries of y say nothing of x: those that are exactly 0 for a random picture.

    A constant picture would not do: most of its Fourier coefficients are 0.
    """
    return operator.A(jax.random.normal(jax.random.key(9), operator.shape)) == 0
