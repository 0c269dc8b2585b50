"""Text files as editors on Windows leave them: other line ends, a mark at the start, backslashes."""

from pathlib import Path

import pytest
import torch

from coinage.demo.concepts import CONCEPTS
from coinage.demo.dataset import write_dataset
from coinage.text.prompts import Prompt, read_prompts
from tests.helpers import rows_of, trained

MARK = "\ufeff"
EDITORS = {
    "line ends of Windows": ("\r\n", "", "utf-8"),
    "with a mark": ("\r\n", MARK, "utf-8"),
    "Notepad's Unicode": ("\r\n", MARK, "utf-16-le"),
}


def as_left(path: Path, editor: str) -> None:
    """Write a text file as the editor does."""
    end, mark, encoding = EDITORS[editor]
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_bytes((mark + "".join(line + end for line in lines)).encode(encoding))


def learned(folder: Path, editor: str | None) -> tuple[torch.Tensor, list[Prompt]]:
    """Train on a project whose texts an editor has saved; its vectors, and the prompts of previews."""
    dataset = write_dataset(folder, CONCEPTS["moon"], "zibu", seed=0)
    prompts, templates = folder / "prompts.txt", folder / "templates.txt"
    prompts.write_text("a red zibu --s 2 --d 1\na zibu --s 2 --d 2\n", encoding="utf-8")
    templates.write_text("a photo of {}, [filewords]\n{} on a table\n", encoding="utf-8")
    texts = [dataset, prompts, templates, *folder.rglob("*.txt")]
    for path in {*texts} if editor else ():
        as_left(path, editor)
    more = (f"--sample_prompts={prompts}", f"--caption_templates={templates}")
    _, word = trained(dataset, folder / "out", *more)
    return rows_of(word), read_prompts(prompts, "ddim")


@pytest.fixture(scope="module")
def due(tmp_path_factory: pytest.TempPathFactory) -> tuple[torch.Tensor, list[Prompt]]:
    return learned(tmp_path_factory.mktemp("plain"), None)


@pytest.mark.parametrize("editor", EDITORS)
def test_a_project_learns_the_same(
    editor: str, due: tuple[torch.Tensor, list[Prompt]], tmp_path: Path
) -> None:
    rows, prompts = learned(tmp_path, editor)
    assert torch.equal(rows, due[0])
    assert prompts == due[1]
