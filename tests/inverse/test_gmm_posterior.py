"""The study of posterior samplers on a mixture, in its quick form: it runs, and its claims hold."""

import pathlib
import subprocess
import sys

import pytest

_ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_the_quick_form_of_the_experiment(shell_env):
    command = [sys.executable, "experiments/gmm_posterior/run.py", "--quick", "--check"]
    env = shell_env | {"PYTHONPATH": str(_ROOT)}
    done = subprocess.run(command, cwd=_ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "all checks passed" in done.stdout
    rows = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    assert len(rows) > 20 and all(line.count("|") == 5 for line in rows)
