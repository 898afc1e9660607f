"""What tells a band apart whatever its product calls it: its common name and its centre wavelength.

Products use one name for different bands: B05 is near infrared in HLS L30 and the first red edge in HLS S30.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

# Ranges of wavelengths in nanometres by common name. Source: STAC Electro-Optical extension 2.0.0, "Common Band Names".
COMMON_NAMES = {
    "pan": (400, 1000),
    "coastal": (400, 450),
    "blue": (450, 530),
    "green": (510, 600),
    "green05": (510, 550),
    "yellow": (580, 620),
    "red": (620, 690),
    "rededge": (690, 790),
    "rededge071": (690, 730),
    "rededge075": (730, 760),
    "rededge078": (760, 790),
    "nir": (760, 1000),
    "nir08": (800, 900),
    "nir09": (900, 1000),
    "cirrus": (1350, 1400),
    "swir16": (1550, 1750),
    "swir22": (2080, 2350),
    "lwir": (10_400, 12_500),
    "lwir11": (10_500, 11_500),
    "lwir12": (11_500, 12_500),
}
# Sources state the centre of one band with differences of up to 2 % (842 and 833 nm for B08 of Sentinel-2), and the closest
# bands of a sensor are 3 % or more apart (B08 and B8A).
TOLERANCE = 0.025


def check_spectral_bands(
    common_names: Mapping[str, str], wavelengths_nm: Mapping[str, float], bands: Collection[str], origin: str
) -> None:
    """Raises ValueError unless both speak of `bands` alone, names are common names, and wavelengths lie in their ranges."""
    for key, values in (("common_names", common_names), ("wavelengths_nm", wavelengths_nm)):
        if not isinstance(values, Mapping) or not set(values) <= set(bands):
            raise ValueError(f"{origin}: {key} is {values!r}; expected a mapping of its bands {list(bands)}")
    for band, name in common_names.items():
        if name not in COMMON_NAMES:
            raise ValueError(
                f"{origin}: band {band} has the common name {name!r}; the STAC EO extension knows {', '.join(COMMON_NAMES)}"
            )
    for band, wavelength in wavelengths_nm.items():
        if isinstance(wavelength, bool) or not isinstance(wavelength, int | float) or not 200 <= wavelength <= 20_000:
            raise ValueError(f"{origin}: band {band} has the wavelength {wavelength!r}; expected its centre in nanometres")
        if contradicts(common_names.get(band), None, None, wavelength):
            raise ValueError(f"{origin}: band {band} is {common_names[band]}, but its wavelength is {wavelength:g} nm")


def contradicts(name: str | None, wavelength_nm: float | None, other_name: str | None, other_nm: float | None) -> bool:
    """True when two descriptions cannot be of one band. Each is a common name and a centre wavelength; None where not known.

    Two wavelengths decide where both are known. Otherwise the ranges of the common names must overlap, or contain the wavelength.
    """
    if wavelength_nm is not None and other_nm is not None:
        return abs(wavelength_nm - other_nm) > TOLERANCE * max(wavelength_nm, other_nm)
    one, other = _range(name, wavelength_nm), _range(other_name, other_nm)
    return one is not None and other is not None and (one[1] < other[0] or other[1] < one[0])


def _range(name: str | None, wavelength_nm: float | None) -> tuple[float, float] | None:
    """The wavelengths in nanometres at which a band may be centred; None when nothing is known."""
    if wavelength_nm is not None:
        return wavelength_nm, wavelength_nm
    return COMMON_NAMES.get(name) if name else None


def band_text(name: str | None, wavelength_nm: float | None) -> str:
    """A description of a band for messages, such as `nir08 at 865 nm`."""
    return " at ".join(part for part in (name, None if wavelength_nm is None else f"{wavelength_nm:g} nm") if part)
