"""The table of spectra, against radiative transfer and published definitions of bands."""

import itertools

import numpy as np
import pytest

from data_prep.archive.sensor import load_sensors
from data_prep.simulation.spectra import BACKGROUNDS, PLANTS, TABLE, Spectra

# Nominal band limits in nm: MSI (ESA, S2A), OLI (USGS) and MODIS (NASA), from the product guides.
LIMITS = {
    "sentinel2": {
        "B02": (459, 525), "B03": (542, 578), "B04": (649, 680), "B08": (780, 886), "B05": (697, 712), "B06": (733, 748),
        "B07": (773, 793), "B8A": (854, 875), "B11": (1568, 1659), "B12": (2115, 2290),
    },
    "landsat": {
        "B02": (452, 512), "B03": (533, 590), "B04": (636, 673), "B05": (851, 879), "B06": (1566, 1651), "B07": (2107, 2294),
    },
    "modis": {
        "b1": (620, 670), "b2": (841, 876), "b3": (459, 479), "b4": (545, 565), "b5": (1230, 1250), "b6": (1628, 1652),
        "b7": (2105, 2155),
    },
}  # fmt: skip


def canopy(spectra: Spectra, plant: str, lai: float, senescence: float = 0.0, ground: str = "loam") -> dict[str, float]:
    shares = np.array([[float(name == ground) for name in BACKGROUNDS]])
    values = spectra.canopy(np.array([PLANTS.index(plant)]), np.array([lai]), np.array([senescence]), shares)
    return dict(zip(spectra.bands, values[0].tolist(), strict=True))


def index(a: float, b: float) -> float:
    return (a - b) / (a + b)


def test_table_is_small_and_says_how_it_was_made() -> None:
    assert TABLE.stat().st_size < 500_000
    with np.load(TABLE, allow_pickle=False) as table:
        assert "prosail 2.0.5" in str(table["provenance"])
        assert "pyrsr 0.8.0" in str(table["provenance"])


@pytest.mark.parametrize("source", ["sentinel2", "landsat", "modis"])
def test_bands_are_the_sensors_in_its_order_at_their_wavelengths(source: str) -> None:
    spectra = Spectra(source)
    assert tuple(spectra.bands) == load_sensors()[source].bands
    for band, center in zip(spectra.bands, spectra.center_nm, strict=True):
        low, high = LIMITS[source][band]
        assert low - 12 <= center <= high + 12, band


def test_reflectance_lies_between_nothing_and_all() -> None:
    with np.load(TABLE, allow_pickle=False) as table:
        for name in ("canopies", "surfaces"):
            assert table[name].min() > 0
            assert table[name].max() < 1


@pytest.mark.parametrize("plant", PLANTS)
def test_green_leaves_have_a_red_edge_and_dead_ones_do_not(plant: str) -> None:
    spectra = Spectra("sentinel2")
    green, dead = canopy(spectra, plant, 4.0), canopy(spectra, plant, 4.0, senescence=1.0)
    assert green["B04"] < green["B05"] < green["B06"] < green["B07"]
    assert green["B04"] < green["B03"]
    assert green["B11"] < green["B8A"]
    assert 0.75 < index(green["B08"], green["B04"]) < 0.97
    assert index(dead["B08"], dead["B04"]) < 0.55
    assert dead["B04"] > 3 * green["B04"]


@pytest.mark.parametrize("plant", PLANTS)
def test_more_leaves_absorb_more_red(plant: str) -> None:
    spectra = Spectra("landsat")
    series = [canopy(spectra, plant, lai) for lai in (0.0, 0.3, 1.0, 2.0, 4.0)]
    ndvi = [index(c["B05"], c["B04"]) for c in series]
    assert all(a < b for a, b in itertools.pairwise(ndvi))
    assert 0.1 < ndvi[0] < 0.4, "bare soil"
    assert all(a["B04"] > b["B04"] for a, b in itertools.pairwise(series))


