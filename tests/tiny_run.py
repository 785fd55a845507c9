"""What the tests of experiments and of the command line share: a run that takes seconds."""

import numpy as np
from PIL import Image

TINY = [
    "--config.data.size=8",
    "--config.data.channels=1",
    "--config.data.flip=false",
    "--config.net.widths=(8,8)",
    "--config.net.attention=(1,)",
    "--config.net.heads=2",
    "--config.net.depth=1",
    "--config.net.embed_dim=16",
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
