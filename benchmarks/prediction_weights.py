"""The weights that the prediction benchmarks predict with: made once, kept in a file, named by a checksum.

    python benchmarks/prediction_weights.py [--weights FILE] [--threads 2]     trains until the network has converged

Other machines and thread counts train to other last bits; rows of one table belong together where they name one checksum.
Copy the file to repeat a table elsewhere with the very same network.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from prediction_phantom import scaled, train
from prediction_worker import unet

DEFAULT = Path(__file__).resolve().parents[1] / "runs" / "benchmarks" / "prediction_unet.pt"
# Mean cross-entropy of the last 30 steps at which borders lie where the phantom has them.
CONVERGED = 0.05
MOST_STEPS = 2000
# Patches of 144 mm, which nearly always hold air: the network normalises each patch by its own mean and spread, so that those of
# 72 mm, with body alone, need not tell which of the organs' intensities they show. Coarse, since that is 27 times less work.
TRAINED_SPACING = (4.5, 4.5, 4.5)
TRAINED_PATCH = (32, 32, 32)


def checksum(state: Mapping[str, torch.Tensor]) -> str:
    """A name for weights: a hash over names and values, whatever file they lie in."""
    digest = hashlib.sha256()
    for name in sorted(state):
        value = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode() + value.numpy().tobytes())
    return digest.hexdigest()[:16]


def make(path: Path, *, steps: int = MOST_STEPS, until: float = CONVERGED) -> str:
    """Train, write the file, return the checksum.

    Raises:
        SystemExit: the network has not converged.
    """
    network = unet()
    loss = train(network, scaled, TRAINED_SPACING, TRAINED_PATCH, steps=steps, until=until)
    if loss > until:
        raise SystemExit(f"the network has not converged: a loss of {loss:.3f} after {steps} steps, expected {until}")
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(network.state_dict(), path)
    return checksum(network.state_dict())


def checksum_of(path: Path) -> str:
    """The checksum of a file of weights. Raises SystemExit where there is none."""
    if not path.is_file():
        raise SystemExit(f"{path}: no weights; make them once with python benchmarks/prediction_weights.py")
    return checksum(torch.load(path, weights_only=True))


def main() -> None:
    """Make the file where it is missing; print its checksum."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, default=DEFAULT)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    made = checksum_of(arguments.weights) if arguments.weights.is_file() else make(arguments.weights)
    print(f"{arguments.weights.name}: {made}")


if __name__ == "__main__":
    sys.exit(main())
