"""medseg view: look at a volume and its label map in a browser."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from medseg.heartbeat import step

from .label_table import known_names, read_label_table
from .main import EXIT_OK, add_common_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "scan", metavar="SCAN", help="NIfTI, NRRD, MetaImage or MGH file, or a folder with a DICOM series"
    )
    parser.add_argument("label", nargs="?", metavar="LABEL", help="its label map")
    parser.add_argument("--reference", metavar="FILE", help="a second label map, to compare with")
    parser.add_argument(
        "--labels",
        metavar="SPEC",
        help="names of the label values: a bundle, a plan.json, a dataset.json, or 1=liver,2=spleen (default: the record of "
        "medseg predict beside LABEL, or a dataset.json there)",
    )
    parser.add_argument("--channel", type=int, default=0, metavar="N", help="of several, counted from 0 (default 0)")
    parser.add_argument("--port", type=int, default=0, metavar="N", help="on this machine (default: any that is free)")
    parser.add_argument("--no-browser", action="store_true", help="print the address, open no browser")
    add_common_arguments(parser, "json", "quiet")


def run(arguments: argparse.Namespace) -> int:
    from medseg.commands.view import open_view

    names: dict[int, str] = {}
    if arguments.labels:
        names = read_label_table(arguments.labels).labels or {}
    elif arguments.label:
        names = known_names(Path(arguments.label), Path(arguments.reference or arguments.label))
    server = open_view(
        arguments.scan,
        arguments.label,
        reference=arguments.reference,
        names=names,
        channel=arguments.channel,
        port=arguments.port,
    )
    with server, step(""):
        if arguments.json:
            print(json.dumps({"address": server.address}))
        elif arguments.no_browser or not arguments.quiet:  # without a browser the address is the only way in
            print(f"{server.address}   (end with Ctrl-C)")
        sys.stdout.flush()
        if not arguments.no_browser:
            import webbrowser

            webbrowser.open(server.address)
        server.serve_forever()
    return EXIT_OK
