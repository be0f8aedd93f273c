from __future__ import annotations

import os
import warnings

# Before torch is imported anywhere: one thread, so that equal work gives equal bits beside other processes.
os.environ["OMP_NUM_THREADS"] = "1"

with warnings.catch_warnings():
    # The typer that flwr requires uses parts of click which click calls deprecated, once, on import.
    warnings.filterwarnings("ignore", "'click", DeprecationWarning)
    import flwr.app
    import flwr.clientapp
    import flwr.serverapp  # noqa: F401
