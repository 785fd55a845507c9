"""Names of weights: from those of a checkpoint to the paths of a network, and back.

Networks of `nets/` that have a public checkpoint carry its names: the path
`down_blocks/0/resnets/0/conv1/kernel` is the tensor `down_blocks.0.resnets.0.conv1.weight`. So what
remains is the layout of a leaf:

    kernel [h, w, i, o]   weight [o, i, h, w]      convolution
    kernel [i, o]         weight [o, i]            linear map
    scale, embedding      weight                   norm, table
    anything else         its own name             bias, and parameters without a layer

A checkpoint in other words than these (guided-diffusion, EDM, LDM) is first brought into them by a
list of `Rule`s.
"""

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxdiff.trees import paths
from jaxdiff.types import PyTree


class Rule(NamedTuple):
    r"""Rename what matches: `pattern` (a regular expression for the whole name) becomes `into`.

    `into` is a template such as r"mid_block.\1", or several of them when `change` splits one tensor
    into as many. `change` maps the array, e.g. to another layout.

    >>> Rule(r"a\.(\d+)\.w", r"b.\1.weight").apply("a.3.w", np.ones(2))
    {'b.3.weight': array([1., 1.])}
    """

    pattern: str
    into: str | tuple[str, ...]
    change: Callable[[np.ndarray], Any] | None = None

    def apply(self, name: str, value: np.ndarray) -> dict[str, np.ndarray] | None:
        """The new names and arrays of one tensor, or None where the pattern does not match."""
        match = re.fullmatch(self.pattern, name)
        if match is None:
            return None
        made = value if self.change is None else self.change(value)
        if isinstance(self.into, str):
            return {match.expand(self.into): made}
        return {match.expand(into): part for into, part in zip(self.into, made, strict=True)}


def rename(
    tensors: Mapping[str, np.ndarray], rules: Sequence[Rule], ignored: Sequence[str] = ()
) -> dict[str, np.ndarray]:
    """Bring the names of a checkpoint into those of a network: the first rule that matches acts.

    Args:
      tensors: name -> array, as read from the file.
      rules: tried in order; a name that none matches stays.
      ignored: regular expressions for names that hold no parameter (buffers).

    Raises:
      ValueError: if two tensors end with one name.

    >>> rename({"x.w": np.ones(1), "ids": np.ones(1)}, [Rule(r"x\\.w", "x.weight")], ["ids"])
    {'x.weight': array([1.])}
    """
    renamed: dict[str, np.ndarray] = {}
    for name, value in tensors.items():
        if any(re.fullmatch(pattern, name) for pattern in ignored):
            continue
        made = next((m for r in rules if (m := r.apply(name, value)) is not None), {name: value})
        for new in made:
            if new in renamed:
                raise ValueError(
                    f"two tensors of the checkpoint are named {new!r}, one is {name!r}"
                )
        renamed |= made
    return renamed


def fill(expected: PyTree, tensors: Mapping[str, np.ndarray], *, dtype: Any = None) -> PyTree:
    """Fill the parameters of a network from the tensors of a checkpoint in its names.

    Args:
      expected: parameters or their shapes (`jax.eval_shape(net.init, key)`).
      tensors: name -> array.
      dtype: of the parameters; by default float32.

    Returns:
      A tree like `expected`, of numpy arrays.

    Raises:
      ValueError: naming every tensor that is missing, unused, or of another shape.

    >>> filled = fill({"a": {"kernel": np.zeros((2, 3))}}, {"a.weight": np.ones((3, 2))})
    >>> filled["a"]["kernel"].shape
    (2, 3)
    """
    wanted = {tensor_name(path): (path, leaf) for path, leaf in paths(expected)}
    _check_names(wanted, tensors)
    wrong, leaves = [], {}
    for name, (path, leaf) in wanted.items():
        value = inward(path, np.asarray(tensors[name]), np.shape(leaf))
        if value.shape != np.shape(leaf):
            shape = list(outward(path, np.empty(np.shape(leaf), np.bool_)).shape)
            wrong.append(f"{name} is {list(tensors[name].shape)}, not {shape}")
        leaves[path] = np.array(value, dtype or np.float32, order="C")
    if wrong:
        raise ValueError(
            f"the weights are of another size than the network, {_few(wrong)}: is the config that "
            "of these weights?"
        )
    return jax.tree.unflatten(jax.tree.structure(expected), list(leaves.values()))


def tensors_of(params: PyTree) -> dict[str, np.ndarray]:
    """The parameters of a network as named tensors in the layout of checkpoints.

    >>> {k: v.shape for k, v in tensors_of({"a": {"kernel": np.zeros((3, 3, 4, 5))}}).items()}
    {'a.weight': (5, 4, 3, 3)}
    """
    return {
        tensor_name(path): np.ascontiguousarray(outward(path, np.asarray(leaf)))
        for path, leaf in paths(params)
    }


def tensor_name(path: str) -> str:
    """The name in a checkpoint of the parameter at `path`.

    >>> tensor_name("down_blocks/0/norm/scale")
    'down_blocks.0.norm.weight'
    """
    *parents, last = path.split("/")
    last = "weight" if last in {"kernel", "scale", "embedding"} else last
    return ".".join([*parents, last])


def outward(path: str, leaf: np.ndarray) -> np.ndarray:
    """A parameter in the layout of checkpoints: [h, w, i, o] -> [o, i, h, w], [i, o] -> [o, i]."""
    if path.rsplit("/", 1)[-1] != "kernel":
        return leaf
    return leaf.transpose(3, 2, 0, 1) if leaf.ndim == 4 else leaf.T


def inward(path: str, tensor: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """The inverse of `outward`; a 1x1 convolution also fits a linear map, and the other way."""
    if path.rsplit("/", 1)[-1] != "kernel":
        return tensor
    if len(shape) == 2 and tensor.ndim > 2 and tensor.shape[2:] == (1,) * (tensor.ndim - 2):
        tensor = tensor.reshape(tensor.shape[:2])
    elif len(shape) == 4 and tensor.ndim in {2, 3} and tuple(shape[:2]) == (1, 1):
        tensor = tensor.reshape(*tensor.shape[:2], 1, 1)
    return tensor.transpose(2, 3, 1, 0) if tensor.ndim == 4 else tensor.T


def _check_names(wanted: Mapping[str, Any], tensors: Mapping[str, Any]) -> None:
    missing = [name for name in wanted if name not in tensors]
    unused = [name for name in tensors if name not in wanted]
    if not missing and not unused:
        return
    said = [f"{len(missing)} missing: {_few(missing)}"] if missing else []
    said += [f"{len(unused)} unused: {_few(unused)}"] if unused else []
    near = difflib.get_close_matches(missing[0], unused, 1) if missing and unused else []
    hint = f" ({missing[0]} may be called {near[0]} there)" if near else ""
    raise ValueError(f"the weights do not fit the network, {'; '.join(said)}{hint}")


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (f", ... ({len(names)} in all)" if len(names) > 8 else "")
