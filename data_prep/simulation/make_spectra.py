"""Makes spectra.npz: reflectance of canopies and surfaces in the bands of Sentinel-2A, Landsat-8 and MODIS. Not used at run time.

    python -m venv /tmp/spectra && /tmp/spectra/bin/pip install prosail==2.0.5 pyrsr==0.8.0
    /tmp/spectra/bin/python data_prep/simulation/make_spectra.py

Canopies are simulated with PROSAIL, that is PROSPECT-D leaves (Feret et al. 2017) in the 4SAIL canopy (Verhoef et al. 2007),
from 400 to 2500 nm in steps of 1 nm, seen from nadir with the sun at 35 degrees from the zenith. One geometry is enough, since
products are adjusted to nadir. PROSAIL has no trunks and no gaps between crowns or rows; for forests a factor stands for the
shade between crowns. Other surfaces are simple models and shapes, described at each function. Spectra are folded with the
published relative response functions (pyrsr: ESA 2015 for MSI, Ball 2014 for OLI, NASA for MODIS on Terra).
"""

from importlib.metadata import version
from pathlib import Path

import numpy as np
from prosail import run_prosail, spectral_lib
from pyrsr.rsr import RSR_reader

WAVELENGTH = np.arange(400.0, 2501.0)
SUN_ZENITH = 35.0

SENSORS = {  # source: (satellite, instrument, bands in the order of data_prep/archive/sensors/*.yaml, their names there)
    "sentinel2": (
        "Sentinel-2A",
        "MSI",
        ["2", "3", "4", "8", "5", "6", "7", "8A", "11", "12"],
        ["B02", "B03", "B04", "B08", "B05", "B06", "B07", "B8A", "B11", "B12"],
    ),
    "landsat": ("Landsat-8", "OLI_TIRS", ["2", "3", "4", "5", "6", "7"], ["B02", "B03", "B04", "B05", "B06", "B07"]),
    "modis": ("Terra", "MODIS", ["1", "2", "3", "4", "5", "6", "7"], ["b1", "b2", "b3", "b4", "b5", "b6", "b7"]),
}
LAI = np.array([0.0, 0.2, 0.5, 1.0, 1.7, 2.6, 4.0, 6.0])
SENESCENCE = np.array([0.0, 0.33, 0.67, 1.0])  # 0: green leaves, 1: dead, dry and brown

# n: leaf layers; cab, car: chlorophyll and carotenoids, ug/cm2; cw: water, cm; cm: dry matter, g/cm2; angle: mean leaf
# inclination, degrees; hotspot: leaf size over canopy height; shade: factor for gaps between crowns; stems: by how much
# leafless trunks and branches darken the canopy.
# Values within the ranges of the LOPEX and ANGERS leaf collections and of the published look-up tables for each crop.
PLANTS = {
    "rice": {"n": 1.5, "cab": 42, "car": 9, "cw": 0.012, "cm": 0.0045, "angle": 64, "hotspot": 0.05, "shade": 1.0, "stems": 0},
    "cereal": {"n": 1.5, "cab": 48, "car": 10, "cw": 0.015, "cm": 0.0050, "angle": 60, "hotspot": 0.05, "shade": 1.0, "stems": 0},
    "maize": {"n": 1.5, "cab": 56, "car": 11, "cw": 0.016, "cm": 0.0055, "angle": 54, "hotspot": 0.08, "shade": 0.95, "stems": 0},
    "broadleaf": {
        "n": 1.6,
        "cab": 44,
        "car": 9,
        "cw": 0.014,
        "cm": 0.0040,
        "angle": 36,
        "hotspot": 0.10,
        "shade": 1.0,
        "stems": 0,
    },
    "grass": {"n": 1.5, "cab": 34, "car": 8, "cw": 0.010, "cm": 0.0050, "angle": 62, "hotspot": 0.02, "shade": 1.0, "stems": 0},
    "deciduous": {
        "n": 1.7,
        "cab": 46,
        "car": 10,
        "cw": 0.011,
        "cm": 0.0060,
        "angle": 48,
        "hotspot": 0.05,
        "shade": 0.80,
        "stems": 0.32,
    },
    "evergreen": {
        "n": 1.9,
        "cab": 58,
        "car": 12,
        "cw": 0.014,
        "cm": 0.0100,
        "angle": 46,
        "hotspot": 0.05,
        "shade": 0.72,
        "stems": 0.25,
    },
    "needle": {
        "n": 2.2,
        "cab": 46,
        "car": 10,
        "cw": 0.022,
        "cm": 0.0150,
        "angle": 58,
        "hotspot": 0.02,
        "shade": 0.58,
        "stems": 0.25,
    },
    "reed": {"n": 1.6, "cab": 38, "car": 8, "cw": 0.010, "cm": 0.0060, "angle": 68, "hotspot": 0.03, "shade": 0.92, "stems": 0},
}


