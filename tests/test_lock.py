"""requirements.lock: hashed, without the name of a host, and in step with pyproject.toml."""

import pathlib
import re
import tomllib

import pytest

_ROOT = pathlib.Path(__file__).resolve().parent.parent
_LOCK = (_ROOT / "requirements.lock").read_text()
_PROJECT = tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]


def _name(requirement: str) -> str:
    """The normal form of a requirement's name: ml_collections>=1 -> ml-collections."""
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert found, requirement
    return re.sub(r"[-_.]+", "-", found[0]).lower()


def _needed() -> list[str]:
    """What the package and its extra `dev` ask for by name."""
    extras = _PROJECT["optional-dependencies"]
    asked = [*_PROJECT["dependencies"], *extras["dev"], *extras["notebooks"]]
    return sorted({_name(line) for line in asked} - {"jaxdiff"})


def test_no_host_and_no_path():
    assert not re.search(r"://|file:|^\s*(-|--)[a-z]+[ =]|\s@\s", re.sub(r"--hash=\S+", "", _LOCK))


def test_every_requirement_is_pinned_and_hashed():
    entries = re.split(r"\n(?=\S)", re.sub(r"(?m)^#.*\n", "", _LOCK).strip())
    assert len(entries) > 50
    assert all(re.match(r"[a-z0-9._-]+==\S+ ", entry) for entry in entries)
    assert all("--hash=sha256:" in entry for entry in entries)


@pytest.mark.parametrize("name", _needed())
def test_what_is_asked_for_is_locked(name):
    assert re.search(rf"(?m)^{re.escape(name)}==", _LOCK), "run `make lock`"
