"""Notebooks and figures as pages show them: titles, claims and times of the ones, captions of the others.

All is read from the notebooks, from the files beside a figure and from notebooks/times.json, so a new notebook or
figure has its row by itself. What a notebook needs, and shorter words for its claim, stand in :data:`ABOUT`.
"""

import ast
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import h5py

from minconv.artifact.times import NONE, PROFILES, clock, durations, numbered, read_times
from minconv.experiments.report import SPACE, markdown_table

PER_ROW = 4  # notebooks in the README's list, as wide as a page of GitHub


class About(NamedTuple):
    """What a notebook does not say in a place of its own."""

    claim: str = ""  # in few words, for the README; the end of its title where there are none
    needs: str = ""
    face: str = ""  # the file of the picture that stands for it; its first figure where there is none


WORDS = {
    "teacher forcing": "every prediction is made from the true frames before it.",
    "closed loop": "the model goes on from its own predictions.",
    "persistence": "the forecast that nothing changes; what a model must beat.",
    "profile": "how much is run: `smoke`, `laptop`, `study` (the numbers here) or `paper`.",
    "published": "the settings of the paper's code; *no weight decay*, the same without that.",
    "recipe": "the settings of [notebook 8]({}08_accuracy.ipynb), on weather others, alike for all cells.",
}
TRAINS = "models of {}, which it trains where they are missing"
ABOUT = {
    "00_start": About("A forecast in a minute.", "no training"),
    "01_scan": About("Gates of the input alone turn a loop into one scan."),
    "02_navier_stokes": About("Data solved to six digits."),
    "03_training": About("Five models learn the flow, better without weight decay.", face="training.png"),
    "04_timing": About("One convolution for all frames saves time.", face="timing.png"),
    "05_rollouts": About("Over thirty steps every cell beats persistence.", TRAINS.format("3")),
    "06_geopotential": About("No minimal cell is the best.", face="geopotential_forecast.png"),
    "07_air_temperature": About(
        "From a file to forecasts that are verified.", "a network, once", "air_temperature_forecast.png"
    ),
    "08_accuracy": About(
        "One recipe cuts every cell's error several times over.", TRAINS.format("3 and 5"), "reach.png"
    ),
    "09_real_weather": About(
        "A linear map is hard to beat; networks stacked with it do, for three days.",
        "a network, once",
        "real_weather_forecast.png",
    ),
    "10_topography": About("Waves tell the depth below them to decimetres.", face="topography_B.png"),
    "11_sugar": About("It revives dead channels, where there are any."),
    "12_peers": About("Cells beside a state space and no recurrence.", TRAINS.format("3"), "peers_rollouts.png"),
    "13_moving_mnist": About("ConvLSTM is ahead.", face="moving_mnist_forecasts.png"),
    "14_long_sequences": About("Recurrent models: twenty frames ahead.", face="long_sequences_timing.png"),
    "15_scale": About("In the paper's own setting minimal cells lead."),
    "16_turbulence": About("Minimal cells keep up.", face="turbulence_forecasts.png"),
    "17_answer": About(
        "The paper's claims, one by one.", f"the numbers of 4, {TRAINS.format('3, 6 and 15')}", "errors.png"
    ),
}


@dataclass(frozen=True)
class Notebook:
    """A committed notebook, and what a list tells of it."""

    path: Path
    number: str  # as its title has it
    title: str
    claim: str  # its headline, whole
    saved: tuple[re.Pattern[str], ...]  # names of the figures that it saves, in their order

    @classmethod
    def read(cls, path: Path) -> "Notebook":
        """Raises ValueError where the file is no notebook with a title."""
        try:
            cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
            head = "".join(cells[0]["source"])
            code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
            number, title = re.match(r"# (\d+) · (.+)", head).groups()
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise ValueError(f"{path} must begin with a cell '# number · title'") from error
        claim = re.search(r"\*\*(.+?)\*\*", head, re.DOTALL)
        return cls(path, number, title, " ".join(claim[1].split()) if claim else "", tuple(_saved("\n".join(code))))

    @property
    def about(self) -> About:
        return ABOUT.get(self.path.stem, About())

    @property
    def name(self) -> str:
        """Its number and its subject."""
        return f"{self.number} · {self.title.partition(': ')[0]}"

    @property
    def short(self) -> str:
        """The claim in few words, or what its title says after its subject."""
        return self.about.claim or self.title.partition(": ")[2]

    def figures(self, folder: Path) -> list[str]:
        """Its figures in ``folder``, by name, in the order in which it saves them."""
        names = sorted(path.stem for path in folder.glob("*.png"))
        return list(dict.fromkeys(name for saved in self.saved for name in names if saved.fullmatch(name)))

    def face(self, folder: Path) -> str:
        """The file of the picture that stands for it, "" where it has none."""
        return self.about.face or next((f"{name}.png" for name in self.figures(folder)), "")


