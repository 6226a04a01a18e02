"""The packages that report usage to their makers unasked are told not to."""

import os
import subprocess
import sys

import pytest


def run(code: str) -> str:
    """Output of a fresh process whose environment says nothing about reporting; it is nobody's continuous integration."""
    quiet = (
        "CI",
        "TF_BUILD",
        "JENKINS_URL",
        "DO_NOT_TRACK",
        "MLFLOW_DISABLE_TELEMETRY",
        "GITHUB_ACTIONS",
        "HF_HUB_DISABLE_TELEMETRY",
    )
    environment = {key: value for key, value in os.environ.items() if key not in quiet}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    return done.stdout.strip()


@pytest.mark.parametrize("opened_by", ["mlflow", "monai.handlers"])
def test_mlflow_is_told_not_to_report_whoever_imports_it(opened_by: str) -> None:
    question = "from mlflow.telemetry.utils import is_telemetry_disabled; print(is_telemetry_disabled())"
    threads = "import threading; print([t.name for t in threading.enumerate() if 'elemetry' in t.name])"
    assert run(f"import medseg, {opened_by}; {question}; {threads}").splitlines() == ["True", "[]"]


def test_the_hub_is_told_not_to_report() -> None:
    code = "import medseg, os\ntry: import huggingface_hub\nexcept ImportError: pass"
    assert run(f"{code}\nprint(os.environ['HF_HUB_DISABLE_TELEMETRY'])") == "1"


def test_a_users_own_word_wins_and_medseg_alone_changes_no_environment() -> None:
    code = "import os; before = dict(os.environ); import medseg; print(before == dict(os.environ))"
    assert run(code) == "True"
    given = "import os; os.environ['MLFLOW_DISABLE_TELEMETRY'] = 'false'; import medseg, mlflow"
    assert run(f"{given}; print(os.environ['MLFLOW_DISABLE_TELEMETRY'])") == "false"


def test_openvino_is_opened_with_the_stub_in_place_of_its_reports() -> None:
    pytest.importorskip("openvino")
    code = "import medseg, openvino, openvino.tools.ovc as ovc; print(type(ovc.telemetry).__module__)"
    assert run(code) == "openvino.tools.ovc.telemetry_stub"
