"""`python -m jaxdiff.cli` is `jaxdiff`."""

import sys

from jaxdiff.cli import main

if __name__ == "__main__":
    sys.exit(main())
