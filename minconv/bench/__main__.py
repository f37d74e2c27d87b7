"""The benchmark of scans, training steps and start-up: ``python -m minconv.bench [--full]``."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from minconv.bench.results import headlines
from minconv.bench.suite import SIZES, run
from minconv.runtime.checks import whole
from minconv.runtime.device import DEVICES, pick_device
from minconv.runtime.files import write_json


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark, writes its result and prints its main numbers; exits 2 on bad options."""
    parser = argparse.ArgumentParser(prog="python -m minconv.bench", description=__doc__, allow_abbrev=False)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--full", dest="size", action="store_const", const="full", help="wider sweeps")
    size.add_argument("--smoke", dest="size", action="store_const", const="smoke", help="only show that it works")
    parser.add_argument("--device", choices=DEVICES, default="auto")
    parser.add_argument("--threads", type=int, metavar="N", help="of the CPU; default: as PyTorch finds them")
    parser.add_argument("--output", type=Path, metavar="FILE", help="default: results/benchmark.json in $MINCONV_HOME")
    options = parser.parse_args(arguments)
    output = options.output or Path(os.environ.get("MINCONV_HOME", "")) / "results" / "benchmark.json"
    try:
        device = pick_device(options.device)
        if options.threads is not None:
            cores = os.cpu_count() or 1
            if whole("threads", options.threads, 1) > cores:
                raise ValueError(f"threads must be at most {cores}, as many as there are cores; got {options.threads}")
            torch.set_num_threads(options.threads)
        if output.is_dir():
            raise ValueError(f"output must be a file; got the folder {output}")
        output.parent.mkdir(parents=True, exist_ok=True)  # now rather than after the work
    except (OSError, ValueError) as error:
        parser.error(str(error))
    result = run(SIZES[options.size or "quick"], device)
    write_json(output, result)
    print(f"{result['provenance']['hardware']}, {result['size']} benchmark in {result['seconds']:.0f} s\n")
    for words, value in headlines(result).items():
        print(f"{words:72} {'not finite' if value is None else f'{value:.3g}'}")
    print(f"\n{output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
