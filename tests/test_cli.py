"""The command line: the four verbs on a tiny run, and every bad input as one clear line."""

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
import types

import numpy as np
import pytest
from PIL import Image

from jaxdiff import cli, experiment
from jaxdiff.cli import main
from jaxdiff.data.grids import write_grid
from jaxdiff.experiment import run as running
from tests.tiny_run import command, compiled_once, pictures


@pytest.fixture(scope="module", autouse=True)
def _compiled_once(tmp_path_factory):
    with compiled_once(tmp_path_factory.getbasetemp() / "compiled"):
        yield


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return pictures(tmp_path_factory.mktemp("photos") / "set")


@pytest.fixture(scope="module")
def run(photos, tmp_path_factory):
    """A run of 20 steps through the command line."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    assert main(command(photos, folder)) == 0
    return folder


def _size(path):
    with Image.open(path) as image:
        return image.size


def _pixels(path):
    with Image.open(path) as image:
        return np.asarray(image)


def _number(name, out):
    found = re.search(rf"^{name} (-?[\d.]+)", out, re.M)
    assert found, out
    return float(found[1])


def _fails(capsys, argv, *words, status=2):
    """The command fails with one line that holds the words, and no traceback."""
    capsys.readouterr()
    try:
        found = main([str(word) for word in argv])
    except SystemExit as stop:
        found = stop.code
    text = capsys.readouterr().err
    assert found == status, text
    lines = [line for line in text.splitlines() if line.startswith("jaxdiff")]
    assert len(lines) == 1, text
    for word in words:
        assert word in lines[0]
    assert "Traceback" not in text


# --- the verbs -----------------------------------------------------------------------------------


def test_training_ends_with_the_command_that_samples(run, photos, capsys):
    assert main(command(photos, run)) == 0
    out = capsys.readouterr().out
    assert f"jaxdiff sample {run} --n 16" in out
    assert "parameters;" in out


def test_sample_writes_a_picture(run, tmp_path, capsys):
    out = tmp_path / "new" / "x.png"
    assert main(["sample", str(run), "--label", "UP", "0", "--n", "6", "--out", str(out)]) == 0
    assert _size(out)[0] > 8
    assert str(out) in capsys.readouterr().out


def test_sample_is_fixed_by_its_seed_and_not_by_n(run, tmp_path):
    for name, n, seed in (("a", 3, 1), ("b", 5, 1), ("c", 3, 2)):
        argv = ["sample", str(run), "--n", str(n), "--seed", str(seed), "--label", "up"]
        assert main([*argv, "--steps", "3", "--out", str(tmp_path / f"{name}.npy")]) == 0
    a, b, c = (np.load(tmp_path / f"{name}.npy").astype(int) for name in "abc")
    assert a.shape == (3, 8, 8, 1)
    assert np.abs(a - b[:3]).max() <= 1
    assert np.abs(a - c).max() > 1


def test_sample_like_repeats_a_picture(run, tmp_path, capsys):
    first, again, other = (tmp_path / f"{name}.png" for name in "abc")
    argv = ["--label", "up", "--n", "3", "--steps", "3", "--seed", "5", "--scale", "2"]
    assert main(["sample", str(run), *argv, "--out", str(first)]) == 0
    assert main(["sample", "--like", str(first), "--out", str(again)]) == 0
    assert main(["sample", "--like", str(again), "--seed", "6", "--out", str(other)]) == 0
    a, b, c = (_pixels(path) for path in (first, again, other))
    assert (a == b).all()
    assert (a != c).any()
    write_grid(tmp_path / "d.png", np.zeros((1, 8, 8, 1), np.uint8))
    _fails(capsys, ["sample", "--like", tmp_path / "d.png"], "does not say how it was made")
    _fails(capsys, ["sample"], "RUN is missing")


@pytest.mark.parametrize("method", ["pigdm", "mmps", "ddnm"])
@pytest.mark.parametrize("task", ["box", "random", "superres"])
def test_restore_writes_and_measures(run, photos, tmp_path, capsys, task, method):
    images = [str(photos / "up" / f"{i}.png") for i in range(2)]
    argv = ["--task", task, "--method", method, "--steps", "3", "--out", str(tmp_path / "x.png")]
    assert main(["restore", str(run), *images, *argv]) == 0
    out = capsys.readouterr().out
    assert re.search(r"PSNR against the picture: [\d.]+ dB", out)
    assert re.search(r"residual over the noise level: [\d.]+", out)
    assert _size(tmp_path / "x.png") == (4 * (3 * 8 + 4), 4 * (2 * 8 + 2))


@pytest.mark.slow
def test_restore_takes_a_mask_and_a_measurement(run, photos, tmp_path, capsys):
    mask = np.full((8, 8), 255, np.uint8)
    mask[:, :4] = 0
    Image.fromarray(mask).save(tmp_path / "mask.png")
    argv = [
        "restore",
        str(run),
        str(photos / "up" / "0.png"),
        "--task",
        f"mask={tmp_path}/mask.png",
    ]
    assert main([*argv, "--measured", "--label", "up", "--steps", "3"]) == 0
    assert "PSNR" not in capsys.readouterr().out
    assert (run / "samples" / "restore.png").is_file()
    small = tmp_path / "small.png"
    Image.fromarray(np.zeros((2, 2), np.uint8)).save(small)
    argv = ["restore", str(run), str(small), "--task", "superres", "--measured", "--steps", "3"]
    assert main(argv) == 0


def test_evaluate_prints_each_metric(run, capsys):
    assert main(["evaluate", str(run), "--metrics", "loss,bits", "--n", "16"]) == 0
    out = capsys.readouterr().out
    loss, bits = _number("loss", out), _number("bits", out)
    assert 0 < loss < 2
    assert 0 < bits < 20
    assert main(["evaluate", str(run), "--metrics", "loss", "--n", "16"]) == 0
    assert capsys.readouterr().out.startswith(f"loss {loss:.4f}")


@pytest.mark.slow
def test_evaluate_fits_its_own_features(run, capsys):
    assert main(["evaluate", str(run), "--metrics", "frechet,kernel", "--n", "8"]) == 0
    assert re.findall(r"^(\w+) -?[\d.]+  \(8 samples", capsys.readouterr().out, re.M) == [
        "frechet", "kernel",
    ]  # fmt: skip


def test_evaluate_compares_given_features(run, tmp_path, capsys):
    rng = np.random.default_rng(0)
    one = rng.normal(size=(50, 3))
    np.savez(tmp_path / "a.npz", one)
    np.save(tmp_path / "b.npy", one + 2.0)
    given = ["--features", str(tmp_path / "a.npz"), str(tmp_path / "b.npy")]
    assert main(["evaluate", str(run), "--metrics", "frechet,kernel", *given]) == 0
    out = capsys.readouterr().out
    assert abs(_number("frechet", out) - 12.0) < 1e-2
    assert _number("kernel", out) > 0.1


def test_evaluate_compares_pictures(run, tmp_path, capsys):
    left, right = (pictures(tmp_path / name, classes=("k",), each=3, size=16) for name in "ab")
    argv = ["evaluate", str(run), "--metrics", "psnr,ssim", "--images", str(left)]
    assert main([*argv, str(right)]) == 0
    assert capsys.readouterr().out == (
        "psnr inf  (mean over 3 pairs)\nssim 1.0000  (mean over 3 pairs)\n"
    )


def test_demo_is_handed_its_arguments(monkeypatch):
    handed = []
    fake = types.SimpleNamespace(run=lambda args: handed.append(args) or 3)
    monkeypatch.setitem(sys.modules, "jaxdiff.cli.demo", fake)
    assert main(["demo", "--out", "x", "--steps", "2"]) == 3
    assert (handed[0].out, handed[0].steps, handed[0].seed) == ("x", 2, 0)


@pytest.mark.parametrize("verb", ["", *sorted(set(cli._EXAMPLES) - {""})])
def test_help_has_examples(verb, capsys):
    with pytest.raises(SystemExit) as stop:
        main([*([verb] if verb else []), "--help"])
    assert stop.value.code == 0
    assert "examples:" in capsys.readouterr().out


def test_help_imports_nothing_heavy(shell_env):
    lines = (
        "import sys; from jaxdiff.cli import main",
        "try: main(['train', '--help'])",
        "except SystemExit: pass",
        "sys.exit('jax' in sys.modules)",
    )
    argv = [sys.executable, "-c", "\n".join(lines)]
    assert subprocess.run(argv, env=shell_env, capture_output=True).returncode == 0


# --- going on ------------------------------------------------------------------------------------


def test_ctrl_c_saves_says_how_to_go_on_and_loses_nothing(
    run, photos, tmp_path, monkeypatch, capsys
):
    real, count = running.training.place_batch, iter(range(100))

    def place(mesh, batch):
        if next(count) == 4:
            signal.raise_signal(signal.SIGINT)
        return real(mesh, batch)

    folder = tmp_path / "cut"
    with monkeypatch.context() as patch:
        patch.setattr(running.training, "place_batch", place)
        assert main(command(photos, folder)) == 130
    assert "Run the same command to go on" in capsys.readouterr().err
    assert main(command(photos, folder)) == 0
    assert "resumed at step 5" in capsys.readouterr().err
    metrics = [(f / "metrics.jsonl").read_bytes() for f in (run, folder)]
    assert metrics[0] == metrics[1]
    for one, other in zip(*(_arrays(f) for f in (run, folder))):
        assert np.array_equal(one, other)


def _arrays(folder):
    import jax

    params, _, _ = experiment.restore(folder)
    return jax.tree.leaves(params)


@pytest.mark.slow
def test_two_processes_resume_bit_for_bit(run, photos, tmp_path, shell_env):
    folder = tmp_path / "killed"
    argv = [sys.executable, "-m", "jaxdiff.cli", *command(photos, folder)]
    assert subprocess.run(argv, env=shell_env).returncode == 0
    shutil.rmtree(folder / "checkpoints" / "step_20")
    assert subprocess.run(argv, env=shell_env).returncode == 0
    whole = tmp_path / "whole"
    argv = [sys.executable, "-m", "jaxdiff.cli", *command(photos, whole)]
    assert subprocess.run(argv, env=shell_env).returncode == 0
    for one, other in zip(_arrays(whole), _arrays(folder)):
        assert np.array_equal(one, other)


# --- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ([], ["VERB"]),
        (["paint"], ["paint", "train"]),
        (["train"], ["config"]),
        (["train", "nothing"], ["'nothing'", "two_moons"]),
        (["train", "two_moons", "--confg.x=1"], ["--confg.x=1"]),
        (["train", "two_moons", "--config.x"], ["--config.x", "--config.key=value"]),
        (["train", "two_moons", "--config.optimizer.lrr=1"], ["config.optimizer.lr?"]),
        (["train", "two_moons", "--config.steps=few"], ["'few'", "int is expected"]),
        (["train", "two_moons", "--config.net.kind=mpl"], ["'mlp'"]),
        (["train", "two_moons", "--config.steps=0"], ["steps = 0"]),
        (["train", "two_moons", "--config.mesh.data=2", "--config.batch=5"], ["batch of 5"]),
        (["train", "folder"], ["config.data.path is empty"]),
        (["train", "folder", "--config.data.path=/no/such"], ["/no/such", "no such folder"]),
        (["sample", "no/such/run"], ["no/such/run", "config.json", "jaxdiff train"]),
        (["sample", "run", "--n", "few"], ["--n", "few"]),
        (["restore", "run", "x.png"], ["--task"]),
        (["evaluate", "run", "--metrics", "fdi"], ["fdi", "frechet"]),
        (["evaluate", "run", "--metrics", "psnr"], ["--images"]),
        (["evaluate", "run", "--n", "1"], ["--n 1"]),
    ],
)
def test_a_wrong_command_is_one_line(argv, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _fails(capsys, argv, *words)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--label", "upp"], ["'upp'", "did you mean 'up'", "down, up"]),
        (["--label", "7"], ["'7'", "down, up"]),
        (["--n", "0"], ["n=0"]),
        (["--steps", "0"], ["steps=0", "at least one step"]),
        (["--sampler", "huen"], ["did you mean 'heun'"]),
        (["--out", "x.zzz"], ["x.zzz", ".png"]),
    ],
)
def test_a_wrong_sample_is_one_line(run, more, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _fails(capsys, ["sample", run, *more], *words)


def test_a_picture_that_cannot_be_written_is_one_line(run, capsys, tmp_path):
    (tmp_path / "file").write_text("")
    out = tmp_path / "file" / "x.png"
    _fails(capsys, ["sample", run, "--out", out], str(out), "cannot be written", status=2)


def test_a_run_folder_that_is_a_file_is_one_line(photos, capsys, tmp_path):
    (tmp_path / "file").write_text("")
    argv = command(photos, tmp_path / "file" / "run")
    _fails(capsys, argv, "cannot be written to", "name another folder")


def test_a_run_folder_without_permission_is_one_line(photos, capsys, tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    argv = command(photos, tmp_path / "run")
    _fails(capsys, argv, "Permission denied", "name another folder", status=1)


def test_no_space_left_is_one_line(photos, capsys, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    argv = command(photos, tmp_path / "run")
    _fails(capsys, argv, "step 20 was not saved", "make room", status=1)


def test_another_architecture_is_one_line(run, photos, capsys):
    argv = command(photos, run, "--config.net.width=32")
    _fails(capsys, argv, "another architecture", "net.width (16 there, 32 here)")


def test_a_damaged_run_is_one_line(run, tmp_path, capsys):
    folder = tmp_path / "torn"
    shutil.copytree(run, folder)
    (folder / "config.json").write_text("{")
    _fails(capsys, ["sample", folder], "config.json is damaged")
    shutil.copy(run / "config.json", folder)
    shutil.rmtree(folder / "checkpoints")
    _fails(capsys, ["sample", folder], "checkpoints")


def _spoilt(folder, how):
    """A folder of pictures with one fault."""
    pictures(folder, each=4)
    spare = folder / "up" / "9.png"
    if how == "empty":
        shutil.rmtree(folder)
        folder.mkdir()
    elif how == "unreadable":
        spare.write_bytes(b"not a picture")
    elif how == "sizes":
        Image.fromarray(np.zeros((12, 10), np.uint8)).save(spare)
    elif how == "channels":
        Image.fromarray(np.zeros((10, 10, 3), np.uint8)).save(spare)
    return folder


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("empty", ["holds no images"]),
        ("unreadable", ["1 of 9 images are unreadable", "9.png"]),
        ("sizes", ["mixed sizes", "9.png", "(12, 10, 1)"]),
        ("channels", ["mixed channels", "9.png"]),
    ],
)
def test_a_spoilt_folder_is_one_line(how, words, capsys, tmp_path):
    photos = _spoilt(tmp_path / "photos", how)
    keep = ["--config.data.size=0", "--config.data.channels=0"]
    _fails(capsys, command(photos, tmp_path / "run", *keep), *words)


def test_unreadable_images_may_be_skipped(capsys, tmp_path):
    photos = _spoilt(tmp_path / "photos", "unreadable")
    config = experiment.read_config("folder", [f"--config.data.path={photos}"])
    experiment.put(config, "data.on_error", "skip")
    with pytest.warns(UserWarning, match="skipped 1 of 9"):
        assert len(experiment.source(config).images) == 8


def _picture(tmp_path, value):
    file = tmp_path / "x.npy"
    np.save(file, value)
    return file


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (np.full((8, 8, 1), np.nan, np.float32), ["NaN"]),
        (np.full((8, 8, 1), 255.0, np.float32), ["spans [255, 255]", "[-1, 1]"]),
        (np.zeros((9, 8, 1), np.float32), ["(1, 9, 8, 1)", "[n, 8, 8, 1]"]),
        (np.zeros((8, 8, 3), np.uint8), ["(1, 8, 8, 3)"]),
    ],
)
def test_a_picture_with_wrong_values_is_one_line(run, value, words, capsys, tmp_path):
    argv = ["restore", run, _picture(tmp_path, value), "--task", "box"]
    _fails(capsys, argv, *words)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--task", "blur"], ["blur", "box, random, superres"]),
        (["--task", "box", "--method", "dsp"], ["dsp", "pigdm"]),
        (["--task", "box", "--noise", "-1"], ["--noise -1"]),
        (["--task", "box", "--noise", "0"], ["mmps needs noise > 0"]),
        (["--task", "box", "--steps", "0"], ["steps=0"]),
        (["--task", "box", "--label", "x"], ["'x'", "down, up"]),
        (["--task", "mask=none.png"], ["no picture none.png"]),
        (["--task", "mask=wide.png"], ["mask of shape (8, 9, 1)", "(8, 8, 1)"]),
    ],
)
def test_a_wrong_restoration_is_one_line(run, photos, more, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.zeros((8, 9), np.uint8)).save("wide.png")
    _fails(capsys, ["restore", run, photos / "up" / "0.png", *more], *words)


def test_a_picture_that_is_none_is_one_line(run, capsys, tmp_path):
    _fails(capsys, ["restore", run, tmp_path / "a.png", "--task", "box"], "no picture", "a.png")
    (tmp_path / "b.png").write_bytes(b"no")
    _fails(capsys, ["restore", run, tmp_path / "b.png", "--task", "box"], "b.png", "cannot be read")


@pytest.mark.parametrize(
    ("left", "words"),
    [
        (np.zeros((4, 3)), ["b.npy holds 1 NaN"]),
        (np.zeros(4), ["features are [n, d]"]),
    ],
)
def test_wrong_features_are_one_line(run, left, words, capsys, tmp_path):
    right = np.zeros((4, 3))
    right[0, 0] = np.nan
    np.save(tmp_path / "a.npy", left)
    np.save(tmp_path / "b.npy", right)
    given = ["--features", tmp_path / "a.npy", tmp_path / "b.npy"]
    _fails(capsys, ["evaluate", run, "--metrics", "frechet", *given], *words)


def test_what_nobody_foresaw_is_one_line_unless_asked(capsys, monkeypatch):
    def broken(*args):
        raise RuntimeError("what\nis this")

    monkeypatch.setattr(experiment, "read_config", broken)
    _fails(capsys, ["train", "x"], "RuntimeError: what is this (--debug shows where)", status=1)
    with pytest.raises(RuntimeError):
        main(["train", "x", "--debug"])


def test_the_script_exists(shell_env):
    argv = [sys.executable, "-m", "jaxdiff.cli", "sample", "nowhere"]
    done = subprocess.run(argv, env=shell_env, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.count(os.linesep) == 1


@pytest.mark.parametrize("said", [None, "1", "3"])
def test_each_core_is_a_device_unless_said_otherwise(shell_env, said):
    more = {} if said is None else {"JAX_NUM_CPU_DEVICES": said}
    code = "from jaxdiff import cli; cli._use_cores(); import jax; print(len(jax.devices()))"
    done = subprocess.run(
        [sys.executable, "-c", code], env=shell_env | more, capture_output=True, text=True
    )
    cores = len(os.sched_getaffinity(0)) if said is None else int(said)
    assert int(done.stdout) == min(cores, cli.CORES)
