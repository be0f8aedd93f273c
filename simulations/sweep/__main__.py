"""`python -m simulations.sweep`: see sweep.py."""

from simulations.runners.processes import leave
from simulations.sweep.sweep import main

if __name__ == "__main__":
    leave(main())
