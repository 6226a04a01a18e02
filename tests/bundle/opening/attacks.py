"""What a stranger's configuration may try, as changes of inference.json and train.json; none of it may act on any verb."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from medseg.layout import Layout

# Canary -> values put at the top of the file. `roi_size` is what every verb reads first.
Values = Callable[[Path], dict[str, Any]]


def _callable(target: str, call: str) -> Values:
    return lambda canary: {
        "tool": {"_target_": target, "_mode_": "callable"},
        "roi_size": f"$[32 if @tool({call.format(canary=canary)}) else 32, 32, 32]",
    }


def _component(**component: Any) -> Values:
    def values(canary: Path) -> dict[str, Any]:
        text = json.dumps({"_target_": component.pop("target", None) or component["_target_"], **component})
        return {"network_def": json.loads(text.replace("CANARY", str(canary)))}

    return values


def _expression(text: str, **more: Any) -> Values:
    return lambda canary: {"roi_size": f"$[32 if {text.replace('CANARY', str(canary))} else 32, 32, 32]", **more}


def _word(key: str, value: Any, target: str = "Identityd", **more: Any) -> Values:
    """A word of MONAI's component syntax that is computed."""
    return lambda canary: {
        "network_def": {
            "_target_": target,
            **more,
            key: json.loads(json.dumps(value).replace("CANARY", str(canary))),
        }
    }


OPEN = "$open('CANARY', 'w').close()"
SYSTEM = "$__import__('os').system('touch CANARY')"
NET = {"spatial_dims": 3, "in_channels": 1, "out_channels": 3}
SMALL = {**NET, "channels": [2, 4], "strides": [2]}

