"""Checks values from YAML files against the types that a key or a parameter is declared with."""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any, Union, get_args, get_origin

_WORDS: dict[Any, str] = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    date: "a date",
    None: "nothing",
    type(None): "nothing",
}


def check_value(value: Any, annotation: Any, what: str) -> None:
    """Raise ValueError, which begins with `what` the value is, unless a value has the type that an annotation states.

    Annotations: str, int, float, bool, date, None, Any, list[...], Sequence[...], Mapping[..., ...], and unions of them. A text
    is not a sequence, and true is not a number.
    """
    if not _fits(value, annotation):
        raise ValueError(f"{what} is {value!r}; expected {_in_words(annotation)}")


def _fits(value: Any, annotation: Any) -> bool:
    kind, arguments = get_origin(annotation), get_args(annotation)
    if annotation is Any:
        return True
    if kind in (Union, types.UnionType):
        return any(_fits(value, argument) for argument in arguments)
    if kind is Mapping:
        keys, values = arguments
        return isinstance(value, Mapping) and all(_fits(k, keys) and _fits(v, values) for k, v in value.items())
    if kind in (list, Sequence):
        return isinstance(value, list | tuple) and all(_fits(entry, arguments[0]) for entry in value)
    if annotation in (None, type(None)):
        return value is None
    if isinstance(value, bool):
        return annotation is bool
    return isinstance(value, int | float if annotation is float else annotation)


def _in_words(annotation: Any) -> str:
    kind, arguments = get_origin(annotation), get_args(annotation)
    if annotation is Any:
        return "anything"
    if kind in (Union, types.UnionType):
        return " or ".join(_in_words(argument) for argument in arguments if argument is not type(None))
    if kind is Mapping:
        keys = "" if arguments[0] is Any else f"from {_in_words(arguments[0])} "
        return f"a mapping {keys}to {_in_words(arguments[1])}"
    if kind in (list, Sequence):
        return f"a list, each entry {_in_words(arguments[0])}"
    return _WORDS[annotation]
