"""Names are registered when asked for and only then; another package of the same name is said; words are taken as given."""

from __future__ import annotations

import json
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import medseg_kernels.compat
from medseg_kernels.compat import ForeignPackageError, activate, deactivate
from medseg_kernels.compat.__main__ import main
from medseg_kernels.compat.activation import NAMES


@pytest.fixture(autouse=True)
def _freed():
    deactivate()
    yield
    deactivate()


@pytest.fixture(scope="module")
def elsewhere_process() -> list[list[str]]:
    """What a process without compiled kernels says: which modules an import brought, and the warnings of two training steps."""
    code = (
        "import json, sys, warnings, torch, medseg_kernels; before = set(sys.modules)\n"
        "import medseg_kernels.compat.mamba_ssm, medseg_kernels.compat.causal_conv1d\n"
        "import medseg_kernels.compat.selective_scan_cuda\n"
        "print(json.dumps([n for n in set(sys.modules) - before if not n.startswith('medseg_kernels.compat')]))\n"
        "from medseg_kernels.compat.mamba_ssm import Mamba, Mamba2\n"
        "with warnings.catch_warnings(record=True) as seen:\n"
        "    warnings.simplefilter('always'); x = torch.randn(1, 9, 8, requires_grad=True)\n"
        "    for _ in range(2): (Mamba(8)(x).sum() + Mamba2(8, headdim=4, d_state=4)(x).sum()).backward()\n"
        "print(json.dumps([str(w.message) for w in seen if 'medseg_kernels' in str(w.message)]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env={"MEDSEG_CPU_KERNELS": "0"}
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_importing_the_package_under_its_own_name_registers_nothing(elsewhere_process: list[list[str]]) -> None:
    assert elsewhere_process[0] == []


def test_without_a_compiler_the_torch_form_runs_with_one_warning(elsewhere_process: list[list[str]]) -> None:
    assert len(elsewhere_process[1]) == 1
    assert "slower torch form" in elsewhere_process[1][0]


def test_every_module_that_mirrors_a_foreign_one_is_registered() -> None:
    folder = Path(medseg_kernels.compat.__file__).parent
    found = {
        info.name.removeprefix("medseg_kernels.compat.")
        for info in pkgutil.walk_packages([str(folder)], "medseg_kernels.compat.")
    }
    mirrors = {name for name in found if name.split(".")[0] in ("mamba_ssm", "causal_conv1d")}
    assert mirrors | {name for name in found if name.startswith("selective_scan_cuda")} == set(NAMES)


def test_activation_lets_foreign_names_lead_here_and_deactivation_frees_them() -> None:
    assert activate() == list(NAMES)
    assert activate() == list(NAMES)
    import mamba_ssm.ops.triton.ssd_combined as foreign
    from causal_conv1d import causal_conv1d_fn
    from mamba_ssm import Mamba

    from medseg_kernels.compat.mamba import Mamba as ours
    from medseg_kernels.compat.short_convolution import causal_conv1d_fn as our_conv

    assert (Mamba, causal_conv1d_fn) == (ours, our_conv)
    assert foreign is sys.modules["medseg_kernels.compat.mamba_ssm.ops.triton.ssd_combined"]
    with pytest.raises(ModuleNotFoundError, match=r"mamba_ssm\.modules\.mamba3"):
        import mamba_ssm.modules.mamba3
    deactivate()
    with pytest.raises(ModuleNotFoundError):
        import mamba_ssm.modules  # noqa: F401


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A mamba_ssm of somebody else on the path, of unknown version."""
    (tmp_path / "mamba_ssm").mkdir()
    (tmp_path / "mamba_ssm" / "__init__.py").write_text("OWNER = 'somebody else'\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    deactivate()
    sys.modules.pop("mamba_ssm", None)


def test_an_installed_package_is_said_and_the_user_chooses(elsewhere: Path) -> None:
    with pytest.raises(ForeignPackageError, match=r"mamba_ssm \(of unknown version, installed in .*replace.*keep"):
        activate()
    assert "mamba_ssm" not in sys.modules
    assert "mamba_ssm" not in activate(installed="keep")
    import mamba_ssm

    assert mamba_ssm.OWNER == "somebody else"
    assert sys.modules["causal_conv1d"].__name__.startswith("medseg_kernels.compat")
    with pytest.warns(UserWarning, match="already imported from"):
        assert "mamba_ssm" in activate(installed="replace")
    import mamba_ssm as now

    assert not hasattr(now, "OWNER")


def test_an_imported_package_is_said(elsewhere: Path) -> None:
    import mamba_ssm  # noqa: F401

    with pytest.raises(ForeignPackageError, match="already imported from"):
        activate()
    with pytest.raises(ValueError, match="'maybe'"):
        activate(installed="maybe")


def test_the_command_runs_scripts_and_modules_with_their_own_words(tmp_path: Path, capsys, monkeypatch) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, neighbour\nfrom mamba_ssm import Mamba\nprint(__name__, sys.argv[1:], Mamba.__name__)\n"
    )
    (tmp_path / "neighbour.py").write_text("")
    monkeypatch.setattr(sys, "argv", ["kept"])
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert main([str(script), "--lr", "3", "-m"]) == 0
    assert capsys.readouterr().out == "__main__ ['--lr', '3', '-m'] Mamba\n"
    monkeypatch.chdir(tmp_path)
    assert main(["-m", "script", "a"]) == 0
    assert capsys.readouterr().out == "__main__ ['a'] Mamba\n"


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ([], 2, "usage"), (["--installed=maybe", "x.py"], 2, "usage"), (["--wrong", "x.py"], 2, "usage"), (["-m"], 2, "usage"),
        (["no_such.py"], 2, "no such script: no_such.py"),
    ],
)  # fmt: skip
def test_words_that_cannot_be_meant_are_a_usage_error(words: list[str], code: int, said: str, capsys) -> None:
    assert main(words) == code
    assert said in capsys.readouterr().err


def test_the_command_says_that_another_package_is_there(elsewhere: Path, capsys) -> None:
    script = elsewhere / "script.py"
    script.write_text(
        "import mamba_ssm\nprint(mamba_ssm.__version__ if hasattr(mamba_ssm, '__version__') else mamba_ssm.OWNER)\n"
    )
    assert main([str(script)]) == 1
    assert "--installed=replace" in capsys.readouterr().err
    assert main(["--installed=keep", str(script)]) == 0
    assert capsys.readouterr().out == "somebody else\n"
