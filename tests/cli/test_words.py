"""Words in any order, mistyped words, keys and their values: what `medseg` makes of a command line."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from medseg.bundle.catalogue import packaged_folder
from medseg.cli.fit import run as run_fit
from medseg.cli.main import main, parse
from medseg.cli.words import bundle_first
from medseg.commands.fit_values import check_values
from medseg.config import apply_overrides, check_override, parse_overrides, read_config
from medseg.errors import ConfigError
from medseg.layout import Layout

BUNDLE = str(packaged_folder("bundles") / "hippocampus_mr_mambavision")
TRAIN = read_config([Layout(Path(BUNDLE)).train])


def test_medseg_alone_prints_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert capsys.readouterr().out.startswith("usage: medseg")


@pytest.mark.parametrize(
    "words",
    [
        f"predict {BUNDLE} a.nii b.nii -o out --quiet",
        f"predict -i a.nii b.nii -o out --quiet {BUNDLE}",
        f"predict --quiet -i a.nii -o out -i b.nii {BUNDLE}",
        f"predict a.nii b.nii {BUNDLE} --quiet -o out",
        f"predict {BUNDLE} --quiet a.nii -o out b.nii",
        f"--quiet -o out predict {BUNDLE} a.nii b.nii",
        f"predict --quiet -o out -i a.nii b.nii {BUNDLE}",
        f"predict -o out --quiet -i {BUNDLE} a.nii b.nii",
    ],
)
def test_options_and_inputs_stand_in_any_order(words: str) -> None:
    found = parse(words.split(), "predict")
    bundle, inputs = bundle_first(found.bundle, [*found.inputs, *found.input])
    assert (bundle, inputs, found.output, found.quiet) == (BUNDLE, ["a.nii", "b.nii"], "out", True)


def test_keys_stand_in_any_order(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (f"fit max_epochs=3 {BUNDLE} --keys --json", f"fit --keys {BUNDLE} --json max_epochs=3"):
        assert run_fit(parse(words.split(), "fit")) == 0
        rows = {row["key"]: row["value"] for row in json.loads(capsys.readouterr().out)}
        assert rows["max_epochs"] == 3


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("plan --dat x", "--dat. Did you mean --data"),
        ("plan --data=x --outptu b", "--outptu. Did you mean --output"),
        ("predict --gpu", "--gpu. Here it is --device cuda"),
        ("fit b --epochs 3", "--epochs. Here it is max_epochs=N"),
        ("evaluate --refrence x", "--refrence. Did you mean --reference"),
        ("bundle pack --outpt x", "--outpt. Did you mean --output"),
        ("--vresion", "--vresion. Did you mean --version"),
        ("bundle verfy x", "unknown action 'verfy'. Did you mean verify"),
        ("predcit x", "unknown verb 'predcit'. Did you mean predict"),
    ],
)
def test_a_mistyped_word_is_named_before_missing_ones(
    words: str, named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words.split()) == 2
    said = capsys.readouterr().err
    assert named in said
    assert "required" not in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("short", ["lr", "learning_rate", "epochs", "bs", "patch_size", "optim", "dataset"])
def test_the_remedy_of_a_short_name_is_a_key_that_exists(short: str) -> None:
    with pytest.raises(ConfigError, match="Its full name is") as refused:
        check_override(TRAIN, short)
    full = re.search(r"full name is ([\w:]+)", str(refused.value))
    assert full is not None
    check_override(TRAIN, full[1])
    if short == "lr":
        assert full[1] == "train::module::learning_rate"


@pytest.mark.parametrize(
    "word",
    [
        "max_epochs=abc",
        "max_epochs=0",
        "max_epochs=2.5",
        "batch_size=-1",
        "roi_size=64",
        "roi_size=[64,0,64]",
        "num_workers=-2",
        "seed=x",
        "train::module::learning_rate=fast",
        "train::module::learning_rate=0",
        "train::module::loss=dice",
        "train::module::optimizer=adam",
        "train::module::schedule=linear",
        "train::trainer::tracking=perhaps",
        "device=cpu",
        "network_def=unet",
        "preprocessing_def::spacing=1",
    ],
)
def test_a_value_that_cannot_train_is_one_line_that_names_key_and_what_is_expected(word: str) -> None:
    with pytest.raises(ConfigError) as refused:
        check_values(apply_overrides(TRAIN, parse_overrides([word]), foreign=False))
    said = str(refused.value)
    assert said.startswith(word.split("=")[0])
    assert re.search(r"expected|Did you mean|Known|set a value inside", said)
    assert "\n" not in said


def test_references_expressions_and_right_values_pass() -> None:
    words = [
        "max_epochs=$3 * 2",
        "batch_size=2",
        "train::module::learning_rate=1e-3",
        "num_workers=null",
        "roi_size=[8,8]",
    ]
    check_values(apply_overrides(TRAIN, parse_overrides(words), foreign=False))


def test_keys_lists_every_key_with_value_and_meaning(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", BUNDLE, "--keys", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["key"] for row in rows if not row["meaning"]] == []
    names = [row["key"] for row in rows]
    assert {"max_epochs", "train::module::learning_rate", "network_def::preset", "train::trainer::precision"} <= set(
        names
    )
    for name in names:
        check_override(TRAIN, name, foreign=False)
    assert main(["fit", BUNDLE, "--keys"]) == 0
    assert "max_epochs=40" in capsys.readouterr().out
