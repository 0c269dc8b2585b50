"""Other trainers are measured as ours is, and one that fails says why."""

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from coinage.demo.run import MODEL
from coinage.text.clip_tokenizer import read_tokenizer

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
BAR = r"""
import sys, time
if sys.argv[1:] == ["--help"]:
    sys.exit()
assert "--mixed_precision=no" in sys.argv, sys.argv
held = bytearray(60_000_000)
print("caching: 100%|███| 6/6 [00:00<00:00, 9.99it/s]", file=sys.stderr, flush=True)
for step in range(7):
    print(f"\rsteps:  {step}%|███| {step}/6 [00:00<00:00, 9.99it/s]", end="", file=sys.stderr, flush=True)
    until = time.process_time() + 0.03
    while time.process_time() < until:
        pass
    time.sleep(0.03)
"""
SILENT = "import sys; print('nothing to see')"
BROKEN = "import sys; print('a', 'line'); sys.exit('no such thing')"
SLOW = "import time; print('waiting', flush=True); time.sleep(60)"


@pytest.fixture
def peers(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import peers

    monkeypatch.setattr(peers, "POLL", 0.005)
    return peers


def measure(peers: Any, script: str, folder: Path, limit: float = 20) -> dict[str, float]:
    """Train once with a script in the place of sd-scripts'."""
    from peer_rows import Job, trainers
    from random_models import write_dataset

    (folder / "peer").mkdir()
    (folder / "peer" / "train_textual_inversion.py").write_text(script, encoding="utf-8")
    args = peers.read_arguments([f"--reference={folder / 'peer'}"])
    _, peer = trainers(args)
    data = write_dataset(folder / "data", 64, pictures=6)
    job = Job(MODEL, data, data.parent / "images", folder, 6, 64, "no")
    found: dict[str, float] = peers.train(peer, job, peers.Rules({}, limit, 2))
    return found


def test_a_peer_is_measured_by_its_progress_bar(peers: Any, tmp_path: Path) -> None:
    found = measure(peers, BAR, tmp_path)
    assert 0.02 <= found["step CPU s"] < 0.06
    assert found["step s"] >= 0.055
    assert 0 < found["first s"] < found["whole s"]
    assert found["first CPU s"] + 4 * found["step CPU s"] < found["whole CPU s"]
    assert 0.055 < found["not file pages GB"] <= found["peak GB"] < 0.2


@pytest.mark.parametrize(
    ("script", "limit", "message"),
    [
        (SILENT, 20, "only 0 steps could be read from its output\n    nothing to see"),
        (BROKEN, 20, r"exit code 1 after 0 s\n    a line\n    no such thing"),
        (SLOW, 1, "not done after 1 s\n    waiting"),
        ("", 20, r"\(it printed nothing\)"),
    ],
    ids=["silent", "broken", "slow", "empty"],
)
def test_a_peer_that_fails_shows_its_last_lines(
    peers: Any, tmp_path: Path, script: str, limit: float, message: str
) -> None:
    with pytest.raises(peers.FailedError, match=message):
        measure(peers, script, tmp_path, limit)


def test_the_others_go_on_when_one_fails(peers: Any, capsys: pytest.CaptureFixture[str]) -> None:
    from peer_rows import Trainer

    rows = [
        Trainer(name, Path(), ("python", "script.py"), lambda _: [], lambda *_: 0)
        for name in ("ours", "one", "other")
    ]
    seconds = {"ours": [1.0, 2.0, 6.0], "other": [4.0, 2.0, 8.0]}
    turns = {name: iter(values) for name, values in seconds.items()}

    def run(row: Trainer) -> dict[str, float]:
        if row.name == "one":
            raise peers.FailedError("exit code 1")
        return {"step s": next(turns[row.name])}

    measured = peers.in_turns(rows, 3, run)
    assert [row.name for row in rows] == ["ours", "other"]
    assert "one failed: exit code 1" in capsys.readouterr().err
    assert peers.table(measured, ["step s"]).splitlines()[2:] == [
        "| ours | 2.00 |",
        "| other | 4.00 |",
        "| ours / other | 0.50 (0.25 to 1.00) |",
    ]


def test_every_peer_gets_the_same_settings(peers: Any, tmp_path: Path) -> None:
    from peer_rows import Job, trainers
    from random_models import write_dataset

    given = [f"--{name}={tmp_path}" for name in ("reference", "diffusers", "onetrainer")]
    data = write_dataset(tmp_path / "data", 64, pictures=4)
    for row in trainers(peers.read_arguments(given)):
        (tmp_path / row.name).mkdir()
        job = Job(MODEL, data, data.parent / "images", tmp_path / row.name, 10, 64, "bf16")
        command = " ".join(row.command(job))
        if row.name == "OneTrainer":
            command = (job.out / "settings.json").read_text(encoding="utf-8")
            assert json.loads(command)["concepts"][0]["balancing"] == 2.5, "10 steps of 4 images"
        assert str(MODEL) in command
        assert "mychar" in command
        assert "bf16" in command or "BFLOAT_16" in command
        assert "5e-4" in command or "0.0005" in command


def test_the_tokenizer_has_as_many_entries_as_clip(peers: Any, tmp_path: Path) -> None:
    peers.write_tokenizer(tmp_path)
    tokenizer = read_tokenizer(tmp_path)
    assert len(tokenizer) == 49408
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (49406, 49407)
    assert len(tokenizer.encode("a")) == 1


def test_a_text_encoder_gets_the_released_names(peers: Any, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    tensors = {"final.weight": torch.arange(3.0), "embeddings.bias": torch.ones(2, 2)}
    save_file(tensors, path, {"format": "pt"})
    for _ in range(2):
        peers.write_released_names(path)
        found = load_file(path)
        assert set(found) == {f"text_model.{name}" for name in tensors}
        assert all(torch.equal(found[f"text_model.{name}"], tensors[name]) for name in tensors)


# Two trainers, each in a process of its own
@pytest.mark.slow
def test_ours_and_a_peer_are_compared(
    peers: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "train_textual_inversion.py").write_text(BAR, encoding="utf-8")
    flags = ["--model=demo", "--resolution=64", "--cases=256-float32", "--steps=6", "--runs=1"]
    assert peers.main([f"--reference={tmp_path}", *flags]) == 0
    told = capsys.readouterr().out
    for name in ("ours", "sd-scripts"):
        rows = [line for line in told.splitlines() if line.startswith(f"| {name} |")]
        assert [len(row.split("|")) - 3 for row in rows] == [2, 8]
        assert all(float(cell) > 0 for cell in rows[1].split("|")[2:-1])
    assert "- sd-scripts: trains the whole table" in told
    assert f"torch {version('torch')}" in told
