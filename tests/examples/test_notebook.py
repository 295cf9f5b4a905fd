"""The notebook of examples/ runs from its first cell to its last, in a kernel of its own."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import nbformat
import pytest
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import KernelManager
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).resolve().parents[2] / "examples" / "quickstart.ipynb"


@pytest.mark.timeout(600)
def test_the_notebook_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(NOTEBOOK.parents[1]))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    kernel = KernelManager(kernel_name="python3")
    # This interpreter, whatever kernels the machine has.
    kernel._kernel_spec = KernelSpec(
        argv=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"], language="python"
    )
    kernel.transport = "ipc"
    NotebookClient(notebook, km=kernel, timeout=300).execute(cwd=str(NOTEBOOK.parents[1]))
    said = [json.dumps(cell.get("outputs", [])) for cell in notebook.cells]
    assert "3 jobs, ended" in said[5]
    assert "widget" in said[5]  # progress is drawn in place
    assert "True" in said[-1]
    assert all(output["output_type"] != "error" for cell in notebook.cells for output in cell.get("outputs", []))
    assert notebook.cells[7]["outputs"][0]["data"]["text/plain"].count(":") == 3
