"""What PyTorch computed: tiny networks with random weights, their inputs and their outputs.

`tests/pretrained/fixtures/NAME/` holds config.json, the safetensors of the PyTorch class, and
io.npz with inputs and outputs in the layout of PyTorch (NCHW). They are written by
`experiments/pytorch_parity`.
"""

import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.pretrained import Part, load_part

ROOT = pathlib.Path(
    os.environ.get("JAXDIFF_FIXTURES", pathlib.Path(__file__).resolve().parent / "fixtures")
)
GAPS = os.environ.get("JAXDIFF_GAPS")
"""A file for the differences that the tests see, for `experiments/pytorch_parity`."""


def fixture(name: str) -> tuple[Part, dict[str, np.ndarray]]:
    """The part in jaxdiff, and the arrays that PyTorch was given and gave."""
    with np.load(ROOT / name / "io.npz", allow_pickle=False) as arrays:
        return load_part(ROOT / name), dict(arrays)


def nhwc(x: np.ndarray) -> jax.Array:
    """[b, c, h, w] -> [b, h, w, c]."""
    return jnp.asarray(x).transpose(0, 2, 3, 1)


def nchw(x: jax.Array) -> np.ndarray:
    """[b, h, w, c] -> [b, c, h, w]."""
    return np.asarray(x).transpose(0, 3, 1, 2)


def gap(ours: object, theirs: object) -> float:
    """Largest absolute difference."""
    found = float(np.abs(np.asarray(ours, np.float64) - np.asarray(theirs, np.float64)).max())
    if GAPS is not None:
        test = os.environ.get("PYTEST_CURRENT_TEST", "").rsplit(" ", 1)[0]
        with open(GAPS, "a") as file:
            file.write(f"{found} {test}\n")
    return found
