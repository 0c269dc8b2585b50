"""The benchmarks measure what they say, on the demo model."""

import json
import math
import re
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from coinage.demo.run import MODEL

FOLDER = Path(__file__).parents[1] / "benchmarks"
PEER = """
import sys, time
assert sys.argv[1:] == ["--steps", "8", "--batch=2", "64", "no"], sys.argv
held = bytearray(50_000_000)
for i in range(9):
    print(f"\\rsteps: {i}/8 [00:00<00:00, 9.99it/s]", end="", file=sys.stderr, flush=True)
    time.sleep(0.02)
"""


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(FOLDER))
    return FOLDER


def cells(table: str, start: str) -> list[float]:
    """The numbers in the row that begins so."""
    (row,) = [line for line in table.splitlines() if line.startswith(f"| {start} |")]
    return [float(cell) for cell in row.split("|")[2:-1] if re.fullmatch(r"-?[\d.]+", cell.strip())]


def record_of(tmp_path: Path, mode: str, steps: int) -> dict[str, Any]:
    from coinage.cli.train import train_command
    from random_models import write_dataset
    from recorded_run import Record, recording

    record = Record()
    data = write_dataset(tmp_path, 64)
    words = [
        f"--pretrained_model_name_or_path={MODEL}",
        f"--dataset_config={data}",
        f"--output_dir={tmp_path}",
        "--seed=0",
    ]
    words += [
        "--token_string=mychar",
        "--init_word=girl",
        "--save_model_as=safetensors",
        f"--max_train_steps={steps}",
        "--cache_latents",
    ]
    with recording(record, mode):
        assert train_command("coinage", words) == 0
    return asdict(record)


