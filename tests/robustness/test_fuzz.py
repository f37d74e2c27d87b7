"""Loaders and command lines against mutated real input: each case ends in the right answer or in a refusal by name.

Mutations are drawn from fixed seeds, so that a run repeats the one before. Files of HDF5 and Zarr are read in a process
of their own, whose end, as by a fault in a library, is seen as a failure; so is a case that takes long.
"""

import faulthandler
import io
import json
import os
import random
import re
import resource
import shutil
import sys
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from helpers import ROOT, contents, run_script

from minconv.artifact import options, times
from minconv.artifact import readme as report
from minconv.bench import __main__ as bench
from minconv.data import navier_stokes
from minconv.data import series as gridded
from minconv.evaluation.weather import by_day
from minconv.experiments.report import results

LONG = 20  # seconds that no case may take
MEMORY = 4 << 30  # bytes that the loaders may ask for

# cases of each kind
FILES = {"navier_stokes": 200, "series": 200, "user": 200, "zarr2": 150, "zarr3": 150}  # 900
JSON, LINES = 400, 500


# --- mutations ------------------------------------------------------------------------------------


def mutated(content: bytes, draw: random.Random) -> bytes:
    """``content`` with bits flipped, cut short, or with a run of bytes overwritten, put in, left out or repeated."""
    found, size = bytearray(content), len(content)
    start = draw.randrange(size)
    run = draw.choice([1, 2, 4, 8, 64, 512])
    match draw.randrange(8):
        case 0 | 1:
            for _ in range(draw.choice([1, 1, 2, 8])):
                found[draw.randrange(size)] ^= 1 << draw.randrange(8)
        case 2:
            del found[start:]
        case 3:
            found[start : start + run] = draw.randbytes(len(found[start : start + run]))
        case 4:
            found[start : start + run] = bytes([draw.choice([0, 255])]) * len(found[start : start + run])
        case 5:
            found[start:start] = draw.randbytes(run)
        case 6:
            del found[start : start + run]
        case 7:
            found[start:start] = found[start : start + run]
    return bytes(found)


ODD = (None, True, 0, -1, 1e308, float("nan"), 10**30, "", "x", [], {}, [None], {"x": 1}, [[1, 2], [3]])


def places(content: Any, path: tuple = ()) -> list[tuple]:
    """The way to every entry of nested dicts and lists."""
    inner = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    return [path] * bool(path) + [way for key, value in inner for way in places(value, (*path, key))]


def altered(content: Any, draw: random.Random) -> Any:
    """JSON with an entry left out, replaced by something of another type, renamed, or repeated."""
    content = json.loads(json.dumps(content))
    if draw.randrange(20) == 0 or not places(content):
        return draw.choice(ODD)
    *way, key = draw.choice(places(content))
    owner = content
    for step in way:
        owner = owner[step]
    match draw.randrange(4):
        case 0:
            del owner[key]
        case 1 | 2:
            owner[key] = draw.choice(ODD) if draw.random() < 0.8 else [owner[key]]
        case 3 if isinstance(owner, list):
            owner.insert(key, draw.choice([owner[key], *ODD]))
        case 3:
            owner[f"{key} "] = owner.pop(key)
    return content


# --- files of HDF5 and Zarr -----------------------------------------------------------------------


def originals(folder: Path) -> dict[str, Path]:
    """Small files of every kind, written by what writes the large ones."""
    paths = {"navier_stokes": folder / "navier_stokes.nc", "series": folder / "series.nc", "user": folder / "user.nc"}
    navier_stokes.generate(paths["navier_stokes"], samples=2, frames=3, size=8, pool=2)
    times = np.datetime64("2000-01-01", "ns") + np.arange(8) * np.timedelta64(6, "h")
    coordinates = {"time": times, "lat": [-60.0, -20.0, 20.0, 60.0], "lon": [0.0, 90.0, 180.0, 270.0]}
    values = np.random.default_rng(0).normal(5e4, 1e3, (8, 4, 4)).astype(np.float32)
    about = {"units": "m2 s-2", "long_name": "geopotential", "source": "test"}
    series = xr.DataArray(values, coordinates, ("time", "lat", "lon"), "z", about)
    gridded.write_series(paths["series"], series, {"seed": 0})
    plain = series.to_dataset()
    packed = {"z": {"dtype": "i2", "scale_factor": 0.1, "add_offset": 5e4, "_FillValue": -32768, "zlib": True}}
    plain.to_netcdf(paths["user"], engine="h5netcdf", encoding=packed)
    for version in (2, 3):
        paths[f"zarr{version}"] = folder / f"store{version}.zarr"
        plain.chunk(time=4).to_zarr(
            paths[f"zarr{version}"],
            zarr_format=version,
            consolidated=version == 2,
            encoding={"z": {"_FillValue": np.float32(np.nan)}},
        )
    return paths


