"""jaxdiff: a functional diffusion toolkit in JAX and Flax.

    import jaxdiff as jd

    model   = jd.model(net.apply, params, process, wiring)
    denoise = jd.cfg(model, label, null, scale=2.0)
    x       = jd.sample(key, denoise, jd.samplers.heun(), shape=(16, 28, 28, 1), steps=20)

This file only says where a name lives; a module is imported when its name is first read, so that
`import jaxdiff` costs next to nothing beyond jax itself. A new name is one line in the table and
one for the type checker.
"""

import importlib
import typing

__version__ = "0.1.0"

if typing.TYPE_CHECKING:
    from jaxdiff import data as data
    from jaxdiff import exact as exact
    from jaxdiff import guidance as guidance
    from jaxdiff import inverse as inverse
    from jaxdiff import losses as losses
    from jaxdiff import metrics as metrics
    from jaxdiff import nets as nets
    from jaxdiff import pipelines as pipelines
    from jaxdiff import pretrained as pretrained
    from jaxdiff import process as process
    from jaxdiff import samplers as samplers
    from jaxdiff import training as training
    from jaxdiff import trees as trees
    from jaxdiff import types as types
    from jaxdiff.denoise import bind as bind
    from jaxdiff.denoise import blend as blend
    from jaxdiff.denoise import cfg as cfg
    from jaxdiff.denoise import mix as mix
    from jaxdiff.denoise import model as model
    from jaxdiff.denoise import rebase as rebase
    from jaxdiff.guidance import add as add
    from jaxdiff.guidance import chain as chain
    from jaxdiff.guidance import edited as edited
    from jaxdiff.guidance import pulled as pulled
    from jaxdiff.pretrained import load as load
    from jaxdiff.samplers import sample as sample

_MODULES = (
    "data",
    "exact",
    "guidance",
    "inverse",
    "losses",
    "metrics",
    "nets",
    "pipelines",
    "pretrained",
    "process",
    "samplers",
    "training",
    "trees",
    "types",
)

_NAMES = {
    "add": "guidance",
    "bind": "denoise",
    "blend": "denoise",
    "cfg": "denoise",
    "chain": "guidance",
    "edited": "guidance",
    "load": "pretrained",
    "mix": "denoise",
    "model": "denoise",
    "pulled": "guidance",
    "rebase": "denoise",
    "sample": "samplers",
}

__all__ = [*_NAMES, *_MODULES]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> typing.Any:
    """Import what `name` stands for, when it is first read."""
    if name in _MODULES:
        return importlib.import_module(f"jaxdiff.{name}")
    if name in _NAMES:
        return getattr(importlib.import_module(f"jaxdiff.{_NAMES[name]}"), name)
    raise AttributeError(
        f"module 'jaxdiff' has no attribute {name!r}; it has: {', '.join(__dir__())}"
    )


def __dir__() -> list[str]:
    """The public names, whether they were imported yet or not."""
    return sorted([*__all__, "__version__"])
