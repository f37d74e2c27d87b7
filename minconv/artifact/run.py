"""Runs the numbered notebooks in order with papermill, and publishes their outputs: what is behind ./run_all.sh."""

import os
import resource
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import papermill
import torch

from minconv.artifact.fingerprint import fingerprint
from minconv.artifact.options import parse
from minconv.artifact.publish import NotebookError, code_cells, modified, publish, read_notebook, recorded
from minconv.artifact.times import NOTEBOOKS, ROOT, clock, numbered, read_times
from minconv.experiments.profiles import get_profile, home
from minconv.runtime.device import pick_device
from minconv.runtime.files import lock, write_json
from minconv.runtime.provenance import hardware


def run(
    folder: Path, results: Path, profile: str, first: str = "", only: str = "", force: bool = False, resume: str = ""
) -> None:
    """Runs the notebooks of ``folder`` in order; executed copies go to ``results``/notebooks.

    One whose fingerprint is unchanged and whose files are there is skipped. Raises NotebookError at the first that
    fails; ``resume`` is the command for its message.
    """
    written: dict[str, Path] = {}
    for path in numbered(folder):
        output = results / "notebooks" / path.name
        if path.name[:2] == only or (not only and path.name[:2] >= first):
            cells = {cell.get("id"): cell.source for cell in code_cells(read_notebook(path))}
            found, old = fingerprint(cells, profile, written), recorded(output)
            needed = [output, *(results / "figures" / name for name in old.get("figures", []))]
            if not force and old.get("fingerprint") == found and all(file.exists() for file in needed):
                print(f"{path.stem}: up to date", flush=True)
            else:
                run_one(path, output, profile, found, resume)
        written |= {name: results / "figures" / name for name in recorded(output).get("figures", [])}


def run_one(path: Path, output: Path, profile: str, found: str, resume: str = "") -> None:
    """Executes one notebook and records it with the fingerprint that was found.

    Figures that its last run wrote and this one did not are removed.
    """
    figures, record = output.parent.parent / "figures", output.with_suffix(".json")
    old, earlier = recorded(output), modified(figures)
    record.unlink(missing_ok=True)  # from here on until it is whole, it is not up to date
    output.parent.mkdir(parents=True, exist_ok=True)
    print(f"{path.stem}: running", flush=True)
    begun, worked = time.monotonic(), processor_seconds()
    try:
        papermill.execute_notebook(
            path, output, parameters={"profile": profile}, kernel_name="python3", cwd=path.parent, progress_bar=False,
            stdout_file=sys.stdout, stderr_file=sys.stderr, autosave_cell_every=60,
            extra_arguments=["--log-level=ERROR"],  # ipykernel warns at each start that TCP is not encrypted
        )  # fmt: skip
    except Exception as error:  # whatever it was, the reader is told which notebook, where to look and how to go on
        command = f"{resume or './run_all.sh'} --from {path.name[:2]}"
        raise NotebookError(
            f"{error}\n{path.stem} failed ({type(error).__name__}).\n"
            f"  where to look: {output}\n  to resume:     {command}"
        ) from error
    seconds = time.monotonic() - begun
    written = [name for name, when in modified(figures).items() if earlier.get(name) != when]
    for name in set(old.get("figures", [])).difference(written):
        (figures / name).unlink(missing_ok=True)
    times = {"seconds": round(seconds, 1), "processor": round(processor_seconds() - worked, 1)}
    write_json(record, {"fingerprint": found, **times, "figures": written})
    print(f"{path.stem}: done in {clock(seconds)}", flush=True)


def processor_seconds() -> float:
    """What processors have worked, in kernels that have ended and in the processes that these have waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def record_times(folder: Path, results: Path, profile: str) -> None:
    """Writes how long the notebooks took, and the set-up where run_all.sh has just made it, to times.json."""
    known = read_times(folder)
    set_up = os.environ.get("MINCONV_SET_UP") or known.get(profile, {}).get("set_up")
    records = {path.stem: recorded(results / "notebooks" / path.name) for path in numbered(folder)}
    times = {"hardware": hardware(pick_device()), "set_up": set_up and float(set_up)}
    for name, key in (("notebooks", "seconds"), ("processor", "processor")):
        times[name] = {notebook: record[key] for notebook, record in records.items()}
    known[profile] = times
    write_json(folder / "times.json", known)
    print("Recorded; python -m minconv.artifact.readme tells them on pages and in notebooks.", flush=True)


def reason(given: str | None) -> str:
    """Why the profile is what it is, in words."""
    if given:
        return "as asked"
    if os.environ.get("MINCONV_PROFILE"):
        return "from $MINCONV_PROFILE"
    return f"found {torch.cuda.get_device_name()}" if torch.cuda.is_available() else "no GPU found"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs and publishes as the options ask. Returns 0, 1 (a notebook failed), 2 (bad options) or 130 (interrupted)."""
    options = parse(arguments, NOTEBOOKS)
    if options.home:
        os.environ["MINCONV_HOME"] = str(options.home)
    try:
        profile = get_profile(options.profile).name
    except ValueError as error:
        print(f"./run_all.sh: {error}", file=sys.stderr)
        return 2
    folder = home().resolve()
    results = folder / "results" / profile
    if options.record_times and ((folder / "data").exists() or results.exists()):
        print(f"./run_all.sh: --record-times needs a --home without data/ and results/{profile}/", file=sys.stderr)
        return 2
    print(f"Profile {profile} ({reason(options.profile)}); results in {results}", flush=True)

    os.environ |= {"MINCONV_HOME": str(folder), "MINCONV_PROFILE": profile, "JUPYTER_PREFER_ENV_PATH": "1"}
    if "OMP_WAIT_POLICY" not in os.environ:
        # OpenMP's threads wait for each other by spinning, for milliseconds: as fast if they have the cores to
        # themselves, and many times slower if they do not. This is some ten microseconds, and then they sleep.
        os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    os.environ.pop("MPLBACKEND", None)  # Agg would keep figures out of the notebooks
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup's stays ignored
            signal.signal(number, signal.default_int_handler)  # as Ctrl-C: papermill shuts the kernel down on its way
    resume = f"./run_all.sh --profile {profile}" + (f" --home {folder}" if options.home else "")
    try:
        with lock(results / ".lock"):
            run(NOTEBOOKS, results, profile, options.first or "", options.only or "", options.force, resume)
            if options.record_times:
                record_times(NOTEBOOKS, results, profile)
            if options.publish:
                publish(NOTEBOOKS, results, ROOT / "figures", (ROOT, folder), options.only or "")
    except (NotebookError, BlockingIOError) as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\nInterrupted. To go on: {resume}", file=sys.stderr)
        return 130
    shown = results / "figures"
    drawn = [name for name in modified(shown) if name.endswith((".png", ".pdf"))]
    print(f"\n{len(drawn)} figure files in {shown}:", *drawn, sep="\n  ")
    if options.publish:
        print(f"Published to {NOTEBOOKS} and {ROOT / 'figures'}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
