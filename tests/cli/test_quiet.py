"""What a verb writes on the screen is medseg's own: no line of Lightning, MLflow, MONAI or another library."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.volumes import make_case

VERBS = [
    "plan --data data --output b --folds 2 --preset resenc_unet",
    "fit b --fold all max_epochs=1 steps_per_epoch=1 batch_size=1 num_workers=0",
    "predict b -i data/images -o labels",
    "evaluate --prediction labels --reference data",
    "cv b",
]
OTHERS = (
    "warning", "lightning", "mlflow", "alembic", "monai", "ignite", "nvimage", "fontmanager", "site-packages", "gpu available",
    "traceback", "info:", "pydicom", "torch",
)  # fmt: skip
QUIET = [
    "plan --data data --output c --folds 2 --preset resenc_unet",
    "fit b --fold all --resume max_epochs=1 steps_per_epoch=1 batch_size=1 num_workers=0",
    "predict b -i data/images -o more",
    "evaluate --prediction labels --reference data",
    "cv b",
    "bundle pack b --output b.zip",
]
RUN = """
import sys
from medseg.cli.main import main
for words in sys.argv[1:]:
    print("=", words, flush=True)
    print("=", words, file=sys.stderr)
    assert main(words.split()) == 0, words
"""


def test_only_lines_of_medseg_are_shown_and_none_with_quiet(tmp_path: Path) -> None:
    for number in range(2):
        make_case(tmp_path / "data", f"ball_{number}", radius=4.0, seed=number)
    own = {"MEDSEG_TRUSTED": str(tmp_path / "trusted.json"), "MPLCONFIGDIR": str(tmp_path / "fonts")}
    quiet = [f"{verb} --quiet" for verb in QUIET]
    command = [sys.executable, "-c", RUN, *VERBS, *quiet]
    done = subprocess.run(command, cwd=tmp_path, env={**os.environ, **own}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for stream in (done.stdout, done.stderr):
        said = stream[stream.index(f"= {quiet[0]}\n") :].splitlines()
        assert said == [f"= {verb}" for verb in quiet]
    lines = [*done.stdout.splitlines(), *done.stderr.splitlines()]
    foreign = [line for line in lines if any(word in line.lower() for word in OTHERS)]
    assert not foreign
    figures = [line for line in lines if "Dice" in line or "val_dice" in line]
    assert figures
    assert not [line for line in figures if re.search(r"[Dd]ice\S* -?[01]\.\d{3}", line)], "two digits"
