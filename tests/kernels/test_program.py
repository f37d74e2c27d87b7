"""Kernels taken down and played later, on other tensors."""

import pytest
import torch

from minconv.kernels import recurrent_loops
from minconv.kernels.compiled import recording
from minconv.kernels.program import Program
from minconv.kernels.steps import on_rows


def doubled(memory, x, y):
    """x + x and y + x, by way of memory."""
    both, kept = memory(2, *x.shape), memory(*x.shape)
    for number, start in enumerate((x, y)):
        on_rows(recurrent_loops.copy, start, both[number])
        on_rows(recurrent_loops.copy, x, kept)
        on_rows(recurrent_loops.move, kept, both[number])
    return {"both": both, "kept": kept}


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("shape", [(2, 3, 5), (1, 300, 70)])
def test_it_is_played_on_any_tensors_and_gives_memory_of_its_own(shape, threads, one_thread):
    torch.set_num_threads(threads)
    program, arenas = Program(doubled, [shape, shape]), []
    for seed in (1, 2):
        torch.manual_seed(seed)
        x, y = torch.randn(shape), torch.randn(shape)
        arenas.append((program(x, y), torch.stack([x + x, y + x])))
    for arena, expected in arenas:
        named = program.named(arena)
        assert torch.equal(named["both"], expected) and not named["kept"].any()


def test_what_fails_while_it_is_taken_down_leaves_kernels_as_they_are():
    def fails(memory, x):
        raise KeyError("no")

    with pytest.raises(KeyError):
        Program(fails, [(1, 2, 3)])
    assert recording.program is None
