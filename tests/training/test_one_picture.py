"""Words that learn together from the same images, and words of files beside them."""

import json
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from coinage.checks import Plan, make_plans
from coinage.checks.dataset import summarize_dataset
from coinage.cli.parse import parse
from coinage.cli.train import train_command
from coinage.cli.words import build_words
from coinage.config import TrainConfig
from coinage.demo.concepts import Concept
from coinage.demo.dataset import write_dataset
from coinage.embeddings.reading import read
from coinage.embeddings.word import Word
from coinage.embeddings.writing import write
from coinage.errors import ConfigError
from coinage.report.page import read_report
from coinage.training import convergence, evaluation
from coinage.training.batches import join
from coinage.training.convergence import Settled
from coinage.training.gradients import Ahead, compute_gradients, prepared
from coinage.training.loop import train_together
from coinage.training.observers.base import Observer
from coinage.training.run import Run
from coinage.training.setup import prepare_all
from coinage.training.step import forward
from coinage.training.step_statistics import finish_gradient
from coinage.training.supply import Supply
from coinage.training.updates import step_and_check
from tests.cli.test_words import lines, names_in
from tests.helpers import rows_of, small_model
from tests.tiny_models import VOCABULARY, write_folder
from tests.training.test_processes import SCRIPT, free_port, torchrun
from tests.training.test_processes import run as run_command