def spoil(original: Path, target: Path, draw: random.Random) -> None:
    """A mutated copy: of a file its bytes; of a folder one of its files, which may be gone, or altered as JSON."""
    if original.is_file():
        target.write_bytes(mutated(original.read_bytes(), draw))
        return
    shutil.copytree(original, target)
    file = draw.choice(sorted(path for path in target.rglob("*") if path.is_file()))
    text = file.name.startswith(".z") or file.name == "zarr.json"
    kind = draw.randrange(8)
    if kind == 0:
        file.unlink()
    elif text and kind > 3:
        file.write_text(json.dumps(altered(json.loads(file.read_text()), draw)))
    else:
        file.write_bytes(mutated(file.read_bytes(), draw))


def read_exactly(load: Callable[[Path], xr.DataArray], expected: xr.DataArray, path: Path) -> None:
    """What has a checksum is read as it was written: values, coordinates and attributes."""
    xr.testing.assert_identical(load(path).load(), expected)


def read_in_the_convention(path: Path) -> None:
    """What has none is read as numbers, finite, on a grid, in the convention."""
    series = gridded.open_series(path, "z")
    found = gridded.frames(series)
    times, lat, lon = (series[name].values for name in ("time", "lat", "lon"))
    assert (
        found.shape == (len(times), 1, len(lat), len(lon)) and found.dtype == torch.float32 and found.isfinite().all()
    )
    assert len(times) >= 1 and len(lat) >= 2 and len(lon) >= 2
    assert (np.diff(lat) > 0).all() and (abs(lat) <= 90).all() and (np.diff(lon) > 0).all()
    assert len(set(np.diff(times).tolist())) <= 1


def work(folder: str, first: int) -> None:
    """In a process of its own: the cases from ``first`` on, a line of JSON for each, first its number, then its end."""
    where, torch_threads = Path(folder), torch.get_num_threads()
    torch.set_num_threads(min(1, torch_threads))
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, resource.RLIM_INFINITY))
    paths = {path.stem.replace("store", "zarr"): path for path in (where / "originals").iterdir()}
    loaders = {"navier_stokes": navier_stokes.load, "series": gridded.read_series}
    exact = {kind: load(paths[kind]).load() for kind, load in loaders.items()}
    cases = [(kind, number) for kind, count in FILES.items() for number in range(count)]
    for index, (kind, number) in enumerate(cases[first:], start=first):
        print(json.dumps({"case": index, "name": f"{kind} {number}"}), flush=True)
        faulthandler.dump_traceback_later(LONG, exit=True)
        target = where / f"spoilt{paths[kind].suffix}"
        spoil(paths[kind], target, random.Random(f"{kind} {number}"))
        before = contents(target)
        try:
            if kind in exact:
                read_exactly(loaders[kind], exact[kind], target)
            else:
                read_in_the_convention(target)
            end = "right" if kind in exact else "read"
        except (ValueError, TypeError, FileNotFoundError) as error:
            end = "refused" if target.name in str(error) else f"refused without a name: {error!r}"
        except BaseException:
            end = traceback.format_exc()
        if target.exists() and contents(target) != before:
            end = "the file was changed"
        if target.is_dir():
            shutil.rmtree(target)
        faulthandler.cancel_dump_traceback_later()
        print(json.dumps({"end": end}), flush=True)


GOOD = ("right", "read", "refused")


def test_damaged_files(tmp_path):
    (tmp_path / "originals").mkdir()
    originals(tmp_path / "originals")
    ends, faults, first = Counter(), [], 0
    while first < sum(FILES.values()):
        script = f"import test_fuzz; test_fuzz.work({str(tmp_path)!r}, {first})"
        done = run_script([sys.executable, "-W", "ignore", "-c", script])
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        begun = [line for line in lines if "case" in line]
        assert begun, done.stderr
        for case, end in zip(begun, [line["end"] for line in lines if "end" in line], strict=False):
            ends[case["name"].split()[0], end if end in GOOD else "fault"] += 1
            faults += [f"{case['name']}: {end}"] if end not in GOOD else []
        first = begun[-1]["case"] + 1
        if done.returncode:
            faults.append(f"{begun[-1]['name']} ended the process with {done.returncode}: {done.stderr[-2000:]}")
    print(*sorted(ends.items()), sep="\n")
    assert not faults, f"{len(faults)} faults\n\n" + "\n\n".join(faults[:20])
    for kind in FILES:  # both occur: what is wrong is seen, and what does not matter is read
        assert ends[kind, "refused"] > 10 and ends[kind, "right"] + ends[kind, "read"] > 0