def leaf(plant: dict[str, float], senescence: float) -> dict[str, float]:
    """Parameters of PROSPECT-D: with senescence, leaves first lose chlorophyll, then water; brown pigments appear last."""
    green = 1.0 - senescence
    return {
        "n": plant["n"] + 0.6 * senescence,
        "cab": 1.0 + (plant["cab"] - 1.0) * green**1.5,
        "car": 1.5 + (plant["car"] - 1.5) * green,
        "cbrown": 0.75 * senescence**2,
        "cw": plant["cw"] * (0.12 + 0.88 * green),
        "cm": plant["cm"],
    }


def canopy(plant: dict[str, float], senescence: float, lai: float, background: np.ndarray) -> np.ndarray:
    """Nadir reflectance (2101,) of one canopy above one background."""
    structure = {"lidfa": plant["angle"], "hspot": plant["hotspot"], "tts": SUN_ZENITH, "tto": 0.0, "psi": 0.0}
    spectrum = run_prosail(**leaf(plant, senescence), lai=lai, **structure, prospect_version="D", rsoil0=background)
    covered = 1.0 - np.exp(-0.6 * lai)
    stems = plant["stems"] * np.exp(-0.5 * lai)  # stems and their shade are visible where leaves do not hide them
    return np.asarray(spectrum) * (1.0 - covered * (1.0 - plant["shade"]) - stems)


def iron_slope(strength: float) -> np.ndarray:
    """Factor (2101,) by which iron oxides darken a soil below 750 nm: the dry soil of PROSAIL is greyer than most soils."""
    return 1.0 - strength * np.clip((750.0 - WAVELENGTH) / 350.0, 0.0, 1.0) ** 0.8


def interpolated(*points: tuple[float, float]) -> np.ndarray:
    """A piecewise linear curve (2101,) through points (wavelength in nm, value)."""
    x, y = zip(*points, strict=True)
    return np.interp(WAVELENGTH, x, y)


def water_absorption() -> np.ndarray:
    """Absorption of pure water in 1/m, (2101,), rounded from Pope and Fry (1997) and Hale and Querry (1973)."""
    table = [(400, 0.0066), (450, 0.0092), (500, 0.0204), (550, 0.0565), (600, 0.222), (650, 0.34), (700, 0.624), (720, 1.2)]
    table += [(750, 2.5), (800, 2.0), (850, 4.3), (900, 6.8), (950, 39), (1000, 36), (1100, 18), (1200, 104), (1300, 110)]
    table += [(1400, 1238), (1450, 2600), (1500, 1940), (1600, 672), (1700, 503), (1800, 800), (1950, 11000), (2100, 2400)]
    table += [(2200, 1650), (2300, 2000), (2400, 4200), (2500, 8500)]
    wavelengths, values = np.array(table).T
    return np.exp(np.interp(WAVELENGTH, wavelengths, np.log(values)))


