"""Command: publish a trained model or an encoder at Hugging Face's hub.

    python finetune/publish.py --model runs/paddy_rice --to hf://OWNER/NAME --license cc-by-4.0
    python finetune/predict.py --model hf://OWNER/NAME --input scenes/SCENE --output map.tif

The repository gets the weights as safetensors, a model card and a STAC item, in one commit. Started again, the command sends only
what has changed.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal, NoReturn

from common.command_line import run_command
from common.hub import HubPath, upload
from finetune.sharing.publishing import published_files


def publish(
    model: Path,
    to: HubPath,
    license: str,
    visibility: Literal["private", "public"] = "private",
    datasets: list[str] | None = None,
    message: str = "Add the model, its card and its STAC item",
) -> None:
    """Publish a model at Hugging Face's hub: its weights, a model card with its scores, and a STAC item.

    Args:
        model: folder of a finished run of fine-tuning or pretraining, its model.safetensors, or an exported encoder.
        to: hf://OWNER/NAME, or hf://OWNER/NAME@BRANCH. Log in before with `hf auth login`, or set the variable HF_TOKEN.
        license: identifier of the licence under which you give the model away, such as apache-2.0, cc-by-4.0 or other; that of
            the training data may restrict it.
        visibility: private or public, for a new repository; one that exists stays as it is.
        datasets: names of data sets at the hub that the model was trained on, as OWNER/NAME.
        message: message of the commit.
    """
    if to.file is not None:
        raise ValueError(f"--to {to} names a file; expected hf://OWNER/NAME")
    if not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", license):
        raise ValueError(f"--license is {license!r}; expected an identifier in small letters, such as apache-2.0 or cc-by-4.0")
    wrong = [name for name in datasets or [] if not re.fullmatch(r"[\w.-]+/[\w.-]+", name)]
    if wrong:
        raise ValueError(f"--datasets has {', '.join(wrong)}; expected names of data sets at the hub, OWNER/NAME")
    files = published_files(model, to, license, datasets or [])
    commit = upload(to, files, message, private=visibility == "private")
    print(f"{to}: {', '.join(files)}; load them as hf://{to.repository}@{commit}")


def main() -> NoReturn:
    """Run the command and exit."""
    run_command(publish)


if __name__ == "__main__":
    main()
