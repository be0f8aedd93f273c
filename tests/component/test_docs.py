"""README, docs/, CHANGELOG and the comments of conf/ name settings that exist, with values that are allowed."""

from __future__ import annotations

import importlib.util
import pkgutil
import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import hydra
import pytest
from flwr.common.config import get_fused_config_from_dir, parse_config_args
from flwr.supernode.cli.flower_supernode import _parse_args_run_supernode
from hydra import initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import QuotedString
from omegaconf import DictConfig, OmegaConf

from collafuse_flwr.config.config import GROUPS, SETTINGS, Config, without_unread
from collafuse_flwr.core.errors import UserError
from collafuse_flwr.core.fields import coerce
from simulations import codec, disclosed, request, sign, status
from simulations.advise import AdviceRequest
from simulations.bench import authors_loop, disclosure, fleet, sampling
from simulations.cli import CONF, config_of, flat_settings, given_names, register_schema
from simulations.suite import sweeps
from tests.pages import fenced
from tests.settings_page import PAGE, page

PROJECT = CONF.parent
CHANGELOG = PROJECT / "CHANGELOG.md"
PAGES = [PROJECT / "README.md", PROJECT / "CONTRIBUTING.md", *sorted((PROJECT / "docs").glob("*.md"))]
RECIPES = sorted(CONF.glob("*/*.yaml")) + sorted(CONF.glob("*.yaml"))
CODE = ("collafuse_flwr", "strategies", "simulations")
MODULES = sorted(path for name in CODE for path in (PROJECT / name).rglob("*.py"))
#: Commands that take the settings of one run.
OF_A_RUN = ("simulations.run", "simulations.partition", "simulations.plan_cuts")
#: Commands with arguments of their own, which their file in conf/ lists.
OF_FINISHED_RUNS = ("attack", "generate", "report")
OWN = {name: set(OmegaConf.load(CONF / f"{name}.yaml")) - {"defaults", "hydra"} for name in OF_FINISHED_RUNS}
#: Commands with a few arguments, name=value.
OF_NAMES: dict[str, Mapping[str, Any]] = {
    "status": status.DEFAULTS,
    "codec": codec.DEFAULTS,
    "disclosed": disclosed.DEFAULTS,
    "sign": sign.DEFAULTS,
    "request": request.DEFAULTS,
    "sampling": sampling.DEFAULTS,
    "fleet": fleet.DEFAULTS,
    "authors_loop": authors_loop.DEFAULTS,
}
#: Those of simulations.bench.disclosure, beside settings of a run.
BENCH = ("cuts", "releases", "output")
#: Folders of conf/ that an argument chooses a file of.
CHOICES = ("experiment", "fleet", "gan_preset", "scale")
#: What a page has in place of a value.
PLACEHOLDER = re.compile(r"^(NAME|X|package\.module:\w+)$|\.\.\.")
ARGUMENT = re.compile(r"[a-z][a-z_0-9]*(\.[a-z_0-9]+)*=.+")


def blocks(page: Path) -> list[list[str]]:
    """The command lines in the code blocks of a page, in words."""
    text = "".join(block.text for block in fenced(page.read_text()) if not block.info or block.info.startswith("sh "))
    lines = re.sub(r"\$\w*PORT\b", "8000", text.replace("\\\n", " ")).splitlines()
    # What is the shell's is not the command's.
    return [shlex.split(re.split(r" [>&|]", line)[0], comments=True) for line in lines if "=" in line or " -m " in line]