TOML = dict[str, object]
Write = Callable[..., Path]
BOTH = "a photo of a wopo red zibu on a white background"
ONE = "a photo of a striped red zibu on a white background"
OTHER = "a photo of a wopo red circle on a white background"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight images with both words, two at a time."""
    concept = Concept("checkered moon", shape="moon", texture="checkered")
    file = write_dataset(tmp_path_factory.mktemp("both"), concept, "zibu", seed=0)
    caption_as(file, [BOTH] * 8)
    text = file.read_text(encoding="utf-8")
    text = text.replace("batch_size = 4", "batch_size = 2").replace("repeats = 10", "repeats = 1")
    file.write_text(text, encoding="utf-8")
    return file


def caption_as(dataset: Path, captions: Sequence[str]) -> None:
    for number, caption in enumerate(captions, 1):
        path = dataset.parent / "images" / f"{number:02d}.txt"
        path.write_text(caption, encoding="utf-8")


@pytest.fixture
def write_config(dataset: Path, tmp_path: Path) -> Write:
    """Write a config file of two words that learn together, with what is to be otherwise."""

    def written(*tables: TOML, captions: Sequence[str] = (BOTH,) * 8, **shared: object) -> Path:
        own = tmp_path / "data" / "dataset.toml"
        if not own.exists():
            shutil.copytree(dataset.parent, own.parent)
            text = own.read_text(encoding="utf-8")
            own.write_text(text.replace(dataset.parent.as_posix(), own.parent.as_posix()))
        caption_as(own, captions)
        for_all: TOML = {
            "pretrained_model_name_or_path": small_model().as_posix(),
            "dataset_config": own.as_posix(),
            "output_dir": (tmp_path / "out").as_posix(),
            "save_model_as": "safetensors",
            "learning_rate": 5e-3,
            "max_train_steps": 4,
            "seed": 3,
            "together": True,
            "cache_latents": True,
            "sample_every_n_steps": 0,
        }
        usual: list[TOML] = [
            {"token_string": "zibu", "init_word": "circle", "num_vectors_per_token": 2},
            {"token_string": "wopo", "init_word": "striped", "learning_rate": 1e-2},
        ]
        given = [table | more for table, more in zip(usual, tables, strict=False)]
        text = lines(for_all | shared)
        for table in [*given, *usual[len(given) :], *tables[2:]]:
            text += f"\n[[words]]\n{lines({k: v for k, v in table.items() if v is not None})}"
        file = tmp_path / "words.toml"
        file.write_text(text, encoding="utf-8")
        return file

    return written


def configs_of(file: Path, *more: str) -> list[TrainConfig]:
    return [plan.config for plan in plans_of(file, *more)]


def runs_of(file: Path, *more: str) -> list[Run]:
    return runs_from(plans_of(file, *more))


def plans_of(file: Path, *more: str) -> list[Plan]:
    plans = make_plans(*build_words(parse("sd", [f"--config_file={file}", *more], "test")))
    for plan in plans:
        plan.release()
    return plans


def runs_from(plans: Sequence[Plan]) -> list[Run]:
    return prepare_all(
        [plan.config for plan in plans],
        [plan.samples for plan in plans],
        torch.device("cpu"),
        [None] * len(plans),
    )


class Diary(Observer):
    """The rows after each step, whether captions had the word, and the rate."""

    def __init__(self) -> None:
        self.rows: list[torch.Tensor] = []
        self.present: list[bool] = []
        self.rates: list[float] = []
        self.told: list[str] = []

    def started(self, run: Run) -> None:
        self.rows.append(run.rows[0].detach().clone())

    def stepped(self, run: Run) -> None:
        self.rows.append(run.rows[0].detach().clone())
        self.present.append(run.last.captions_with_word > 0)
        self.rates.append(run.last.rate)

    def epoch_ended(self, run: Run) -> None:
        self.told.append(f"epoch {run.progress.epoch}")

    def finished(self, run: Run) -> None:
        self.told.append(f"finished {run.step}")

    @property
    def moved(self) -> list[bool]:
        return [not torch.equal(a, b) for a, b in zip(self.rows, self.rows[1:], strict=False)]


def learned(runs: Sequence[Run]) -> list[Diary]:
    diaries = [Diary() for _ in runs]
    train_together(runs, [[diary] for diary in diaries])
    return diaries


def test_one_pass_of_the_images_teaches_both(write_config: Write) -> None:
    runs = runs_of(write_config({"max_grad_norm": 0}, {"max_grad_norm": 0}))
    assert runs[0].latents is runs[1].latents, "they are encoded once"
    seen: list[int] = []
    hook = runs[0].parts.denoiser.register_forward_pre_hook(
        lambda _, args: seen.append(len(args[0]))
    )
    step_input = next(runs[0].step_inputs())
    compute_gradients(runs, [step_input, step_input])
    hook.remove()
    assert seen == [2], "the two images of a step"
    found = [row.grad.clone() for run in runs for row in run.rows if row.grad is not None]
    for batch in step_input.batches:
        batch.rewind()
    first = runs[0]
    result = forward(
        first.family, first.parts, join(step_input.batches), first.config.noise, first.loss
    )
    loss = result.per_sample.mean()
    wanted = torch.autograd.grad(loss, [run.rows[0] for run in runs])
    assert [run.last.loss for run in runs] == pytest.approx([loss.item()] * 2)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other)
        assert one.norm() > 0


def test_a_word_that_no_caption_has_stays_as_it_is(write_config: Write) -> None:
    """Without it AdamW would go on by its momentum."""
    captions = [BOTH, ONE, ONE, OTHER, ONE, BOTH, ONE, ONE]
    file = write_config(captions=captions, max_train_steps=24, lr_scheduler="linear")
    toml = file.parent / "data" / "dataset.toml"
    toml.write_text(toml.read_text(encoding="utf-8").replace("batch_size = 2", "batch_size = 1"))
    diaries = learned(runs_of(file))
    for diary in diaries:
        assert len(diary.moved) == 24
        assert diary.moved == diary.present
        assert 0 < sum(diary.present) < 24
        steps = sum(diary.present[:-1])  # its schedule counts the steps that it learns in
        assert diary.rates[-1] == pytest.approx(diary.rates[0] * (1 - steps / 24))


def test_steps_that_are_looked_at_later_leave_a_word_as_well(write_config: Write) -> None:
    """A GPU takes a step before it is known whether a caption has the word."""
    captions = [BOTH, ONE, ONE, OTHER, ONE, BOTH, ONE, ONE]
    file = write_config({"start_step": 2}, captions=captions, max_train_steps=9)
    toml = file.parent / "data" / "dataset.toml"
    toml.write_text(toml.read_text(encoding="utf-8").replace("batch_size = 2", "batch_size = 1"))
    looked_first, runs = runs_of(file), runs_of(file)
    diaries = learned(looked_first)
    assert not all(diaries[1].present)
    supply = Supply(runs)
    for _ in range(9):
        inputs, _ = supply.next(runs)
        step_and_check(runs, inputs, Ahead(list(prepared(runs, inputs)), lambda: None))
        for run in runs:
            assert torch.equal(run.last.rows[0], run.rows[0].detach())
            if run.epoch_done:
                run.advance_epoch()
    for one, other in zip(looked_first, runs, strict=True):
        assert torch.equal(one.rows[0], other.rows[0])
        (state,), (other_state,) = one.optimizer.state.values(), other.optimizer.state.values()
        for name, value in state.items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(other_state[name]))


def test_a_word_learns_between_its_start_and_its_end(write_config: Write) -> None:
    file = write_config({"start_step": 2, "end_step": 4}, max_train_steps=6, lr_scheduler="linear")
    first, second = learned(runs_of(file))
    assert first.moved == [False, False, True, True, False, False]
    assert first.rates == pytest.approx([5e-3, 5e-3, 5e-3, 2.5e-3, 0, 0])
    assert all(second.moved)


def test_words_that_start_in_turn_begin_from_what_the_first_has_become(write_config: Write) -> None:
    """The second word's first gradient is that beside the first word as it is by then."""
    late = learned(runs_of(write_config({}, {"start_step": 3})))
    early = learned(runs_of(write_config()))
    moves = [diary.rows[-1] - diary.rows[0] for _, diary in (late, early)]
    assert not torch.allclose(*moves)
    assert late[1].moved == [False] * 3 + [True]


