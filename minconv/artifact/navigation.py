"""The way from notebook to notebook: a line below the title of each and one at its end, with links to its neighbours.

Both are made as the galleries are; the code of a notebook, its outputs and its other words stay as they are.
"""

import json
import re
from pathlib import Path

from minconv.artifact.gallery import read_notebooks, time_and_needs

CELL = "navigation"  # the last cell, by its id


def with_navigation(root: Path) -> dict[Path, str]:
    """By notebook of the repository at ``root``, its text with both lines."""
    found = read_notebooks(root)
    texts = {}
    for place, notebook in enumerate(found):
        content = json.loads(notebook.path.read_text(encoding="utf-8"))
        title, *rest = content["cells"]
        links = [f"[← {other.name}]({other.path.name})" for other in found[:place][-1:]]
        links += ["[all notebooks](README.md)"]
        links += [f"[{other.name} →]({other.path.name})" for other in found[place + 1 :][:1]]
        line = " · ".join(links)
        heading, _, words = _without("".join(title["source"])).partition("\n")
        top = _marked(f"{line}\\\n*{time_and_needs(notebook, root)}*")
        title["source"] = _lines("\n\n".join(filter(None, [heading, top, words.strip("\n")])))
        last = {"cell_type": "markdown", "id": CELL, "metadata": {}, "source": _lines(_marked(line))}
        content["cells"] = [title, *(cell for cell in rest if cell.get("id") != CELL), last]
        texts[notebook.path] = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    return texts


def _marked(text: str) -> str:
    return f"<!-- {CELL} -->\n{text}\n<!-- /{CELL} -->"


def _without(text: str) -> str:
    return re.sub(rf"\n*{_marked('.*?')}", "", text, flags=re.DOTALL)


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)
