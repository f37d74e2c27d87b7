"""Films of forecasts and of waves: what they show, on a page and by widgets."""

import io
import re

import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr
from PIL import Image

from minconv.plots import films
from minconv.plots.films import SCREEN, SIZE, Film, WaveFilm

CONTEXT, TIMES = 3, np.arange(1, 7)


def fields(model: str = "minconvlstm", error: float = 0.1) -> xr.DataArray:
    """A wave that goes round, a forecast that is off by ``error`` more each frame, and one that is off by 1."""
    truth = np.sin(np.arange(8) + TIMES[:, None, None] + np.zeros((8, 1)))
    rows = [truth, truth + error * TIMES[:, None, None], truth + 1]
    return xr.DataArray(rows, {"row": ["truth", model, "persistence"], "time": TIMES}, ("row", "time", "y", "x"))


def test_shows_truth_forecast_and_error_with_their_rmse():
    film = Film(fields(), CONTEXT)
    assert not plt.get_fignums()  # nothing to show beside it
    film.show(3)
    shown = [np.asarray(image.get_array()) for image in film.images]
    np.testing.assert_allclose(shown[0], fields()[0, 3])
    np.testing.assert_allclose(shown[2], 0.4)
    np.testing.assert_allclose(film.rmse, 0.1 * TIMES)
    assert film.title.get_text() == "t = 4, 2 steps after the last frame seen: RMSE 0.400"
    film.show(0)
    assert film.title.get_text() == "t = 1, one step ahead: RMSE 0.100"
    assert [image.axes.get_title() for image in film.images] == ["truth", "MinConvLSTM", "Error"]
    assert film.images[0].get_clim() == film.images[1].get_clim() != film.images[2].get_clim()


def test_words_are_on_the_page_and_do_not_overlap():
    film = Film(fields(), CONTEXT)
    film.fig.draw_without_rendering()
    parts = [film.title, film.fig.axes[-1].get_legend()]
    parts += [image.axes.title for image in film.images] + [ax.xaxis.label for ax in film.fig.axes[3:]]
    boxes = [part.get_window_extent() for part in parts]
    for number, box in enumerate(boxes):
        assert box.x0 >= 0 and box.x1 <= film.fig.bbox.width and box.y0 >= 0 and box.y1 <= film.fig.bbox.height
        assert not any(box.overlaps(other) for other in boxes[:number]), number


@pytest.mark.slow
def test_a_page_has_every_frame_and_needs_no_kernel():
    page = films.film(fields(), CONTEXT).data
    assert page.count("data:image/png;base64,") == len(TIMES)
    assert "<link" not in page and all(f">{button}<" in re.sub(r">\s+", ">", page) for button in films.BUTTONS.values())
    assert len(page) < 30_000 * len(TIMES)


@pytest.mark.slow
def test_widgets_ask_for_another_forecast():
    asked = []

    def forecast(model, seed, context):
        asked.append((model, seed, context))
        return fields(model, 0.1 + seed)

    box = films.forecast_player(forecast, ["minconvlstm", "convlstm"], 5, (1, CONTEXT, 4))
    (model, seed, context), (_, time) = box.children[0].children, box.children[1].children
    pictures = [bytes(box.children[2].value)]
    for widget, value in ((time, 3), (model, "convlstm"), (seed, 2), (context, 1)):
        widget.value = value
        pictures.append(bytes(box.children[2].value))
    assert asked == [("minconvlstm", 0, 3), ("convlstm", 0, 3), ("convlstm", 2, 3), ("convlstm", 2, 1)]
    assert len(set(pictures)) == 5 and not plt.get_fignums()
    assert {Image.open(io.BytesIO(picture)).size for picture in pictures} == {tuple(int(SCREEN * s) for s in SIZE)}


def elevation(place: float = 0.0) -> xr.DataArray:
    """Two waves at three times over two bottoms."""
    values = np.random.default_rng(0).normal(size=(2, 2, 3, 8, 8)) + place
    rows = {"row": ["a hill", "none"], "wave": ["first", "second"], "time": [0.0, 0.25, 0.5]}
    return xr.DataArray(values, rows, ("row", "wave", "time", "y", "x"))


def bottom() -> xr.DataArray:
    return xr.DataArray(np.outer(np.arange(8.0), np.ones(8)), dims=("y", "x"))


def test_waves_over_two_bottoms_and_their_difference_one_wave_after_another():
    film, fields = WaveFilm(elevation(), bottom()), elevation().values
    assert not plt.get_fignums() and film.count == 6
    film.show(4)
    shown = [np.asarray(image.get_array()) for image in film.images]
    np.testing.assert_allclose(shown, [*fields[:, 1, 1], fields[0, 1, 1] - fields[1, 1, 1]])
    assert film.title.get_text() == "second, t = 0.2 h"
    assert [image.axes.get_title() for image in film.images] == ["a hill", "none", "difference"]
    assert film.images[0].get_clim() == film.images[1].get_clim() != film.images[2].get_clim()
    lines = [len(image.axes.collections) for image in film.images]
    assert lines == [1, 0, 1]  # of equal depth, where the bottom is
    first, last = (film.picture(number) for number in (0, 5))
    assert first != last and Image.open(io.BytesIO(first)).size == Image.open(io.BytesIO(last)).size


@pytest.mark.slow
def test_widgets_ask_for_a_wave_from_another_place():
    asked = []

    def waves(x, y):
        asked.append((x, y))
        return elevation(x)[:, :1]

    box = films.wave_player(waves, bottom(), 320.0)
    (x, y), (_, time) = box.children[0].children, box.children[1].children
    pictures = [bytes(box.children[2].value)]
    for widget, value in ((time, 2), (x, 40.0), (y, 320.0)):
        widget.value = value
        pictures.append(bytes(box.children[2].value))
    assert asked == [(-160, -160), (40, -160), (40, 320)] and time.max == 2
    assert pictures[0] != pictures[1] != pictures[2] and not plt.get_fignums()


@pytest.mark.parametrize(
    ("draw", "words"),
    [
        (lambda: Film(fields()[:1], CONTEXT), "at least 2 rows, truth and forecast; got 1"),
        (lambda: Film(fields().isel(x=0), CONTEXT), r"fields must be over \(row, time, y, x\)"),
        (lambda: Film(fields(), 0), "context must be at least 1"),
        (lambda: WaveFilm(elevation()[:1], bottom()), "elevation must have 2 rows; got 1"),
        (lambda: WaveFilm(elevation(), bottom()[0]), r"depth must be over \(y, x\)"),
        (lambda: films.film(fields(), CONTEXT, milliseconds=0), "milliseconds must be above 0"),
        (lambda: films.forecast_player(lambda *_: fields(), ["convgru"], 0), "seeds must be at least 1"),
    ],
)
def test_other_input_is_refused(draw, words):
    with pytest.raises(ValueError, match=words):
        draw()