# --- JSON -----------------------------------------------------------------------------------------


@contextmanager
def quickly(case: str):
    """Ends the process, with what it was at, when a case hangs."""
    faulthandler.dump_traceback_later(LONG, exit=True)
    try:
        yield
    except BaseException as error:
        error.add_note(f"case {case}")
        raise
    finally:
        faulthandler.cancel_dump_traceback_later()


def ran(main: Callable[[list[str]], Any], arguments: list[str]) -> tuple[Any, str, str]:
    """What a command returns or exits with, and what it writes to its two streams."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            code = main(arguments)
        except SystemExit as stopped:
            code = stopped.code
    return code, out.getvalue(), err.getvalue()


FIGURES = ("results", "answer", "benchmark", "real_weather_results", "geopotential_results", "air_temperature_results")


@pytest.fixture(scope="module")
def numbers(tmp_path_factory) -> Path:
    """Pages with their marks, and the numbers that they are made from: the committed ones of the paper's experiment."""
    root = tmp_path_factory.mktemp("numbers")
    for page, regions in report.PAGES.items():
        marks = "".join(f"<!-- {name} -->\n<!-- /{name} -->\n" for name in regions)
        (root / page).parent.mkdir(parents=True, exist_ok=True)
        (root / page).write_text(f"# Title\n\n{marks}\nThe end ×.\n", encoding="utf-8")
    for name in FIGURES[:3]:
        shutil.copyfile(ROOT / "figures" / f"{name}.json", root / "figures" / f"{name}.json")
    leads = np.arange(1, 15).astype("timedelta64[h]") * 12
    names = ["persistence", "ridge regression", "stack", "convlstm"]
    rmse = np.random.default_rng(0).uniform(1, 500, (4, 2, 14))
    scores = xr.Dataset(
        {"rmse": (("model", "seed", "lead_time"), rmse, {"units": "m2 s-2"})},
        {"model": names, "seed": [1, 2], "lead_time": leads},
        {"starts": 3, "source": "test"},
    )
    labels = {name: name.title() for name in names}
    columns = by_day(scores, names[:2])
    content = results({"recipe": columns, "b": columns}, labels, names[:3], {"epochs": 1})
    for name in FIGURES[3:]:
        (root / "figures" / f"{name}.json").write_text(json.dumps(content))
    assert report.main(["--root", str(root)]) == 0
    return root


def assert_sound(root: Path) -> None:
    """The words around the marks are there, and the rows of a table are as long as its head."""
    for page, regions in report.PAGES.items():
        text = (root / page).read_text(encoding="utf-8")
        assert text.startswith("# Title\n") and text.endswith("The end ×.\n")
        for name in regions:
            _, _, rest = text.partition(f"<!-- {name} -->\n")
            region, mark, _ = rest.partition(f"<!-- /{name} -->")
            assert mark
            for table in region.split("\n\n"):
                assert len({row.count("|") for row in table.splitlines() if row.startswith("|")}) <= 1


def test_damaged_json(numbers, tmp_path, monkeypatch):
    """The pages' tables from altered numbers: a sound one, or exit 2, the file's name and nothing written."""
    monkeypatch.setattr(os, "fsync", lambda _: None)  # what takes long, and is of no use here
    ends, root = Counter(), tmp_path / "numbers"
    shutil.copytree(numbers, root)
    names = [f"figures/{name}.json" for name in FIGURES] + ["README.md"]
    for number in range(JSON):
        draw = random.Random(f"json {number}")
        name = draw.choice(names)
        content = (numbers / name).read_bytes()
        if name == "README.md" or draw.random() < 0.3:
            (root / name).write_bytes(mutated(content, draw))
        else:
            (root / name).write_text(json.dumps(altered(json.loads(content), draw)))
        before = contents(root)
        with quickly(f"json {number}: {name}"):
            code, out, err = ran(report.main, ["--root", str(root)])
            assert code in (0, 2) and not out
            if code == 2:
                assert name in err and "Traceback" not in err, err
                assert contents(root) == before
            elif name != "README.md":
                assert_sound(root)
                assert {path for path in contents(root)} == set(before)
        ends[name, code] += 1
        shutil.copytree(numbers, root, dirs_exist_ok=True)
    print(*sorted(ends.items()), sep="\n")
    assert all(ends[name, 2] > 10 and ends[name, 0] > 5 for name in names)


