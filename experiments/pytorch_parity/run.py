"""Are our networks those of PyTorch? Every family, with fresh random weights, and whole pipelines.

python experiments/pytorch_parity/run.py            make fixtures with --seed, compare, print
    --check                                         exit 1 unless all tests pass
    --commit                                        write the fixtures of the repository anew
    --seed 1                                        another seed (0)

Needs the extra `convert` (torch, diffusers, transformers). What is compared, and how closely, is in
tests/pretrained; here the same tests run on fixtures that were made a moment ago.
"""

import argparse
import importlib
import os
import pathlib
import pkgutil
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
FIXTURES = ROOT / "tests" / "pretrained" / "fixtures"


def main() -> int:
    """Make, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--commit", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="makers whose name holds this")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        root = FIXTURES if args.commit else pathlib.Path(place) / "fixtures"
        if not args.commit:
            # what no maker of this machine can make (networks of other repositories) stays
            shutil.copytree(FIXTURES, root)
        make(root, args.seed, args.only)
        return compare(root, args.only) if not args.commit else 0


def make(root: pathlib.Path, seed: int, only: str) -> None:
    """Run every maker."""
    from experiments.pytorch_parity import makers

    for found in pkgutil.iter_modules(makers.__path__):
        if only in found.name:
            begun = time.perf_counter()
            importlib.import_module(f"{makers.__name__}.{found.name}").make(root, seed)
            print(f"made {found.name} in {time.perf_counter() - begun:.0f} s", flush=True)


def compare(root: pathlib.Path, only: str) -> int:
    """Run the tests on the fixtures in `root`; print the largest difference of each."""
    gaps = root / "gaps.txt"
    os.environ |= {"JAXDIFF_FIXTURES": str(root), "JAXDIFF_GAPS": str(gaps)}
    argv = ["-q", "-n", "2", "-p", "no:cacheprovider", "-m", "not torch and not data and not gpu"]
    tests = sorted((ROOT / "tests" / "pretrained").glob("test_*.py"))
    chosen = [str(test) for test in tests if only in test.name]
    status = subprocess.run([sys.executable, "-m", "pytest", *argv, *chosen], cwd=ROOT).returncode
    found: dict[str, float] = {}
    for line in gaps.read_text().splitlines() if gaps.exists() else []:
        number, test = line.split(" ", 1)
        found[test] = max(float(number), found.get(test, 0.0))
    for test, largest in sorted(found.items()):
        print(f"{largest:9.1e}  {test.removeprefix('tests/pretrained/')}")
    print("ALL CHECKS PASSED" if status == 0 else "SOME CHECKS FAILED")
    return int(status != 0)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.exit(main())
