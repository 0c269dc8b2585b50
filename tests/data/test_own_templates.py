"""A file of sentences takes the place of captions, or stands around them."""

import json
from pathlib import Path

import pytest

from coinage.cli.main import main
from coinage.data.own_templates import read_templates
from coinage.data.scan import scan
from coinage.demo.concepts import CONCEPTS
from coinage.demo.dataset import write_dataset
from coinage.errors import Findings
from coinage.runs.states import fingerprint
from tests.data.pictures import picture
from tests.helpers import captured, config_for


def test_a_file_of_automatic1111_is_read_as_ours(tmp_path: Path) -> None:
    file = tmp_path / "style_filewords.txt"
    file.write_text("[filewords], art by [name]\n\n  a {} \nzibu at night\n", encoding="utf-8-sig")
    findings = Findings()
    expected = ("[filewords], art by {}", "a {}", "zibu at night")
    assert read_templates(file, "zibu", findings) == expected
    assert findings.ok
    assert read_templates(file, "other", findings) is None
    assert "the word has no place in 'zibu at night'" in str(findings)


@pytest.mark.parametrize(
    ("text", "message"),
    [(b"\n \n", "holds no sentence"), (b"a \xff", "not text in UTF-8"), (None, "file not found")],
)
def test_a_file_that_cannot_be_used_is_an_error(
    tmp_path: Path, text: bytes | None, message: str
) -> None:
    file = tmp_path / "sentences.txt"
    if text is not None:
        file.write_bytes(text)
    findings = Findings()
    assert read_templates(file, "zibu", findings) is None
    assert message in str(findings)


def test_training_takes_the_sentences(tmp_path: Path) -> None:
    for name, caption in {"a": "a red moon", "b": "two moons", "c": None}.items():
        picture(tmp_path / "images" / f"{name}.png", (64, 64), caption=caption)
    file = tmp_path / "sentences.txt"
    file.write_text("[name] alone\n[name], [filewords]\n", encoding="utf-8")
    given = ("--use_object_template", "--token=zibu", "--resolution=64", "--json")
    words = ["dataset", str(tmp_path / "images"), f"--caption_templates={file}", *given]
    done = captured(lambda: main([*words[:3], *words[4:]]))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    texts = [{caption["text"] for caption in sample["captions"]} for sample in found["samples"]]
    assert all(len(some) <= 2 for some in texts)
    assert set.union(*texts) == {"zibu alone", "zibu, a red moon", "zibu, two moons"}
    assert texts[2] == {"zibu alone"}
    done = captured(lambda: main(words))
    assert done.returncode == 2
    assert "--caption_templates and --use_object_template exclude each other" in done.stderr


def test_a_run_that_goes_on_has_the_same_sentences(tmp_path: Path) -> None:
    file = tmp_path / "sentences.txt"
    prints = []
    data = write_dataset(tmp_path / "data", CONCEPTS["moon"], "zibu", seed=0)
    for text in ("a {}", "a {}", "the {}"):
        file.write_text(text, encoding="utf-8")
        config = config_for(data, tmp_path / "out", f"--caption_templates={file}")
        prints.append(fingerprint(config, scan(config.data, 0, Findings()))["dataset"])
    assert prints[0] == prints[1] != prints[2]
