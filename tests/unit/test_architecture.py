"""Who may import whom, read from the import statements of every module."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
OWN = ("collafuse_flwr", "strategies", "simulations")
PURE = {f"collafuse_flwr.{name}" for name in ("data", "diffusion", "evaluation", "gan", "privacy")}
#: The settings of a package, which know nothing of it or of each other.
SETTINGS = {f"{name}.settings" for name in PURE}

#: From the bottom to the top; a unit imports itself and what is below it, and within PURE its neighbours as well.
LAYERS: tuple[set[str], ...] = (
    {"collafuse_flwr.core"},
    SETTINGS,
    {"collafuse_flwr.config"},
    PURE,
    {"collafuse_flwr.setup"},
    {"collafuse_flwr.wire"},
    {"collafuse_flwr.runs"},
    {"collafuse_flwr.client", "strategies"},
    {"collafuse_flwr.client_app", "collafuse_flwr.server_app"},
    {"simulations"},
)
LAYER = {unit: height for height, units in enumerate(LAYERS) for unit in units}
FRAMEWORKS = {"flwr", "hydra", "omegaconf", "ray"}
MAX_LINES = 300


def modules() -> dict[str, Path]:
    """Every module of the three packages, by its dotted name."""
    paths = sorted(path for package in OWN for path in (ROOT / package).rglob("*.py"))
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in paths}


MODULES = modules()


@cache
def imports(name: str) -> tuple[str, ...]:
    """The modules that a module imports, wherever in it; `from package import module` counts as the module."""
    return tuple(_imports(name))


def _imports(name: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(MODULES[name].read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} has a relative import"
            base = node.module or ""
            yield from (full if (full := f"{base}.{alias.name}") in MODULES else base for alias in node.names)


def unit(module: str) -> str:
    """The package or module that has a place in LAYERS."""
    if module in SETTINGS:
        return module
    parts = module.split(".")
    return ".".join(parts[:2]) if parts[0] == "collafuse_flwr" else parts[0]


UNITS = {unit(name) for name in MODULES} - {"collafuse_flwr"}


@cache
def needs(name: str) -> frozenset[str]:
    """The units of our own that a unit imports, without itself."""
    own = (target for module in MODULES if unit(module) == name for target in imports(module))
    return frozenset(unit(target) for target in own if target.split(".")[0] in OWN) - {name, "collafuse_flwr"}


def test_every_module_has_its_place() -> None:
    assert sorted(UNITS - LAYER.keys()) == []


@pytest.mark.parametrize("name", sorted(UNITS & LAYER.keys()))
def test_imports_point_downwards(name: str) -> None:
    neighbours = PURE if name in PURE else set()
    wrong = {other for other in needs(name) if other not in LAYER or LAYER[other] >= LAYER[name]}
    assert sorted(wrong - neighbours) == []


def test_there_is_no_circle() -> None:
    TopologicalSorter({name: needs(name) for name in UNITS}).prepare()


def test_server_and_clients_do_not_know_each_other() -> None:
    assert "collafuse_flwr.client" not in needs("strategies")
    assert "strategies" not in needs("collafuse_flwr.client")
    assert "strategies" not in needs("collafuse_flwr.client_app")
    # The server makes clients itself only where a simulation asks for a GAN in one process.
    assert {name for name in imports("collafuse_flwr.server_app") if ".client." in name} == {
        "collafuse_flwr.client.factory"
    }


@pytest.mark.parametrize("name", [name for name in MODULES if unit(name) in PURE | {"collafuse_flwr.config"}])
def test_the_core_knows_no_framework(name: str) -> None:
    assert {target.split(".")[0] for target in imports(name)} & FRAMEWORKS == set()


@pytest.mark.parametrize("name", [name for name in MODULES if unit(name) in PURE])
def test_the_core_takes_values_and_not_the_settings_of_a_whole_run(name: str) -> None:
    assert "collafuse_flwr.config.config" not in set(imports(name))


def test_hydra_stays_with_what_starts_a_run() -> None:
    users = {unit(name) for name in MODULES if {t.split(".")[0] for t in imports(name)} & {"hydra", "omegaconf"}}
    assert users <= {"simulations"}


@pytest.mark.parametrize("name", MODULES)
def test_modules_are_short(name: str) -> None:
    assert len(MODULES[name].read_text().splitlines()) <= MAX_LINES


def test_nothing_is_imported_at_the_start_that_is_slow_and_can_come_later() -> None:
    """A deployed client is a new process for every message, a worker is one, and mistakes are shown before."""
    slow = {"sklearn", "torchmetrics", "torchvision", "scipy.stats", "scipy.optimize", "diffusers", "datasets"}
    slow |= {"flwr_datasets", "matplotlib", "torch._dynamo", "triton", "ray", "fastapi", "sqlalchemy"}
    starts = "simulations.run, collafuse_flwr.server_app, collafuse_flwr.client_app, simulations.runners.stack_app"
    program = f"import sys, {starts}; print([name for name in {slow} if name in sys.modules])"
    ended = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, cwd=ROOT)
    assert ended.stdout.strip() == "[]"
