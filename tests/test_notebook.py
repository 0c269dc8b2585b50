"""The notebooks run from top to bottom in a kernel of their own, with fewer steps."""

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

EXAMPLES = Path(__file__).parents[1] / "examples"
MOST_LINES = {"notebook": 20, "colab": 50}


def source(name: str) -> str:
    return (EXAMPLES / f"{name}.ipynb").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", MOST_LINES)
def test_a_notebook_is_short_and_stored_without_outputs(name: str) -> None:
    cells = [cell for cell in json.loads(source(name))["cells"] if cell["cell_type"] == "code"]
    lines = [
        line for cell in cells for line in "".join(cell["source"]).splitlines() if line.strip()
    ]
    assert len(lines) < MOST_LINES[name]
    assert not any(cell["outputs"] for cell in cells)
    assert "sys.argv" not in source(name)


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> None:
    """`!coinage` is the command of this environment."""
    monkeypatch.setenv(
        "PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    )


def run(text: str, folder: Path) -> list[Any]:
    """Run a notebook in a folder; what its cells have shown."""
    notebook = nbformat.reads(text, as_version=4)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(folder)}}).execute()
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def pictures_of(shown: list[Any]) -> list[Any]:
    return [output for output in shown if "image/png" in output.get("data", {})]


@pytest.mark.slow
@pytest.mark.usefixtures("commands")
@pytest.mark.filterwarnings("default")  # of the kernel's libraries, which are not ours
def test_the_notebook_runs(tmp_path: Path) -> None:
    text = source("notebook").replace('max_train_steps\\": 100', 'max_train_steps\\": 3')
    text = text.replace("steps=20", "steps=2")
    assert len(pictures_of(run(text, tmp_path))) == 2
    assert (tmp_path / "output" / "zibu.safetensors").is_file()
    assert (tmp_path / "learned_embeds.safetensors").is_file()


def test_the_notebook_for_colab_offers_its_choices_and_asks_for_nothing_elsewhere() -> None:
    text = source("colab")
    names = re.findall(r"^(\w+) = .+ # @param", "\n".join(code_of(text)), re.MULTILINE)
    assert names == ["MODEL", "WORD", "STEPS", "DRIVE"]
    described = re.findall(r"^- `(\w+)`", "\n".join(prose_of(text)), re.MULTILINE)
    assert described == names
    # What only Colab has stands behind a question
    for line in "\n".join(code_of(text)).splitlines():
        if "files." in line or "drive." in line:
            assert line.startswith("    ")


def code_of(text: str) -> list[str]:
    return [cell["source"] for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]


def prose_of(text: str) -> list[str]:
    return [cell["source"] for cell in json.loads(text)["cells"] if cell["cell_type"] != "code"]


@pytest.mark.slow
@pytest.mark.usefixtures("commands")
@pytest.mark.filterwarnings("default")
def test_the_notebook_for_colab_runs_in_any_jupyter_and_goes_on(tmp_path: Path) -> None:
    text = (
        source("colab").replace("STEPS = 100 ", "STEPS = 3 ").replace("--grid", "--grid --steps 2")
    )
    shown = run(text, tmp_path)
    printed = "".join(output.get("text", "") for output in shown)
    assert "this machine can train" in printed
    assert len(pictures_of(shown)) == 5 + 1
    output = tmp_path / "coinage" / "zibu" / "output"
    assert (output / "zibu.safetensors").is_file()
    assert any("zibu.safetensors" in str(one.get("data", {}).get("text/html")) for one in shown)
    # All cells once more, as after an interruption: no step is done again
    run(text.replace("STEPS = 3 ", "STEPS = 5 "), tmp_path)
    lines = (output / "zibu-log.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4, 5]
