"""CIFAR-10 through TFDS, class-conditional, an EDM-like U-Net; for one accelerator or more.

    jaxdiff train cifar10_edm --config.data.path=/where/tfds/lies

Measured: not yet run.
"""

from ml_collections import ConfigDict

from jaxdiff.experiment import default


def get_config() -> ConfigDict:
    """Karras et al. 2022, arXiv:2206.00364, table 1 and 7: P_mean, P_std, Adam 1e-3, batch 512."""
    c = default()
    c.steps, c.batch = 390_000, 512  # 200 million images
    c.data.kind, c.data.name, c.data.flip = "tfds", "cifar10", True
    c.net.widths, c.net.depth, c.net.attention = (128, 256, 256), 4, (1, 2)
    c.net.embed_dim, c.net.dtype = 512, "bfloat16"
    c.process.sigma_min, c.process.sigma_max = 0.002, 80.0
    c.wiring.sigma_data = 0.5
    c.loss.mean, c.loss.std, c.loss.drop = -1.2, 1.2, 0.1
    c.optimizer.kind, c.optimizer.lr, c.optimizer.warmup = "adam", 1e-3, 20_000
    c.optimizer.cooldown, c.optimizer.b2 = 0.0, 0.999
    c.ema.exponent = 17.0
    c.log.every, c.save.every, c.look.every, c.look.n = 100, 5_000, 5_000, 100
    c.sample.sampler, c.sample.steps, c.sample.rho, c.sample.scale = "heun", 18, 7.0, 1.0
    return c
