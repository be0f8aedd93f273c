"""Every command of README and docs ends well, with small numbers, in the order of its page: `pytest -m pages`."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from simulations.suite import sweeps
from tests.component.test_docs import OF_A_RUN, PAGES, PROJECT
from tests.page_commands.small_commands import lowered, place, prepare
from tests.pages import fenced

#: Pages whose commands need a SuperLink: tests/faults/test_deployment_page.py runs those of the first.
OF_DEPLOYMENTS = ("deployment", "threat-model")
#: What test_deployment runs, as test_same_run runs `flwr run`.
OF_OTHER_TESTS = "python -m simulations.supernode"
#: Seconds for a command, beside whatever else the machine does.
PATIENCE = 900
#: Arguments of benchmarks in place of their defaults.
BENCHES = {
    "simulations.bench.overhead": ["sets=digits", "runners=local", "rounds=1", "train.local_epochs=0.5"],
    "simulations.bench.adaptive_cut": ["seeds=0", "num_rounds=8", "cut.exploration_rounds=6", "train.local_epochs=0.5"],
    "simulations.bench.authors_loop": ["sizes=8", "clients=1", "batch=2", "rounds=1"],
    "simulations.bench.sampling": ["num_samples=24", "rounds=1", "steps=4,2"],
}
#: Benchmarks whose status says whether their claim holds, which so small a run does not show.
OF_CLAIMS = {"simulations.bench.adaptive_cut"}


def commands(page: str) -> list[list[str]]:
    """The words of our commands in the code blocks of a page, from the module's name on."""
    text = "".join(block.text for block in fenced(page) if not block.info).replace("\\\n", " ")
    recognised = []
    for line in text.splitlines():
        bare = re.split(r" [>&|]", line.removeprefix("pip install uv && "))[0].strip()
        bare = re.sub(r"^([A-Z_]+=\S+ )?(uv run )?", "", bare)
        bare = re.sub(r"^collafuse (\S+)", r"python -m simulations.\1", bare)
        if bare.startswith("python -m ") and not bare.startswith(OF_OTHER_TESTS):
            recognised.append(shlex.split(bare, comments=True)[2:])
    return recognised


def small(module: str, arguments: list[str], root: Path, last: str) -> list[str]:
    """The arguments of a command with small numbers; `last` is the folder of the run before, for `run=FOLDER`."""
    arguments = [argument.replace("run=FOLDER", f"run={last}") for argument in arguments]
    if module in BENCHES:
        return [*(argument for argument in arguments if not argument.startswith("steps=")), *BENCHES[module]]
    if module in OF_A_RUN or module == "simulations.sweep":
        return lowered(arguments, root)
    if module == "simulations.suite":
        name, own = arguments[0], arguments[1:]
        first = [argument for argument in sweeps(name, own)[0] if not argument.startswith("hydra")]
        few = {"seed=0", "evaluation.num_samples=24", "num_rounds=1", "train.local_epochs=0.25", "sampling.steps=2"}
        clients = {argument for argument in first if argument == "num_supernodes=50"}
        path = [argument for argument in lowered(first, root) if argument.startswith("dataset_path=")]
        kept = [argument for argument in own if not argument.startswith("dataset_path=")]
        return [name, *kept, *sorted(few), *path, *(["num_supernodes=5"] if clients else []), "data.max_images=250"]
    return _others(module, arguments, root)


def _others(module: str, arguments: list[str], root: Path) -> list[str]:
    """The commands with arguments of their own."""
    own = {name: text for name, _, text in (argument.partition("=") for argument in arguments)}
    if own.get("dataset"):
        own["dataset_path"] = place(own["dataset"], root)
    if module.endswith("disclosure"):
        own |= {"data.max_images": "60"}
    elif module.endswith("advise"):
        own |= {"images": "20", "cuts": "0.5", "num_rounds": "1", "evaluation.num_samples": "30", "sampling.steps": "2"}
    elif module.endswith("codec"):
        own |= {"num_steps": "30"}
    elif module.endswith("generate"):
        own |= {"num_images": "4"}
    elif module.endswith("attack"):
        own |= {"shadow_steps": "3"}
    return [f"{name}={text}" for name, text in own.items()]


def output(module: str, arguments: list[str]) -> str:
    """The folder of the run that a command made, if it says so."""
    named = [argument.removeprefix("output=") for argument in arguments if argument.startswith("output=")]
    return named[-1] if named and module != "simulations.report" else ""


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if page.stem not in OF_DEPLOYMENTS and commands(page.read_text())],
    ids=lambda p: p.stem,
)
def test_the_commands_of_a_page_end_well(page: Path, tmp_path: Path, forked_python: str) -> None:
    root = tmp_path / "data"
    prepare(root)
    environment = os.environ | {"PYTHONPATH": str(PROJECT), "COLUMNS": "120"}
    last, made = "", list[str]()
    for module, *own in commands(page.read_text()):
        arguments = small(module, own, root, last)
        runs = module == "simulations.run"
        if runs and not output(module, arguments):
            arguments.append(f"output=runs/unnamed-{len(made)}")
        if "runs=runs/cuts,runs/others" in arguments:
            (tmp_path / "runs" / "others").symlink_to(tmp_path / made[0], target_is_directory=True)
        # The workers of a suite need the descriptors of their parent.
        python = sys.executable if module == "simulations.suite" else forked_python
        command = [python, "-m", module, *arguments]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
        assert done.returncode in ({0, 1} if module in OF_CLAIMS else {0}), "\n".join(
            [shlex.join([module, *arguments]), done.stdout[-2000:], done.stderr[-2000:]]
        )
        if runs:
            last = output(module, arguments)
            made.append(last)
            assert (tmp_path / last / "summary.json").is_file()


def test_commands_are_recognised() -> None:
    page = (
        "```\npip install uv && uv run python -m simulations.run\nuv run collafuse doctor\nuv run flwr run . x=1\n```\n"
    )
    assert commands(page) == [["simulations.run"], ["simulations.doctor"]]
