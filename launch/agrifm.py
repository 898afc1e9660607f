"""The console command `agrifm`, which starts each command of the project.

agrifm shard --input scenes/ --output corpus/   is   python data_prep/shard.py --input scenes/ --output corpus/
"""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from importlib.metadata import version
from pathlib import Path

from tabulate import tabulate

from common.exit_codes import USER_ERROR

DISTRIBUTION = "agrifm-pretrain"
LAUNCH = Path(__file__).parent

# What each command does, and the module whose `main()` runs it. Modules are imported when they are asked for: torch alone takes
# a second.
COMMANDS = {
    "simulate": ("data_prep.simulate", "write simulated scenes"),
    "fetch_real": ("data_prep.fetch_real", "fetch two real image series as scenes"),
    "scenes": ("data_prep.scenes", "search a STAC catalogue and write what it finds as scenes"),
    "labels": ("data_prep.labels", "write, draw and count the labels of scenes"),
    "draw_sites": ("data_prep.draw_sites", "draw sampling sites from a land-cover map"),
    "shard": ("data_prep.shard", "cut scenes into samples and write them as WebDataset shards"),
    "add_maps": ("data_prep.add_maps", "add land-cover maps to a corpus that was written without"),
    "verify": ("data_prep.verify", "check every byte of a corpus"),
    "describe": ("data_prep.describe", "tables and pictures of what a corpus holds"),
    "quicklook": ("data_prep.quicklook", "a picture of a few samples of a corpus"),
    "cost": ("pretrain.cost", "memory, FLOPs and time of a pretraining, before it starts"),
    "pretrain": ("pretrain.train", "pretrain the encoder; one rank for each GPU"),
    "export": ("pretrain.export", "the encoder of a pretraining run as one file"),
    "finetune": ("finetune.run", "fine-tune an encoder to a task, score it and map the test scenes"),
    "predict": ("finetune.predict", "map a scene or a region with a fine-tuned model"),
    "fields": ("finetune.fields", "polygons of the objects of a map"),
    "areas": ("finetune.areas", "areas of the classes of maps, and of their changes, with their uncertainty"),
    "embed": ("finetune.embed", "embeddings of scenes or points by an encoder, as maps or a table"),
    "probe": ("finetune.probe", "simple classifiers on embeddings, scored as fine-tuning is"),
    "publish": ("finetune.publish", "send a model or an encoder to Hugging Face's hub"),
    "import_dataset": ("finetune.import_dataset", "describe a public data set, so that fine-tuning reads it"),
    "view": ("finetune.view", "look at the maps of a run in a browser"),
    "compare": ("finetune.compare", "compare encoders over tasks, shares of the labels and seeds"),
    "join_comparisons": ("finetune.join_comparisons", "comparisons on several data side by side"),
}


def launcher(command: str) -> Path | None:
    """The script that starts the ranks of `command`; None for a command of one process.

    Pretraining always has ranks. Fine-tuning has them when the variable NUM_RANKS says how many.
    """
    if command == "pretrain":
        return LAUNCH / "pretrain.sh"
    return LAUNCH / "finetune.sh" if command == "finetune" and os.environ.get("NUM_RANKS") else None


def usage() -> str:
    """The list of commands."""
    rows = [[name, about] for name, (_, about) in COMMANDS.items()]
    return (
        "usage: agrifm COMMAND [options]\n\n"
        + tabulate(rows, tablefmt="plain")
        + "\n\n`agrifm COMMAND --help` explains the options of a command. `agrifm --version` prints the version."
    )


def main() -> None:
    """Run the command that the first argument names, with the arguments that follow."""
    command, *arguments = sys.argv[1:] or ["--help"]
    if command in ("--help", "-h", "help"):
        print(usage())
        return
    if command == "--version":
        print(f"agrifm {version(DISTRIBUTION)}")
        return
    command = command.replace("-", "_")
    if command not in COMMANDS:
        near = difflib.get_close_matches(command, COMMANDS, 1, 0.5)
        advice = f"did you mean {near[0]}?" if near else f"the commands are {', '.join(COMMANDS)}"
        print(f"agrifm: error: unknown command {command!r}; {advice}", file=sys.stderr)
        sys.exit(USER_ERROR)
    script = launcher(command)
    if script is not None and "--help" not in arguments:
        os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"  # where `deepspeed` lies
        os.execvp("bash", ["bash", str(script), *arguments])
    sys.argv = [f"agrifm {command}", *arguments]
    importlib.import_module(COMMANDS[command][0]).main()


if __name__ == "__main__":
    main()
