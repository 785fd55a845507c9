"""`jaxdiff train`: a config into a run folder."""

import argparse
import pathlib

from jaxdiff import experiment


def run(args: argparse.Namespace) -> int:
    """Train, or go on; 130 if it was stopped before the last step."""
    config = experiment.read_config(args.config, args.overrides)
    file, _, word = args.config.partition(":")
    name = "-".join(part for part in (pathlib.Path(file).stem, word) if part)
    folder = pathlib.Path(args.folder or pathlib.Path("runs") / name)
    print(f"training {args.config} into {folder}", flush=True)
    done = experiment.train(config, folder, say=_say, progress=not args.quiet)
    if done.stopped:
        return 130
    print(f"done: {int(done.state.step)} steps; {folder / 'samples'} shows samples. Go on with")
    print(f"  jaxdiff sample {folder} --n 16")
    return 0


def _say(text: str) -> None:
    print(text, flush=True)
