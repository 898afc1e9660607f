"""The page of the web map: one template, one script, one style, in `finetune/web_map/templates`."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from finetune.web_map.map_view import Missing
from finetune.web_map.shown_map import Shown

TEMPLATES = Path(__file__).parent / "templates"
STATIC = {"map.js": "text/javascript; charset=utf-8", "map.css": "text/css; charset=utf-8"}


def page_html(shown: Shown) -> str:
    """The HTML of the page; what a map has is asked for later. All texts are escaped."""
    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined)
    names = [one.name for one in shown.maps]
    return environment.get_template("map.html").render(title=shown.title, names=names, notes=shown.notes)


def static_file(name: str) -> tuple[str, bytes]:
    """Type and content of one of `STATIC`. Raises Missing for any other name."""
    if name not in STATIC:
        raise Missing(f"there is no file {name}")
    return STATIC[name], (TEMPLATES / name).read_bytes()
