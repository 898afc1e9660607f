"""The simulated regions: location, division of the land, crops and climate.

Each region imitates a real farming landscape and has its name; its map is invented.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Climate:
    """A climate: temperature follows a cosine with its minimum in January; rain and clouds vary with the season.

    Attributes:
        temperature_c: annual mean in degrees Celsius.
        swing_c: half the difference between summer and winter.
        cloud: mean cloud cover in winter and in summer, 0..1.
        rain_mm: mean rain of a wet day in winter and in summer.
    """

    temperature_c: float
    swing_c: float
    cloud: tuple[float, float]
    rain_mm: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Region:
    """A region and its land.

    Attributes:
        name: name of the region, and of its scenes.
        split: train, validation or test.
        longitude, latitude: centre in degrees.
        field_m: typical length and width of a field in metres.
        district_m: size in metres of the districts in which fields are parallel.
        soil: shares of loam, dark and red soil.
        crops: area weights of the covers of fields: crops, and ponds and pastures between them.
        forests: area weights of the covers of forests.
        shares: shares of forest, grassland, marsh and lake in the area; the rest is fields, villages and roads.
        villages: number of villages per square kilometre.
        village_m: radius of a village in metres.
        river_m: width of the river in metres, 0 for none.
        relief_m: height of the hills in metres.
        roofs: weights of the roofs of villages.
        climate: climate that the weather of each year is drawn from.
        field_spread: log-normal spread of the length and the width of fields.
        grassland: cover of grassland.
        uses: weights of what districts of parcels are used for, in context_landscape.py.
        calendar_days: delay of all growing seasons in days, against other regions of the latitude.
        year_days: the delay of a year is uniform within so many days; 0 for a normal distribution of 4 days.
        field_days: standard deviation in days of the delay of a field within its region.
        sections: True when the land is divided into square miles along the meridians, each with its own fields.
        winter_flood: share of the harvested rice fields that are flooded in winter.
    """

    name: str
    split: str
    longitude: float
    latitude: float
    field_m: tuple[float, float]
    district_m: float
    soil: tuple[float, float, float]
    crops: dict[str, float]
    forests: dict[str, float]
    shares: dict[str, float]
    villages: float
    village_m: float
    river_m: float
    relief_m: float
    roofs: dict[str, float]
    climate: Climate
    field_spread: float = 0.4
    grassland: str = "grassland"
    sections: bool = False
    winter_flood: float = 0.0
    uses: Mapping[str, float] = field(default_factory=dict)
    calendar_days: float = 0.0
    year_days: float = 0.0
    field_days: float = 5.5


# The order matters, since a user may simulate only the first N regions: any N from three on has all three splits, and the
# regions of validation and test grow rice.
REGIONS = (
    Region(
        name="jianghan",
        split="train",
        longitude=113.0,
        latitude=30.4,
        field_m=(130, 62),
        district_m=1300,
        soil=(0.5, 0.3, 0.2),
        crops={
            "paddy_rice": 2.2,
            "rapeseed_then_rice": 1.8,
            "wheat_then_rice": 1.0,
            "wheat_then_maize": 1.6,
            "winter_rapeseed": 0.8,
            "soybean": 0.8,
            "vegetables": 0.9,
            "pond": 1.1,
        },
        forests={"evergreen_forest": 1, "deciduous_forest": 2},
        shares={"forest": 0.05, "grass": 0.02, "marsh": 0.03, "lake": 0.08},
        villages=0.55,
        village_m=210,
        river_m=140,
        relief_m=15,
        roofs={"grey_roofs": 3, "red_roofs": 1, "blue_roofs": 1},
        climate=Climate(temperature_c=17, swing_c=12, cloud=(0.58, 0.55), rain_mm=(4, 11)),
    ),
    Region(
        name="sacramento",
        split="test",
        longitude=-121.95,
        latitude=39.2,
        field_m=(420, 300),
        district_m=2600,
        soil=(0.45, 0.5, 0.05),
        crops={
            "paddy_rice": 4.0,
            "orchard": 2.0,
            "winter_wheat": 1.2,
            "alfalfa": 0.9,
            "sunflower": 0.8,
            "maize": 0.9,
            "fallow": 0.6,
            "vegetables": 0.8,
        },
        forests={"evergreen_forest": 1, "deciduous_forest": 2},
        shares={"forest": 0.03, "grass": 0.13, "marsh": 0.04, "lake": 0.01},
        villages=0.06,
        village_m=420,
        river_m=110,
        relief_m=40,
        roofs={"grey_roofs": 3, "red_roofs": 2},
        climate=Climate(temperature_c=16.5, swing_c=9, cloud=(0.5, 0.08), rain_mm=(9, 0.5)),
        grassland="annual_grassland",
        winter_flood=0.6,
    ),
    Region(
        name="sanjiang",
        split="validation",
        longitude=133.0,
        latitude=47.2,
        field_m=(360, 150),
        district_m=2400,
        soil=(0.2, 0.8, 0.0),
        crops={"paddy_rice": 4.0, "soybean": 2.6, "maize": 2.4, "spring_barley": 0.5, "fallow": 0.2},
        forests={"deciduous_forest": 3, "needle_forest": 1},
        shares={"forest": 0.10, "grass": 0.04, "marsh": 0.10, "lake": 0.01},
        villages=0.08,
        village_m=300,
        river_m=180,
        relief_m=50,
        roofs={"red_roofs": 1, "blue_roofs": 2, "grey_roofs": 1},
        climate=Climate(temperature_c=3.5, swing_c=20, cloud=(0.3, 0.52), rain_mm=(2, 8)),
    ),
    Region(
        name="lomellina",
        split="train",
        longitude=8.7,
        latitude=45.25,
        field_m=(260, 120),
        district_m=1500,
        soil=(0.7, 0.2, 0.1),
        crops={"paddy_rice": 5.0, "maize": 2.2, "winter_wheat": 1.3, "soybean": 0.9, "alfalfa": 0.5, "grassland": 0.4},
        forests={"deciduous_forest": 1},
        shares={"forest": 0.06, "grass": 0.03, "marsh": 0.01, "lake": 0.005},
        villages=0.18,
        village_m=330,
        river_m=90,
        relief_m=10,
        roofs={"red_roofs": 5, "grey_roofs": 1},
        climate=Climate(temperature_c=13.2, swing_c=11.5, cloud=(0.5, 0.35), rain_mm=(5, 8)),
    ),
    Region(
        name="red_river",
        split="train",
        longitude=106.2,
        latitude=20.6,
        field_m=(110, 48),
        district_m=1000,
        soil=(0.4, 0.2, 0.4),
        crops={"double_rice": 7.0, "vegetables": 1.2, "maize": 0.6, "soybean": 0.4, "orchard": 0.5, "pond": 0.8},
        forests={"evergreen_forest": 1},
        shares={"forest": 0.04, "grass": 0.03, "marsh": 0.03, "lake": 0.02},
        villages=0.7,
        village_m=230,
        river_m=260,
        relief_m=12,
        roofs={"red_roofs": 3, "grey_roofs": 2, "blue_roofs": 1},
        climate=Climate(temperature_c=23.5, swing_c=6.5, cloud=(0.68, 0.58), rain_mm=(3, 14)),
    ),
    Region(
        name="iowa",
        split="train",
        longitude=-93.6,
        latitude=42.1,
        field_m=(560, 330),
        district_m=1700,
        soil=(0.25, 0.75, 0.0),
        crops={"maize": 5.2, "soybean": 4.0, "alfalfa": 0.4, "grassland": 0.6},
        forests={"deciduous_forest": 1},
        shares={"forest": 0.07, "grass": 0.06, "marsh": 0.005, "lake": 0.005},
        villages=0.04,
        village_m=520,
        river_m=45,
        relief_m=30,
        roofs={"grey_roofs": 4, "red_roofs": 1},
        sections=True,
        climate=Climate(temperature_c=10, swing_c=14.5, cloud=(0.5, 0.4), rain_mm=(4, 11)),
    ),
    Region(
        name="limagne",
        split="train",
        longitude=3.2,
        latitude=45.95,
        field_m=(250, 110),
        district_m=1400,
        soil=(0.55, 0.4, 0.05),
        crops={
            "winter_wheat": 3.6,
            "maize": 2.2,
            "sunflower": 1.1,
            "winter_rapeseed": 1.1,
            "spring_barley": 0.9,
            "alfalfa": 0.5,
            "grassland": 1.2,
            "fallow": 0.3,
        },
        forests={"deciduous_forest": 3, "needle_forest": 2},
        shares={"forest": 0.17, "grass": 0.10, "marsh": 0.003, "lake": 0.004},
        villages=0.2,
        village_m=260,
        river_m=60,
        relief_m=650,
        roofs={"red_roofs": 4, "grey_roofs": 1},
        climate=Climate(temperature_c=11.5, swing_c=9, cloud=(0.58, 0.42), rain_mm=(4, 7)),
    ),
)
