"""The regions of the world in which context matters: 15 invented climates in three groups of five.

Nothing in them imitates a place: names, maps and coordinates are invented. The groups differ in what a test bed uses them for
(`tests/bench/make_test_bed.py`): labels come from the first region, choices are made on the validation regions, and scores on
the test regions.
"""

from __future__ import annotations

from data_prep.simulation.regions import Climate, Region

YEAR_DAYS = 12.0  # delay of a year; with that of the region at most 30 days
FIELD_DAYS = 9.0
_CROPS = ("winter_wheat", "maize", "soybean", "sunflower", "winter_rapeseed", "alfalfa")
_USES = ("fields", "strips", "orchard", "plantation", "greenhouse", "fish_pond")
_PATCHES = ("forest", "woodland", "grass", "lake", "village", "pivots")


def _region(
    name: str,
    split: str,
    calendar_days: float,
    field_m: tuple[float, float],
    soil: tuple[float, float, float],
    temperature_c: float,
    cloud: tuple[float, float],
    crops: tuple[float, ...],
    uses: tuple[float, ...],
    shares: tuple[float, ...],
) -> Region:
    """A region; weights are in the order of _CROPS, _USES and _PATCHES. At 42 degrees north calendars are as stated."""
    number = ord(name[len("sim_")]) - ord("a")
    return Region(
        name=name,
        split=split,
        longitude=-3.0 + 6.0 * number,  # each in a UTM zone of its own
        latitude=42.0,
        field_m=field_m,
        district_m=520,
        soil=soil,
        crops=dict(zip(_CROPS, crops, strict=True)),
        forests={"deciduous_forest": 1},
        shares=dict(zip(_PATCHES, shares, strict=True)),
        villages=0.0,
        village_m=0.0,
        river_m=0,
        relief_m=20,
        roofs={"grey_roofs": 1},
        climate=Climate(temperature_c=temperature_c, swing_c=9, cloud=cloud, rain_mm=(3, 5)),
        uses=dict(zip(_USES, uses, strict=True)),
        calendar_days=calendar_days,
        year_days=YEAR_DAYS,
        field_days=FIELD_DAYS,
    )


CONTEXT_REGIONS = (
    # name, split, calendar, field, soil, temperature, cloud in winter and summer,
    # crops: wheat maize soybean sunflower rapeseed alfalfa; uses: fields strips orchard plantation greenhouse pond;
    # shares: forest woodland grass lake village pivots
    _region("sim_ardenmoor", "train", 2, (190, 100), (0.5, 0.4, 0.1), 14, (0.84, 0.80),
            (3, 3, 2, 2, 2, 1), (5, 1.2, 1.6, 1.3, 1.0, 1.0), (0.07, 0.08, 0.06, 0.03, 0.05, 0.30)),
    _region("sim_belcampo", "train", -13, (150, 75), (0.6, 0.2, 0.2), 16, (0.82, 0.78),
            (4, 2, 1, 3, 1, 1), (5, 0.8, 2.0, 0.9, 1.2, 0.6), (0.05, 0.11, 0.05, 0.02, 0.06, 0.25)),
    _region("sim_corvale", "train", 14, (240, 140), (0.3, 0.7, 0.0), 12, (0.85, 0.82),
            (2, 4, 3, 1, 2, 1), (5, 1.0, 1.0, 1.8, 0.7, 1.3), (0.10, 0.06, 0.07, 0.03, 0.04, 0.35)),
    _region("sim_dunmarsh", "train", 8, (120, 60), (0.6, 0.4, 0.0), 13, (0.84, 0.80),
            (2, 2, 3, 1, 3, 2), (5, 1.5, 1.2, 1.0, 1.3, 1.5), (0.06, 0.06, 0.08, 0.05, 0.05, 0.22)),
    _region("sim_elverra", "train", -7, (170, 90), (0.4, 0.2, 0.4), 17, (0.80, 0.80),
            (3, 3, 1, 3, 1, 1), (5, 1.0, 2.2, 1.1, 1.1, 0.7), (0.06, 0.10, 0.05, 0.02, 0.05, 0.30)),
    _region("sim_farrowby", "validation", 16, (160, 80), (0.5, 0.5, 0.0), 12, (0.84, 0.82),
            (3, 2, 2, 1, 3, 1), (5, 1.2, 1.5, 1.3, 1.0, 1.0), (0.08, 0.07, 0.07, 0.03, 0.05, 0.28)),
    _region("sim_galtara", "validation", -16, (140, 70), (0.4, 0.2, 0.4), 17, (0.82, 0.78),
            (4, 2, 1, 3, 1, 1), (5, 1.0, 2.0, 1.0, 1.3, 0.8), (0.05, 0.10, 0.05, 0.02, 0.06, 0.28)),
    _region("sim_hollenfeld", "validation", 5, (230, 130), (0.4, 0.6, 0.0), 13, (0.84, 0.80),
            (3, 3, 2, 1, 3, 1), (5, 0.9, 1.2, 1.6, 0.8, 1.1), (0.10, 0.06, 0.06, 0.03, 0.05, 0.32)),
    _region("sim_istrona", "validation", -9, (180, 95), (0.7, 0.2, 0.1), 16, (0.82, 0.80),
            (2, 4, 2, 2, 1, 1), (5, 1.3, 1.7, 1.0, 1.2, 0.9), (0.06, 0.09, 0.05, 0.03, 0.05, 0.30)),
    _region("sim_jorwick", "validation", 11, (125, 65), (0.5, 0.5, 0.0), 12, (0.85, 0.81),
            (2, 2, 3, 1, 2, 2), (5, 1.4, 1.2, 1.2, 1.1, 1.4), (0.07, 0.07, 0.08, 0.04, 0.05, 0.24)),
    _region("sim_kestria", "test", -18, (165, 85), (0.5, 0.2, 0.3), 17, (0.81, 0.79),
            (3, 2, 1, 3, 2, 1), (5, 1.1, 1.9, 1.0, 1.2, 0.8), (0.05, 0.10, 0.06, 0.02, 0.05, 0.28)),
    _region("sim_lomvale", "test", 18, (200, 110), (0.3, 0.7, 0.0), 12, (0.85, 0.82),
            (2, 3, 3, 1, 3, 1), (5, 1.0, 1.3, 1.6, 0.8, 1.2), (0.09, 0.07, 0.07, 0.03, 0.05, 0.30)),
    _region("sim_merrano", "test", -10, (145, 70), (0.5, 0.3, 0.2), 16, (0.82, 0.78),
            (3, 3, 2, 2, 1, 1), (5, 1.2, 1.8, 1.0, 1.2, 1.0), (0.06, 0.09, 0.05, 0.03, 0.06, 0.28)),
    _region("sim_norvenna", "test", 12, (220, 120), (0.5, 0.5, 0.0), 13, (0.84, 0.82),
            (3, 3, 2, 1, 2, 2), (5, 1.0, 1.2, 1.5, 0.9, 1.1), (0.09, 0.07, 0.06, 0.03, 0.05, 0.32)),
    _region("sim_oskelle", "test", 4, (130, 65), (0.6, 0.3, 0.1), 14, (0.84, 0.80),
            (2, 3, 2, 2, 2, 1), (5, 1.4, 1.5, 1.2, 1.1, 1.2), (0.07, 0.08, 0.06, 0.04, 0.05, 0.26)),
)  # fmt: skip
