"""`python -m clear`."""

import sys

from clear.cli import main

if __name__ == "__main__":
    sys.exit(main())
