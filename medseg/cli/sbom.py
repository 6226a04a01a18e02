"""python -m medseg.cli.sbom: write a software bill of materials (CycloneDX JSON) of what is installed."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from medseg.errors import MedsegError


def main(words: list[str] | None = None) -> int:
    """Write or print the bill; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m medseg.cli.sbom", description=__doc__)
    parser.add_argument("--output", type=Path, help="file to write; printed when it is left out")
    parser.add_argument("--all", action="store_true", help="every installed package, not only medseg and what it needs")
    arguments = parser.parse_args(words)
    from medseg.io.atomic import write_json
    from medseg.tracking.sbom import make_sbom

    bill = make_sbom(everything=arguments.all)
    if arguments.output is None:
        print(json.dumps(bill, indent=2, ensure_ascii=False))
        return 0
    try:
        write_json(arguments.output, bill)
    except MedsegError as error:
        print(f"medseg: {error}", file=sys.stderr)
        return 1
    nameless = sum("licenses" not in entry for entry in bill["components"])
    print(f"{len(bill['components'])} packages in {arguments.output}, {nameless} of them name no licence")
    return 0


if __name__ == "__main__":
    sys.exit(main())