# Two trainers, each in a process of its own; the tests below ask for the rest in this one
@pytest.mark.slow
def test_ours_and_a_peer_are_compared(tmp_path: Path) -> None:
    peer = tmp_path / "peer.py"
    peer.write_text(PEER)
    command = [
        sys.executable,
        str(FOLDER / "throughput.py"),
        "--random=demo",
        "--runs=1",
        "--steps=8",
        "--batch=2",
        "--precision=no",
    ]
    command += [
        f"--peer-script={peer}",
        "--peer-args",
        "--steps",
        "{steps}",
        "--batch={batch}",
        "{resolution}",
        "{precision}",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    step, images, first, whole, peak = cells(done.stdout, "ours")
    assert 0 < step < first < whole
    assert images == pytest.approx(2 / step, rel=0.01)
    assert 0.2 < peak < 4
    peer_step, _, peer_whole, peer_peak = cells(done.stdout, "peer")
    assert 0.02 <= peer_step < 0.1
    assert 0.05 <= peer_peak < 0.2
    ratios = cells(done.stdout, "ours / peer")
    assert ratios == pytest.approx(
        [step / peer_step, whole / peer_whole, peak / peer_peak], rel=0.2
    )


def test_a_peer_without_steps_in_its_bar_tells_its_rate(folder: Path) -> None:
    from throughput import Finished

    assert Finished(0, 1, 1, "loss 0.1, 2.00s/it", []).step_seconds(3) == 2
    assert Finished(0, 1, 1, "1.00s/it ... 4.00it/s", [(1, 0.5)]).step_seconds(3) == 0.25
    assert Finished(0, 1, 1, "nothing", []).step_seconds(3) is None
    assert (
        Finished(0, 1, 1, "9.00s/it", [(1, 0.0), (3, 8.0), (4, 10.0), (6, 14.0)]).step_seconds(3)
        == 2
    )


def test_the_parts_of_a_step_add_up(folder: Path, tmp_path: Path) -> None:
    from throughput import PARTS, shares

    record = record_of(tmp_path, "profile", 6)
    found = shares(record, 2)
    assert list(found) == [*PARTS, "rest", "step"]
    assert all(part > 0 for part, _ in found.values())
    # The parts, and the whole
    assert sum(percent for _, percent in found.values()) == pytest.approx(200)
    assert found["backward"][1] > found["optimizer"][1] > 0


def test_bare_steps_take_turns_and_leave_the_run_as_it_is(folder: Path, tmp_path: Path) -> None:
    from throughput import against_floor

    plain, beside = (record_of(tmp_path / mode, mode, 6) for mode in ("plain", "floor"))
    assert [len(record[key]) for record in (plain, beside) for key in ("steps", "floor")] == [
        6,
        0,
        6,
        6,
    ]
    found = against_floor(beside, 2)
    assert 0 < found["floor"] < found["engine"] * 2
    assert found["ratio"] == pytest.approx(found["engine"] / found["floor"], rel=0.5)
    one, other = ((tmp_path / mode / "mychar-log.jsonl").read_text() for mode in ("plain", "floor"))
    assert one == other


@pytest.mark.usefixtures("folder")
def test_a_row_of_the_matrix_that_fails_does_not_end_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import gpu_matrix
    from gpu_matrix import HEADER, Row, matrix, rates_of

    for steps in ("WARM_UP", "TIMED", "PROFILED"):
        monkeypatch.setattr(gpu_matrix, steps, 1)
    rows = [
        Row("demo", MODEL, 64, 2, "no", "--fp8_base"),
        Row("demo", MODEL, 64, 2, "bf16", "--gradient_checkpointing"),
    ]
    rates = rates_of("cpu")
    (_, failed), (_, done) = matrix(rows, math.inf, rates)
    assert failed.startswith(
        "| demo | 64 | 2 | no | fp8_base | failed: --fp8_base needs --mixed_precision"
    )
    step, expected, images = [float(cell) for cell in done.split("|")[6:9]]
    assert step > 0
    assert expected > 0
    assert images == pytest.approx(2 / step, rel=0.05)
    assert not list(matrix(rows, -math.inf, rates)), "none is begun in time"
    assert {row.count("|") for row in (failed, done)} == {HEADER.count("|")}


@pytest.mark.usefixtures("folder")
def test_the_matrix_goes_on_where_it_was_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import gpu_matrix

    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    words = ["--device=cpu", "--demo", f"--results={tmp_path}", "--rows", "b1 tf32", "b1 no plain"]
    gpu_matrix.main([*words, "--list"])
    assert capsys.readouterr().out.split("\n") == [
        "demo 64 b1 no plain", "demo 64 b1 no tf32", "",
    ]  # fmt: skip
    gpu_matrix.main([*words, "--minutes=0"])
    assert "2 rows are left" in capsys.readouterr().out
    begun = []

    def table_row(row: gpu_matrix.Row, *_: object) -> str:
        begun.append(row.name)
        return f"{row.start} measured |"

    monkeypatch.setattr(gpu_matrix, "table_row", table_row)
    gpu_matrix.main(["--device=cpu", "--demo", f"--results={tmp_path}", "--rows", "b1 tf32"])
    gpu_matrix.main(words)
    assert begun == ["demo 64 b1 no tf32", "demo 64 b1 no plain"]
    assert "left" not in capsys.readouterr().out
    page = (tmp_path / "cpu.md").read_text(encoding="utf-8")
    assert page.count("measured") == 2


@pytest.mark.usefixtures("folder")
def test_each_setting_is_there_for_its_row_alone() -> None:
    from gpu_matrix import SETTINGS

    matmul = torch.backends.cuda.matmul
    before = torch.backends.cudnn.benchmark, matmul.allow_tf32
    with SETTINGS["cudnn_benchmark"][1](), SETTINGS["tf32"][1](), SETTINGS["channels_last"][1]():
        assert (torch.backends.cudnn.benchmark, matmul.allow_tf32) == (True, True)
    assert (torch.backends.cudnn.benchmark, matmul.allow_tf32) == before


@pytest.mark.usefixtures("folder")
def test_spans_that_overlap_count_once() -> None:
    from profiled import covered

    assert covered([]) == 0
    assert covered([(0, 2), (1, 3), (1, 2), (5, 6), (6, 7)]) == 5


@pytest.mark.usefixtures("folder")
def test_the_work_of_a_matrix_product_is_counted_by_hand() -> None:
    from roofline import Rates, WorkCounter, known_rates

    one, other = (torch.empty(shape, device="meta") for shape in ((8, 16), (16, 4)))
    with WorkCounter() as counter:
        product = one @ other
        product.t().relu()
    work = counter.work
    size = 4 * (8 * 16 + 16 * 4 + 8 * 4)
    assert work.matrix == [(2 * 8 * 16 * 4, size)]
    assert work.other == 4 * 2 * 8 * 4, "read and written; the transposed view is free"
    assert work.kernels == 2
    slow = Rates(1.0, 1e12)
    assert work.seconds(slow) == pytest.approx(2 * 8 * 16 * 4 / 0.7)
    assert work.seconds(Rates(1e15, 1e15)) == pytest.approx(2 * 5e-6), "bound by launches"
    assert work.seconds(Rates(1e15, 1e15), graph=True) < 1e-9
    found = known_rates("NVIDIA GeForce RTX 3060 Laptop GPU"), known_rates("NVIDIA A100-SXM4-80GB")
    assert found == (Rates(25.6e12, 0.36e12), Rates(312e12, 2e12))
    assert known_rates("NVIDIA A1000") is None


@pytest.mark.usefixtures("folder")
def test_a_step_of_the_demo_model_is_counted() -> None:
    from memory import Built
    from roofline import step_work

    one, two = (step_work(Built("sd1", MODEL), 64, batch) for batch in (1, 2))
    assert two.flop == pytest.approx(2 * one.flop, rel=0.05)
    assert 1 < two.moved / one.moved < 2, "weights are read once"
    again = step_work(Built("sd1", MODEL, checkpointed=True), 64, 1)
    assert 1.2 < again.flop / one.flop < 1.6, "the forward pass once more"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_there_is_no_matrix(folder: Path) -> None:
    from gpu_matrix import main

    with pytest.raises(SystemExit, match="no GPU"):
        main([])


@pytest.mark.parametrize("words", [[], ["--random=demo", "--steps=3"]])
def test_wrong_usage_is_told(
    folder: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    from throughput import main

    with pytest.raises(SystemExit) as raised:
        main(words)
    assert raised.value.code == 2


@pytest.mark.slow
def test_words_side_by_side_are_compared_with_one(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(folder / "words.py"), "--words=2", "--steps=6", "--runs=1"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    _, one, least = cells(done.stdout, "1")
    _, two, most = cells(done.stdout, "2")
    assert one > 0
    assert two > 0
    assert cells(done.stdout, "ratio") == pytest.approx([two / one, most / least], rel=0.2)


def test_words_for_the_negative_prompt_are_compared(folder: Path) -> None:
    from negative import DEFECTS, WAYS, difference, learned, others, probes, row

    warm, _, alike = DEFECTS
    assert all(
        not re.search(r"red|orange|yellow|pink", prompt.text) for prompt in probes(warm, 20, 0)
    )
    assert {asked["background"] for _, asked in others(alike, 20, 0)} == {"white"}
    words = [learned(alike, way, 0, 1).vectors["emb_params"] for way in WAYS.values()]
    assert len({tuple(word.flatten().tolist()) for word in words}) == len(WAYS)
    assert difference([True, True, False, False], [True, False, False, False]) == "+0.250 ± 0.424"
    hits = ([True, False], [True, True])
    assert (
        row("a", "b", hits, hits, hits)
        == "| a | b | 0.500 | +0.000 ± 0.000 | +0.000 ± 0.000 | 1.000 | +0.000 ± 0.000 |"
    )


@pytest.mark.usefixtures("folder")
def test_captions_hold_what_is_learned_beside_the_word() -> None:
    from nuisance import WAYS, caption
    from quality_lab import words_for

    alone, named, fixed, residual, _, shared = WAYS
    (word,) = words_for(["moon"], [1])
    captions = {}
    for way in WAYS:
        names = way.names(word)
        captions[way] = [caption(word, word.token, i, way, name) for i, name in enumerate(names)]
    assert captions[alone][0] == f"a photo of a {word.token}"
    assert all(re.search("on a [a-z]+ background$", text) for text in captions[named])
    assert captions[fixed] == captions[residual]
    pairs = zip(captions[alone], residual.names(word), strict=True)
    assert captions[residual] == [f"{text} with {name}" for text, name in pairs]
    assert len(set(residual.names(word))) == 8
    assert len(set(shared.names(word))) == 1


@pytest.mark.slow
def test_residual_vectors_are_learned_beside_the_word(folder: Path, tmp_path: Path) -> None:
    from nuisance import WAYS, learn
    from quality_lab import Lab, words_for

    words = words_for(["moon", "checkered"], [1])
    found = []
    for number, way in enumerate(WAYS[2:5]):
        kept = learn(Lab("sd1", tmp_path / str(number), 1), words, way, (), 3)
        assert [own.passes for own in kept] == [12, 12]
        found.append([own.file.vectors["emb_params"] for own in kept])
    for fixed, residual, excluded in zip(*found, strict=True):
        assert not torch.equal(fixed, residual)
        assert not torch.equal(residual, excluded)


def result(concept: str, found: float, obeyed: float, length: float = 1.0) -> Any:
    from quality_lab import Result

    return Result(concept, seed=0, passes=8, found=found, obeyed=obeyed, length=length)


def test_a_lab_that_cannot_tell_good_from_bad_says_so(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from quality import NOTHING, TOO_HIGH, UNTRAINED, report

    concepts = [f"c{i}" for i in range(20)]
    good = [result(concept, 0.8, 0.9 + i % 2 / 50) for i, concept in enumerate(concepts)]
    worse = [result(concept, 0.8, 0.8, length=9) for concept in concepts]
    nothing = [result(concept, 0.0, 0.95) for concept in concepts]
    judging = {
        UNTRAINED: {0: nothing},
        NOTHING: {2: nothing},
        TOO_HIGH: {2: worse},
        "AdamW 1e-2": {2: good},
    }
    assert report(judging, [2]) == []
    told = capsys.readouterr().out
    assert cells(told, "AdamW 1e-2") == [8, 80, 91, 85.5, 1]
    assert f"| {TOO_HIGH} | 8 | 80.0 | 80.0 | 80.0 | -5.5 (-5.7 to -5.3) | 9.00 |" in told
    assert report({**judging, NOTHING: {2: good}}, [2]) == [f"{NOTHING} teaches something"]
    assert report({**judging, TOO_HIGH: {2: good}}, [2]) == [
        f"{TOO_HIGH} loses no E",
        f"{TOO_HIGH} makes no vector long",
    ]


@pytest.mark.slow
def test_a_peer_is_judged_as_we_are(folder: Path, tmp_path: Path) -> None:
    """Our own script as the peer, with the settings of a row of the table."""
    results = tmp_path / "results.json"
    known = (
        "--pretrained_model_name_or_path={model} --dataset_config={data} "
        "--output_dir={out} --token_string={token} --init_word={init}"
    )
    same = "--optimizer_type=AdamW --learning_rate=2e-2"
    command = [
        sys.executable,
        str(folder / "quality.py"),
        "--concepts",
        "moon",
        "drop",
        "--seeds",
        "0",
        "1",
        "--steps",
        "4",
    ]
    command += [
        "--pictures=4",
        "--only",
        "none",
        f"--results={results}",
        f"--add={same}",
        "--jobs=1",
    ]
    command += [f"--peer-script={folder.parent / 'train_textual_inversion.py'}"]
    command += [
        f"--peer-args={known} --max_train_steps={{steps}} --seed={{seed}} --save_model_as=safetensors {same}"
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    table = json.loads(results.read_text())
    ours, peer = table[same]["4"], table["peer"]["4"]
    assert [row["length"] for row in peer] == pytest.approx(
        [row["length"] for row in ours], rel=1e-4
    )
    assert [row["obeyed"] for row in peer] == [row["obeyed"] for row in ours]
    assert {row["passes"] for row in (*ours, *peer)} == {16}


@pytest.mark.slow
def test_noise_of_gradients_is_compared(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(folder / "gradients.py"), "--updates=8"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert cells(done.stdout, "independent") == [1, 1, 1, 4]
    variance, *_, captions = cells(done.stdout, "antithetic")
    assert 0 < variance < 10
    assert captions == 2


@pytest.mark.slow
def test_the_best_of_several_is_compared_with_as_many_images(folder: Path) -> None:
    command = [
        sys.executable,
        str(folder / "autopilot.py"),
        "--concepts",
        "moon",
        "--seeds=1",
        "--count=2",
        "--steps=40",
        "--pictures=4",
    ]
    done = subprocess.run(
        [*command, "--flags=--lr_scheduler_timescale=5"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (row,) = [line for line in done.stdout.splitlines() if line.startswith("| moon |")]
    single, best = map(int, row.split("|")[-2].split("→"))
    assert best == pytest.approx(single, rel=0.05), "equally many images"
    assert re.search(r"^both: [\d.]+ → [\d.]+, [+-]", done.stdout, re.MULTILINE)


@pytest.mark.usefixtures("folder")
def test_a_busy_neighbour_is_measured_in_turns(capsys: pytest.CaptureFixture[str]) -> None:
    from busy import main

    main(["--runs", "2", "--busy", "1", "--", sys.executable, "-c", "import time; time.sleep(0.1)"])
    alone, beside, ratio = cells(capsys.readouterr().out, "median")
    assert min(alone, beside) >= 0.1
    assert ratio > 0


def test_files_of_two_revisions_are_compared(folder: Path, tmp_path: Path) -> None:
    from same_bytes import compare_folders, compare_texts

    rows = torch.tensor([0.1, 0.2])
    for side in ("base", "new"):
        (tmp_path / side / "state").mkdir(parents=True)
        torch.save({"rows": [rows], "step": 2}, tmp_path / side / "state/state.pt")
        (tmp_path / side / "a.safetensors").write_bytes(b"a")
        entry = {"loss": 0.5, "time": len(side)}
        (tmp_path / side / "log.jsonl").write_text(json.dumps(entry) + "\n")
        (tmp_path / side / "report.html").write_text(side)
        (tmp_path / side / "1.text").write_text(f"saved in 0:0{len(side)}\nexit code 0\n")
    base, new = tmp_path / "base", tmp_path / "new"
    assert compare_folders(base, new) == [], "times and reports do not count"
    assert compare_texts(base, new) == []

    rows[1] = torch.nextafter(rows[1], torch.tensor(1.0))
    torch.save({"rows": [rows], "step": 2}, new / "state/state.pt")
    (new / "a.safetensors").write_bytes(b"b")
    (new / "log.jsonl").write_text('{"loss": 0.25, "time": 1}\n')
    (new / "1.text").write_text("error: no\nexit code 2\n")
    (new / "b.safetensors").touch()
    assert compare_folders(base, new) == [
        "b.safetensors: only now",
        "1.text: failed now: ... error: no exit code 2",
        "a.safetensors: other bytes",
        "log.jsonl: [0].loss: 0.5 became 0.25",
        "state/state.pt: .rows[0]: tensor([0.1000, 0.2000]) became tensor([0.1000, 0.2000])",
    ]
    assert compare_texts(base, new) == [
        "-saved in TIME", "-exit code 0", "+error: no", "+exit code 2",
    ]  # fmt: skip


@pytest.mark.slow
def test_a_revision_trains_the_same_files_as_itself(folder: Path) -> None:
    from same_bytes import REPOSITORY, main

    here = str(REPOSITORY)
    assert main([here, "--new", here, "--families", "sd1", "--cases", "word"]) == 0


@pytest.mark.slow
def test_the_seconds_around_the_steps_are_those_of_the_process(
    folder: Path, tmp_path: Path
) -> None:
    from first_step import PHASES, SOURCE, flags_of, measured, medians, table
    from random_models import write_dataset

    dataset = write_dataset(tmp_path, 64, pictures=2)
    phases = measured(SOURCE, flags_of(MODEL, dataset, tmp_path / "output", "no"), tmp_path)
    assert set(phases) == set(PHASES)
    assert all(took["CPU"] >= took["imports"] >= 0 for took in phases.values())
    assert phases["checks"]["imports"] > 0.1, "that of torch"
    assert cells(table("no", medians([phases])), "checks")[1] == round(phases["checks"]["CPU"], 2)


@pytest.mark.slow
def test_words_of_one_picture_are_taught_in_every_way(folder: Path, tmp_path: Path) -> None:
    """Pictures with one word are read; a second call takes what the first one has measured."""
    kept = tmp_path / "results.json"
    command = [sys.executable, folder / "one_picture.py", "--pairs=1", "--steps=1", "--pictures=4"]
    tables = []
    for _ in range(2):
        done = subprocess.run(
            [*command, f"--results={kept}"], capture_output=True, text=True, check=True, cwd=folder
        )
        tables.append(done.stdout)
    assert tables[0] == tables[1]
    ways = ("together", "apart", "beside a frozen word", "together, some alone")
    for way in (*ways, "together, vague start"):
        assert tables[0].count(f"| {way} | shape |") == tables[0].count(f"| {way} | pattern |") == 1
    assert not done.stderr, "nothing was measured again"
