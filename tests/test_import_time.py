"""`import jaxdiff` is nearly free: at most 0.3 s beyond jax, and nothing heavy comes along."""

import importlib
import json
import pathlib
import subprocess
import sys

import pytest

import jaxdiff

_ROOT = pathlib.Path(__file__).resolve().parent.parent
_LIMIT = 0.3  # seconds
_HEAVY = {
    "PIL",
    "diffrax",
    "flax",
    "grain",
    "ml_collections",
    "optax",
    "orbax",
    "tensorflow",
    "tensorflow_datasets",
    "torch",
}

# jax comes first and is not counted: the difference within one process has none of its noise.
_MEASURE = """
import json, sys, time
import jax
begun = time.perf_counter()
import jaxdiff
seconds = time.perf_counter() - begun
print(json.dumps([seconds, sorted({name.partition(".")[0] for name in sys.modules})]))
"""


def _measured() -> tuple[float, set[str]]:
    """Seconds beyond jax, and the top-level modules, of one fresh interpreter."""
    out = subprocess.run(
        [sys.executable, "-c", _MEASURE], cwd=_ROOT, check=True, capture_output=True, text=True
    ).stdout
    seconds, modules = json.loads(out)
    return seconds, set(modules)


def test_import_is_light():
    """Best of up to five: other work on the machine can only make it slower."""
    seconds = []
    for _ in range(5):
        took, modules = _measured()
        assert not modules & _HEAVY
        seconds.append(took)
        if took <= _LIMIT:
            return
    pytest.fail(f"import jaxdiff took {min(seconds):.2f} s beyond jax at best, limit {_LIMIT} s")


@pytest.mark.parametrize("name", jaxdiff.__all__)
def test_every_name_is_there(name):
    assert getattr(jaxdiff, name) is not None


def test_names_stand_for_what_their_module_holds():
    for name, module in jaxdiff._NAMES.items():
        assert getattr(jaxdiff, name) is getattr(importlib.import_module(f"jaxdiff.{module}"), name)


def test_dir_lists_the_names():
    assert set(jaxdiff.__all__) <= set(dir(jaxdiff))


def test_the_version_is_the_one_to_cite_and_to_read_about():
    cited = (_ROOT / "CITATION.cff").read_text()
    assert f"\nversion: {jaxdiff.__version__}\n" in cited
    assert f"\n## [{jaxdiff.__version__}]" in (_ROOT / "CHANGELOG.md").read_text()


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(AttributeError, match=r"'smaple'; it has: .*sample"):
        jaxdiff.smaple  # noqa: B018  # pyright: ignore[reportAttributeAccessIssue]
