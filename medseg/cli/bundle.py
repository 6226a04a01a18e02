"""medseg bundle: verify, export, pack, install, import or register a bundle."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from medseg.errors import printable

from .consent import consent
from .main import EXIT_NOTHING_DONE, EXIT_OK, add_common_arguments

EXPORT_FORMATS = ("torchscript", "pt2", "onnx", "openvino")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True, parser_class=type(parser))

    verify = actions.add_parser("verify", help="check that a bundle is complete and agrees with itself")
    verify.add_argument("bundle", metavar="BUNDLE", help="folder, or name of a shipped or installed bundle")
    add_common_arguments(verify, "json", "quiet")

    export = actions.add_parser("export", help="write the network for other software, checked against eager")
    export.add_argument("bundle", metavar="BUNDLE")
    export.add_argument("--to", required=True, choices=EXPORT_FORMATS, help="file format")
    export.add_argument("-o", "--output", type=Path, metavar="FILE", help="default: BUNDLE/models/model.ts, .pt2, ...")
    export.add_argument("-i", "--input", type=Path, metavar="IMAGE", help="a real volume to check it on")
    add_common_arguments(export, "json", "quiet", "trust")

    pack = actions.add_parser("pack", help="make one zip with checksums and safetensors")
    pack.add_argument("bundle", metavar="BUNDLE")
    pack.add_argument("-o", "--output", type=Path, metavar="ZIP", help="default: NAME_vVERSION.zip here")
    pack.add_argument("--keep-names", action="store_true", help="keep the case names of the training data in the zip")
    add_common_arguments(pack, "json", "quiet")

    install = actions.add_parser("install", help="verify and unpack a bundle so that its name can be used everywhere")
    install.add_argument("source", metavar="ZIP|URL|hf:OWNER/NAME")
    install.add_argument("--sha256", metavar="HEX", help="refuse the file unless it has this hash")
    install.add_argument(
        "--force", action="store_true", help="replace an installed bundle of the same name, hide a shipped one"
    )
    add_common_arguments(install, "json", "quiet")

    convert = actions.add_parser("import", help="turn a model trained elsewhere into a bundle")
    convert.add_argument("source", type=Path, metavar="FOLDER", help="a trained nnU-Net v2 folder")
    convert.add_argument("--from", dest="origin", required=True, choices=("nnunet",), help="what made the folder")
    convert.add_argument("-o", "--output", type=Path, required=True, metavar="BUNDLE", help="folder to write")
    convert.add_argument("--fold", default="all", help="which trained folds to take (default: all of them)")
    add_common_arguments(convert, "json", "quiet")

    register = actions.add_parser("register", help="log a bundle as a model in the MLflow registry")
    register.add_argument("bundle", metavar="BUNDLE")
    register.add_argument("--name", help="registered name (default: the bundle's)")
    register.add_argument("--alias", default="champion", help="alias of the new version (default: champion)")
    register.add_argument(
        "--tracking-uri", metavar="URI", help="default: MLFLOW_TRACKING_URI, else BUNDLE/runs/mlflow.db"
    )
    add_common_arguments(register, "json", "quiet")


def run(arguments: argparse.Namespace) -> int:
    """Dispatch to one function per action; returns the exit code."""
    return int(ACTIONS[arguments.action](arguments))


def _print(facts: dict[str, Any], text: str, arguments: argparse.Namespace) -> None:
    if arguments.json:
        print(json.dumps(facts, indent=2))
    elif not arguments.quiet:
        print(text)


def _verify(arguments: argparse.Namespace) -> int:
    from medseg.bundle.checks.verify import verify_bundle

    checks = []
    for check in verify_bundle(arguments.bundle):
        checks.append(check)
        if not arguments.json and (check.faults or not arguments.quiet):
            print(f"{'FAULT' if check.faults else 'ok   '}  {check.name}")
            for fault in check.faults:
                print(f"         {printable(fault)}")
    faults = [fault for check in checks for fault in check.faults]
    if arguments.json:
        print(json.dumps({"ok": not faults, "checks": [vars(check) for check in checks]}, indent=2))
    elif not arguments.quiet:
        print(f"{arguments.bundle}: {len(faults) or 'no'} fault{'' if len(faults) == 1 else 's'}")
    return EXIT_NOTHING_DONE if faults else EXIT_OK


def _export(arguments: argparse.Namespace) -> int:
    from medseg.commands.export import export_bundle

    result = export_bundle(
        arguments.bundle, arguments.to, output=arguments.output, image=arguments.input, trust=consent(arguments)
    )
    text = (
        f"{result.path}: {result.megabytes:.1f} MB; largest difference to eager {result.largest_difference:.1e} in "
        f"logits, {100 * result.equal_labels:.3f} % of labels equal ({result.checked_on})"
    )
    _print(result.to_dict(), text, arguments)
    return EXIT_OK


def _pack(arguments: argparse.Namespace) -> int:
    from medseg.commands.pack import pack_bundle

    packed = pack_bundle(arguments.bundle, arguments.output, keep_names=arguments.keep_names)
    text = f"{packed.path}: {packed.files} files, {packed.megabytes:.1f} MB, sha256 {packed.sha256}"
    if packed.code:
        text += f"\nit holds your code ({', '.join(packed.code)}): whoever else opens it must give --trust"
    _print(packed.to_dict(), text, arguments)
    return EXIT_OK


def _install(arguments: argparse.Namespace) -> int:
    from medseg.commands.install import install_bundle

    folder = install_bundle(arguments.source, sha256=arguments.sha256, replace=arguments.force)
    _print({"name": folder.name, "folder": str(folder)}, f"installed {folder.name} in {folder}", arguments)
    return EXIT_OK


def _import(arguments: argparse.Namespace) -> int:
    from medseg.commands.import_nnunet import import_nnunet

    layout = import_nnunet(arguments.source, arguments.output, fold=arguments.fold)
    _print({"folder": str(layout.folder)}, f"wrote {layout.folder}", arguments)
    return EXIT_OK


def _register(arguments: argparse.Namespace) -> int:
    from medseg.commands.register import register_bundle

    facts = register_bundle(
        arguments.bundle, name=arguments.name, alias=arguments.alias, tracking_uri=arguments.tracking_uri
    )
    _print(
        facts, f"{facts['name']} version {facts['version']} ({facts['alias']}) at {facts['tracking_uri']}", arguments
    )
    return EXIT_OK


ACTIONS = {
    "verify": _verify,
    "export": _export,
    "pack": _pack,
    "install": _install,
    "import": _import,
    "register": _register,
}
