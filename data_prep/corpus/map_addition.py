"""Begins a corpus with land-cover maps from the plan of a corpus without."""

from __future__ import annotations

import shutil

from common.atomic_files import whole_file
from common.json_files import json_bytes, read_json
from common.storage import AnyPath, local_copy
from data_prep.corpus.dataset import load_corpus
from data_prep.landcover.sample_map import check_number_of_codes
from data_prep.plan.build import check_new_output
from data_prep.plan.plan import LAND_COVER_MAPS, PLAN, TABLES, Plan, load_plan, plan_hash


def plan_with_maps(former: AnyPath, output: AnyPath) -> tuple[Plan, str]:
    """Write the plan of the corpus `former` to `output`, with maps; return it, and the hash of the former one.

    It is the plan that shard.py would make with maps, so it has the same shards with the same samples. Raises ValueError when
    `former` is not finished, is damaged or has maps already, and when `output` holds anything else.
    """
    load_corpus(former)
    plan, values = load_plan(former), read_json(former / PLAN)
    if plan.has_maps:
        raise ValueError(f"{former} has land-cover maps already")
    if damaged := plan.damaged_tables():
        raise ValueError(f"{former / damaged[0]} is missing or damaged; run data_prep/verify.py")
    for legend in plan.legends.values():
        check_number_of_codes(legend)
    values["settings"] = {**values["settings"], LAND_COVER_MAPS: True}
    if (output / PLAN).is_file():
        begun = load_plan(output)
        if begun.hash != plan_hash(values):
            raise ValueError(f"{output} holds another corpus; give the folder of the one that this command began, or a new one")
        return begun, plan.hash
    check_new_output(output)
    output.mkdir(parents=True, exist_ok=True)
    for table in TABLES.values():
        with whole_file(output / table) as temporary, local_copy(former / table) as local:
            shutil.copyfile(local, temporary)
    with whole_file(output / PLAN) as temporary:
        temporary.write_bytes(json_bytes(values))
    return load_plan(output), plan.hash
