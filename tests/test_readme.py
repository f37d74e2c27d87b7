"""What the README says is so: its example runs, its table is made from the numbers, its links lead somewhere."""

import re
from pathlib import Path

from minconv import report

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_example_runs_and_is_short():
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert sum(bool(line.strip()) for line in code.splitlines()) <= 10
    names = {}
    exec(code, names)
    assert names["y"].shape == (2, 100, 16, 32, 32)


def test_table_is_of_the_committed_numbers():
    assert report.main(["--check"]) == 0


def test_links_lead_to_files():
    links = re.findall(r"\]\((?!https?:)([^)#]+)", README)
    assert len(links) >= 8
    for link in links:
        assert (ROOT / link).exists(), link


def test_commands_are_those_of_the_script():
    commands = re.findall(r"^(\./run_all\.sh[^#\n]*)", README, re.MULTILINE)
    assert [command.strip() for command in commands] == ["./run_all.sh", "./run_all.sh test"]
