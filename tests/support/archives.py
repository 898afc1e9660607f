"""Small archives of Zarr scenes for the tests of sharding, with the arrays they were made from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import yaml
import zarr
from affine import Affine

from data_prep.archive.scene import SPLITS
from data_prep.archive.sensor import Sensor, load_sensors

CRS = "EPSG:32631"
# The CRS of HLS files: no name of a datum, no number in EPSG's register.
HLS_WKT = (
    'PROJCS["UTM Zone 10, Northern Hemisphere",GEOGCS["Unknown datum based upon the WGS 84 ellipsoid",'
    'DATUM["Not_specified_based_on_WGS_84_spheroid",SPHEROID["WGS 84",6378137,298.257223563]],PRIMEM["Greenwich",0],'
    'UNIT["degree",0.0174532925199433]],PROJECTION["Transverse_Mercator"],PARAMETER["latitude_of_origin",0],'
    'PARAMETER["central_meridian",-123],PARAMETER["scale_factor",0.9996],PARAMETER["false_easting",500000],'
    'PARAMETER["false_northing",0],UNIT["metre",1],AXIS["Easting",EAST],AXIS["Northing",NORTH]]'
)
WEST, NORTH = 500_040.0, 5_000_040.0
CODES = (10, 61, 130, 190, 210)  # of GLC_FCS30D


@dataclass
class Cube:
    """What a scene's Zarr store holds: pixels (T, C, H, W), quality (T, H, W), dates datetime64[D] (T,)."""

    pixels: np.ndarray
    quality: np.ndarray
    dates: np.ndarray


