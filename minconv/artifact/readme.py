"""What pages and notebooks say of the committed numbers, notebooks and figures, made from them.

``python -m minconv.artifact.readme [--check]`` writes it, or tells what is out of date.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from minconv.artifact import gallery, tables
from minconv.artifact.navigation import with_navigation
from minconv.artifact.times import ROOT
from minconv.experiments.report import lead_tables
from minconv.runtime.files import atomic, read_json

Made = Callable[[Path], str]  # from the root of the repository to the text of a region


def of_numbers(text: Callable[..., str], *names: str) -> Made:
    """A region that is made from the files ``names`` in figures/."""

    def made(root: Path) -> str:
        paths = [root / "figures" / f"{name}.json" for name in names]
        contents = [read_json(path) for path in paths]
        with _named(*paths):
            return text(*contents)

    return made


# by page and region: what it is made by
PAGES: Mapping[str, Mapping[str, Made]] = {
    "README.md": {
        "words": gallery.words("notebooks/"),
        "findings": of_numbers(tables.findings, "results", "benchmark", "real_weather_results"),
        "commands": gallery.commands,
        "answer": of_numbers(tables.answer, "answer"),
        "notebooks": gallery.short_list,
    },
    "figures/README.md": {
        "words": gallery.words("../notebooks/"),
        "gallery": gallery.figure_gallery,
        "results": of_numbers(tables.flow, "results", "benchmark"),
        "real_weather": of_numbers(partial(lead_tables, units="m² s⁻²"), "real_weather_results"),
        "geopotential": of_numbers(partial(lead_tables, units="m² s⁻²"), "geopotential_results"),
        "air_temperature": of_numbers(partial(lead_tables, units="K"), "air_temperature_results"),
    },
    "notebooks/README.md": {
        "words": gallery.words(""),
        "costs": gallery.costs,
        "gallery": gallery.notebook_gallery,
    },
    "minconv/bench/README.md": {"speed": of_numbers(tables.speed, "benchmark")},
}


def updated(page: str, regions: Mapping[str, str]) -> str:
    """``page`` with the text between ``<!-- name -->`` and ``<!-- /name -->`` replaced, by name in ``regions``.

    Raises:
        ValueError: the marks of a region are not there once each.
    """
    for name, text in regions.items():
        opening, closing = f"<!-- {name} -->", f"<!-- /{name} -->"
        before, begin, rest = page.partition(opening)
        _, end, after = rest.partition(closing)
        if not (begin and end) or opening in rest or closing in before + after:
            raise ValueError(f"page must hold {opening} and {closing} once each, in this order")
        page = f"{before}{opening}\n{text}\n{closing}{after}"
    return page


def main(arguments: Sequence[str] | None = None) -> int:
    """Rewrites pages and notebooks, or with ``--check`` returns 1 where one is out of date; exits 2 on bad input."""
    parser = argparse.ArgumentParser(prog="python -m minconv.artifact.readme", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when a page is out of date")
    parser.add_argument("--root", type=Path, default=ROOT, metavar="FOLDER", help="of the repository")
    options = parser.parse_args(arguments)
    changed = {}
    try:
        for name, regions in PAGES.items():
            path = options.root / name
            with _named(path):
                old = path.read_text(encoding="utf-8")
            texts = {region: made(options.root) for region, made in regions.items()}
            with _named(path):
                new = updated(old, texts)
            if new != old:
                changed[path] = new
        notebooks = with_navigation(options.root)
        changed |= {path: text for path, text in notebooks.items() if text != path.read_text(encoding="utf-8")}
    except (OSError, ValueError) as error:
        parser.error(str(error))
    if options.check:
        for path in changed:
            print(f"{path} is out of date; run python -m minconv.artifact.readme", file=sys.stderr)
        return 1 if changed else 0
    for path, text in changed.items():
        with atomic(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return 0


@contextmanager
def _named(*paths: Path) -> Iterator[None]:
    """Tells of whatever is wrong with the content of files, of any shape, by their names, as a ValueError."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        kind = "" if isinstance(error, ValueError) else f"not what was written there, {type(error).__name__}: "
        raise ValueError(f"{' and '.join(map(str, paths))}: {kind}{error}") from error


if __name__ == "__main__":
    sys.exit(main())
