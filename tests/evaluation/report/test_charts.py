"""Charts are drawn whatever else the process is doing."""

import importlib
import sys
import threading
import time
from pathlib import Path

import pytest

from medseg.evaluation.report import charts


def test_a_figure_waits_for_an_ipython_that_another_thread_is_importing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "IPython.py").write_text(
        "import time\ntime.sleep(0.5)\nversion_info = (8, 24)\nget_ipython = lambda: None\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    thread = threading.Thread(target=importlib.import_module, args=("IPython",))
    thread.start()
    while "IPython" not in sys.modules:
        time.sleep(0.01)
    try:
        assert charts.curves({"a": ([0, 1], [0, 1])}, x_label="x", y_label="y").startswith("<svg")
    finally:
        thread.join()
        sys.modules.pop("IPython", None)
