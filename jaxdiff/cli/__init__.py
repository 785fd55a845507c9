"""The command line: one file a verb, imported when the verb is known.

Bad input is one line on stderr and exit status 2; what the machine refused (no space, no memory) is
status 1; Ctrl-C is 130. `--debug` shows the traceback instead.
"""

import argparse
import contextlib
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

_BAD = (ValueError, FileNotFoundError, NotADirectoryError, IsADirectoryError, FileExistsError)
_REFUSED = (OSError, FloatingPointError, ModuleNotFoundError, MemoryError)

CORES = 8
"""Most cores of a CPU that become devices of their own."""

_EXAMPLES = {
    "": """
  jaxdiff demo                                   train, sample and restore, in minutes on a CPU
  jaxdiff train two_moons
  jaxdiff train folder --config.data.path=photos --folder runs/photos
  jaxdiff sample runs/fashion_mnist --label Bag Coat --n 20 --scale 2
  jaxdiff restore runs/fashion_mnist shirt.png --task box""",
    "train": """
  jaxdiff train fashion_mnist                    a config of ./configs, into runs/fashion_mnist
  jaxdiff train fashion_mnist:dit --folder runs/dit
  jaxdiff train my_config.py --config.steps=100 --config.net.widths='(8,16)'
The same command resumes; Ctrl-C saves first.""",
    "sample": """
  jaxdiff sample runs/fashion_mnist
  jaxdiff sample runs/fashion_mnist --label Sandal "Ankle boot" --n 20 --scale 3
  jaxdiff sample runs/photos --steps 50 --sampler heun --seed 1 --out photos.png
  jaxdiff sample --like photos.png --seed 2      the same again, with another seed
  jaxdiff sample stable-diffusion-v1-5/stable-diffusion-v1-5 --prompt "a (red:1.3) house"
  jaxdiff sample checkpoints/dit --label 207 360 --scale 4""",
    "restore": """
  jaxdiff restore runs/fashion_mnist shirt.png --task box
  jaxdiff restore runs/fashion_mnist a.png b.png --task superres --method mmps
  jaxdiff restore runs/fashion_mnist torn.png --task mask=seen.png --measured --noise 0.02""",
    "evaluate": """
  jaxdiff evaluate runs/fashion_mnist
  jaxdiff evaluate runs/fashion_mnist --metrics frechet,kernel --n 500 --scale 1.5
  jaxdiff evaluate runs/photos --metrics frechet --features real.npz made.npz
  jaxdiff evaluate runs/photos --metrics psnr,ssim --images originals/ restored/""",
    "convert": """
  jaxdiff convert --unsafe-pickle model.pt model.safetensors      a pickle whose maker you trust
  jaxdiff convert model.safetensors out --config config.json      into the layout of diffusers""",
    "demo": """
  jaxdiff demo                                   pictures in out/demo""",
}


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: {message} (see {self.prog} --help)", file=sys.stderr)
        raise SystemExit(2)


