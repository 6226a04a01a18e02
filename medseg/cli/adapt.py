"""medseg adapt: begin with another model's weights on new data."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from .consent import consent
from .main import EXIT_OK, add_common_arguments
from .screen import say

if TYPE_CHECKING:
    from medseg.commands.adapt import Adapted

SHOWN = 5  # entries of each kind


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SOURCE", help="bundle, pretrained bundle, or folder of a trained nnU-Net")
    parser.add_argument("--data", required=True, metavar="DIR", help="folder of labelled cases")
    parser.add_argument("--output", required=True, metavar="BUNDLE", help="the new bundle's folder")
    parser.add_argument("--map", action="append", default=[], type=_pair, metavar="OLD=NEW",
                        help="the source's class OLD is the data's class NEW; repeatable (default: by equal names)")  # fmt: skip
    parser.add_argument("--least", type=_share, default=0.7, metavar="SHARE",
                        help="share of the network's weights that must come from the source (default 0.7)")  # fmt: skip
    parser.add_argument("--anyway", action="store_true",
                        help="take spacing and normalization over although they do not suit the data")  # fmt: skip
    parser.add_argument("--twin", action="store_true",
                        help="also write BUNDLE_scratch: equal configuration and steps, no weights")  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="set a bundle that is there aside")
    add_common_arguments(parser, "device", "threads", "json", "quiet", "trust")


def _pair(text: str) -> tuple[str, str]:
    old, found, new = text.partition("=")
    if not (found and old and new):
        raise argparse.ArgumentTypeError(f"{text!r}: expected OLD=NEW, such as tumour=lesion")
    return old, new


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no share, expected a number from 0 to 1")
    return value


def run(arguments: argparse.Namespace) -> int:
    from medseg.commands.adapt import Wish, adapt_bundle

    wish = Wish(
        dict(arguments.map), arguments.least, arguments.anyway, arguments.twin, arguments.device, arguments.overwrite
    )
    found = adapt_bundle(arguments.source, arguments.data, arguments.output, wish, trust=consent(arguments))
    say(arguments, found.as_dict(), _text(found))
    return EXIT_OK


def _text(found: Adapted) -> str:
    from medseg.errors import printable

    moved = found.transfer
    lines = [f"{moved.share:.1%} of the network's weights come from the source"]
    lines += _listed(f"loaded as they are: {len(moved.loaded)}", [])
    lines += _listed(f"reshaped: {len(moved.reshaped)}", [f"{name}: {how}" for name, how in moved.reshaped.items()])
    lines += _listed(
        f"skipped, as made: {len(moved.skipped)}", [f"{name}: {why}" for name, why in moved.skipped.items()]
    )
    lines += _listed(f"of the source without a place: {len(moved.unused)}", moved.unused)
    for what, pairs in (("class", found.classes), ("channel", found.channels)):
        lines += [f"{what} {new!r}: {'new' if old is None else repr(old)}" for new, old in pairs.items()]
    lines += [f"class {name!r} of the source is dropped" for name in found.dropped]
    lines += [f"note: {warning}" for warning in found.warnings]
    lines.append(
        f"next: medseg fit {found.output}" + (f", and its twin: medseg fit {found.twin}" if found.twin else "")
    )
    return "\n".join(printable(line) for line in lines)


def _listed(head: str, entries: list[str]) -> list[str]:
    more = [f"  and {len(entries) - SHOWN} more"] if len(entries) > SHOWN else []
    return [head, *(f"  {entry}" for entry in entries[:SHOWN]), *more]
