"""Which recipe a longer training wants: arms that differ in one setting, and the averages of each arm's weights.

    python benchmarks/recipe_search.py --data hippocampus [ARM ...] [--work runs/recipe] [--folds 0 1 2] [--list]

An arm is a training of a number of crops on one core; its settings are overrides of train.json, all others are those of `medseg
plan`. While it trains, the weights of each checkpoint are kept; from these the last weights, their exponential average (what
medseg keeps), the mean of the last quarter's checkpoints and the mean of all three are scored on the fold's validation cases,
which none of these rules looks at; the average also with mirroring left-right. Every finished arm and fold is a row of
benchmarks/results/recipe_search.json and docs/recipe.md; a second run goes on with the first that is missing.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from contest import RESULTS, machine, run_medseg
from recipe_table import RESULT, write_page

STEPS_PER_EPOCH = 10  # a checkpoint after each, of which the last quarter are averaged
LIGHT, FULL = "train::dataset::augmentation::preset=light", "train::dataset::augmentation::preset=default"
Weights = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Arm:
    """One training: its crops and what it changes of train.json."""

    samples: int
    words: tuple[str, ...]


ARMS = {
    "full, 1000": Arm(1000, (FULL,)),
    "light, 1000": Arm(1000, (LIGHT,)),
    "light, 2800": Arm(2800, (LIGHT,)),
    "full, 2800": Arm(2800, (FULL,)),
    "light, 10000": Arm(10_000, (LIGHT,)),
    "full, 10000": Arm(10_000, (FULL,)),
    "rate halved, 10000": Arm(10_000, (LIGHT, "train::module::learning_rate=0.001")),
    "cosine, 10000": Arm(10_000, (LIGHT, "train::module::schedule=cosine")),
    "weight decay 0.1, 10000": Arm(10_000, (LIGHT, "train::module::weight_decay=0.1")),
    "EMA 0.998, 10000": Arm(10_000, (LIGHT, "train::trainer::ema_decay=0.998")),
    "foreground 0.67, 10000": Arm(10_000, (LIGHT, 'train::dataset::sampling={"foreground":0.67}')),
    "label smoothing 0.05, 10000": Arm(10_000, (LIGHT, 'train::module::loss={"name":"dice_ce","label_smoothing":0.05}')),
    "coarse scales 0.25, 10000": Arm(10_000, (LIGHT, "train::module::deep_supervision=0.25")),
}  # fmt: skip


class Snapshots(threading.Thread):
    """Keep the weights and their average of every checkpoint that a training writes."""

    def __init__(self, checkpoint: Path, folder: Path) -> None:
        super().__init__(daemon=True)
        self.checkpoint, self.folder, self.ended = checkpoint, folder, threading.Event()
        folder.mkdir(parents=True, exist_ok=True)

    def run(self) -> None:
        seen = 0
        while True:
            last = self.ended.is_set()
            written = self.checkpoint.stat().st_mtime_ns if self.checkpoint.is_file() else 0
            if written != seen:
                seen = written
                saved = torch.load(self.checkpoint, map_location="cpu", weights_only=False)
                parts = {"ema": _network(saved["state_dict"]), "raw": _network(saved["current_model_state"])}
                torch.save({"step": saved["global_step"], **parts}, self.folder / f"{saved['global_step']:07}.pt")
            if last:
                return
            self.ended.wait(1.0)


def _network(state: Weights) -> Weights:
    return {name.removeprefix("network."): value for name, value in state.items() if name.startswith("network.")}


class Training:
    """One arm on one fold, in a folder of its own."""

    def __init__(self, name: str, fold: int, arguments: argparse.Namespace) -> None:
        self.name, self.fold, self.arm = name, fold, ARMS[name]
        self.folder = Path(arguments.work).resolve() / f"{name.replace(', ', '_').replace(' ', '_')}_fold_{fold}"
        self.data, self.bundle = Path(arguments.data).resolve(), self.folder / "hippocampus_mr"
        self.environment = {
            **os.environ, "OMP_NUM_THREADS": "1", "MEDSEG_STORE": str(Path(arguments.work).resolve() / "store"),
        }  # fmt: skip

    def medseg(self, *words: str) -> float:
        """Run one command; returns its CPU seconds, which other work on the machine moves least."""
        usage = run_medseg(words, self.folder, self.environment, self.name)
        return usage.ru_utime + usage.ru_stime

    def run(self) -> dict[str, Any]:
        """Plan and fit where that is not done, then score every average; returns the row."""
        run, note = self.bundle / "runs" / f"fold_{self.fold}", self.folder / "training.json"
        self.folder.mkdir(parents=True, exist_ok=True)
        if not note.is_file():
            if not (self.bundle / "plan.json").is_file():
                self.medseg("plan", "--data", str(self.data), "--output", str(self.bundle), "--device", "cpu")
            batch = json.loads((self.bundle / "plan.json").read_text(encoding="utf-8"))["batch_size"]
            epochs = max(1, round(self.arm.samples / batch / STEPS_PER_EPOCH))
            length = [f"max_epochs={epochs}", f"steps_per_epoch={STEPS_PER_EPOCH}", f"val_interval={epochs}"]
            snapshots = Snapshots(run / "last.ckpt", self.folder / "snapshots")
            snapshots.start()
            words = ("--fold", str(self.fold), "--threads", "1", "--resume", "--device", "cpu")
            cost = self.medseg("fit", str(self.bundle), *words, *length, *self.arm.words)
            snapshots.ended.set()
            snapshots.join()
            note.write_text(
                json.dumps({"cpu_seconds": round(cost), "batch": batch, "commit": machine()["commit"]}),
                encoding="utf-8",
            )
        facts = json.loads(note.read_text(encoding="utf-8"))
        steps = json.loads((run / "result.json").read_text(encoding="utf-8"))["steps"]
        return {
            "arm": self.name, "fold": self.fold, "words": list(self.arm.words), "samples": steps * facts["batch"],
            "core_minutes": round(facts["cpu_seconds"] / 60, 1), "commit": facts["commit"],
            "date": datetime.now(UTC).date().isoformat(), "averages": self.scores(),
        }  # fmt: skip

    def scores(self) -> dict[str, dict[str, Any]]:
        """Dice of each average, case by case, and the CPU seconds of predicting all cases."""
        from medseg.bundle.opening.parser import SafeConfig
        from medseg.commands.fit import resolve_config

        os.environ["MEDSEG_STORE"] = self.environment["MEDSEG_STORE"]
        config = SafeConfig(resolve_config(self.bundle, fold=self.fold))
        network, inferer = config.get("network_def"), config.get("train::inferer")
        cases = config.get("validate::dataset")
        cases.prepare()
        cases.open()
        averages = weights_of(self.folder / "snapshots")
        found = {name: _score(network, weights, inferer, cases) for name, weights in averages.items()}
        inferer.mirror_axes = (0,)
        return found | {"ema, mirrored": _score(network, averages["ema"], inferer, cases)}


def weights_of(folder: Path) -> dict[str, Weights]:
    """The average that medseg keeps, the last weights, the mean of the last quarter's checkpoints, and the mean of the three."""
    files = sorted(folder.glob("*.pt"))
    last = torch.load(files[-1], weights_only=True)
    tail = files[-max(1, len(files) // 4) :]
    found = {"ema": last["ema"], "last": last["raw"], "tail": mean([torch.load(file)["raw"] for file in tail])}
    return found | {"all three": mean(list(found.values()))}


def mean(states: list[Weights]) -> Weights:
    """The mean of state dicts; counters are the first's."""
    first = states[0]
    return {
        name: torch.stack([state[name] for state in states]).mean(dim=0) if value.is_floating_point() else value
        for name, value in first.items()
    }


def _score(network: Any, weights: Weights, inferer: Any, cases: Any) -> dict[str, Any]:
    """Mean Dice over labels of every case on the network's grid."""
    from medseg.training.module import overlap_counts

    network.load_state_dict(weights)
    network.eval()
    labels = [value for value in cases.values if value]
    scores, begin = [], time.process_time()
    with torch.no_grad():
        for number in range(len(cases)):
            case = cases[number]
            prediction = inferer(case["image"][None], network).argmax(dim=1)[0]
            counts = overlap_counts(prediction, case["label"][0], labels).double()
            scores.append(round(float((2 * counts[:, 0] / (counts[:, 1] + counts[:, 2])).nanmean()), 5))
    return {"case_dice": scores, "cpu_seconds": round(time.process_time() - begin, 1)}


def main() -> int:
    """Run the arms and folds that the result file does not hold yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("arms", nargs="*", metavar="ARM", help=f"default: {'; '.join(ARMS)}")
    parser.add_argument("--data", default=os.path.join(os.environ.get("MEDSEG_DATA", "."), "hippocampus"))
    parser.add_argument("--work", default="runs/recipe", help="folder for the bundles and the weights kept")
    parser.add_argument("--folds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--list", action="store_true", help="say which are done and which are not, and run none")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    wanted = [(name, fold) for fold in arguments.folds for name in arguments.arms or ARMS]
    for name, fold in wanted:
        table = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.is_file() else {"rows": []}
        done = any((row["arm"], row["fold"]) == (name, fold) for row in table["rows"])
        if arguments.list:
            print(f"{name:<30} fold {fold} {'done' if done else 'not reached'}")
        if done or arguments.list:
            continue
        row = Training(name, fold, arguments).run()
        table["rows"].append(row)
        table["machine"] = machine()
        RESULTS.mkdir(exist_ok=True)
        RESULT.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
        write_page()
        print(f"{name}, fold {fold}: {row['core_minutes']} core-minutes", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