def read_notebooks(root: Path) -> list[Notebook]:
    """All notebooks of the repository at ``root``."""
    return [Notebook.read(path) for path in numbered(root / "notebooks")]


def words(notebooks: str) -> Callable[[Path], str]:
    """Makes the box of words that pages use; ``notebooks`` is the folder, as the page has it."""
    lines = [f"> **{word}**: {meaning.format(notebooks)}" for word, meaning in WORDS.items()]
    return lambda _: "\\\n".join(lines)


def short_list(root: Path) -> str:
    """The README's list, some notebooks a row: picture, title, claim, and how long profile laptop takes."""
    cells, seconds = [], read_times(root / "notebooks").get("laptop", {}).get("notebooks", {})
    for place, notebook in enumerate(read_notebooks(root)):
        picture, name = _picture(notebook.face(root / "figures"), "figures", 180), notebook.path.stem
        told = f'<a href="notebooks/{notebook.path.name}">{notebook.name}</a>: {notebook.short}'
        if name in seconds:
            told += f" <i>{_about(seconds[name]).replace(' ', SPACE)}</i>"
        width = f' width="{100 // PER_ROW}%"' * (place < PER_ROW)  # of the first row, and so of all
        cells.append(f"<td{width}>{picture}<br>{told}</td>")
    rows = ["".join(cells[place : place + PER_ROW]) for place in range(0, len(cells), PER_ROW)]
    return "\n".join(["<table>", *(f'<tr valign="top">{row}</tr>' for row in rows), "</table>"])


def notebook_gallery(root: Path) -> str:
    """notebooks/README.md: picture, title, first sentence of the claim, times and needs of each notebook."""
    lines = ["<table>"]
    for notebook in read_notebooks(root):
        face = notebook.face(root / "figures")
        links = (
            [f"[its figures](../figures/README.md#{_anchor(notebook)})"] if notebook.figures(root / "figures") else []
        )
        picture = f'<a href="{notebook.path.name}">{_picture(face, "../figures", 320)}</a>' if face else ""
        lines += [  # Markdown within HTML stands between empty lines
            f'<tr><td width="346">{picture}</td><td>',
            f"**[{notebook.number} · {notebook.title}]({notebook.path.name})**",
            re.match(r".*?(?<=[.!?])(?=\s+[A-Z*]|$)|.*", notebook.claim)[0],
            " · ".join([time_and_needs(notebook, root), *links]),
            "</td></tr>",
        ]
    return "\n\n".join([*filter(None, lines), "</table>"])


def time_and_needs(notebook: Notebook, root: Path) -> str:
    """How long a notebook takes in each profile that was measured, and what it needs."""
    times = ", ".join(f"{profile} {time}" for profile, time in _minutes(notebook, root).items() if time)
    return f"Time: {times or NONE} · needs {notebook.about.needs or 'nothing'}"


def figure_gallery(root: Path) -> str:
    """figures/README.md: every figure with its caption, by the notebook that drew it.

    Raises:
        ValueError: a figure that no notebook saves, or more than one, or without its numbers.
    """
    folder, blocks, seen = root / "figures", [], set()
    for notebook in read_notebooks(root):
        names = notebook.figures(folder)
        if names:
            blocks.append(f"### {notebook.number} · {notebook.title}")
        for place, name in enumerate(names, start=1):
            if name in seen:
                raise ValueError(f"{folder / name}.png is saved by two notebooks, {notebook.path.name} is the second")
            seen.add(name)
            numbers = _numbers(folder, name)
            links = f"[PDF]({name}.pdf) · [numbers]({numbers.name}) · [notebook](../notebooks/{notebook.path.name})"
            blocks.append(f"[{_picture(f'{name}.png', '.', 560)}]({name}.png)")
            blocks.append(f"*Figure {notebook.number}.{place}. {caption_of(numbers)}*\\\n{links}")
    lost = sorted({path.stem for path in folder.glob("*.png")} - seen)
    if lost:
        raise ValueError(f"{folder} has figures that no notebook saves: {', '.join(lost)}")
    return "\n\n".join(blocks)


