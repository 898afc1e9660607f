"""From what a column of a vector file holds to the codes of a label."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd

from common.storage import version_of
from data_prep.archive.label import REST, Features
from data_prep.archive.scene import Label
from data_prep.landcover.label_files import feature_file

MOST_CODES = 10  # in a message


def column_texts(values: Sequence[Any]) -> list[str | None]:
    """The values of a column as texts, None where a value is missing. Whole numbers have no decimals: 3.0 becomes "3"."""
    texts: list[str | None] = []
    for value in values:
        if value is None or value is pd.NaT or value is pd.NA or (isinstance(value, float | np.floating) and np.isnan(value)):
            texts.append(None)
        elif isinstance(value, float | np.floating) and float(value).is_integer():
            texts.append(str(int(value)))
        else:
            texts.append(str(value).strip() or None)
    return texts


def label_codes(label: Label, texts: Sequence[str | None], origin: str) -> np.ndarray:
    """The code of each text, int32 (n,), `label.nodata` for those that are not labelled.

    Raises ValueError, which `origin` begins, for texts that `classes` do not name: what they are must not be guessed.
    """
    features = label.features
    assert features is not None
    assert features.codes is not None, "a label whose classes are known"
    found = {text: _code_of(text, features) for text in set(texts) if text is not None}
    unknown = Counter(text for text in texts if text is not None and found[text] is None)
    if unknown:
        listed = ", ".join(f"{text!r} ({number})" for text, number in unknown.most_common(MOST_CODES))
        more = f" and {len(unknown) - MOST_CODES} others" if len(unknown) > MOST_CODES else ""
        raise ValueError(
            f"{origin}: {label.path} holds codes that `classes` do not name: {listed}{more}; name them, or give all others one "
            f'name or none: `"{REST}": other` or `"{REST}": null` (not labelled)'
        )
    return np.array([label.nodata if text is None else found[text] for text in texts], dtype=np.int32)


def _code_of(text: str, features: Features) -> int | None:
    """The code of a text: of the longest beginning that `classes` name where these are prefixes; None if there is none."""
    codes = features.codes or {}
    if features.by_prefix:
        fitting = [prefix for prefix in codes if prefix != REST and text.startswith(prefix)]
        if fitting:
            return codes[max(fitting, key=len)]
    elif text in codes and text != REST:
        return codes[text]
    return codes.get(REST)


def with_classes(label: Label, origin: str) -> Label:
    """The label with its classes: those of a vector file without `classes` are the texts of its column.

    They are those of the whole file, so that scenes that share a file have the same codes. Raises ValueError for a column of
    numbers.
    """
    if label.features is None or label.features.codes is not None:
        return label
    return label.named_by(list(_texts_of_file(_Column(label=label, text=repr(label), version=version_of(label.path)), origin)))


@dataclass(frozen=True, kw_only=True)
class _Column:
    """The column of a label's file; two are equal when file and label are."""

    label: Label = field(compare=False)
    text: str
    version: Hashable


@lru_cache(maxsize=16)
def _texts_of_file(column: _Column, origin: str) -> tuple[str, ...]:
    label, features = column.label, column.label.features
    assert features is not None
    with feature_file(label, origin) as file:
        name = file.class_column(features.column, (features.year_column, features.date_column))
        values = file.column(name)
    numbers = [value for value in values if isinstance(value, int | float | np.number) and not pd.isna(value)]
    if numbers:
        raise ValueError(
            f"{origin}: column {name} of {label.path} holds numbers such as {numbers[0]}; say what they mean with `classes`"
        )
    texts = sorted({text for text in column_texts(values) if text is not None})
    if not texts:
        raise ValueError(f"{origin}: column {name} of {label.path} holds no text")
    return tuple(texts)
