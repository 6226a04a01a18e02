"""`python -m medseg.collaboration.launch JSON`: one NVFlare job in a process of its own, whose output is a log."""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medseg.errors import ResourceError

from .jobs import Average, average_recipe, environment, split_recipe
from .lifeline import end_with_parent
from .opening import SplitJob
from .rounds import Rounds


def launch(facts: Mapping[str, Any]) -> None:
    """Run a job to its end.

    Args:
        facts: `average` (fields of `Average`), `split` (fields of `SplitJob`) or `names` (of sites, whose patients are
            intersected), with `name`, `environment` and `workspace`; and `join_s`, seconds in which the sites of a POC have to join.

    Raises:
        ResourceError: a site did not join, or NVFlare reports another end than completion.
    """
    with tempfile.TemporaryDirectory() as scripts, contextlib.chdir(scripts):
        if "names" in facts:
            from .shared_names import names_recipe

            sites = list(facts["names"])
            recipe = names_recipe(facts["name"], sites)
        elif "split" in facts:
            job = SplitJob(**facts["split"])
            recipe, sites = split_recipe(facts["name"], job), list(job.image_sites)
        else:
            average = Average(**{**facts["average"], "told": Rounds(**facts["average"]["told"])})
            recipe, sites = average_recipe(average), list(average.sites)
        run = recipe.run(environment(facts["environment"], sites, Path(facts["workspace"]), facts.get("join_s")))
        run.get_result()
        status = run.get_status()
        print("status:", status)
        if facts["environment"] == "poc" and status != "FINISHED:COMPLETED":
            raise ResourceError(f"NVFlare's job ended as {status}")


if __name__ == "__main__":
    told = json.loads(sys.argv[1])
    end_with_parent(int(told["parent"]))
    launch(told)
