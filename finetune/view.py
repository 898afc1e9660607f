"""Command: look at the maps of a run, or at one map, in a browser.

    agrifm view runs/paddy_rice
    agrifm view map.tif --input scenes/SCENE --model runs/paddy_rice

It serves a page on this machine until Ctrl-C: image, label, prediction, errors, probabilities and fields as layers, two of them
side by side under a slider, and for each pixel its series and the probabilities of its classes. The page needs no other host.
"""

from __future__ import annotations

import warnings
import webbrowser
from pathlib import Path
from typing import NoReturn

from rasterio.errors import NotGeoreferencedWarning

from common.command_line import run_command
from common.storage import AnyPath
from finetune.web_map.server import MapServer
from finetune.web_map.shown_map import maps_of


def view(
    maps: Path,
    data: AnyPath | None = None,
    input: AnyPath | None = None,
    model: Path | None = None,
    fields: Path | None = None,
    port: int = 0,
    browser: bool = False,
) -> None:
    """Show maps in a browser, served on this machine until Ctrl-C.

    Args:
        maps: folder of a run of finetune/run.py, or a map of finetune/predict.py.
        data: of a run: its scenes, if they lie elsewhere now than when it was made.
        input: of a single map: the scene that was mapped, for its image, label and series.
        model: of a single map: the run that made it, which says what the label means and when the season is.
        fields: of a single map: polygons to show, GeoParquet or GeoJSON; the default is NAME_fields.parquet beside the map.
        port: port on 127.0.0.1; 0 takes a free one.
        browser: also open the page in the browser of this machine.
    """
    # Python silences warnings for all threads at once, so rasterio fails to silence its own where several threads draw tiles.
    warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)
    server = MapServer(maps_of(maps, data, input, model, fields), port)
    try:
        for note in server.shown.notes:
            print(note)
        print(f"{len(server.views)} maps at {server.url} (Ctrl-C ends)", flush=True)
        if browser:
            webbrowser.open(server.url)
        server.serve_forever()
    except KeyboardInterrupt:
        print("closed")
    finally:
        server.server_close()


def main() -> NoReturn:
    """Run the command and exit."""
    run_command(view, positional=True)


if __name__ == "__main__":
    main()
