"""The packages that report usage to their makers unasked are told not to."""

import os
import subprocess
import sys

import pytest


def run(code: str) -> str:
    """Output of a fresh process whose environment says nothing about reporting; it is nobody's continuous integration."""
    quiet = ("CI", "TF_BUILD", "JENKINS_URL", "DO_NOT_TRACK", "MLFLOW_DISABLE_TELEMETRY", "GITHUB_ACTIONS")
    environment = {key: value for key, value in os.environ.items() if key not in quiet}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    return done.stdout.strip()


def test_mlflow_is_told_not_to_report() -> None:
    question = "from mlflow.telemetry.utils import is_telemetry_disabled; print(is_telemetry_disabled())"
    assert run(f"import medseg; {question}") == "True"


def test_openvino_is_opened_with_the_stub_in_place_of_its_reports() -> None:
    pytest.importorskip("openvino")
    code = """
from medseg.inference.engines.openvino import import_openvino
import_openvino()
import openvino.tools.ovc as ovc
print(type(ovc.telemetry).__module__)
"""
    assert run(code) == "openvino.tools.ovc.telemetry_stub"