def test_water_is_dark_in_the_infrared_and_snow_only_beyond_1500_nm() -> None:
    spectra = Spectra("landsat")

    def surface(name: str) -> dict[str, float]:
        return dict(zip(spectra.bands, spectra.surface(name).tolist(), strict=True))

    for name in ("clear_water", "turbid_water", "green_water"):
        water = surface(name)
        assert water["B06"] < 0.015
        assert water["B07"] < 0.015
        assert index(water["B03"], water["B05"]) > 0.3
    assert surface("turbid_water")["B04"] > 3 * surface("clear_water")["B04"]
    snow = surface("snow")
    assert min(snow["B02"], snow["B03"], snow["B04"]) > 0.85
    assert snow["B05"] > 0.7
    assert index(snow["B03"], snow["B06"]) > 0.8
    assert surface("cloud")["B06"] > 5 * snow["B06"], "short-wave infrared tells clouds from snow"


def test_flooded_paddy_is_wet_before_it_is_green() -> None:
    spectra = Spectra("landsat")
    young = canopy(spectra, "rice", 0.3, ground="flooded")
    dry = canopy(spectra, "rice", 0.3, ground="loam")
    lswi, ndvi = index(young["B05"], young["B06"]), index(young["B05"], young["B04"])
    assert lswi + 0.05 > ndvi, "the flooding signal of Xiao et al. 2005"
    assert index(dry["B05"], dry["B06"]) < 0.05 < lswi


def test_sensors_agree_on_bands_they_share() -> None:
    """A canopy cannot be bright for one sensor and dark for another: this shows that no bands are swapped."""
    pairs = {"B02": ("B02", "b3"), "B03": ("B03", "b4"), "B04": ("B04", "b1"), "B8A": ("B05", "b2"), "B11": ("B06", "b6")}
    for plant, lai, senescence in itertools.product(PLANTS, (0.5, 3.0), (0.0, 0.8)):
        seen = {source: canopy(Spectra(source), plant, lai, senescence) for source in ("sentinel2", "landsat", "modis")}
        for band, (landsat, modis) in pairs.items():
            assert seen["landsat"][landsat] == pytest.approx(seen["sentinel2"][band], rel=0.12, abs=0.015)
            # half-dead leaves rise steeply from 480 to 520 nm: MODIS's blue ends at 479 nm, Sentinel-2's at 525
            slope = 0.02 if band == "B02" and senescence else 0.0
            assert seen["modis"][modis] == pytest.approx(seen["sentinel2"][band], rel=0.12, abs=0.015 + slope), (plant, band)


def test_interpolation_meets_the_table_and_is_linear_between() -> None:
    spectra = Spectra("modis")
    with np.load(TABLE, allow_pickle=False) as table:
        modis = [i for i, name in enumerate(table["bands"].tolist()) if name.startswith("modis")]
        at_node = table["canopies"][2, 1, 3, 4, modis]
        next_node = table["canopies"][2, 1, 4, 4, modis]
        lai, senescence = table["lai"], table["senescence"]
    found = canopy(spectra, PLANTS[2], lai[3], senescence[1], BACKGROUNDS[4])
    np.testing.assert_allclose(list(found.values()), at_node, rtol=1e-5)
    between = canopy(spectra, PLANTS[2], 0.25 * lai[3] + 0.75 * lai[4], senescence[1], BACKGROUNDS[4])
    np.testing.assert_allclose(list(between.values()), 0.25 * at_node + 0.75 * next_node, rtol=1e-5)


def test_unknown_source_is_named() -> None:
    with pytest.raises(ValueError, match="no spectra for source 'aster'"):
        Spectra("aster")


@pytest.mark.slow
def test_table_can_be_made_again() -> None:
    """PROSAIL and the response functions give the committed numbers; `make test-slow` installs the two packages."""
    import prosail
    from pyrsr import rsr

    from data_prep.simulation.make_spectra import PLANTS as parameters
    from data_prep.simulation.make_spectra import leaf, surfaces

    reflectance = prosail.run_prosail(
        **leaf(parameters["rice"], 0.0), lai=4.0, lidfa=64, hspot=0.05, tts=35.0, tto=0.0, psi=0.0, prospect_version="D",
        rsoil0=surfaces()["flooded"],
    )  # fmt: skip
    curve = rsr.RelativeSpectralResponse("Landsat-8", "OLI_TIRS", LayerBandsAssignment=["5"])
    weights = np.interp(np.arange(400, 2501), curve.rsrs_wvl, curve.rsrs["5"], left=0, right=0)
    expected = (reflectance * weights).sum() / weights.sum()
    assert canopy(Spectra("landsat"), "rice", 4.0, ground="flooded")["B05"] == pytest.approx(expected, abs=0.002)