def caption_of(numbers: Path) -> str:
    """The caption that :func:`minconv.plots.save` wrote beside a figure's numbers; ValueError where there is none."""
    try:
        if numbers.suffix == ".nc":
            with h5py.File(numbers) as file:
                caption = file.attrs["caption"]
        else:
            caption = json.loads(numbers.read_text(encoding="utf-8"))["caption"]
    except (LookupError, OSError, TypeError, ValueError) as error:
        raise ValueError(f"{numbers} must have a caption: {error}") from error
    return str(caption)


def commands(root: Path) -> str:
    """The README's two commands, with the time that they take, and on what."""
    known, names = read_times(root / "notebooks"), [path.stem for path in numbered(root / "notebooks")]

    def told(profile: str) -> str:
        times = known.get(profile, {})
        seconds = [times["notebooks"][name] for name in names if name in times.get("notebooks", {})]
        if not seconds:
            return NONE
        some = "" if len(seconds) == len(names) else f" for {len(seconds)} of {len(names)} notebooks"
        return f"{_about(sum(seconds) + times.get('set_up', 0))}{some}"

    lines = (("smoke", " --profile smoke", "does everything work?"), ("laptop", "", "models that have learned"))
    shown = "\n".join(f"./run_all.sh{option:<16}  # {told(profile)}: {what}" for profile, option, what in lines)
    machines = [known[profile]["hardware"] for profile, *_ in lines if profile in known]
    return f"```sh\n{shown}\n# set-up included, on {'; '.join(dict.fromkeys(machines)) or 'no machine yet'}\n```"


def costs(root: Path) -> str:
    """notebooks/README.md: what a run of all costs, by profile: time, and what processors worked."""
    known, names, rows = read_times(root / "notebooks"), [path.stem for path in numbered(root / "notebooks")], []
    for profile in PROFILES:
        times = known.get(profile, {})
        measured = [name for name in names if name in times.get("notebooks", {})]
        if measured:
            count = f"{len(measured)} of {len(names)}"
            took = [times.get(key, {}) for key in ("notebooks", "processor")]
            told = [_about(sum(by[name] for name in measured)) if by.keys() >= {*measured} else NONE for by in took]
            rows.append([f"`{profile}`", times["hardware"], count, *told])
    return markdown_table(["Profile", "On", "Notebooks", "Time", "Processors' time"], rows, words=3)


def _saved(code: str) -> list[re.Pattern[str]]:
    """What stands second in the calls of a notebook, where ``plots.save(fig, name, ...)`` has a figure's name."""
    plain = re.sub(r"^\s*[%!].*$", "pass", code, flags=re.MULTILINE)
    calls = [node for node in ast.walk(ast.parse(plain)) if isinstance(node, ast.Call) and len(node.args) > 1]
    found = []
    for call in sorted(calls, key=lambda node: (node.lineno, node.col_offset)):
        match call.args[1]:
            case ast.Constant(value=str(name)):
                found.append(re.compile(re.escape(name)))
            case ast.JoinedStr(values=parts):
                found.append(re.compile("".join(_part(part) for part in parts)))
    return found


def _part(part: ast.expr) -> str:
    return re.escape(part.value) if isinstance(part, ast.Constant) else r"\w+"


def _numbers(folder: Path, name: str) -> Path:
    found = [path for path in (folder / f"{name}.json", folder / f"{name}.nc") if path.exists()]
    if len(found) != 1:
        raise ValueError(f"{folder / name}.png must have its numbers as .json or .nc beside it")
    return found[0]


def _minutes(notebook: Notebook, root: Path) -> dict[str, str]:
    """By profile, in one line; "" where it was not measured."""
    times = durations(notebook.path.stem, root / "notebooks")
    return {profile: "" if times[profile] == NONE else times[profile].replace(" ", SPACE) for profile in PROFILES}


def _about(seconds: float) -> str:
    """To a minute."""
    minutes = round(seconds / 60)
    return clock(60 * minutes).removesuffix(" 00 s") if minutes else clock(seconds)


def _picture(file: str, folder: str, width: int) -> str:
    return f'<img src="{folder}/{file}" width="{width}" alt="{Path(file).stem}">' if file else ""


def _anchor(notebook: Notebook) -> str:
    """GitHub's name for the heading of a notebook in the gallery of figures."""
    words = re.sub(r"[^\w\- ]", "", f"{notebook.number} · {notebook.title}".lower())
    return words.replace(" ", "-")
