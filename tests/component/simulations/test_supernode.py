"""The SuperNode that forks its messages."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

PROBE = """
import sys
from pathlib import Path
from simulations import supernode

sys.modules["flwr.supernode.cli.flwr_clientapp"] = type(sys)("stub")

def load():
    from flwr.supercore.object_ref import load_app
    bundle = Path(sys.argv[1])
    app = load_app("collafuse_flwr.client_app:app", RuntimeError, bundle)
    print("ran", app)

sys.modules["flwr.supernode.cli.flwr_clientapp"].flwr_clientapp = load
supernode.clientapp()
"""


def test_the_app_that_flower_has_verified_is_the_one_that_runs(tmp_path: Path) -> None:
    """The package of this checkout had been imported before the fork, and answered in place of the bundle."""
    bundle = tmp_path / "bundle" / "collafuse_flwr"
    bundle.mkdir(parents=True)
    (bundle / "__init__.py").touch()
    (bundle / "client_app.py").write_text('app = "of the bundle"\n')
    command = [sys.executable, "-c", textwrap.dedent(PROBE), str(bundle.parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == "ran of the bundle\n", done.stderr
