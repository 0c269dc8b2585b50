"""The notebook runs from top to bottom in a kernel of its own, with fewer steps."""

import json
import os
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[1] / "examples" / "notebook.ipynb"
MOST_LINES = 20


def source() -> str:
    return NOTEBOOK.read_text(encoding="utf-8")


def test_the_notebook_is_short_and_stored_without_outputs() -> None:
    cells = [cell for cell in json.loads(source())["cells"] if cell["cell_type"] == "code"]
    lines = [
        line for cell in cells for line in "".join(cell["source"]).splitlines() if line.strip()
    ]
    assert len(lines) < MOST_LINES
    assert not any(cell["outputs"] for cell in cells)
    assert "sys.argv" not in source()


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of the kernel's libraries, which are not ours
def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # `!coinage` is the command of this environment
    monkeypatch.setenv(
        "PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    )
    text = source().replace('max_train_steps\\": 100', 'max_train_steps\\": 3')
    text = text.replace("steps=20", "steps=2")
    notebook = nbformat.reads(text, as_version=4)
    client = NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    pictures = [output for output in shown if "image/png" in output.get("data", {})]
    assert len(pictures) == 2
    assert (tmp_path / "output" / "zibu.safetensors").is_file()
    assert (tmp_path / "learned_embeds.safetensors").is_file()
