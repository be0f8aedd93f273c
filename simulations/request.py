"""What a client's owner wants generated for itself: `python -m simulations.request state=FOLDER label=3 num_images=64`.

Leaves a request in the folder of the client's state (`state-path`), which the next run with `task=generate` serves; the
images come into generated/ of the same folder. Another request takes its place.

  state=FOLDER: the folder of the client's state
  num_images=64: how many images; 0 takes the request back
  label=-1: one class, or -1 for all
  seed=: a whole number, or empty to have one drawn
  run=: the run whose networks are to make them, as it is called below runs/; empty: the one that evaluated last

If the server's half is conditioned on classes, the class leaves the client with the request.
"""

from __future__ import annotations

import secrets
import sys
from pathlib import Path

from collafuse_flwr.client.generation import ImageRequest
from collafuse_flwr.client.state_store import ClientStore
from collafuse_flwr.core.errors import SettingError
from collafuse_flwr.runs.run_layout import ClientLayout
from simulations.cli import command

DEFAULTS = {"state": "", "num_images": "64", "label": "-1", "seed": "", "run": ""}


def leave_request(state: Path, request: ImageRequest, run: str = "") -> Path:
    """Leave a request for a run, or take it back; the file that it is in.

    Raises:
        SettingError: the client has come to no evaluation of such a run, or it has no such class.
        UserError: what it keeps of the run is damaged.
    """
    store = ClientStore(state, run or _last_run(state))
    if run and (run not in {path.name for path in store.layout.runs.glob("*")} or not store.layout.trained.is_file()):
        names = ", ".join(sorted(path.parent.name for path in store.layout.runs.glob("*/trained.json")))
        raise SettingError("run", run, f"one of {names or 'none: this client has come to no evaluation'}")
    trained = store.load_trained()
    classes = trained.client_info.num_classes if trained.settings["data.conditioning"] == "classes" else 0
    if request.label >= classes:
        allowed = f"-1 for all, or one of 0..{classes - 1}" if classes else "-1: the networks know no classes"
        raise SettingError("label", request.label, allowed)
    path = store.layout.request
    with store.lock():
        if request.num_images:
            request.save(path)
        else:
            path.unlink(missing_ok=True)
    return path


def _last_run(state: Path) -> str:
    """The run that evaluated last; without a name where the folder is of one run alone, as in a simulation."""
    layout = ClientLayout(state)
    if layout.trained.is_file():
        return ""
    kept = sorted(layout.runs.glob("*/trained.json"), key=lambda path: path.stat().st_mtime_ns)
    if not kept:
        raise SettingError("state", str(state), "the folder of a client that has come to an evaluation of a run")
    return kept[-1].parent.name


def _act(arguments: list[str]) -> int:
    settings = dict(DEFAULTS)
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if name not in DEFAULTS or not equals:
            raise SettingError(name, value, f"one of {', '.join(f'{setting}=' for setting in DEFAULTS)}")
        settings[name] = value
    if not settings["state"]:
        raise SettingError("state", "", "the folder of a client's state")
    seed = _whole("seed", settings["seed"], 0) if settings["seed"] else secrets.randbits(31)
    count, label = _whole("num_images", settings["num_images"], 0), _whole("label", settings["label"], -1)
    request = ImageRequest(count, label, seed)
    path = leave_request(Path(settings["state"]), request, settings["run"])
    if request.num_images:
        print(f"{request.num_images} images are requested ({path}): the next run with task=generate serves it")
    else:
        print("nothing is requested")
    return 0


def _whole(name: str, text: str, low: int) -> int:
    try:
        value = int(text)
    except ValueError:
        raise SettingError(name, text, f"a whole number >= {low}") from None
    if value < low:
        raise SettingError(name, value, f"a whole number >= {low}")
    return value


main = command(_act, usage=str(__doc__).strip(), going_on="nothing was requested")

if __name__ == "__main__":
    sys.exit(main())