def days(year: int, count: int) -> np.ndarray:
    """`count` dates spread over a year."""
    return np.datetime64(f"{year}-01-03") + np.arange(count) * (360 // count)


def make_cube(sensor: Sensor, side: int, dates: np.ndarray, rng: np.random.Generator) -> Cube:
    """Random reflectance, about a quarter of it cloudy."""
    clear = {"sentinel2": (4, 5, 6, 11), "modis": (0, 1), "landsat": (64, 96)}[sensor.name]
    cloudy = {"sentinel2": 9, "modis": 255, "landsat": 2}[sensor.name]
    pixels = rng.integers(200, 9_000, (len(dates), len(sensor.bands), side, side)).astype(sensor.dtype)
    quality = rng.choice(np.array(clear, np.uint8), (len(dates), side, side))
    quality[rng.random(quality.shape) < 0.25] = cloudy
    return Cube(pixels, quality, dates)


def west_of(split: str) -> float:
    """Western edge of the scenes of a split: those of different splits lie apart."""
    return WEST + 48_000 * SPLITS.index(split)


def west_of_scene(folder: Path) -> float:
    """Western edge of the scene in a folder; that of training scenes without a scene.yaml."""
    path = folder / "scene.yaml"
    return west_of(yaml.safe_load(path.read_text()).get("split", "train") if path.is_file() else "train")


def change_split(folder: Path, split: str) -> None:
    """Put the scene in a folder into another split, and leave it at its place."""
    values = yaml.safe_load((folder / "scene.yaml").read_text()) | {"split": split}
    (folder / "scene.yaml").write_text(yaml.safe_dump(values))


def write_cube(path: Path, cube: Cube, sensor: Sensor, gsd: float, west: float = WEST, **left_out: bool) -> None:
    """A Zarr store as the Zarr reader documents it; `time=False` leaves the time axis out."""
    group = zarr.open_group(path, mode="w")
    side = cube.pixels.shape[-1]
    arrays: dict[str, tuple[np.ndarray, tuple[str, ...]]] = {
        "reflectance": (cube.pixels, ("time", "band", "y", "x")),
        sensor.quality.name: (cube.quality, ("time", "y", "x")),
        "time": (cube.dates.astype(np.int64), ("time",)),
        "x": (west + gsd * (np.arange(side) + 0.5), ("x",)),
        "y": (NORTH - gsd * (np.arange(side) + 0.5), ("y",)),
    }
    for name, (array, dimensions) in arrays.items():
        if left_out.get(name, True):
            stored = group.create_array(name, data=array, dimension_names=dimensions)
            if name == "time":
                stored.attrs["units"] = "days since 1970-01-01"
    group.attrs["crs"] = CRS


def write_scene(folder: Path, cubes: dict[str, Cube], gsd: dict[str, float], **description: Any) -> None:
    """A scene folder with one Zarr store per source and its scene.yaml, at the place of its split."""
    sensors, west = load_sensors(), west_of(description.get("split", "train"))
    sources = {}
    for source, cube in cubes.items():
        folder.mkdir(parents=True, exist_ok=True)
        write_cube(folder / f"{source}.zarr", cube, sensors[source], gsd[source], west)
        bands = list(sensors[source].bands)
        sources[source] = {"container": "zarr_cube", "path": f"{source}.zarr", "bands": bands}
        if sensors[source].offset_varies:
            sources[source]["offset"] = 0
    (folder / "scene.yaml").write_text(yaml.safe_dump({"name": folder.name, "sources": sources, **description}))


def write_land_cover(path: Path, codes: np.ndarray, gsd: float = 30.0, west: float | None = None) -> None:
    """A land-cover GeoTIFF (rows, columns) uint8 whose corner is that of the scene in its folder."""
    transform = Affine(gsd, 0, west_of_scene(path.parent) if west is None else west, 0, -gsd, NORTH)
    height, width = codes.shape
    profile = {"driver": "GTiff", "count": 1, "dtype": "uint8", "crs": CRS, "transform": transform}
    with rasterio.open(path, "w", height=height, width=width, **profile) as raster:
        raster.write(codes.astype(np.uint8), 1)


def write_archive(folder: Path, seed: int = 0) -> dict[str, dict[str, Cube]]:
    """Two scenes; returns their cubes by scene and source.

    delta (train): Sentinel-2, 30 x 30 px, years 2019 (5 dates), 2020 (20), 2021 (24); MODIS 9 x 9 px, 2021 (40); land cover from
    a 30 m map whose upper left 4 x 4 px are not mapped. coast (test): Sentinel-2, 24 x 24 px, 2021 (18 dates), where the 12 px at
    the upper left were never observed; land cover counted from SCL. Made for chips of 12 px (Sentinel-2) and 4 px (MODIS).
    """
    rng = np.random.default_rng(seed)
    sensors = load_sensors()
    years = np.concatenate([days(2019, 5), days(2020, 20), days(2021, 24)])
    delta = {
        "sentinel2": make_cube(sensors["sentinel2"], 30, years, rng),
        "modis": make_cube(sensors["modis"], 9, days(2021, 40), rng),
    }
    coast = {"sentinel2": make_cube(sensors["sentinel2"], 24, days(2021, 18), rng)}
    coast["sentinel2"].quality[:, :12, :12] = 0
    gsd = {"sentinel2": 10.0, "modis": 30.0}
    land_cover = {"raster": "landcover.tif", "legend": "glc_fcs30d"}
    write_scene(folder / "delta", delta, gsd, split="train", land_cover=land_cover)
    write_scene(folder / "coast", coast, gsd, split="test", land_cover={"quality": "sentinel2", "legend": "scl"})
    codes = rng.choice(CODES, (10, 10))
    codes[:4, :4] = 0
    write_land_cover(folder / "delta" / "landcover.tif", codes)
    return {"delta": delta, "coast": coast}


CHIPS = ("--chip_px.sentinel2", "12", "--chip_px.modis", "4")


BAND_METRES = {"B02": 10, "B03": 10, "B04": 10, "B08": 10, "B05": 20, "B06": 20, "B07": 20, "B8A": 20, "B11": 20, "B12": 20}
PHYSICAL_BANDS = ("B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B10", "B11", "B12")
SAFE_TILE = "T31TFJ"


def safe_name(date: np.datetime64, baseline: str) -> str:
    day = f"{date.item():%Y%m%d}"
    return f"S2A_MSIL2A_{day}T103021_N{baseline.replace('.', '')}_R108_{SAFE_TILE}_{day}T154321.SAFE"


def safe_metadata(baseline: str, offsets: dict[str, int] | None, quantification: int = 10_000, listed: bool = True) -> str:
    """MTD_MSIL2A.xml, cut to what matters. `offsets`: by physical band; `listed`: say which number is which band."""
    values = (
        ""
        if offsets is None
        else "".join(
            f'<BOA_ADD_OFFSET band_id="{PHYSICAL_BANDS.index(band)}">{offset}</BOA_ADD_OFFSET>'
            for band, offset in offsets.items()
        )
    )
    bands = "".join(
        f'<Spectral_Information bandId="{number}" physicalBand="{band}"><RESOLUTION>10</RESOLUTION></Spectral_Information>'
        for number, band in enumerate(PHYSICAL_BANDS)
    )
    return f"""<?xml version="1.0" encoding="UTF-8" standalone="no"?>
<n1:Level-2A_User_Product xmlns:n1="https://psd-14.sentinel2.eo.esa.int/PSD/User_Product_Level-2A.xsd">
  <n1:General_Info>
    <Product_Info><PROCESSING_LEVEL>Level-2A</PROCESSING_LEVEL><PROCESSING_BASELINE>{baseline}</PROCESSING_BASELINE></Product_Info>
    <Product_Image_Characteristics>
      <QUANTIFICATION_VALUES_LIST>
        <BOA_QUANTIFICATION_VALUE unit="none">{quantification}</BOA_QUANTIFICATION_VALUE>
      </QUANTIFICATION_VALUES_LIST>
      {f"<BOA_ADD_OFFSET_VALUES_LIST>{values}</BOA_ADD_OFFSET_VALUES_LIST>" if values else ""}
      {f"<Spectral_Information_List>{bands}</Spectral_Information_List>" if listed else ""}
    </Product_Image_Characteristics>
  </n1:General_Info>
</n1:Level-2A_User_Product>
"""


def write_safe(
    folder: Path,
    date: np.datetime64,
    bands: dict[str, np.ndarray],
    scl: np.ndarray,
    baseline: str,
    metadata: str | None,
    transform: Affine,
) -> Path:
    """One Level-2A product as ESA lays it out, in lossless JPEG 2000; `bands` and `scl` at their own resolutions.

    R20m also holds B02 at 20 m and R60m at 60 m, as the product does: other numbers, which no reader may use.
    """
    product = folder / safe_name(date, baseline)
    day = f"{date.item():%Y%m%d}"
    granule = product / "GRANULE" / f"L2A_{SAFE_TILE}_A034949_{day}T103308"
    for metres in (10, 20, 60):
        (granule / "IMG_DATA" / f"R{metres}m").mkdir(parents=True)
    (granule / "QI_DATA").mkdir()
    (granule / "MTD_TL.xml").write_text("<n1/>")
    if metadata is not None:
        (product / "MTD_MSIL2A.xml").write_text(metadata)

    def write(layer: str, metres: int, values: np.ndarray) -> None:
        path = granule / "IMG_DATA" / f"R{metres}m" / f"{SAFE_TILE}_{day}T103021_{layer}_{metres}m.jp2"
        profile = {"height": values.shape[0], "width": values.shape[1], "count": 1, "dtype": values.dtype, "crs": CRS}
        options = {"QUALITY": 100, "REVERSIBLE": "YES", "BLOCKXSIZE": 64, "BLOCKYSIZE": 64}
        scale = Affine.scale(metres / 10)
        with rasterio.open(path, "w", driver="JP2OpenJPEG", transform=transform @ scale, **profile, **options) as file:
            file.write(values, 1)

    for band, values in bands.items():
        write(band, BAND_METRES[band], values)
    write("SCL", 20, scl)
    write("SCL", 60, scl[::3, ::3] + 1)
    if "B02" in bands:
        write("B02", 20, bands["B02"][::2, ::2] + 1)
        write("B02", 60, bands["B02"][::6, ::6] + 1)
    return product


MODIS_TILE_M = 1_111_950.519767  # side of a tile of the sinusoidal grid
STRUCT_METADATA = """GROUP=SwathStructure
END_GROUP=SwathStructure
GROUP=GridStructure
\tGROUP=GRID_1
\t\tGridName="MOD_Grid_BRDF"
\t\tXDim={width}
\t\tYDim={height}
\t\tUpperLeftPointMtrs=({left:.6f},{top:.6f})
\t\tLowerRightMtrs=({right:.6f},{bottom:.6f})
\t\tProjection=GCTP_SNSOID
\t\tProjParams=(6371007.181000,0,0,0,0,0,0,0,0,0,0,0,0)
\t\tSphereCode=-1
\t\tGridOrigin=HDFE_GD_UL
\t\tGROUP=Dimension
\t\tEND_GROUP=Dimension
\t\tGROUP=DataField
{fields}
\t\tEND_GROUP=DataField
\t\tGROUP=MergedFields
\t\tEND_GROUP=MergedFields
\tEND_GROUP=GRID_1
END_GROUP=GridStructure
GROUP=PointStructure
END_GROUP=PointStructure
END
"""
DATA_FIELD = """\t\t\tOBJECT=DataField_{number}
\t\t\t\tDataFieldName="{name}"
\t\t\t\tDataType=DFNT_INT16
\t\t\t\tDimList=("YDim","XDim")
\t\t\tEND_OBJECT=DataField_{number}"""


def mcd43a4_name(date: np.datetime64, tile: str = "h18v04", production: str = "2021010041045") -> str:
    return f"MCD43A4.A{date.item():%Y%j}.{tile}.061.{production}.hdf"


def write_mcd43a4(
    path: Path, pixels: np.ndarray, quality: np.ndarray, tile: tuple[int, int] = (18, 4), metadata: str = STRUCT_METADATA
) -> None:
    """One day of MCD43A4 as HDF4-EOS: pixels int16 (7, H, W), mandatory quality uint8 (7, H, W) of each band."""
    from pyhdf.SD import SD, SDC

    fields = {f"BRDF_Albedo_Band_Mandatory_Quality_Band{band + 1}": quality[band] for band in range(len(quality))}
    fields |= {f"Nadir_Reflectance_Band{band + 1}": pixels[band] for band in range(len(pixels))}
    file = SD(str(path), SDC.WRITE | SDC.CREATE | SDC.TRUNC)
    for name, values in fields.items():
        kind = {"int16": SDC.INT16, "uint8": SDC.UINT8, "float32": SDC.FLOAT32}[values.dtype.name]
        field = file.create(name, kind, values.shape)
        field.setcompress(SDC.COMP_DEFLATE, 4)
        field.setfillvalue({"int16": 32_767, "uint8": 255, "float32": 0.0}[values.dtype.name])
        field[:] = values
        field.endaccess()
    height, width = pixels.shape[1:]
    left, top = (tile[0] - 18) * MODIS_TILE_M, (9 - tile[1]) * MODIS_TILE_M
    listed = "\n".join(DATA_FIELD.format(number=number, name=name) for number, name in enumerate(fields, 1))
    corners = {"left": left, "top": top, "right": left + MODIS_TILE_M, "bottom": top - MODIS_TILE_M}
    file.attr("StructMetadata.0").set(SDC.CHAR8, metadata.format(width=width, height=height, fields=listed, **corners))
    file.end()
