"""The covers of the land: crops with their calendars, natural vegetation, water, built-up surfaces."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

REFERENCE_LATITUDE = 42.0
NOT_CROPLAND = 100  # code of every labelled pixel without a crop


@dataclass(frozen=True, kw_only=True)
class Cycle:
    """One growth cycle of leaves. Days are days of the year at 42 degrees north; negative days lie in the year before.

    Leaf area follows a double logistic function (Beck et al. 2006, RSE 100) until the harvest.

    Attributes:
        rise, turn: days on which leaf area has risen to half of `lai`, and fallen to half.
        lai: largest leaf area, m2/m2.
        sow, harvest: days of sowing and harvest; None for natural vegetation.
        rise_days, turn_days: time scales in days of rise and fall.
        standing: share of the leaf area that remains, dead, until the harvest.
        autumn_lai: leaf area that crops sown in autumn reach before winter.
        flood: first and last day under water.
        plant: plant type, when it differs from that of the cover.
        start_per_degree, end_per_degree: delay in days of the start and the end of the cycle per degree to the north.
    """

    rise: float
    turn: float
    lai: float
    sow: float | None = None
    harvest: float | None = None
    rise_days: float = 9.0
    turn_days: float = 7.0
    standing: float = 0.45
    autumn_lai: float = 0.0
    flood: tuple[float, float] | None = None
    plant: str | None = None
    start_per_degree: float = 1.2
    end_per_degree: float = 0.6


@dataclass(frozen=True, kw_only=True)
class Cover:
    """One kind of land cover.

    Attributes:
        name: name in figures, and of crops in labels.
        glc: code in GLC_FCS30D.
        crop: code in the crop-type labels, or NOT_CROPLAND.
        color: `#rrggbb`.
        plant: plant type of the canopy spectra; None for covers without leaves.
        base_lai: leaf area outside the cycles, m2/m2.
        cycles: growth cycles of a year.
        surface: shares of surface spectra, for covers without leaves.
        perennial: True when it stays on its parcel from year to year.
        wet: share of the ground that is always under water (marsh).
        hides_snow: share of lying snow that the canopy or the surface hides.
    """

    name: str
    glc: int
    color: str
    crop: int = NOT_CROPLAND
    plant: str | None = None
    base_lai: float = 0.0
    cycles: tuple[Cycle, ...] = ()
    surface: tuple[tuple[str, float], ...] = ()
    perennial: bool = True
    wet: float = 0.0
    hides_snow: float = 0.0


def _crop(code: int, name: str, color: str, plant: str, *cycles: Cycle, glc: int = 10) -> Cover:
    return Cover(name=name, glc=glc, color=color, crop=code, plant=plant, cycles=cycles, perennial=False)


_WINTER: dict[str, Any] = {"start_per_degree": 2.2, "end_per_degree": 2.6, "rise_days": 11.0}
_WHEAT = Cycle(sow=-83, rise=100, turn=157, harvest=173, lai=5.2, autumn_lai=0.9, plant="cereal", **_WINTER)
_RAPESEED = Cycle(sow=-112, rise=88, turn=152, harvest=168, lai=4.6, autumn_lai=1.7, plant="broadleaf", **_WINTER)
_LATE_RICE = Cycle(
    sow=168, rise=208, turn=262, harvest=281, lai=5.2, flood=(160, 252), start_per_degree=0.3, end_per_degree=0.2, plant="rice"
)
_LATE_MAIZE = Cycle(sow=172, rise=208, turn=268, harvest=282, lai=4.4, plant="maize")
_CUTS = tuple(Cycle(rise=104 + 36 * i, turn=400, lai=3.6, sow=84 + 36 * i, harvest=121 + 36 * i, rise_days=6) for i in range(5))

CROPS = (
    # The label does not distinguish single from double rice. The dates of double rice are those of 21 degrees north.
    _crop(
        1,
        "paddy_rice",
        "#1f78b4",
        "rice",
        Cycle(sow=134, rise=186, turn=252, harvest=272, lai=5.6, flood=(128, 240), start_per_degree=0.5, end_per_degree=0.2),
        glc=20,
    ),
    _crop(
        1,
        "double_rice",
        "#1f78b4",
        "rice",
        Cycle(sow=42, rise=84, turn=148, harvest=164, lai=5.0, flood=(30, 138), start_per_degree=0, end_per_degree=0),
        Cycle(sow=186, rise=218, turn=276, harvest=291, lai=4.6, flood=(174, 262), start_per_degree=0, end_per_degree=0),
        glc=20,
    ),
    # After a winter crop, rice is transplanted a month later; the label is that of the summer crop.
    _crop(1, "rapeseed_then_rice", "#1f78b4", "rice", _RAPESEED, _LATE_RICE, glc=20),
    _crop(1, "wheat_then_rice", "#1f78b4", "rice", _WHEAT, _LATE_RICE, glc=20),
    _crop(2, "winter_wheat", "#d9a520", "cereal", _WHEAT),
    _crop(2, "wheat_then_maize", "#d9a520", "cereal", _WHEAT, _LATE_MAIZE),
    _crop(3, "maize", "#e6550d", "maize", Cycle(sow=122, rise=168, turn=248, harvest=276, lai=4.8)),
    _crop(
        4, "soybean", "#74a33b", "broadleaf", Cycle(sow=136, rise=186, turn=254, harvest=273, lai=5.2, turn_days=5, standing=0.2)
    ),
    _crop(5, "winter_rapeseed", "#f0e130", "broadleaf", _RAPESEED),
    _crop(6, "spring_barley", "#c8a878", "cereal", Cycle(sow=74, rise=114, turn=166, harvest=184, lai=4.2, end_per_degree=2.0)),
    _crop(7, "sunflower", "#b15928", "broadleaf", Cycle(sow=108, rise=158, turn=224, harvest=251, lai=3.4, turn_days=8)),
    _crop(
        8,
        "vegetables",
        "#e377c2",
        "broadleaf",
        Cycle(sow=82, rise=112, turn=400, harvest=158, lai=3.0, rise_days=7),
        Cycle(sow=186, rise=216, turn=400, harvest=284, lai=3.4, rise_days=7),
        glc=11,
    ),
    _crop(9, "alfalfa", "#8c6bb1", "broadleaf", *_CUTS, glc=11),
    Cover(
        name="orchard",
        glc=12,
        crop=10,
        color="#8dd3a8",
        plant="deciduous",
        base_lai=0.45,
        cycles=(Cycle(rise=100, turn=300, lai=2.3, standing=0.0, turn_days=10),),
    ),
    _crop(11, "fallow", "#bdbdbd", "grass", Cycle(rise=120, turn=215, lai=0.9, rise_days=16, turn_days=20, standing=0.7)),
)

LAND = (
    Cover(
        name="deciduous_forest",
        glc=62,
        color="#4c8c3f",
        plant="deciduous",
        base_lai=1.2,
        cycles=(
            Cycle(rise=122, turn=292, lai=4.8, rise_days=6, turn_days=8, standing=0.0, start_per_degree=2.2, end_per_degree=-2),
        ),
        hides_snow=0.55,
    ),
    Cover(
        name="evergreen_forest",
        glc=52,
        color="#1b5e3a",
        plant="evergreen",
        base_lai=3.6,
        cycles=(Cycle(rise=110, turn=310, lai=4.8, rise_days=20, turn_days=25, standing=0.75),),
        hides_snow=0.75,
    ),
    Cover(name="needle_forest", glc=72, color="#2f4f4f", plant="needle", base_lai=3.4, hides_snow=0.8),
    Cover(
        name="shrubland",
        glc=120,
        color="#8a9a5b",
        plant="evergreen",
        base_lai=0.8,
        cycles=(Cycle(rise=118, turn=280, lai=1.9, rise_days=14, turn_days=20, standing=0.4),),
        hides_snow=0.3,
    ),
    Cover(
        name="grassland",
        glc=130,
        color="#a9cf63",
        plant="grass",
        base_lai=0.7,
        cycles=(Cycle(rise=100, turn=285, lai=2.9, rise_days=14, turn_days=22, standing=0.55, start_per_degree=2.0),),
    ),
    Cover(  # green in the wet winter, straw in the dry summer
        name="annual_grassland",
        glc=130,
        color="#c5cf7a",
        plant="grass",
        base_lai=0.5,
        cycles=(Cycle(rise=-20, turn=118, lai=2.6, rise_days=18, turn_days=9, standing=0.6, start_per_degree=0),),
    ),
    Cover(
        name="marsh",
        glc=182,
        color="#5fb8a8",
        plant="reed",
        base_lai=0.9,
        cycles=(Cycle(rise=138, turn=268, lai=4.2, rise_days=11, turn_days=12, standing=0.5, start_per_degree=1.8),),
        wet=0.7,
    ),
    Cover(
        name="sparse_vegetation",
        glc=150,
        color="#d8c9a0",
        plant="grass",
        base_lai=0.15,
        cycles=(Cycle(rise=115, turn=230, lai=0.6, rise_days=14, turn_days=20, standing=0.5),),
    ),
    Cover(name="rock", glc=201, color="#c9b393", surface=(("rock", 0.75), ("sand", 0.25))),
    Cover(name="river", glc=210, color="#2c6fb2", surface=(("turbid_water", 0.75), ("clear_water", 0.25))),
    Cover(name="lake", glc=210, color="#2c6fb2", surface=(("clear_water", 0.7), ("green_water", 0.3))),
    Cover(name="pond", glc=210, color="#4a90c2", surface=(("green_water", 0.8), ("turbid_water", 0.2))),
    Cover(name="paved_road", glc=190, color="#7a2418", surface=(("asphalt", 0.8), ("concrete", 0.2)), hides_snow=0.6),
    Cover(name="red_roofs", glc=190, color="#c4442e", surface=(("red_roof", 0.75), ("asphalt", 0.25)), hides_snow=0.35),
    Cover(name="grey_roofs", glc=190, color="#c4442e", surface=(("grey_roof", 0.7), ("concrete", 0.3)), hides_snow=0.35),
    Cover(name="blue_roofs", glc=190, color="#c4442e", surface=(("blue_roof", 0.8), ("concrete", 0.2)), hides_snow=0.35),
    Cover(name="yard", glc=190, color="#c4442e", surface=(("concrete", 0.6), ("loam", 0.4)), hides_snow=0.4),
    Cover(name="track", glc=10, color="#cbb892", surface=(("loam", 0.7), ("concrete", 0.3))),
)

COVERS: tuple[Cover, ...] = CROPS + LAND
INDEX = {cover.name: index for index, cover in enumerate(COVERS)}

# Labels by code: the two kinds of rice share one.
CROP_NAMES = {cover.crop: cover.name for cover in reversed(CROPS)} | {NOT_CROPLAND: "not_cropland"}
