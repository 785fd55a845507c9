"""Your own images: a folder, its subfolders being the classes.

    jaxdiff train folder --config.data.path=photos
    jaxdiff train folder --config.data.path=photos --config.data.size=64 --config.steps=20000

Measured: not yet run.
"""

from ml_collections import ConfigDict

from jaxdiff.experiment import default


def get_config() -> ConfigDict:
    """Colour images of 32 x 32, cropped to the middle square; about 8M parameters."""
    c = default()
    c.steps, c.batch = 10_000, 64
    c.data.kind, c.data.test = "folder", ""
    c.data.size, c.data.channels, c.data.flip = 32, 3, True
    c.net.widths, c.net.depth, c.net.attention = (32, 96, 192), 2, (2,)
    c.net.embed_dim = 256
    c.loss.mean, c.loss.std = -0.8, 1.4
    c.optimizer.lr, c.optimizer.warmup = 2e-3, 200
    c.save.every, c.look.every = 1_000, 1_000
    return c
