"""The checks that the rest of the tests rely on are really on."""

import importlib
import pathlib
import sys
import textwrap
import warnings

import jax
import jax.numpy as jnp
import pytest

_SNIPPET = """
from jaxtyping import Array, Float

def first(x: Float[Array, "b d"]) -> Float[Array, "b"]:
    return x[:, 0]
"""


def test_the_hook_checks_shapes_in_the_package(tmp_path, monkeypatch):
    """A module under `jaxdiff` that is called with a wrong shape raises."""
    import jaxdiff

    (tmp_path / "_hooked.py").write_text(textwrap.dedent(_SNIPPET))
    monkeypatch.setattr(jaxdiff, "__path__", [*jaxdiff.__path__, str(tmp_path)])
    module = importlib.import_module("jaxdiff._hooked")
    monkeypatch.delitem(sys.modules, "jaxdiff._hooked")
    assert module.first(jnp.zeros((2, 3))).shape == (2,)
    with pytest.raises(Exception, match="first"):
        module.first(jnp.zeros(2))


def test_every_module_of_the_package_was_imported_through_the_hook():
    """No module of jaxdiff came in before the hook, where it would stay unchecked."""
    import jaxdiff

    names = [name for name in sys.modules if f"{name}.".startswith(f"{jaxdiff.__name__}.")]
    loaders = {name: type(sys.modules[name].__loader__).__module__ for name in names}
    assert {name for name, by in loaders.items() if not by.startswith("jaxtyping")} == set()


def test_the_folders_of_the_tests_are_packages():
    """Else two files of one name, in two folders, could not be told apart."""
    folders = {file.parent for file in pathlib.Path(__file__).parent.rglob("test_*.py")}
    assert {str(folder) for folder in folders if not (folder / "__init__.py").exists()} == set()


def test_rank_promotion_raises():
    with pytest.raises(ValueError, match="rank_promotion"):
        jnp.zeros((2, 3)) + jnp.zeros(3)


def test_warnings_are_errors():
    with pytest.raises(UserWarning):
        warnings.warn("an error here", stacklevel=1)


def test_eight_devices():
    assert jax.device_count() == 8


def test_x64(x64):
    assert jnp.ones(()).dtype == jnp.float64


def test_x64_is_off_again():
    assert jnp.ones(()).dtype == jnp.float32
