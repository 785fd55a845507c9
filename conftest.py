"""What every test and every doctest runs under; at the root, so that it covers the package too.

Eight virtual CPU devices (sharding is tested without hardware), shapes and types checked at each
call (pyproject.toml installs jaxtyping's import hook with beartype), no silent rank promotion.
"""

import os

import pytest

_FLAGS = (
    "--xla_force_host_platform_device_count=8",
    "--xla_backend_optimization_level=0",  # most of the time goes into compiling
)


def _wants_accelerator(marks: str) -> bool:
    """True where the marker expression asks for the gpu tests."""
    return "gpu" in marks and "not gpu" not in marks


def pytest_configure(config: pytest.Config) -> None:
    """Set what jax reads once, before the first import of it."""
    if not _wants_accelerator(config.option.markexpr):
        os.environ["JAX_PLATFORMS"] = "cpu"
        given = os.environ.get("XLA_FLAGS", "")
        more = [flag for flag in _FLAGS if flag.partition("=")[0] not in given]
        os.environ["XLA_FLAGS"] = " ".join([given, *more]).strip()
    import jax

    jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def x64():
    """Double precision for one test: an argument, or `@pytest.mark.usefixtures("x64")`."""
    import jax

    with jax.enable_x64(True):
        yield


@pytest.fixture
def shell_env() -> dict[str, str]:
    """The environment of a user's shell, for a subprocess: one CPU device, no test settings."""
    hidden = {"XLA_FLAGS", "PYTHONWARNINGS", "PYTEST_CURRENT_TEST"}
    return {k: v for k, v in os.environ.items() if k not in hidden} | {"JAX_PLATFORMS": "cpu"}