@pytest.fixture(scope="module")
def companion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A word of another tool, with two vectors."""
    path = tmp_path_factory.mktemp("files") / "other.pt"
    torch.manual_seed(0)
    write(path, Word({"emb_params": torch.randn(2, 32)}, "other"))
    return path


def test_a_companion_is_in_captions_and_stays(
    write_config: Write, companion: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = {"token_string": "wopo", "init_word": None, "learning_rate": None}
    table |= {"train": False, "weights": companion.as_posix()}
    file = write_config({}, table)
    (run,) = runs_of(file)
    (diary,) = learned([run])
    assert all(diary.moved)
    assert run.word_count == 1
    beside = run.parts.rows(1)[0]
    assert torch.equal(beside, read(companion).vectors["emb_params"])
    assert beside.grad is None
    alone = write_config({}, {"token_string": "axu"}, captions=[BOTH.replace("wopo", "axu")] * 8)
    other = learned(runs_of(alone))[0]
    assert not torch.allclose(other.rows[-1], diary.rows[-1]), (
        "captions hold the companion's vectors"
    )
    assert train_command("sd", [f"--config_file={write_config({}, table)}"]) == 0
    told = capsys.readouterr().err
    assert f"beside  wopo, 2 vectors of {companion}, stays as it is" in told
    assert names_in(tmp_path / "out") == {
        "zibu.safetensors", "zibu-log.jsonl", "zibu-report.html"
    }  # fmt: skip
    assert read(tmp_path / "out" / "zibu.safetensors").metadata["ti.learned_with"] == "wopo"


def test_files_logs_previews_and_the_report(
    write_config: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a wopo zibu --w 64 --h 64 --s 1 --d 1\n", encoding="utf-8")
    file = write_config(
        sample_prompts=prompts.as_posix(), sample_every_n_steps=4, save_every_n_steps=2
    )
    assert train_command("sd", [f"--config_file={file}", "--flip_aug"]) == 0
    told = capsys.readouterr().err
    assert "words   2, trained together in one batch; they learn from the same images" in told
    assert "4 steps, each with 2 images" in told
    assert "zibu and wopo stand in the same captions, all of them: only their init words" in told
    out = tmp_path / "out"
    for name, other in (("zibu", "wopo"), ("wopo", "zibu")):
        word = read(out / f"{name}.safetensors")
        assert word.metadata["ti.learned_with"] == other
        assert word.num_vectors == (2 if name == "zibu" else 1)
        assert (out / f"{name}-step00000002.safetensors").is_file()
        command = read_report(out / f"{name}-report.html").command
        assert f"--config_file={file}" in command
        assert "--flip_aug" in command
        assert "--token_string" not in command
    pictures = {
        re.sub(r"_.*", "", path.name): path.read_bytes() for path in (out / "sample").iterdir()
    }
    assert pictures["zibu"] == pictures["wopo"], "both words are in the prompt, and on the model"
    losses = [
        [json.loads(line)["loss"] for line in (out / f"{name}-log.jsonl").read_text().splitlines()]
        for name in ("zibu", "wopo")
    ]
    assert losses[0] == losses[1]


def test_words_go_on_to_the_bit(write_config: Write, companion: Path, tmp_path: Path) -> None:
    beside = {"token_string": "kaxi", "train": False, "weights": companion.as_posix()}
    file = write_config(
        {}, {"start_step": 1, "end_step": 5}, beside,
        captions=[BOTH, ONE, OTHER, f"{ONE} beside a kaxi"] * 2,
        max_train_steps=6, save_state=True, save_every_n_steps=2, lr_scheduler="cosine",
    )  # fmt: skip
    assert train_command("sd", [f"--config_file={file}"]) == 0
    out, whole = tmp_path / "out", tmp_path / "whole"
    shutil.copytree(out, whole)
    for name in ("zibu", "wopo"):
        (out / f"{name}.safetensors").unlink()
        for state in ("state", "step00000006-state", "step00000004-state"):
            shutil.rmtree(out / f"{name}-{state}")
    assert train_command("sd", [f"--config_file={file}", "--resume=latest"]) == 0
    for name in ("zibu", "wopo"):
        assert torch.equal(*(rows_of(read(f / f"{name}.safetensors")) for f in (whole, out)))
        assert len({(f / f"{name}-log.jsonl").read_bytes() for f in (whole, out)}) == 1
    text = re.sub("start_step = 1", "start_step = 2", file.read_text(encoding="utf-8"))
    file.write_text(text.replace('token_string = "kaxi"', 'token_string = "kaxo"'))
    plans = plans_of(file, "--resume=latest")
    told = "\n".join(str(warning) for plan in plans for warning in plan.warnings)
    assert "start_step was 1 and is 2" in told
    assert "companions was [['kaxi', 2]]" in told


def test_the_loss_is_measured_once_and_words_settle_together(
    write_config: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = 0
    real = evaluation.evaluation_loss

    def counted(*given: object) -> float:
        nonlocal measured
        measured += 1
        return real(*given)  # type: ignore[arg-type]

    def judge(measurements: dict[int, object], _: object) -> Settled | None:
        return Settled(3, 1.0, 0.5, 0.0) if len(measurements) > 2 else None

    monkeypatch.setattr(evaluation, "evaluation_loss", counted)
    monkeypatch.setattr(convergence, "judge", judge)
    file = write_config({}, {"start_step": 1}, max_train_steps=9)
    runs = runs_of(file, "--early_stop", "--validate_every_n_steps=1")
    diaries = learned(runs)
    assert [run.step for run in runs] == [3, 3], "three measurements since the second word began"
    assert measured == 4
    assert diaries[0].told == diaries[1].told == ["epoch 1", "finished 3"]
    both = [[one.loss for one in run.results.measurements.values()] for run in runs]
    assert both[0] == both[1]
    assert runs[0].results.best
    assert runs[1].results.best
    with runs[0].holding_best():
        for run in runs:
            assert torch.equal(run.rows[0].detach(), run.results.best.rows[0])  # type: ignore[union-attr]


def test_an_overflow_leaves_all_of_them_and_their_scales_alike(write_config: Write) -> None:
    runs = runs_of(write_config())
    skipped = []
    for run in runs:
        run.scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
        run.scaler.scale(torch.ones(()))
        for row in run.rows:
            row.grad = torch.ones_like(row)
    runs[1].rows[0].grad = torch.full_like(runs[1].rows[0], torch.inf)
    for run in runs:
        skipped.append(float(finish_gradient(run)[1]))
        run.scaler.update()
    assert skipped == [1, 1]
    assert [run.scaler.get_scale() for run in runs] == [4, 4]


def test_sdxl_words_learn_together_in_both_text_encoders(
    write_config: Write, tmp_path: Path
) -> None:
    model = write_folder(tmp_path / "sdxl", "sdxl")
    file = write_config(pretrained_model_name_or_path=model.as_posix(), max_train_steps=2)
    configs, _ = build_words(parse("coinage", [f"--config_file={file}"], "test"))
    plans = make_plans(configs)
    for plan in plans:
        plan.release()
    runs = runs_from(plans)
    assert runs[0].family.name == "sdxl"
    train_together(runs, [[], []])
    for run in runs:
        for row, start in zip(run.rows, run.start, strict=True):
            assert not torch.equal(row.detach(), start)


WRONG: list[tuple[list[TOML], TOML, list[str]]] = [
    (
        [{"seed": 5, "flip_aug": True}, {"gradient_accumulation_steps": 2, "noise_offset": 0.1}],
        {},
        ["zibu and wopo are to learn together, and differ in images and captions, --seed",
         ", --gradient_accumulation_steps, settings of the noise", "above all [[words]]"],
    ),
    (
        [{}, {"use_object_template": True}], {},
        ["need captions that name them, and sentences replace these", "[[words]] 2 (wopo)"],
    ),
    ([], {"autopilot": 3}, ["--autopilot tries the settings of one word"]),
    (
        [{"start_step": 4}, {"start_step": 3, "end_step": 3}], {},
        ["--end_step 3 must be after --start_step 3", "[[words]] 2 (wopo)"],
    ),
    ([{"start_step": 4}], {}, ["--start_step 4 leaves nothing of the run's 4 steps"]),
    (
        [{}, {}, {"token_string": "kaxi", "train": False, "weights": "none.pt", "seed": 2}], {},
        ["`seed` has no effect on a word that stays as it is", "[[words]] 3 (kaxi)"],
    ),
    (
        [{}, {}, {"token_string": "kaxi", "train": False}], {},
        ["--weights is missing\n  --> [[words]] 3 (kaxi)"],
    ),
    (
        [{}, {}, {"token_string": "kaxi", "train": False, "weights": "none.pt"}], {},
        ["No such file", "none.pt"],
    ),
    (
        [{}, {}, {"token_string": "wopo1", "train": False, "weights": "OTHER"}],
        {"num_vectors_per_token": 2},
        ["wopo and wopo1 cannot be distinguished: wopo1 is a piece of both"],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("tables", "shared", "parts"), WRONG)
def test_what_is_wrong_is_told(
    tables: list[TOML], shared: TOML, parts: list[str], write_config: Write, companion: Path
) -> None:
    for table in tables:
        if table.get("weights") == "OTHER":
            table = table | {"weights": companion.as_posix()}  # noqa: PLW2901
            tables = [*tables[:2], table]
    with pytest.raises(ConfigError) as raised:
        configs_of(write_config(*tables, **shared))
    for part in parts:
        assert part in str(raised.value)


def test_only_companions_are_no_training(write_config: Write, companion: Path) -> None:
    stays = {"train": False, "weights": companion.as_posix(), "init_word": None}
    file = write_config(stays | {"num_vectors_per_token": None}, stays | {"learning_rate": None})
    with pytest.raises(ConfigError, match="no word learns"):
        configs_of(file)
    alone = ["--train=false", "--token_string=a", "--output_dir=o", "--train_data_dir=d"]
    with pytest.raises(ConfigError, match=r"--train false: no word learns\nhint: give it a \[\["):
        build_words(parse("sd", alone, "test"))


def test_captions_with_either_word_are_fine_and_those_with_none_are_named(
    write_config: Write,
) -> None:
    captions = [BOTH, ONE, OTHER, "a red circle", BOTH, ONE, OTHER, BOTH]
    file = write_config(captions=captions)
    for plan in plans_of(file):
        told = "\n".join(map(str, plan.warnings))
        assert "1 of 8 captions does contain neither `wopo` nor `zibu`" in told
        assert "not contain `zibu`" not in told
    with pytest.raises(ConfigError, match="no caption contains the word wopo"):
        configs_of(write_config(captions=[ONE] * 8))


def test_the_dataset_is_shown_with_the_ids_of_all_words(
    write_config: Write, companion: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    beside = {"token_string": "kaxi", "train": False, "weights": companion.as_posix()}
    file = write_config({}, {}, beside, captions=[ONE, OTHER, BOTH, f"{ONE} beside a kaxi"] * 2)
    assert train_command("sd", [f"--config_file={file}", "--debug_dataset"]) == 0
    told = "".join(capsys.readouterr())
    assert "not contain" not in told
    assert "neither" not in told
    summaries = [summarize_dataset(config) for config in configs_of(file)]
    first = VOCABULARY
    ids = [
        {one for sample in s.samples for c in sample.captions for row in c.ids or () for one in row}
        for s in summaries
    ]
    new = [{one for one in own if one >= first} for own in ids]
    assert new == [{first + number for number in range(5)}] * 2, "2, 1 and 2 vectors"


def test_words_that_learn_together_are_not_divided(
    write_config: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train_command("sd", [f"--config_file={write_config()}", "--share=words"]) == 2
    assert "--share words divides words, and these learn together" in capsys.readouterr().err


def test_a_dropped_tag_never_takes_a_word_away(write_config: Write) -> None:
    runs = runs_of(
        write_config(captions=["zibu, red, wopo, white background"] * 8),
        "--caption_tag_dropout_rate=0.9",
    )
    for batch in next(runs[0].step_inputs()).batches:
        for caption in batch.captions:
            assert "zibu" in caption
            assert "wopo" in caption


@pytest.mark.slow
def test_two_processes_train_what_one_does(write_config: Write, tmp_path: Path) -> None:
    file = write_config(captions=[BOTH, ONE, OTHER, BOTH, ONE, ONE, OTHER, ONE])
    one = [f"--config_file={file}", f"--output_dir={tmp_path / 'one'}"]
    assert train_command("sd", [*one, "--gradient_accumulation_steps=2"]) == 0
    run_command([*torchrun(f"--master_port={free_port()}"), SCRIPT, f"--config_file={file}"])
    for name in ("zibu", "wopo"):
        both = [rows_of(read(tmp_path / f / f"{name}.safetensors")) for f in ("one", "out")]
        torch.testing.assert_close(*both, rtol=0, atol=1e-5)


def test_python_takes_words_that_learn_together(write_config: Write) -> None:
    first, second = configs_of(write_config())
    assert [other.token for other in first.learns_with] == ["wopo"]
    alone = [
        replace(config, learns_with=(), word=replace(config.word, together=True))
        for config in (first, second)
    ]
    plans = make_plans(alone)
    for plan in plans:
        plan.release()
    assert [plan.config.learns_with[0].token for plan in plans] == ["wopo", "zibu"]
