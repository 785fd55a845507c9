"""Are our samplers those of k-diffusion, diffusers and azula, and of the order they claim?

python experiments/sampler_convergence/run.py --check      (about six minutes on two cores)

--only PATTERN   runs whose name matches, such as 'diffusers/unipc*/*'
--plot FILE      draw the errors of errors.py
"""

import os

os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")  # compiling is the work

import argparse
import pathlib
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

import jax

from experiments.sampler_convergence import errors, orders, parity
from experiments.sampler_convergence.peers import HERE


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="parity and orders; 1 if any fails")
    parser.add_argument("--only", default="*", help="parity of these runs only")
    parser.add_argument("--runs", type=pathlib.Path, default=HERE / "peers.npz")
    parser.add_argument("--plot", type=pathlib.Path, help="where to draw the errors")
    args = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    with tempfile.TemporaryDirectory() as cache:  # runs that share a programme share it compiled
        jax.config.update("jax_compilation_cache_dir", cache)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        good = parity.check(args.runs, args.only)
        if args.check and args.only == "*":
            good &= orders.check()
        if args.plot:
            errors.draw(args.plot)
    print("all hold" if good else "NOT all hold")
    return 0 if good or not args.check else 1


if __name__ == "__main__":
    sys.exit(main())