# --- command lines --------------------------------------------------------------------------------

ODD_WORDS = (
    "", "-", "--", "---", "-h", "--help", "--=", "=", "\n", " ", "0", "-1", "1e9", "9" * 40, "nan", "x" * 5000,
    "ü", "٣", "日本", "\udcff", "../..", "/dev/null", "@file", "%s", "{}", "*", "$HOME",
    "--profile", "--full", "--output", "--threads",
)  # fmt: skip
LINES_OF = {
    "notebooks": [
        ["--profile", "smoke"], ["--only", "01"], ["--from", "2", "--force"], ["--home", "here", "--publish"],
        ["--profile=laptop", "--from=03_training"], [],
    ],
    "bench": [
        ["--smoke"], ["--full", "--device", "cpu"], ["--threads", "1", "--output", "out/b.json"], ["--device=auto"], [],
    ],
    "report": [["--check"], ["--root", "here"], ["--root", ".", "--check"], []],
}  # fmt: skip


def mutated_line(line: list[str], draw: random.Random) -> list[str]:
    """A command line with words left out, repeated, moved, put in, or with other characters in one."""
    line = list(line)
    for _ in range(draw.choice([0, 1, 1, 2, 3])):
        at = draw.randrange(len(line) + 1)
        word = line[at] if at < len(line) else ""
        match draw.randrange(6):
            case 0 if word:
                del line[at]
            case 1 if word:
                line.insert(at, word)
            case 2 if word and draw.random() < 0.7:
                line[at] = draw.choice(ODD_WORDS)
            case 2:
                draw.shuffle(line)
            case 3 if word:
                place = draw.randrange(len(word))
                line[at] = (
                    word[:place] + chr(draw.choice([45, 61, 48, 120, 233, 0x1F600])) + word[place + draw.randrange(2) :]
                )
            case 4 if word:
                line[at] = word[: draw.randrange(len(word))]
            case _:
                line.insert(at, draw.choice(ODD_WORDS))
    return line


@pytest.fixture
def harmless(numbers, tmp_path, monkeypatch) -> dict[str, Callable[[list[str]], Any]]:
    """The three commands in a scratch folder, with what they would take long for left out."""
    shutil.copytree(numbers, tmp_path / "root")
    monkeypatch.chdir(tmp_path / "root")
    monkeypatch.setenv("MINCONV_HOME", str(tmp_path / "root"))
    monkeypatch.setattr(report, "ROOT", tmp_path / "root")
    result = {"provenance": {"hardware": "none"}, "size": "smoke", "seconds": 0.0}
    monkeypatch.setattr(bench, "run", lambda *_: result)
    monkeypatch.setattr(bench, "headlines", lambda _: {})
    monkeypatch.setattr(bench, "write_json", lambda path, _: Path(path))
    return {"notebooks": options.parse, "bench": bench.main, "report": report.main}


def test_odd_command_lines(harmless, tmp_path, one_thread):
    """Options as they are allowed, or exit 2 and a line that says what is wrong; help, or another status of old."""
    ends = Counter()
    for number in range(LINES):
        draw = random.Random(f"line {number}")
        name = draw.choice(sorted(LINES_OF))
        line = mutated_line(draw.choice(LINES_OF[name]), draw)
        with quickly(f"line {number}: {name} {line}"):
            end, _, err = ran(harmless[name], line)
            if isinstance(end, int) or end is None:
                assert end in ((0, 1, 2) if name == "report" else (0, 2)), end
                if end == 2:
                    said = err.partition("error: ")[2]
                    assert re.search(r"--\w+|\b(arguments|directory|threads|output|README|results)\b", said) or any(
                        filter(said.count, line)
                    )
            else:  # what minconv.artifact.run goes on with
                assert end.profile in (None, *times.PROFILES)
                numbers = [path.name[:2] for path in times.numbered(times.NOTEBOOKS)]
                assert {end.first, end.only} <= {None, *numbers} and None in (end.first, end.only)
                end = 0
        ends[name, end] += 1
    torch.set_num_threads(1)
    print(*sorted(ends.items()), sep="\n")
    assert all(ends[name, 2] > 30 and ends[name, 0] > 12 for name in LINES_OF)