def inline(text: str) -> list[str]:
    """What stands between backticks outside of code blocks, on one line."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", text)]


def comments(path: Path) -> str:
    return "\n".join(line.partition("# ")[2] for line in path.read_text().splitlines())


def arguments(text: str) -> list[str]:
    words = [word.strip("(),;:.") for word in text.split()]
    return [word for word in words if ARGUMENT.fullmatch(word)]


def values(argument: str) -> list[object]:
    """The value of name=value, or the values if it is a sweep, as Hydra reads them."""
    override = OverridesParser.create().parse_override(argument)
    choices = override.sweep_iterator(lambda value: value) if override.is_sweep_override() else [override.value()]
    return [value.text if isinstance(value, QuotedString) else value for value in choices]


def runs_of(sweep: list[str]) -> Iterator[list[str]]:
    """Arguments of some runs of a sweep: the first one, and those that differ from it in one setting."""
    swept: list[list[str]] = []
    for argument in sweep:
        override = OverridesParser.create().parse_override(argument)
        several = override.sweep_string_iterator() if override.is_sweep_override() else ()
        swept.append([f"{override.key_or_group}={value}" for value in several] or [argument])
    first = [each[0] for each in swept]
    yield first
    for at, each in enumerate(swept):
        yield from ([*first[:at], other, *first[at + 1 :]] for other in each[1:])


def check(argument: str) -> None:
    """Hold name=value to what a command takes.

    Raises:
        UserError: the setting is not allowed to have the value.
        KeyError: there is no such setting.
    """
    name, _, text = argument.partition("=")
    if (
        name.startswith("hydra")
        or any(name in own for own in OWN.values())
        or name in ("cuts", "releases", *(own for defaults in OF_NAMES.values() for own in defaults))
    ):
        return
    if name in CHOICES:
        assert PLACEHOLDER.search(text) or (CONF / name / f"{text}.yaml").exists(), argument
        return
    _, spec = SETTINGS[name]
    if not PLACEHOLDER.search(text):
        for value in values(argument):
            coerce(spec, name, value)


def composed(given: list[str]) -> DictConfig:
    register_schema()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra.compose("config", given)


def check_sweep(given: list[str]) -> None:
    """Compose runs of a sweep; one of them at least reads each setting that is given."""
    configs = [Config.from_flat(without_unread(flat_settings(composed(run)))) for run in runs_of(given)]
    assert len(configs) > 1
    for name in given_names(given):
        assert any(not config.unread(name) for config in configs), f"{name} in {given}"


def check_command(module: str, given: list[str]) -> None:
    """Compose the settings of a command as it does itself."""
    assert importlib.util.find_spec(module) is not None, module
    name = module.rpartition(".")[2]
    if module in OF_A_RUN:
        config_of(composed(given), given_names(given))
    elif name == "sweep":
        check_sweep(given)
    elif name == "suite":
        for own in sweeps(given[0], given[1:]):
            check_sweep([argument for argument in own if not argument.startswith("hydra")])
    elif name == "advise":
        request = AdviceRequest.of(given)
        check_sweep(request.sweep(request.images[0]))
    elif name == "disclosure":
        flat = disclosure.DEFAULTS | flat_settings(OmegaConf.from_cli(given))
        Config.from_flat({key: value for key, value in flat.items() if key not in BENCH})
    elif name == "supernode":
        _parse_args_run_supernode().parse_args(given)
    elif name in OF_NAMES:
        assert {argument.partition("=")[0] for argument in given} <= OF_NAMES[name].keys()
    elif name in OF_FINISHED_RUNS:
        assert {argument.partition("=")[0] for argument in given} <= OWN[name]
    else:
        assert given == [], f"what does {module} take?"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_command_of_a_page_is_accepted(page: Path) -> None:
    for words in blocks(page):
        if "--run-config" in words:
            overrides = parse_config_args([words[words.index("--run-config") + 1]])
            Config.from_flat(get_fused_config_from_dir(PROJECT, overrides))
        elif "-m" in words and (at := words.index("-m") + 1) and words[at].startswith("simulations."):
            check_command(words[at], words[at + 1 :])


@pytest.mark.parametrize("page", [*PAGES, *RECIPES], ids=lambda page: page.stem)
def test_a_setting_that_a_text_names_exists_and_may_have_that_value(page: Path) -> None:
    text = page.read_text() if page.suffix == ".md" else comments(page)
    codes = inline(text)
    for argument in arguments(" ".join(codes) if page.suffix == ".md" else text.replace("`", "")):
        check(argument)
    before = {old for old, new in table("Renamed settings") if old != new}
    before -= SETTINGS.keys() | GROUPS.keys() | {name for own in OWN.values() for name in own}
    for code in codes:
        if re.fullmatch(r"[a-z_]+\.[a-z_0-9]+", code) and code.partition(".")[0] in GROUPS:
            assert code in SETTINGS, code
        assert code not in before, f"{code} has another name now"


@pytest.mark.parametrize("module", MODULES, ids=lambda module: str(module.relative_to(PROJECT)))
def test_a_command_that_the_code_names_has_such_settings_and_a_file_is_there(module: Path) -> None:
    text = module.read_text()
    for name, given in re.findall(r"python -m (simulations\.[a-z_.]+)((?: +[a-z_.]+=[^\s`]+)*)", text):
        assert importlib.util.find_spec(name) is not None, name
        # Benchmarks but that of disclosure have settings of their own, and a map of advice as well.
        if name == "simulations.advise":
            AdviceRequest.of(given.split())
        elif ".bench." not in name or name.endswith("disclosure"):
            for argument in arguments(given):
                check(argument)
    for path in re.findall(r"(?<![\w./])(?:[a-z_]+/)*[a-z_]+\.py\b", text):
        assert any((folder / path).exists() for folder in (PROJECT, PROJECT / "collafuse_flwr", module.parent)), path


def table(section: str) -> list[tuple[str, str]]:
    """The rows `before`, `now` of all tables in a section of CHANGELOG.md, a row for each name that it lists."""
    text = CHANGELOG.read_text().split(f"\n## {section}\n")[1].partition("\n## ")[0]
    rows = re.findall(r"^\| (`.*?) \| `([^`]+)`.*\|$", text, re.MULTILINE)
    assert rows
    return [(old, new) for names, new in rows for old in re.findall(r"`([^`]+)`", names)]


def test_a_renamed_setting_has_its_new_name() -> None:
    for old, new in table("Renamed settings"):
        assert old != new
        for argument in new.split():
            if "=" in argument:
                check(argument)
            else:
                assert argument in SETTINGS, argument
        if "=" not in old:
            with pytest.raises(UserError, match="no such setting"):
                Config.from_flat({old: 1})


def test_a_renamed_module_is_where_the_table_says() -> None:
    for old, new in table("Renamed modules"):
        assert pkgutil.resolve_name(new) is not None
        with pytest.raises((ImportError, AttributeError)):
            pkgutil.resolve_name(old)


@pytest.mark.parametrize(
    "argument", ["gan_width=8", "upload.noise=fresh", "cut.target=low", "data.missing_classes=[[0]]", "fleet=paper8"]
)
def test_the_check_sees_what_does_not_exist_or_is_not_allowed(argument: str) -> None:
    with pytest.raises((UserError, KeyError, AssertionError)):
        check(argument)


def test_the_page_of_all_settings_is_up_to_date() -> None:
    assert PAGE.read_text() == page(), "uv run python -m tests.settings_page writes it anew"


def test_the_readme_is_short_and_ci_runs_its_test_command() -> None:
    readme = PROJECT / "README.md"
    assert len(readme.read_text().splitlines()) < 120
    ran = (PROJECT / ".ci" / "run").read_text().splitlines()[-1]
    assert ran.endswith("&& uv run pytest")
    assert f"\n{ran}\n" in readme.read_text()


@pytest.mark.parametrize("page", [*PAGES, CHANGELOG], ids=lambda page: page.stem)
def test_links_and_paths_of_a_page_lead_somewhere(page: Path) -> None:
    text = page.read_text()
    for link in re.findall(r"\]\(([^)#]+)", text):
        assert link.startswith("http") or (page.parent / link).exists(), link
    for path in re.findall(r"`((?:collafuse_flwr|strategies|simulations|conf|tests|docs)/[\w/.]*)`", text):
        assert (PROJECT / path).exists(), path
