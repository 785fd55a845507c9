"""The README as a stranger uses it: commands parse, links lead somewhere, the example runs."""

import pathlib
import re
import shlex
import tomllib

import pytest

from jaxdiff import cli

ROOT = pathlib.Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()


def blocks(language):
    """The code blocks of a language, as text."""
    return re.findall(rf"```{language}\n(.*?)```", TEXT, flags=re.DOTALL)


def commands():
    """Every command line in the README, without its comment."""
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    return [shlex.split(line, comments=True) for line in lines if line.strip()]


def test_there_is_something_to_test():
    assert len(commands()) >= 8 and len(blocks("python")) == 1


@pytest.mark.parametrize("words", [c for c in commands() if c[0] == "jaxdiff"], ids=" ".join)
def test_a_command_parses(words):
    args, rest = cli._parser().parse_known_args(words[1:])
    assert args.verb == words[1]
    assert all(word.startswith("--config.") for word in rest)


@pytest.mark.parametrize("words", [c for c in commands() if c[0] == "make"], ids=" ".join)
def test_a_target_exists(words):
    assert f"\n{words[1]}:" in (ROOT / "Makefile").read_text()


def test_the_extras_exist():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = set(re.findall(r"\[([a-z0-9,]+)\]\"", TEXT))
    assert named and named <= set(project["optional-dependencies"])


def test_the_links_lead_somewhere():
    links = re.findall(r"\]\(([^)#]+)\)", TEXT)
    missing = [link for link in links if "://" not in link and not (ROOT / link).exists()]
    assert links and not missing


def test_the_example_runs(tmp_path, monkeypatch, capsys):
    # as written, but on a run that takes seconds
    monkeypatch.chdir(tmp_path)
    small = ["--config.steps=2", "--config.batch=8", "--config.net.widths=(8,8,8)"]
    small += ["--config.net.heads=2", "--config.net.embed_dim=16", "--config.look.every=0"]
    train = ["train", str(ROOT / "configs" / "fashion_mnist.py"), "--folder", "out/demo/run"]
    assert cli.main([*train, "--quiet", "--config.mesh.data=1", *small]) == 0
    exec(compile(blocks("python")[0], "README.md", "exec"), {})
    assert "PSNR" in capsys.readouterr().out
