"""Many runs at once are the runs one by one."""

import pytest
from helpers import SETTINGS, assert_same, interrupt, run, stop_at, train_one, truncate, waves

from minconv.training import Run, fit, fit_all, pool

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.slow
def test_fit_all_in_two_processes_is_one_by_one(tmp_path, monkeypatch):
    def runs(folder: str) -> list[Run]:
        cells = ("minconvgru", "convlstm", "convgru")
        return [run(tmp_path / folder / cell, (1,), SETTINGS, cell) for cell in cells]

    data = waves(), waves(3, seed=1)
    alone = fit_all(runs("one"), *data, device="cpu", processes=2)  # too little work to start processes for
    fit(runs("two")[1], *data, device="cpu")  # one is done before
    with monkeypatch.context() as patch:
        patch.setattr(pool, "WORTH_PROCESSES", 0)
        stop_at(patch, 0, interrupt)  # in this process, which trains nothing
        together = fit_all(runs("two"), *data, device="cpu", processes=2)
    assert [folder.name for folder in together] == ["minconvgru", "convlstm", "convgru"]
    for one, other in zip(together, alone, strict=True):
        assert_same(one, other)


def test_fit_all_refuses_a_folder_of_another_run_or_a_damaged_one(tmp_path):
    done, left = train_one(tmp_path / "done"), run(tmp_path / "left")
    data = waves(), waves(3, seed=1)
    with pytest.raises(ValueError, match=r"done holds another run: its seeds is \[1\]"):
        fit_all([run(done, (2,)), left], *data, device="cpu")
    truncate(done / "last.safetensors")
    with pytest.raises(ValueError, match=r"done/last\.safetensors is no whole checkpoint"):
        fit_all([left, run(done)], *data, device="cpu")
    assert not left.folder.exists()


def test_fit_all_rejects(tmp_path):
    data = waves(), waves(3, seed=1)
    with pytest.raises(ValueError, match="runs must have a folder each; got"):
        fit_all([run(tmp_path / "a"), run(tmp_path / "a", (2,))], *data)
    with pytest.raises(ValueError, match="processes must be at least 1; got 0"):
        fit_all([run(tmp_path / "a")], *data, processes=0)
    assert not list(tmp_path.iterdir())
