"""Two moons in the plane: an MLP, seconds on a CPU.

    jaxdiff train two_moons

Measured: sliced Wasserstein distance of 4000 samples to fresh points 0.017 (fresh points to fresh
points 0.015), in 50 s on two busy cores.
"""

from ml_collections import ConfigDict

from jaxdiff.experiment import default


def get_config() -> ConfigDict:
    """4096 points, two classes, EDM; data.name may be any toy of jaxdiff.data.toys."""
    c = default()
    c.steps, c.batch = 2_000, 256
    c.data.kind, c.data.name, c.data.points = "toy", "two_moons", 4096
    c.net.kind, c.net.width, c.net.depth = "mlp", 128, 3
    c.process.sigma_min, c.process.sigma_max = 0.01, 20.0
    c.wiring.sigma_data = 0.7
    c.loss.mean, c.loss.std = -0.8, 1.4
    c.optimizer.kind, c.optimizer.lr = "adam", 2e-3
    c.look.n, c.look.scale = 2_000, 1.0
    c.sample.scale = 1.0
    return c