ATTACKS: dict[str, Values] = {
    # a component handed on as a function, whose words become objects
    "LoadImage as a function": _callable("LoadImage", "reader='os.system', command='touch {canary}'"),
    "LoadImaged as a function": _callable("LoadImaged", "reader='os.system', command='touch {canary}', keys='image'"),
    "SaveImage as a function": _callable("SaveImage", "writer='os.system', command='touch {canary}'"),
    "Compose as a function": _callable("Compose", "['os.system']"),
    "a network as a function": _callable("monai.networks.nets.UNet", "spatial_dims=3"),
    # words that a target turns into objects
    "reader": _word("reader", "os.system", "LoadImaged", keys="image"),
    "reader of a class": _word("reader", {"_target_": "NumpyReader"}, "LoadImaged", keys="image"),
    "func": _word("func", "os.system", "Lambdad", keys="image"),
    "other": _word("other", SYSTEM, "Activationsd", keys="image"),
    "activation": _word("act", "os.system", "UNet", **SMALL),
    "layer": _word("norm", ["os.system", {"command": "touch CANARY"}], "UNet", **SMALL),
    "downsample": _word("downsample", "os.system", "SwinUNETR", **NET),
    "pretrained": _word("pretrained", True, "FlexibleUNet", **NET, backbone="resnet10"),
    "address of weights": _word("pretrained_url", "http://127.0.0.1:9/x.pt", "HoVerNet"),
    "preset": _word("preset", "os.system", "medseg.components.build_network", **NET),
    "nnU-Net's class": _word("network_class", "os.system", "medseg.components.build_nnunet", arguments={}),
    "weights of another": _word("bundle_root", "/", "medseg.components.averaged_network"),
    # targets that read, write, fetch, start or delete
    "CSVDataset": _component(_target_="CSVDataset", src="http://127.0.0.1:9/x.csv"),
    "PerceptualLoss": _component(_target_="PerceptualLoss", spatial_dims=2),
    "EfficientNetBN": _component(_target_="EfficientNetBN", model_name="efficientnet-b0"),
    "ClassificationSaver": _component(_target_="ClassificationSaver", output_dir="CANARY"),
    "PersistentDataset": _component(_target_="PersistentDataset", data=[], transform=None, cache_dir="CANARY"),
    "FolderLayout": _component(_target_="FolderLayout", output_dir="CANARY"),
    "torch.load": _component(_target_="torch.load", f="CANARY", weights_only=False),
    "numpy.load": _component(_target_="numpy.load", file="CANARY", allow_pickle=True),
    "open": _component(_target_="builtins.open", file="CANARY", mode="w"),
    "run_cmd": _component(_target_="monai.utils.run_cmd", cmd_list=["touch", "CANARY"]),
    "through torch": _component(_target_="torch.nn.functional.torch.os.system", command="touch CANARY"),
    "through medseg": _component(_target_="medseg.bundle.load.os.system", command="touch CANARY"),
    "a shipped private": _component(_target_="medseg.io.atomic.write_text", path="CANARY", text="x"),
    "hub": _component(_target_="torch.hub.load", repo_or_dir="CANARY", model="x", source="local"),
    "a parser": _component(_target_="monai.bundle.ConfigParser", config={"x": SYSTEM}),
    "a workflow": _component(_target_="monai.bundle.run", config_file="CANARY"),
    "an own script": _component(_target_="planted_module.thing"),
    # MONAI's own words
    "_disabled_": _word("_disabled_", SYSTEM, keys="image"),
    "_requires_": _word("_requires_", [OPEN], keys="image"),
    "_desc_": _word("_desc_", SYSTEM, keys="image"),
    "_imports_": _word("_imports_", ["$import planted_module"], keys="image"),
    "_mode_": _word("_mode_", "callable", keys="image"),
    "_mode_ debug": _word("_mode_", "debug", keys="image"),
    "_mode_ computed": _word("_mode_", "$'call' + 'able'", keys="image"),
    "_target_ computed": lambda canary: {"network_def": {"_target_": "$__import__('os').system", "command": f"touch {canary}"}},
    "_target_ by reference": lambda canary: {
        "t": "os.system", "network_def": {"_target_": "@t", "command": f"touch {canary}"}
    },
    "macro of a file": lambda canary: {"roi_size": f"%{canary.parent}/more.json::x"},
    "macro of a file in capitals": lambda canary: {"roi_size": f"%{canary.parent}/more.JSON::x"},
    "macro of a yaml file": lambda canary: {"roi_size": f"%{canary.parent}/more.yaml::x"},
    "macro of this file": lambda canary: {"boom": SYSTEM.replace("CANARY", str(canary)), "roi_size": "%boom"},
    "metadata": lambda canary: {"roi_size": "@_meta_::note"},
    "metadata with #": lambda canary: {"roi_size": "$@_meta_#note"},
    "a key that is a path": lambda canary: {
        "q": {"_target_": "planted_module.thing"}, "q::y": 1, "network_def::_target_": "os.system"
    },
    "a key that adds": lambda canary: {"+network_def": {"_target_": "os.system", "command": f"touch {canary}"}},
    "import": lambda canary: {"imports": ["$import planted_module"], "roi_size": "$planted_module.roi"},
    "import of ours": lambda canary: {"imports": ["$import medseg.io.atomic"], "roi_size": "$medseg.io.atomic.x()"},
    # expressions
    "eval": _expression("eval(\"open('CANARY', 'w')\")"),
    "open to write": _expression("open('CANARY', 'w')"),
    "a path that moves": _expression("pathlib.Path('/etc/hostname').replace('CANARY')", imports=["$import pathlib"]),
    "makedirs": _expression("os.makedirs('CANARY')", imports=["$import os"]),
    "a lambda": _expression("(lambda: open('CANARY', 'w'))()"),
    "an attribute": _expression("@network_def.__class__.__init__.__globals__"),
    "a method": _expression("@network_def.load_state_dict(torch.load('CANARY', weights_only=False))"),
    "set an attribute": _expression("setattr(torch, 'load', print)", imports=["$import torch"]),
    "a comprehension": _expression("[open(x, 'w') for x in ['CANARY']]"),
    "a format": _expression("'{0.__class__}'.format(@network_def)"),
    "a walrus": _expression("(x := open('CANARY', 'w'))"),
    "numpy": _expression("numpy.save('CANARY', 1)", imports=["$import numpy"]),
    "inside a form": _expression("list(sorted(glob.glob(open('CANARY', 'w'))))", imports=["$import glob"]),
}  # fmt: skip


def plant(layout: Layout, values: dict[str, Any], canary: Path) -> None:
    """Put the values into both configurations, and what they point to beside them."""
    for path in (layout.inference, layout.train):
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
    metadata = json.loads(layout.metadata.read_text())
    metadata["note"] = f"$__import__('os').system('touch {canary}')"
    layout.metadata.write_text(json.dumps(metadata))
    boom = json.dumps({"x": f"$__import__('os').system('touch {canary}')"})
    for name in ("more.json", "more.JSON", "more.yaml"):
        (canary.parent / name).write_text(boom)
