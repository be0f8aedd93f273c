from __future__ import annotations

import os
import subprocess
import sys
import time

from simulations.runners.processes import alive, descendants, end

#: A child in a session of its own, which ignores SIGTERM as a stuck daemon does.
PARENT = "import subprocess, sys; subprocess.run([sys.executable, '-c', {!r}], start_new_session=True)"
CHILD = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"


def test_what_a_process_started_is_found_and_ended() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT.format(CHILD)], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        below = descendants(parent.pid)
        assert len(below) == 1
        assert parent.pid in descendants(os.getpid())
        assert alive(below) == below
        parent.terminate()
        parent.wait(10)
        end(below, patience=0.0)
        deadline = time.monotonic() + 10
        while alive(below) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not alive(below)
