"""`python -m simulations.sweep`: see sweep.py."""

import sys

from simulations.sweep.sweep import main

if __name__ == "__main__":
    sys.exit(main())
