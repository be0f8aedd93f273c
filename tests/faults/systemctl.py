"""What stands in for systemd, useradd and nginx where a page's commands are run on one machine without them.

    systemctl.py PROGRAM ARGUMENTS

A unit's ExecStart is started as it is written, with its environment file, and ended as systemd ends it. The folders of
its machine are in UNITS (the units) and SERVICES (ids of processes, logs).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from simulations.runners.processes import descendants, end
from tests.faults.units import command, read_environment, read_unit

UNITS, SERVICES = Path(os.environ["UNITS"]), Path(os.environ["SERVICES"])
NGINX = """
pid {folder}/nginx.pid;
error_log {folder}/nginx.log;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {conf}/*.conf;
}}
"""


def start(name: str) -> None:
    unit = read_unit(UNITS / f"{name}.service")
    environment = read_environment(Path(unit["EnvironmentFile"]))
    with (SERVICES / f"{name}.log").open("ab") as log:
        process = subprocess.Popen(
            command(unit, environment),
            # Nothing of the shell's: systemd gives a service a few variables of its own.
            env={"LANG": "C.UTF-8", "HOME": unit["WorkingDirectory"], "OMP_NUM_THREADS": "1"} | environment,
            cwd=unit["WorkingDirectory"],
            umask=int(unit["UMask"], 8),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    (SERVICES / f"{name}.pid").write_text(str(process.pid))


def stop(name: str) -> None:
    """End a service; it must end by itself in the time that its unit gives it."""
    patience = float(read_unit(UNITS / f"{name}.service")["TimeoutStopSec"])
    path = SERVICES / f"{name}.pid"
    pid = int(path.read_text())
    path.unlink()
    below = descendants(pid)
    with contextlib.suppress(ProcessLookupError):
        # One that was refused has ended by itself; systemd would start it again and again.
        os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + patience
    while Path(f"/proc/{pid}").exists() and "State:\tZ" not in Path(f"/proc/{pid}/status").read_text():
        if time.monotonic() > deadline:
            end(below, 0)
            sys.exit(f"{name} did not end within {patience:g} s")
        time.sleep(0.1)
    # KillMode=mixed: what it has left is killed.
    end(below - {pid}, 0)


def nginx(arguments: list[str]) -> None:
    """Run nginx, where there is one, with what a distribution's own configuration has around conf.d."""
    if program := shutil.which("nginx", path=os.environ["REAL_PATH"]):
        conf = SERVICES / "nginx.conf"
        conf.write_text(NGINX.format(folder=SERVICES, conf=os.environ["NGINX_CONF"]))
        subprocess.run([program, "-c", str(conf), *arguments], check=True)


def main(program: str, arguments: list[str]) -> None:
    """Do what the program would have done."""
    words = [word for word in arguments if not word.startswith("-")]
    if program == "nginx":
        nginx(arguments)
    elif words == ["reload", "nginx"]:
        nginx([])
    elif program == "systemctl" and words[0] in ("enable", "start"):
        start(words[1])
    elif program == "systemctl" and words[0] in ("disable", "stop"):
        stop(words[1])
    else:
        assert program == "useradd" or words == ["daemon-reload"], [program, *arguments]


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
