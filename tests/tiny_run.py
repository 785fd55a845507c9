"""What the tests of experiments and of the command line share: a run that takes seconds."""

import contextlib

import jax
import numpy as np
from jax.experimental.compilation_cache import compilation_cache
from PIL import Image

TINY = [
    "--config.data.size=8",
    "--config.data.channels=1",
    "--config.data.flip=false",
    "--config.net.kind=dit",  # it compiles in a third of the time of a U-Net
    "--config.net.patch=4",
    "--config.net.width=16",
    "--config.net.heads=2",
    "--config.net.depth=1",
    "--config.optimizer.kind=adam",
    "--config.optimizer.lr=0.01",
    "--config.optimizer.warmup=2",
    "--config.steps=20",
    "--config.batch=8",
    "--config.log.every=1",
    "--config.save.every=10",
    "--config.look.every=0",
    "--config.look.n=4",
    "--config.mesh.data=1",
    "--config.sample.steps=4",
]


def pictures(folder, *, classes=("down", "up"), each=16, size=10, mode="L"):
    """Class folders of noisy gradients, upwards and downwards."""
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 255, size)[:, None] * np.ones((1, size))
    for turn, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for i in range(each):
            image = (ramp[::-1] if turn % 2 else ramp) * 0.8 + rng.uniform(0, 50, (size, size))
            Image.fromarray(image.astype(np.uint8)).convert(mode).save(folder / name / f"{i}.png")
    return folder


def command(photos, run, *more):
    """`jaxdiff train` on these pictures into this folder."""
    data = f"--config.data.path={photos}"
    return ["train", "folder", "--folder", str(run), "--quiet", data, *TINY, *more]


@contextlib.contextmanager
def compiled_once(folder):
    """Runs that are alike share their compilations, as they would from one day to the next."""
    names = (
        "jax_compilation_cache_dir",
        "jax_persistent_cache_min_compile_time_secs",
        "jax_persistent_cache_min_entry_size_bytes",
    )
    before = [getattr(jax.config, name) for name in names]
    for name, value in zip(names, (str(folder), 0.5, -1)):
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    try:
        yield
    finally:
        for name, value in zip(names, before):
            jax.config.update(name, value)
        compilation_cache.reset_cache()
