"""The environment is declared once: pyproject.toml, requirements.lock and environment.yml agree."""

import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import minconv

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
LOCK = [Requirement(line) for line in (ROOT / "requirements.lock").read_text().splitlines() if line[0] != "#"]
PINNED = {canonicalize_name(pin.name): str(pin.specifier).removeprefix("==") for pin in LOCK}


@pytest.mark.parametrize("line", PROJECT["dependencies"] + EXTRAS["notebooks"] + EXTRAS["tests"])
def test_lock_satisfies(line):
    requirement = Requirement(line)
    assert requirement.specifier.contains(PINNED[canonicalize_name(requirement.name)])


def test_lock_pins_exactly():
    assert PINNED["torch"] == "2.13.0"
    assert len(PINNED) == len(LOCK)
    for pin in LOCK:
        (specifier,) = pin.specifier
        assert specifier.operator == "==" and "*" not in specifier.version and "+" not in specifier.version
        assert pin.url is None


def test_all_is_every_extra():
    assert Requirement(EXTRAS["all"][0]).extras == EXTRAS.keys() - {"all"}


def test_environment_follows_the_lock():
    packages = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    assert packages == ["python=3.11", "pip", {"pip": ["-c requirements.lock", "-e .[all]"]}]
    assert PROJECT["requires-python"] == ">=3.11"


def test_version_is_the_same_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert minconv.__version__ == PROJECT["version"] == citation["version"]
    assert citation["references"][0]["authors"][0]["family-names"] == "Horuz"
    assert "The minconv authors" in (ROOT / "LICENSE").read_text()
