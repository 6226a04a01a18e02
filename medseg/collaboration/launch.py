"""`python -m medseg.collaboration.launch JSON`: one NVFlare job in a process of its own, whose output is a log."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .jobs import Average, average_recipe, environment
from .rounds import Rounds


def launch(facts: Mapping[str, Any]) -> None:
    """Run a federated job to its end.

    Args:
        facts: `job` (fields of `Average`), `environment` and `workspace`.
    """
    told = Rounds(**facts["job"]["told"])
    job = Average(**{**facts["job"], "told": told})
    with tempfile.TemporaryDirectory() as scripts:
        recipe = average_recipe(job, Path(scripts))
        run = recipe.run(environment(facts["environment"], job.sites, Path(facts["workspace"])))
        run.get_result()
        print("status:", run.get_status())


if __name__ == "__main__":
    launch(json.loads(sys.argv[1]))