def water(chlorophyll: float, sediment: float, organic: float) -> np.ndarray:
    """Reflectance (2101,) of deep water: rrs = 0.0949 u + 0.0794 u^2, u = bb / (a + bb) (Gordon et al. 1988).

    The step through the surface is that of Lee et al. (2002); a little sun and sky glint is added.

    Args:
        chlorophyll: mg/m3; it absorbs at 440 and 675 nm.
        sediment: g/m3.
        organic: absorption by dissolved matter at 440 nm, 1/m.
    """
    peaks = np.exp(-(((WAVELENGTH - 440) / 40) ** 2)) + 0.45 * np.exp(-(((WAVELENGTH - 675) / 14) ** 2))
    absorption = water_absorption() + 0.04 * chlorophyll**0.8 * peaks + organic * np.exp(-0.015 * (WAVELENGTH - 440))
    absorption += 0.02 * sediment * np.exp(-0.011 * (WAVELENGTH - 440))
    backscatter = 0.0012 * (500 / WAVELENGTH) ** 4.3 + (0.010 * sediment + 0.003 * chlorophyll) * (550 / WAVELENGTH) ** 0.6
    u = backscatter / (absorption + backscatter)
    below = 0.0949 * u + 0.0794 * u**2
    return np.pi * 0.52 * below / (1 - 1.7 * below) + 0.006


def flooded(soil: np.ndarray, depth_m: float = 0.035) -> np.ndarray:
    """Reflectance (2101,) of soil under shallow, turbid water, which dims the light on its way down and up."""
    attenuation = water_absorption() + 6.0 * (550 / WAVELENGTH) ** 0.5
    through = np.exp(-2.2 * attenuation * depth_m)
    return 0.9 * soil * through + (1 - through) * water(12.0, 30.0, 1.0) + 0.008


def snow(grain_mm: float, soot: float) -> np.ndarray:
    """Albedo of snow (2101,), exp(-sqrt(13 d 4 pi chi / lambda)) (Kokhanovsky and Zege 2004).

    chi of ice is rounded from Warren and Brandt (2008).
    """
    table = [(400, 2e-11), (500, 6e-11), (600, 5.7e-10), (700, 2.9e-8), (800, 1.3e-7), (900, 4.2e-7), (1000, 1.6e-6)]
    table += [(1100, 1.9e-6), (1200, 8e-6), (1300, 1.1e-5), (1400, 2e-5), (1500, 5.5e-4), (1600, 2.6e-4), (1700, 1.6e-4)]
    table += [(1800, 1.1e-4), (1900, 2e-4), (2000, 1.6e-3), (2100, 7e-4), (2200, 3e-4), (2300, 3.3e-4), (2500, 8e-4)]
    wavelengths, values = np.array(table).T
    chi = np.exp(np.interp(WAVELENGTH, wavelengths, np.log(values)))
    return (1 - soot) * np.exp(-np.sqrt(13 * grain_mm * 1e-3 * 4 * np.pi * chi / (WAVELENGTH * 1e-9)))


