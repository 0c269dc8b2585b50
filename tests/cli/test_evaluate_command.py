"""`coinage evaluate`, as a user runs it."""

import csv
import json
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from coinage.cli.main import main
from coinage.embeddings.word import Word
from coinage.embeddings.writing import write
from coinage.report.fit import MOST_BYTES
from tests.helpers import captured
from tests.tiny_models import write_clip, write_dino

FEW = ("--steps=2", "--count=2", "--batch_size=8")


def evaluate(*argv: object) -> subprocess.CompletedProcess[str]:
    return captured(lambda: main(["evaluate", *map(str, argv)]))


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoders")
    write_clip(folder / "clip")
    write_dino(folder / "dino")
    return folder


def word(path: Path, step: int = 0, width: int = 32) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = torch.randn(2, width, generator=torch.Generator().manual_seed(step))
    metadata = {"ti.init_word": "circle", "ti.token_string": "zibu", "ti.step": str(step)}
    write(path, Word({"emb_params": rows}, "zibu", step, metadata))
    return path


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_text("a photo of a {} on a white background\na red {}\n", encoding="utf-8")
    return path


def rows_in(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_checkpoints_side_by_side(
    models: Path, encoders: Path, moon_dataset: Path, prompts: Path, tmp_path: Path
) -> None:
    run, out = tmp_path / "run", tmp_path / "scores"
    for step in (10, 20, 30):
        word(run / f"zibu-step{step:08d}.safetensors", step)
    (run / "model.bin").write_bytes(b"no word")
    images = moon_dataset.parent / "images"
    given = (f"--clip={encoders / 'clip'}", f"--dino={encoders / 'dino'}", f"--images={images}")
    done = evaluate(
        run, f"--model={models / 'sd1'}", *given, f"--prompts={prompts}", f"--output={out}", *FEW
    )
    assert done.returncode == 0, done.stderr
    assert "left out: " in done.stderr
    assert "highest score: zibu-step000000" in done.stdout
    for name in ("overall", "CLIP-I", "CLIP-T", "DINOv2", "pull"):
        assert name in done.stdout
    rows = rows_in(out / "scores.csv")
    assert {row["step"] for row in rows} == {"10", "20", "30"}
    for row in rows:
        if row["low"]:
            assert float(row["low"]) <= float(row["mean"]) <= float(row["high"])
    pictures = rows_in(out / "scores-pictures.csv")
    assert len(pictures) == 3 * 2 * 2
    assert {row["plain_prompt"] for row in pictures} == {
        "a photo of a circle on a white background", "a red circle",
    }  # fmt: skip
    mean = sum(float(row["DINOv2"]) for row in pictures[:4]) / 4
    (told,) = [float(r["mean"]) for r in rows if r["measure"] == "DINOv2" and r["step"] == "10"]
    assert told == pytest.approx(mean, abs=1e-5)
    page = (out / "scores.html").read_text(encoding="utf-8")
    assert page.count('<img class="picture"') == 3 * 2
    assert "Scores over the steps" in page
    assert len(page) < MOST_BYTES
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org/2000/svg", "")


def test_without_other_models_nothing_is_drawn(models: Path, tmp_path: Path) -> None:
    files = [word(tmp_path / folder / "zibu.safetensors", step) for step, folder in enumerate("ab")]
    given = (*files, f"--model={models / 'sd1'}", f"--output={tmp_path / 'out'}", "--json")
    done = evaluate(*given)
    assert done.returncode == 0, done.stderr
    assert "nothing is drawn; --clip and --dino score pictures" in done.stderr
    found = json.loads(done.stdout)
    assert [entry["name"] for entry in found["words"]] == list(map(str, files))
    assert found["words"][0]["scores"] == {}
    assert found["words"][0]["drift"]["length"] > 0
    before = (tmp_path / "out" / "scores.html").read_bytes()
    assert evaluate(*given).returncode == 0
    assert (tmp_path / "out" / "scores.html").read_bytes() == before, "earlier files stay"
    assert (tmp_path / "out" / "scores_2.csv").is_file()


def test_all_that_is_wrong_is_told_at_once(models: Path, encoders: Path, tmp_path: Path) -> None:
    good, wide = word(tmp_path / "good.safetensors"), word(tmp_path / "wide.safetensors", width=48)
    (tmp_path / "broken.pt").write_bytes(b"nothing")
    (tmp_path / "empty").mkdir()
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(b"\x89PNG no image")
    done = evaluate(
        good, wide, tmp_path / "broken.pt", tmp_path / "empty", tmp_path / "missing.pt",
        f"--model={models / 'sd1'}", f"--images={tmp_path / 'images'}", "--clip=no/where/at/all",
        f"--dino={encoders / 'clip'}", "--prompts=objects", "--count=0", "--cfg=nan",
        f"--output={tmp_path / 'out'}",
    )  # fmt: skip
    assert done.returncode == 2
    for told in (
        "48 wide, and the model takes emb_params 32 wide", "broken.pt", "no words in the folder",
        "missing.pt", "a.png", "--clip: no such folder", "--dino: the model is 'clip', not dinov2",
        "--prompts: no such set", "--count 0 is out of range",
        "--cfg nan is out of range",
    ):  # fmt: skip
        assert told in done.stderr, told
    assert done.stderr.count("error:") == 10
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_folder_without_images_and_a_clip_that_reads_little(
    models: Path, tmp_path: Path, prompts: Path
) -> None:
    file = word(tmp_path / "zibu.safetensors")
    shutil.copytree(write_clip(tmp_path / "short", positions=6), tmp_path / "copy")
    given = (
        file,
        f"--model={models / 'sd1'}",
        f"--prompts={prompts}",
        f"--output={tmp_path / 'out'}",
    )
    (tmp_path / "empty").mkdir()
    done = evaluate(*given, f"--images={tmp_path / 'empty'}", f"--dino={tmp_path / 'copy'}")
    assert "--images: no images in the folder" in done.stderr
    done = evaluate(*given, f"--clip={tmp_path / 'copy'}")
    assert done.returncode == 2
    assert "the CLIP model reads 6 tokens" in done.stderr
    assert "a photo of a circle on a white background" in done.stderr
    done = evaluate(*given, f"--dino={tmp_path / 'copy'}")
    assert "--dino needs --images" in done.stderr
    done = evaluate(file, f"--model={models / 'sdxl'}", f"--output={tmp_path / 'out'}")
    assert done.returncode == 2
    assert "the model takes clip_l 32 wide and clip_g 64 wide" in done.stderr
