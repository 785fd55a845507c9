"""`jaxdiff restore`: measure a picture (or take it as measured), sample its posterior, compare."""

import argparse
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxdiff import experiment, inverse, metrics, samplers
from jaxdiff.cli.files import picture, read_images
from jaxdiff.data.grids import write_grid
from jaxdiff.denoise import Denoiser, bind, check_range
from jaxdiff.inverse import Operator
from jaxdiff.trees import keys_for, normal

FACTOR = 4
"""Of super-resolution."""

SEEN = 0.2
"""Share of the pixels that the random task keeps."""


def run(args: argparse.Namespace) -> None:
    """Restore pictures and write truth, measurement and restoration side by side."""
    if args.noise < 0 or (args.noise == 0 and args.method == "mmps"):
        raise ValueError(f"--noise {args.noise}: mmps needs noise > 0, the others noise >= 0")
    model, found, config = experiment.load(args.run)
    size, channels = _check_shape(found.info.shape)
    experiment.put(config, "sample.steps", args.steps)
    experiment.put(config, "sample.times", config.sample.times or "karras")
    times = experiment.grid_of(config, found.process)
    operator = operator_of(args.task, found.info.shape, args.seed)
    factor = FACTOR if args.measured and args.task == "superres" else 1
    given = [jnp.asarray(read_images(path, size // factor, channels)) for path in args.images]
    x = jnp.concatenate(given)
    check_range(x, model.span, "the picture")
    key = jax.random.key(args.seed)
    seen = jax.eval_shape(operator.A, jax.ShapeDtypeStruct(found.info.shape, x.dtype))
    y = _checked(x, seen.shape) if args.measured else measure(key, operator, x, args.noise)
    guide = guide_of(args.method, operator, y, args.noise, config.wiring.sigma_data**2)
    label = experiment.label_of(found.info, args.label) if args.label else found.null
    cond = None if label is None else jnp.full(len(x), label, jnp.int32)
    restored = _restored(jax.random.fold_in(key, 1), guide(bind(model, cond)), times, len(x), found)
    out = pathlib.Path(args.out or pathlib.Path(args.run) / "samples" / "restore.png")
    _report(args, operator, y, restored, None if args.measured else x, out)


def _check_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    if len(shape) != 3 or shape[0] != shape[1]:
        raise ValueError(f"this model makes samples of shape {shape}: restore needs square images")
    return shape[0], shape[2]


def operator_of(task: str, shape: tuple[int, ...], seed: int) -> Operator:
    """The measurement that a task stands for.

    Raises:
      ValueError: for an unknown task, or a mask that does not have the size of the images.
    """
    h, w, _ = shape
    if task == "box":
        box = jnp.ones((h, w, 1)).at[h // 4 : h // 4 + h // 2, w // 4 : w // 4 + w // 2].set(0.0)
        return inverse.inpainting(box, shape)
    if task == "random":
        seen = jax.random.uniform(jax.random.key(seed + 7), (h, w, 1)) < SEEN
        return inverse.inpainting(seen, shape)
    if task == "superres":
        return inverse.average_pool(FACTOR, shape)
    if task.startswith("mask="):
        mask = picture(pathlib.Path(task.removeprefix("mask=")), None, 1) > 127
        return inverse.inpainting(jnp.asarray(mask), shape)
    raise ValueError(f"--task {task}: it is box, random, superres or mask=FILE")


def measure(key: Array, operator: Operator, x: Array, noise: float) -> Array:
    """y = A x + noise n, where the operator sees anything."""
    seen = operator.A(jnp.ones(operator.shape)) != 0
    y = jax.vmap(operator.A)(x)
    return jnp.where(seen[None], y + noise * normal(keys_for(key, jnp.arange(len(y))), y), 0.0)


def _checked(y: Array, shape: tuple[int, ...]) -> Array:
    if y.shape[1:] != shape:
        raise ValueError(f"the measurement has shape {y.shape[1:]}: this task measures {shape}")
    return y


def guide_of(method: str, operator: Operator, y: Array, noise: float, v0: float) -> Any:
    """The posterior sampler of a name; the operator's zeros in y are kept out of it."""
    if method == "pigdm":
        return inverse.pigdm(operator, y, noise=noise, v0=v0)
    if method == "mmps":
        return inverse.mmps(operator, y, noise=noise)
    if method == "ddnm":
        return inverse.ddnm(operator, y, noise=noise, v0=v0)
    raise ValueError(f"--method {method}: it is pigdm, mmps or ddnm")


def _restored(key: Array, denoise: Denoiser, times: Array, b: int, found: Any) -> Array:
    @jax.jit
    def go(key: Array, denoise: Denoiser, times: Array) -> Array:
        return samplers.sample(
            key, denoise, samplers.ddim(1.0), shape=(b, *found.info.shape), times=times
        )

    return go(key, denoise, times)


def _report(
    args: argparse.Namespace,
    operator: Operator,
    y: Array,
    restored: Array,
    truth: Array | None,
    out: pathlib.Path,
) -> None:
    """Write the picture; print how far the restoration is from truth and from what was measured."""
    shown = jax.vmap(operator.pinv)(y)
    pictures = [p for p in (truth, shown, restored) if p is not None]
    together = jnp.stack(pictures, axis=1).reshape(-1, *restored.shape[1:])
    write_grid(out, np.clip(np.asarray(together), -1, 1), columns=len(pictures), zoom=4)
    if truth is not None:
        before, after = (float(jnp.mean(metrics.psnr(truth, p))) for p in (shown, restored))
        print(f"PSNR against the picture: {after:.2f} dB (pseudo-inverse of y: {before:.2f} dB)")
    if args.noise > 0:
        seen = operator.A(jnp.ones(operator.shape)) != 0
        ax = jax.vmap(operator.A)(restored)
        ratio = float(jnp.mean(metrics.residual(y, ax, noise=args.noise, observed=seen)))
        print(f"residual over the noise level: {ratio:.2f} (1 explains the measurement)")
    columns = "truth, measurement, restoration" if truth is not None else "measurement, restoration"
    print(f"{columns} in {out}")
