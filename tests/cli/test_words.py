"""Several words of one config file: what their tables may say, and what becomes of them."""

import json
import logging
import re
import shutil
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from coinage.checks import make_plans
from coinage.checks.advice import Planned, side_by_side
from coinage.checks.footprint import batch_loads
from coinage.checks.merging import merge_problems
from coinage.cli.console import set_up_log
from coinage.cli.parse import parse
from coinage.cli.train import train_command
from coinage.cli.words import build_words
from coinage.demo.concepts import CONCEPTS
from coinage.demo.dataset import write_dataset
from coinage.embeddings.reading import read
from coinage.errors import ConfigError, Problem, TrainingError
from coinage.report.page import read_report
from coinage.settings.flags import BY_DEST, FLAGS, flags_of
from coinage.settings.word_tables import GROUPS_PER_WORD, OF_THE_MODEL, allowed
from coinage.terminal.messages import WarningCollector
from coinage.text.placeholder import Placeholder
from coinage.training import loop
from coinage.training.observers.base import Observer
from coinage.training.observers.notify import notify
from coinage.training.run import Run
from tests.helpers import rows_of, small_model
from tests.training.test_processes import SCRIPT, free_port, run, torchrun

TOML = dict[str, object]
Write = Callable[..., Path]


def for_both() -> TOML:
    """Settings of both words."""
    return {
        "pretrained_model_name_or_path": small_model().as_posix(),
        "init_word": "shape",
        "save_model_as": "safetensors",
        "learning_rate": 5e-3,
        "max_train_steps": 4,
        "seed": 3,
        "cache_latents": True,
        "sample_every_n_steps": 0,
    }


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Dataset files, by word."""
    root = tmp_path_factory.mktemp("data")
    names = {"zibu": "moon", "wopo": "drop"}
    return {
        token: write_dataset(root / token, CONCEPTS[name], token, seed=0).as_posix()
        for token, name in names.items()
    }


def lines(values: TOML) -> str:
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())


@pytest.fixture
def write(data: dict[str, str], tmp_path: Path) -> Write:
    """Write a config file of two words, with what is to be otherwise."""

    def written(first: TOML | None = None, second: TOML | None = None, **shared: object) -> Path:
        one: TOML = {"token_string": "zibu", "dataset_config": data["zibu"]} | (first or {})
        two: TOML = {
            "token_string": "wopo",
            "dataset_config": data["wopo"],
            "num_vectors_per_token": 2,
        } | (second or {})
        file = tmp_path / "settings.toml"
        text = lines({**for_both(), "output_dir": (tmp_path / "out").as_posix(), **shared})
        file.write_text(
            f"{text}\n[[words]]\n{lines(one)}\n[[words]]\n{lines(two)}", encoding="utf-8"
        )
        return file

    return written


def problems_of(file: Path, *more: str) -> str:
    with pytest.raises(ConfigError) as raised:
        make_plans(*build_words(parse("sd", [f"--config_file={file}", *more], "test")))
    return str(raised.value)


def log_of(folder: Path, name: str) -> list[str]:
    return (folder / f"{name}-log.jsonl").read_text(encoding="utf-8").splitlines()


def names_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_two_words_of_one_file_learn_what_each_learns_alone(
    write: Write, data: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(
        {"learning_rate": 1e-2, "max_grad_norm": 0.01, "norm_mode": "target"},
        {"output_name": "drop", "init_word": "circle", "seed": 5, "role": "negative"},
    )
    assert train_command("sd", [f"--config_file={file}"]) == 0
    told = capsys.readouterr().err
    out = tmp_path / "out"
    assert names_in(out) == {
        f"{name}{end}"
        for name in ("zibu", "drop")
        for end in (".safetensors", "-log.jsonl", "-report.html")
    }
    assert "words   2, trained together in one batch" in told
    assert "zibu, 1 vector from shape: 8 images, AdamW at 0.01" in told
    assert "wopo, 2 vectors from circle: 8 images, AdamW at 0.005" in told
    assert "4 steps, each with 8 images" in told
    assert "seed    3, 5\n" in told
    assert len(re.findall(r"^step 4/4  2 words", told, re.MULTILINE)) == 1, "one line for all"
    assert told.count("(prompts encode exactly as in training)") == 2
    for name, token, own in (
        ("zibu", "zibu", ["--learning_rate=1e-2", "--max_grad_norm=0.01", "--norm_mode=target"]),
        (
            "drop",
            "wopo",
            ["--num_vectors_per_token=2", "--init_word=circle", "--seed=5", "--role=negative"],
        ),
    ):
        shared = [
            f"--{key}" if value is True else f"--{key}={value}" for key, value in for_both().items()
        ]
        alone = [
            *shared,
            f"--output_dir={tmp_path / 'alone'}",
            f"--output_name={name}",
            f"--token_string={token}",
        ]
        assert train_command("sd", [*alone, f"--dataset_config={data[token]}", *own]) == 0
        one, other = (read(folder / f"{name}.safetensors") for folder in (tmp_path / "alone", out))
        torch.testing.assert_close(rows_of(other), rows_of(one), rtol=0, atol=1e-4)
        assert (
            other.metadata["ti.role"]
            == one.metadata["ti.role"]
            == ("negative" if token == "wopo" else "positive")
        )
        losses = [
            [json.loads(line)["loss"] for line in log_of(folder, name)]
            for folder in (tmp_path / "alone", out)
        ]
        assert losses[1] == pytest.approx(losses[0], abs=1e-4)
        page = read_report(out / f"{name}-report.html")
        assert (page.token, page.step, page.status, page.image_count) == (token, 4, "finished", 8)
        assert f"--token_string={token}" in page.command
        assert "config_file" not in page.command


def test_a_file_with_one_word_is_a_run_of_one_word(
    write: Write, data: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write()
    file.write_text(file.read_text(encoding="utf-8").rpartition("[[words]]")[0], encoding="utf-8")
    assert train_command("sd", [f"--config_file={file}"]) == 0
    in_table = capsys.readouterr().err
    page = read_report(tmp_path / "out" / "zibu-report.html")
    shutil.rmtree(tmp_path / "out")
    file.write_text(file.read_text(encoding="utf-8").replace("[[words]]", ""), encoding="utf-8")
    assert train_command("sd", [f"--config_file={file}"]) == 0
    plain = [
        re.sub(r" in \d.*| \d[\d.]* img/s", "", text)
        for text in (in_table, capsys.readouterr().err)
    ]
    assert plain[0] == plain[1]
    assert page.command == read_report(tmp_path / "out" / "zibu-report.html").command


def test_words_go_on_to_the_bit_from_where_all_were_saved(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(
        {}, {"output_name": "zibunip"}, max_train_steps=6, save_state=True, save_every_n_steps=2
    )
    out, whole = tmp_path / "out", tmp_path / "whole"
    assert train_command("sd", [f"--config_file={file}"]) == 0
    shutil.copytree(out, whole)
    for name in ("zibu", "zibunip"):
        (out / f"{name}.safetensors").unlink()
        shutil.rmtree(out / f"{name}-state")
        shutil.rmtree(out / f"{name}-step00000006-state")
    shutil.rmtree(out / "zibunip-step00000004-state")  # as where a run is killed between the two
    capsys.readouterr()
    assert train_command("sd", [f"--config_file={file}", "--resume=latest"]) == 0
    told = capsys.readouterr().err
    assert "continuing after step 2 from" in told
    assert "note: [[words]] 1 (zibu): --resume latest: the state of step 4 is not used" in told
    for name in ("zibu", "zibunip"):
        one, other = (read(folder / f"{name}.safetensors") for folder in (whole, out))
        assert torch.equal(rows_of(one), rows_of(other))
        assert log_of(whole, name) == log_of(out, name)
    for name in out.glob("zibunip*-state"):
        shutil.rmtree(name)
    text = problems_of(file, "--resume=latest")
    assert (
        "there is no step at which all words have a state: zibu at 2, 4, 6, wopo has none" in text
    )
    assert "a state belongs to one word, but this run trains 2" in problems_of(
        file, f"--resume={out / 'zibu-state'}"
    )


def test_words_without_a_state_yet_begin(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(max_train_steps=1)
    text = re.sub("seed = 3\n", "", file.read_text(encoding="utf-8"))
    file.write_text(text, encoding="utf-8")
    assert train_command("sd", [f"--config_file={file}", "--resume=latest"]) == 0
    told = capsys.readouterr().err
    assert told.count("--resume latest: no state in") == 1, "it is so for all words"
    assert re.search(r"seed    \d+ \(pass --seed to repeat this run\)", told), "one for all"


def test_a_signal_ends_all_words_with_one_hint(
    write: Write,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    real = loop.update

    def update(run: Run) -> None:
        real(run)
        if run.step == 2 and run.word_index == 0:
            signal.raise_signal(signal.SIGINT)

    file = write()
    with monkeypatch.context() as patched:
        patched.setattr(loop, "update", update)
        with pytest.raises(SystemExit) as ended:
            train_command("sd", [f"--config_file={file}"])
    assert ended.value.code == 128 + signal.SIGINT
    told = capsys.readouterr().err
    assert (
        told.count("nothing is lost. To continue, run the same command with --resume latest") == 1
    )
    states = sorted(path.name for path in (tmp_path / "out").glob("*-state"))
    assert states == ["wopo-step00000003-state", "zibu-step00000003-state"]
    assert train_command("sd", [f"--config_file={file}", "--resume=latest"]) == 0
    assert "continuing after step 3" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_train_two_words(write: Write, tmp_path: Path) -> None:
    file = write(save_state=True)
    assert (
        train_command(
            "sd",
            [
                f"--config_file={file}",
                f"--output_dir={tmp_path / 'one'}",
                "--gradient_accumulation_steps=2",
            ],
        )
        == 0
    )
    told = run([*torchrun(f"--master_port={free_port()}"), SCRIPT, f"--config_file={file}"])
    assert told.count("saved ") == 2
    for name in ("zibu", "wopo"):
        one, other = (read(tmp_path / folder / f"{name}.safetensors") for folder in ("one", "out"))
        torch.testing.assert_close(rows_of(other), rows_of(one), rtol=0, atol=1e-5)


def test_a_dry_run_tells_of_all_words_and_their_joint_batch(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write({"learning_rate": 1e-7})
    assert (
        train_command("sd", [f"--config_file={file}", "--dry_run", "--save_every_n_steps=2"]) == 0
    )
    told = capsys.readouterr().err
    assert "words   2, trained together in one batch" in told
    assert "6 embeddings in" in told
    assert told.count("warning: zibu: ") == 1, "only its rate is too low"
    assert not (tmp_path / "out").exists(), "a dry run makes no folder"
    plans = make_plans(*build_words(parse("sd", [f"--config_file={file}"], "test")))
    runs = [Planned(plan.config, plan.samples) for plan in plans]
    joint = side_by_side(runs)
    assert batch_loads(runs[0].config, runs[0].samples) == {(64 * 64, 4)}
    assert batch_loads(joint.config, joint.samples, joint.owners) == {(64 * 64, 8)}
    assert joint.config.word.num_vectors == 3
    half = side_by_side([runs[0], replace(runs[1], samples=runs[1].samples[:0])])
    assert batch_loads(half.config, half.samples, half.owners) == {(64 * 64, 4)}


def test_the_datasets_of_all_words_are_shown(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write()
    shown = tmp_path / "shown"
    assert (
        train_command(
            "sd", [f"--config_file={file}", "--debug_dataset", f"--debug_dataset_out={shown}"]
        )
        == 0
    )
    out = capsys.readouterr().out
    assert [line for line in out.splitlines() if line.startswith("[[")] == [
        "[[words]] 1 (zibu)",
        "[[words]] 2 (wopo)",
    ]
    assert names_in(shown) == {
        "zibu/dataset.html",
        "zibu/dataset.json",
        "wopo/dataset.html",
        "wopo/dataset.json",
    }


def test_trackers_have_a_folder_for_each_word(write: Write, tmp_path: Path) -> None:
    assert (
        train_command("sd", [f"--config_file={write()}", f"--logging_dir={tmp_path / 'logs'}"]) == 0
    )
    (folder,) = (tmp_path / "logs").iterdir()
    for name in ("zibu", "wopo"):
        events = EventAccumulator(str(folder / "textual_inversion" / name))
        events.Reload()
        assert [point.step for point in events.Scalars("loss")] == [1, 2, 3, 4]


def test_the_command_line_wins_and_says_so(write: Write) -> None:
    file = write({"learning_rate": 1e-2}, {"cache_info": True}, shuffle_caption=True)
    words = build_words(parse("sd", [f"--config_file={file}", "--learning_rate=1e-3"], "test"))
    plans = make_plans(*words)
    assert [plan.config.optim.learning_rate for plan in plans] == [1e-3, 1e-3]
    note = "--learning_rate of the command line is taken, not that of the config file"
    assert [note in plan.notes for plan in plans] == [True, False]


def test_a_table_overrides_the_rest_of_the_file(write: Write, data: dict[str, str]) -> None:
    file = write(
        {"flip_aug": False, "init_word": "dot"},
        flip_aug=True,
        weights="none.pt",
        train_data_dir="nowhere",
    )
    (first, second), _ = build_words(parse("sd", [f"--config_file={file}"], "test"))
    flips = [config.data.datasets[0].subsets[0].images.flip for config in (first, second)]
    assert flips == [False, True]
    assert (first.word.init_word, first.word.init_file) == ("dot", None), "it has another start"
    assert second.word.init_file == Path("none.pt")


WRONG: list[tuple[TOML, TOML, TOML, list[str], tuple[str, ...]]] = [
    (
        {"token_strng": "a"},
        {},
        {},
        [],
        ("unknown key `token_strng`", "[[words]] 1 (zibu)", "did you mean `token_string`?"),
    ),
    (
        {},
        {"mixed_precision": "bf16"},
        {},
        [],
        (
            "`mixed_precision` is shared by all words",
            "[[words]] 2 (wopo)",
            "above all [[words]]",
        ),
    ),
    (
        {},
        {"max_train_epochs": 2},
        {},
        [],
        ("`max_train_epochs` cannot be set for one word", "max_train_steps, above"),
    ),
    ({"zero_terminal_snr": True}, {}, {}, [], ("`zero_terminal_snr` is shared by all words",)),
    (
        {"learning_rate": "fast"},
        {"seed": "x"},
        {},
        [],
        ("[[words]] 1 (zibu)", "not a number", "[[words]] 2 (wopo)", "not a whole number"),
    ),
    (
        {"cache_info": 2},
        {},
        {},
        [],
        ("`cache_info = 2` must be true or false", "[[words]] 1 (zibu)"),
    ),
    (
        {},
        {},
        {},
        ["--token_string=a", "--dataset_config=b"],
        ("--token_string, --dataset_config: the config file has several words",),
    ),
    (
        {"token_string": ""},
        {"num_vectors_per_token": 80},
        {},
        [],
        ("is missing\n  --> [[words]] 1\n", "--> [[words]] 2 (wopo)"),
    ),
    (
        {"huber_c": 2},
        {"init_word": " "},
        {},
        [],
        ("must be at most 1\n  --> [[words]] 1", "--init_word is empty\n  --> [[words]] 2"),
    ),
    (
        {"token_string": "wopo1"},
        {},
        {},
        [],
        (
            "wopo1 and wopo cannot be distinguished: wopo1 is a piece of both",
            "contains the word wopo1",
        ),
    ),
    (
        {"token_string": "Wopo"},
        {},
        {},
        [],
        ("Wopo and wopo cannot be distinguished: they are the same", "written to the same files"),
    ),
    ({"token_string": "wopo-x"}, {}, {}, [], ("cannot be distinguished: one is part of wopo-x",)),
    (
        {"output_name": "a"},
        {"output_name": "A-step00000002"},
        {},
        [],
        ("a and A-step00000002 would be written to the same files",),
    ),
    (
        {"output_name": "a/b"},
        {"dataset_config": "none.toml"},
        {},
        [],
        ("[[words]] 2 (wopo)", "none.toml"),
    ),
    ({"train_batch_size": 1}, {}, {"max_train_epochs": 1}, ["--max_train_epochs=2"], ()),
    (
        {},
        {"gradient_accumulation_steps": 2},
        {"max_train_epochs": 1},
        [],
        ("the same number of steps", "20 for zibu, 10 for wopo"),
    ),
    (
        {"optimizer_args": ["betta=1"]},
        {},
        {},
        [],
        ("it has no argument betta\n  --> [[words]] 1 (zibu)", "did you mean `betas`?"),
    ),
    (
        {},
        {"lr_scheduler": "cosine", "lr_warmup_steps": 99},
        {},
        [],
        ("99 does not fit in 4 steps\n  --> [[words]] 2 (wopo)",),
    ),
    (
        {},
        {},
        {"pretrained_model_name_or_path": "none/at/all"},
        [],
        ("model not found\n  --> none/at/all\n",),
    ),
]


@pytest.mark.parametrize(("first", "second", "shared", "more", "parts"), WRONG)
def test_what_is_wrong_is_told_with_its_word(
    first: TOML, second: TOML, shared: TOML, more: list[str], parts: tuple[str, ...], write: Write
) -> None:
    file = write(first, second, **shared)
    if not parts:
        make_plans(*build_words(parse("sd", [f"--config_file={file}", *more], "test")))
        return
    text = problems_of(file, *more)
    for part in parts:
        assert part in text
    assert len(re.findall("model not found", text)) <= 1, "what all words share is told once"


@pytest.mark.parametrize(
    "text", ["words = []", "words = 3", 'words = ["a"]', "[[word]]\ntoken_string = 'a'"]
)
def test_what_is_almost_a_table_of_words_is_an_error(text: str, tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text(text, encoding="utf-8")
    what = r"(`words` is reserved for the tables of words|\[\[word\]\] is not read)"
    with pytest.raises(ConfigError, match=what + r"\n.*\nhint: write \[\[words\]\], and below it"):
        parse("sd", [f"--config_file={tmp_path / 's.toml'}"], "test")


def test_a_written_config_leaves_the_words_alone(
    write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write()
    before = file.read_bytes()
    assert train_command("sd", [f"--config_file={file}", "--output_config", "--seed=1"]) == 2
    assert "the file already exists" in capsys.readouterr().err
    assert file.read_bytes() == before
    assert (
        train_command(
            "sd", [f"--config_file={file.with_name('other')}", "--output_config", "--seed=1"]
        )
        == 0
    )
    assert "words" not in file.with_name("other.toml").read_text(encoding="utf-8")


def test_the_flags_of_a_word_are_known_and_leave_the_model_alone() -> None:
    assert {flag.group for flag in FLAGS} >= set(GROUPS_PER_WORD)
    assert set(OF_THE_MODEL) <= set(BY_DEST)
    own = allowed([flag.dest for flag in flags_of("coinage")])
    shared = {
        "model",
        "length and precision",
        "memory and attention",
        "several processes",
        "logging",
        "hub upload",
        "resuming",
        "SDXL",
    }
    assert {name for name in own if BY_DEST[name].group in shared} == {
        "seed",
        "gradient_accumulation_steps",
    }
    assert not {
        "output_dir",
        "cache_latents",
        "cache_dir",
        "config_file",
        "dry_run",
        "on_problem",
    } & set(own)


def one_of_two(word: str) -> Run:
    """A run that shares its model with another word, as far as messages ask for it."""
    return cast("Run", SimpleNamespace(word_count=2, placeholder=Placeholder(word, 1, 0)))


class Warns(Observer):
    """Warns in this thread and in one of its own, and waits for `meet` between them."""

    def __init__(self, meet: threading.Barrier) -> None:
        self._meet = meet

    def started(self, run: Run) -> None:  # noqa: ARG002 - the observers' name
        self._meet.wait(10)
        logging.getLogger("coinage").warning("%d%% lost", 5)
        other = threading.Thread(
            target=logging.getLogger("coinage").warning, args=("from the uploader",)
        )
        other.start()
        other.join()
        logging.getLogger("coinage").info("no trouble")
        self._meet.wait(10)

    def stepped(self, run: Run) -> None:  # noqa: ARG002 - the same
        raise TrainingError("no gradient", "step 20", "look")


def test_what_a_watcher_says_names_the_word(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_log()
    observers, run = [Warns(threading.Barrier(1))], one_of_two("wo%po")
    with WarningCollector() as warned:
        notify(observers, "started", run)
        logging.getLogger("coinage").warning("of no word")
    assert warned.texts == ["wo%po: 5% lost", "from the uploader", "of no word"]
    assert capsys.readouterr().err.splitlines() == [
        "warning: wo%po: 5% lost",
        "warning: from the uploader",
        "no trouble",
        "warning: of no word",
    ]
    with pytest.raises(TrainingError, match="wo%po: no gradient\n  --> step 20\nhint: look"):
        notify(observers, "stepped", run)


def test_two_trainings_in_one_process_keep_their_names_apart() -> None:
    """Each in a thread of its own, both within an observer at the same time."""
    meet = threading.Barrier(2)
    both = [
        threading.Thread(target=notify, args=([Warns(meet)], "started", one_of_two(word)))
        for word in ("zibu", "wopo")
    ]
    with WarningCollector() as warned:
        for one in both:
            one.start()
        for one in both:
            one.join()
    assert sorted(warned.texts) == ["from the uploader", "wopo: 5% lost", "zibu: 5% lost"]


def test_what_is_found_twice_is_reported_once() -> None:
    a, b, c = Problem("a"), Problem("b"), Problem("c", "file")
    assert merge_problems([""], [[a, b, a]]) == [a, b]
    assert merge_problems(["one", "two"], [[a, b], [b, b, c]]) == [
        b,
        Problem("a", "one"),
        Problem("c", "two, file"),
    ]
