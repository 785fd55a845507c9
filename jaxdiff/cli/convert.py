"""`jaxdiff convert`: weights from one layout into another, and pickles into safetensors."""

import argparse
import json
import pathlib
import sys

from jaxdiff.pretrained.files import read_folder, read_tensors, write_tensors
from jaxdiff.pretrained.part import assemble, save_part
from jaxdiff.pretrained.pickles import read_pickle

_WARNING = (
    "--unsafe-pickle runs whatever code {source} holds, with your rights: your files, keys and "
    "network. Go on only with a file whose maker you trust."
)


def run(args: argparse.Namespace) -> None:
    """Convert, and say what was written."""
    source, target = pathlib.Path(args.source), pathlib.Path(args.target)
    if not source.exists():
        raise FileNotFoundError(f"there is no {source}")
    if args.unsafe_pickle:
        print(_WARNING.format(source=source), file=sys.stderr)
        tensors = read_pickle(source, key=args.key)
    else:
        tensors = read_folder(source) if source.is_dir() else read_tensors(source)
    if args.config is None:
        if target.suffix != ".safetensors":
            raise ValueError(
                f"TARGET is {target}: without --config it is a .safetensors file; with the config "
                "of the network it is a folder in the layout of diffusers"
            )
        write_tensors(target, tensors)
        print(f"{len(tensors)} tensors in {target}")
        return
    config = json.loads(pathlib.Path(args.config).read_text())
    save_part(target, assemble(config, tensors))
    print(f"{target} holds config.json and the weights, in the layout of diffusers")
