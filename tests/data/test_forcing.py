"""Channels that are known in the future."""

import numpy as np
import pytest
import xarray as xr

from minconv.data.forcing import SOLAR, Forcing, insolation, season

LAT, LON = np.array([-60.0, 0.0, 60.0]), np.arange(0.0, 360, 45)
GRID = xr.DataArray(np.zeros((3, 8)), {"lat": LAT, "lon": LON}, ("lat", "lon"))


def times(*dates: str) -> xr.DataArray:
    return xr.DataArray(np.array(dates, "datetime64[ns]"), dims="time")


def test_sunlight_at_noon_night_and_through_the_year():
    found = insolation(times("2001-03-20T13:31", "2001-06-21T12", "2001-12-21T12"), LAT, LON)
    # the equinox of that year, to the minute: both poles alike, and the sun 0.4 % nearer than in the mean
    assert found[0, 0, 0] == pytest.approx(found[0, 2, 0], rel=1e-3)
    assert found[0].max() == pytest.approx(
        SOLAR * 1.008 * np.cos(np.radians(20)), rel=0.02
    )  # of the places on this grid
    assert (found[0, :, 4] == 0).all()  # where it is midnight
    # 23.44 degrees north at one solstice, south at the other; the earth is nearest to the sun in January
    assert found[1, 2, 0] == pytest.approx(0.9675 * SOLAR * np.cos(np.radians(60 - 23.44)), rel=0.002)
    assert found[2, 2, 0] == pytest.approx(1.033 * SOLAR * np.cos(np.radians(60 + 23.44)), rel=0.005)


def test_noon_by_the_sun_is_late_in_february_and_early_in_november():
    """The equation of time: 14.2 minutes on 11 February, 16.4 the other way on 3 November."""
    for date, minutes in (("2001-02-11", 14.2), ("2001-11-03", -16.4), ("2001-04-15", 0.0)):
        day = np.datetime64(f"{date}T11:00", "ns") + np.arange(0, 7200, 6) * np.timedelta64(1, "s")
        found = insolation(xr.DataArray(day, dims="time"), np.array([0.0, 1.0]), np.array([0.0, 1.0]))[:, 0, 0]
        highest = (day[found.argmax()] - np.datetime64(f"{date}T12:00")) / np.timedelta64(1, "m")
        assert highest == pytest.approx(minutes, abs=0.3)


def test_other_calendars_have_the_same_seasons():
    dates = [
        xr.date_range("2041-06-21T12:00", periods=1, calendar=name, use_cftime=True) for name in ("noleap", "standard")
    ]
    noleap, ours = (insolation(xr.DataArray(date, dims="time"), LAT, LON) for date in dates)
    np.testing.assert_allclose(noleap, ours, atol=8)
    plain = insolation(times("2041-06-21T12"), LAT, LON)
    np.testing.assert_allclose(ours, plain, atol=8)


def test_the_mean_over_the_day_is_that_of_the_textbooks():
    """S / pi at the equator at an equinox; more at the pole than at the equator at a solstice."""
    hours = np.datetime64("2001-03-20T00", "ns") + np.arange(24) * np.timedelta64(1, "h")
    day = insolation(xr.DataArray(hours, dims="time"), LAT, LON).mean((0, 2))
    assert day[1] == pytest.approx(1.008 * SOLAR / np.pi, rel=0.005)
    summer = xr.DataArray(hours + np.timedelta64(93, "D"), dims="time")
    pole, equator = insolation(summer, np.array([89.9, 0.0]), LON).mean((0, 2))
    assert pole == pytest.approx(524, rel=0.01) and equator == pytest.approx(384, rel=0.01)  # W m-2


def test_season_goes_round_in_a_year():
    quarters = times("2001-01-01", "2001-04-02", "2001-07-02", "2001-10-01")
    for wave, expected in ((np.cos, [1, 0, -1, 0]), (np.sin, [0, 1, 0, -1])):
        found = season(quarters, LAT, LON, wave)
        assert found.shape == (4, 3, 8)
        np.testing.assert_allclose(found[:, 0, 0], expected, atol=0.03)


def test_channels_of_a_grid():
    height = (GRID + GRID.lat).rename("orography")
    forcing = Forcing(GRID, [height.transpose(), "season", "insolation"])
    moments = xr.DataArray(np.array([["2001-01-01", "2001-07-01"]], "datetime64[ns]"), dims=("init_time", "lead_time"))
    found = forcing.at(moments)
    assert forcing.count == 4 and found.shape == (1, 2, 4, 3, 8) and found.dtype == np.float32
    np.testing.assert_allclose(found[0, 1, 0, :, 0], LAT / LAT.std(), rtol=1e-6)
    assert abs(found).max() < 4


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("moon", "known must be fields over .*, or of insolation, season; got 'moon'"),
        (3, "got 3"),
        (GRID.isel(lat=0), r"must be over \(lat, lon\); got \('lon',\)"),
        (GRID.isel(lon=slice(4)), "must be on the grid of the series; its lon differs"),
        (GRID, "must be finite and not the same everywhere"),
    ],
)
def test_other_fields_are_refused(field, message):
    with pytest.raises(ValueError, match=message):
        Forcing(GRID, [field])