def surfaces() -> dict[str, np.ndarray]:
    """Spectra (2101,) of all surfaces but canopies. Those of built-up land and clouds are typical shapes, not measurements."""
    dry, wet = spectral_lib.soil.rsoil1, spectral_lib.soil.rsoil2
    loam = 0.72 * dry * iron_slope(0.55)
    straw = {**PLANTS["cereal"], "n": 2.2, "cm": 0.009, "angle": 25, "cw": 0.004}
    return {
        "loam": loam,
        "dark": 0.42 * dry * iron_slope(0.45) + 0.1 * wet,
        "red": 0.68 * dry * iron_slope(0.80) * interpolated((400, 0.6), (550, 0.75), (620, 1.05), (750, 1.1), (2500, 0.95)),
        "moist": 0.25 * loam + 0.9 * wet * iron_slope(0.2),
        "straw": canopy(straw, 1.0, 2.2, loam),
        "flooded": flooded(0.30 * loam + 0.8 * wet),
        "snow": snow(0.35, 0.04),
        "clear_water": water(2.0, 1.5, 0.25),
        "turbid_water": water(8.0, 35.0, 0.8),
        "green_water": water(30.0, 8.0, 0.9),
        # The shapes of built-up surfaces include shade between buildings, dirt and age.
        "asphalt": interpolated((400, 0.07), (600, 0.10), (1000, 0.13), (1600, 0.17), (2200, 0.16), (2500, 0.15)),
        "concrete": interpolated((400, 0.11), (600, 0.17), (1000, 0.21), (1600, 0.24), (2200, 0.22), (2500, 0.19)),
        "red_roof": interpolated((400, 0.05), (550, 0.08), (620, 0.16), (800, 0.20), (1000, 0.22), (1600, 0.30), (2500, 0.27)),
        "grey_roof": interpolated((400, 0.13), (550, 0.16), (800, 0.18), (1600, 0.18), (2200, 0.17), (2500, 0.15)),
        "blue_roof": interpolated((400, 0.16), (470, 0.24), (560, 0.16), (650, 0.11), (850, 0.20), (1600, 0.20), (2500, 0.15)),
        "rock": 0.45 * dry * iron_slope(0.25),
        "sand": 0.95 * dry * iron_slope(0.45),
        "cloud": interpolated((400, 0.72), (900, 0.74), (1300, 0.66), (1600, 0.48), (1800, 0.45), (2200, 0.36), (2500, 0.30)),
        "cirrus": interpolated((400, 0.46), (900, 0.44), (1300, 0.36), (1600, 0.22), (2200, 0.20), (2500, 0.16)),
    }


def response(satellite: str, instrument: str, band: str) -> np.ndarray:
    """Relative response (2101,) of a band; it sums to 1."""
    (curve,) = RSR_reader(satellite, instrument, LayerBandsAssignment=[band]).values()
    wavelengths = curve[:, 0] * (1000.0 if curve[:, 0].max() < 100 else 1.0)
    weights = np.clip(np.interp(WAVELENGTH, wavelengths, curve[:, 1], left=0.0, right=0.0), 0.0, None)
    return weights / weights.sum()


def main() -> None:
    """Compute all spectra and write spectra.npz beside this file."""
    bands = [
        (source, name, response(satellite, instrument, band))
        for source, (satellite, instrument, numbers, names) in SENSORS.items()
        for band, name in zip(numbers, names, strict=True)
    ]
    folding = np.stack([weights for *_, weights in bands], axis=1)  # (2101, bands)
    spectra = surfaces()
    backgrounds = ["loam", "dark", "red", "moist", "straw", "flooded", "snow"]
    canopies = np.array(
        [
            [[[canopy(plant, s, lai, spectra[ground]) for ground in backgrounds] for lai in LAI] for s in SENESCENCE]
            for plant in PLANTS.values()
        ]
    )
    provenance = (
        f"make_spectra.py; prosail {version('prosail')} (PROSPECT-D, 4SAIL), pyrsr {version('pyrsr')}; nadir view, "
        f"sun {SUN_ZENITH} degrees from zenith; plants {PLANTS}"
    )
    np.savez_compressed(
        Path(__file__).with_name("spectra.npz"),
        canopies=(canopies @ folding).round(5).astype(np.float32),  # (plant, senescence, LAI, background, band)
        surfaces=(np.stack(list(spectra.values())) @ folding).round(5).astype(np.float32),  # (surface, band)
        plants=np.array(list(PLANTS)),
        senescence=SENESCENCE,
        lai=LAI,
        backgrounds=np.array(backgrounds),
        surface_names=np.array(list(spectra)),
        bands=np.array([f"{source}:{name}" for source, name, _ in bands]),
        center_nm=np.array([(weights * WAVELENGTH).sum() for *_, weights in bands]).round(1),
        provenance=np.array(provenance),
    )


if __name__ == "__main__":
    main()