def _verb(verbs: argparse._SubParsersAction, name: str, text: str) -> argparse.ArgumentParser:
    parser = verbs.add_parser(
        name,
        help=text,
        description=text[0].upper() + text[1:] + ".",
        epilog="examples:" + _EXAMPLES[name],
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    return parser


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="jaxdiff",
        description="Diffusion models in JAX: train, sample, restore, evaluate, convert.",
        epilog="examples:" + _EXAMPLES[""],
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    verbs = parser.add_subparsers(dest="verb", required=True, parser_class=_Parser, metavar="VERB")
    _train(_verb(verbs, "train", "train a config into a folder, or go on"))
    _sample(_verb(verbs, "sample", "draw samples from a run"))
    _restore(_verb(verbs, "restore", "restore measured pictures by posterior sampling"))
    _evaluate(_verb(verbs, "evaluate", "measure a run"))
    _convert(_verb(verbs, "convert", "bring weights into another layout"))
    _demo(_verb(verbs, "demo", "train, sample and restore embedded images, and check the figures"))
    return parser


def _train(p: argparse.ArgumentParser) -> None:
    p.add_argument("config", help="a Python file, or the name of one in configs/; name:word too")
    p.add_argument("--folder", help="the run folder (default: runs/NAME)")
    p.add_argument("--quiet", action="store_true", help="no progress bar")
    p.usage = "jaxdiff train CONFIG [--folder RUN] [--quiet] [--config.key=value ...]"


def _sample(p: argparse.ArgumentParser) -> None:
    p.add_argument("run", nargs="?", help="a run folder, or a checkpoint: a folder or OWNER/NAME")
    p.add_argument("--like", metavar="PICTURE", help="repeat how this picture was made")
    p.add_argument("--label", nargs="+", help="names or numbers of classes, in turn")
    p.add_argument("--scale", type=float, help="of classifier-free guidance; 1 is none")
    p.add_argument("--n", type=int, help="how many (16)")
    p.add_argument("--steps", type=int, help="of the sampler (as in the config)")
    p.add_argument(
        "--sampler", help="adams_moulton, dpmpp_2m, unipc, deis, heun, ... (as in the config)"
    )
    p.add_argument("--seed", type=int, help="(0)")
    p.add_argument("--prompt", nargs="+", help="checkpoints: texts, in turn")
    p.add_argument("--negative", help="checkpoints: what to keep away from")
    p.add_argument("--size", type=int, help="checkpoints: pixels a side (as trained)")
    p.add_argument("--image", help="checkpoints: a picture to begin with")
    p.add_argument("--strength", type=float, help="checkpoints: how far to leave it (.8)")
    p.add_argument("--variant", help="checkpoints: of the weights, fp16 or bf16")
    p.add_argument("--out", help="a .png, or a .npy of the values (RUN/samples/sample.png)")


def _restore(p: argparse.ArgumentParser) -> None:
    p.add_argument("run", help="a run folder")
    p.add_argument("images", nargs="+", metavar="IMAGE", help="pictures, or .npy in [-1, 1]")
    p.add_argument("--task", required=True, help="box, random, superres or mask=FILE (white: seen)")
    p.add_argument("--noise", type=float, default=0.05, help="in y, images on [-1, 1] (.05)")
    p.add_argument("--method", default="mmps", help="pigdm, mmps or ddnm (mmps)")
    p.add_argument("--measured", action="store_true", help="IMAGE is the measurement itself")
    p.add_argument("--label", help="the class, if it is known")
    p.add_argument("--steps", type=int, default=30, help="of the sampler (30)")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--out", help="a .png (RUN/samples/restore.png)")


def _evaluate(p: argparse.ArgumentParser) -> None:
    p.add_argument("run", help="a run folder")
    p.add_argument("--metrics", default="loss", help="of loss,bits,frechet,kernel,psnr,ssim (loss)")
    p.add_argument("--n", type=int, default=500, help="images used, held out or sampled (500)")
    p.add_argument("--scale", type=float, help="of the guidance of samples (as in the config)")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--features", nargs=2, metavar="FILE", help=".npy or .npz of features [n, d]")
    p.add_argument("--images", nargs=2, metavar="PLACE", help="two folders, or .npy of images")


def _convert(p: argparse.ArgumentParser) -> None:
    p.add_argument("source", help="weights: .safetensors, a folder, or a pickle")
    p.add_argument("target", help="a .safetensors file, or with --config a folder")
    p.add_argument("--config", help="config.json of the network that the weights belong to")
    p.add_argument("--unsafe-pickle", action="store_true", help="read a pickle: RUNS ITS CODE")
    p.add_argument("--key", default="", help="the part of a pickle to take: state_dict, ema, ...")


def _demo(p: argparse.ArgumentParser) -> None:
    p.add_argument("--out", default="out/demo", help="where pictures and run go (out/demo)")
    p.add_argument("--steps", type=int, help="of training (as in the config)")
    p.add_argument("--seed", type=int, default=0)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status.

    >>> main(["sample", "no/such/run"])
    2
    """
    given = list(sys.argv[1:] if argv is None else argv)
    args, rest = _parser().parse_known_args(given)
    if rest and (args.verb != "train" or not rest[0].startswith("--config.")):
        print(f"jaxdiff {args.verb}: unknown argument {rest[0]}", end=" ", file=sys.stderr)
        print(f"(see jaxdiff {args.verb} --help)", file=sys.stderr)
        return 2
    args.overrides = rest
    return _guarded(args.verb, lambda: _verb_of(args.verb).run(args), given)


def _verb_of(name: str) -> Any:
    _use_cores()
    return importlib.import_module(f"jaxdiff.cli.{name}")


def _use_cores() -> None:
    """Let each core of a CPU be a device, unless the environment or the program has said how many.

    XLA runs most convolutions of one device on one core; with the batch split over the cores, as
    over any devices, a training step on two cores takes three quarters of the time. It changes
    nothing where there is an accelerator.
    """
    said = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if said or "JAX_NUM_CPU_DEVICES" in os.environ:
        return
    import jax

    allowed = getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count() or 1))(0)
    with contextlib.suppress(RuntimeError):  # it is too late where jax has computed already
        jax.config.update("jax_num_cpu_devices", min(len(allowed), CORES))


def _guarded(verb: str, act: Callable[[], object], given: list[str]) -> int:
    """The status of `act()`, its errors told in one line."""
    try:
        return int(act() or 0)  # type: ignore[call-overload]
    except KeyboardInterrupt:
        print(f"jaxdiff {verb}: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if "--debug" in given:
            raise
        text, status = _told(error)
        print(f"jaxdiff {verb}: {text}", file=sys.stderr)
        return status


def _told(error: Exception) -> tuple[str, int]:
    """An error as one line, and the exit status it stands for."""
    text: object = error
    if isinstance(error, OSError) and error.strerror and not error.filename:
        text = error.strerror  # without the number
    line = " ".join(str(text).split())
    if isinstance(error, _BAD):
        return line, 2
    if isinstance(error, _REFUSED):
        return line or type(error).__name__, 1
    return f"{type(error).__name__}: {line} (--debug shows where)", 1
