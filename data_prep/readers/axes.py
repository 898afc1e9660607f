"""Whether the axes of an array in a file have the order that a reader expects, where the file names them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

# Names that files give to the axes, of geographic and of projected coordinates.
OTHER_NAMES = {
    **dict.fromkeys(("lon", "longitude", "easting", "xc"), "x"),
    **dict.fromkeys(("lat", "latitude", "northing", "yc"), "y"),
    **dict.fromkeys(("bands", "channel", "channels"), "band"),
    **dict.fromkeys(("t", "date", "dates"), "time"),
}


def check_order(found: Sequence[str], expected: Sequence[str], where: str, names: Mapping[str, str] | None = None) -> None:
    """Raises ValueError when the axes that a file names have another order than `expected`. Names that mean nothing pass.

    A square image whose rows and columns are exchanged has the right shape. `names`: by axis, the name that scene.yaml states.
    """
    axes = OTHER_NAMES | {name.rsplit("/", 1)[-1]: axis for axis, name in (names or {}).items()}
    order = [axis for name in found if (axis := axes.get(name.lower(), axes.get(name, name))) in expected]
    if order and order != [axis for axis in expected if axis in order]:
        raise ValueError(f"{where}: its axes are {', '.join(found)}; expected {', '.join(expected)}, so transpose it")
