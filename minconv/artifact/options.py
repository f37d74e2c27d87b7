"""The options of ./run_all.sh, which runs this file, with nothing but the standard library, before a long set-up."""

import argparse
import difflib
import re
from collections.abc import Sequence
from pathlib import Path

if __package__:
    from minconv.artifact.times import NOTEBOOKS, PROFILES, durations, numbered
else:  # as a plain file, where minconv and what it needs may not be installed
    from times import NOTEBOOKS, PROFILES, durations, numbered


def parse(arguments: Sequence[str] | None = None, folder: Path = NOTEBOOKS) -> argparse.Namespace:
    """Reads the options; exits with status 2 and a hint where they are wrong."""
    paths = numbered(folder)
    numbers = [path.name[:2] for path in paths]

    def number(text: str) -> str:
        match = re.match(r"(\d{1,2})(_|$)", text)
        if not match or match[1].zfill(2) not in numbers:
            raise argparse.ArgumentTypeError(f"no notebook {text!r}; there are {', '.join(numbers) or 'none'}")
        return match[1].zfill(2)

    lines = {"": dict(zip(PROFILES, PROFILES, strict=True))} | {
        path.stem: durations(path.stem, folder) for path in paths
    }
    lines["set-up and all"] = durations(None, folder)
    table = ["".join(f"{cell:<20}" for cell in (name, *line.values())).rstrip() for name, line in lines.items()]
    parser = argparse.ArgumentParser(
        prog="./run_all.sh",
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Runs the notebooks in order, skipping what is up to date, and lists the figures.",
        epilog="./run_all.sh test [options of pytest] makes the same environment, runs all tests, and replays every\n"
        "notebook with profile smoke.\n\nWhat takes how long:\n" + "\n".join(table),
    )
    parser.add_argument("--profile", choices=PROFILES, help="default: paper where there is a GPU, else laptop")
    some = parser.add_mutually_exclusive_group()
    some.add_argument("--from", dest="first", metavar="NN", type=number, help="begin at this notebook")
    some.add_argument("--only", metavar="NN", type=number, help="run this notebook alone")
    some.add_argument("--record-times", action="store_true", help="of a first, whole run, into notebooks/times.json")
    parser.add_argument("--force", action="store_true", help="run what is up to date, too")
    parser.add_argument(
        "--publish",
        action="store_true",
        help="then copy outputs to notebooks/, figures to figures/, of what --only names",
    )
    parser.add_argument("--home", metavar="DIR", type=Path, help="for data/ and results/; default: this folder")
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        known = ["test", *(name for action in parser._actions for name in action.option_strings)]
        meant = difflib.get_close_matches(unknown[0], known, n=1)
        hint = f"did you mean {meant[0]}?" if meant else "--help lists the options"
        parser.error(f"unknown: {' '.join(unknown)}; {hint}")
    return options


if __name__ == "__main__":
    parse()
