"""A file does in other tools what was trained."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from coinage.checks import make_plans
from coinage.cli.main import main
from coinage.cli.parse import parse
from coinage.cli.train import train_command
from coinage.demo.worlds import MODELS
from coinage.embeddings.verify import COMPARED, Check, usage, verify
from coinage.embeddings.word import Word
from coinage.embeddings.writing import write
from coinage.models.base import ModelFamily
from coinage.models.families import FAMILIES, Components
from coinage.settings.discover import complete
from coinage.training.final_check import check_saved_file, log_checks
from coinage.training.gradients import accumulate
from coinage.training.setup import prepare
from tests.helpers import flags
from tests.tiny_models import FAMILY_NAMES, loaded

UIS = ("AUTOMATIC1111", "Forge", "ComfyUI", "InvokeAI", "SD.Next")


def word_for(name: str, parts: Components, word: str = "zibu") -> Word:
    torch.manual_seed(0)
    rows = {
        key: 0.5 * torch.randn(3, e.rows.shape[1])
        for key, e in zip(FAMILIES[name].facts.keys, parts.embeddings, strict=True)
    }
    return Word(rows, word)


def checked(name: str, models: Path, path: Path, name_of_word: str = "zibu") -> dict[str, Check]:
    parts = loaded(name, models / name, models)
    word = word_for(name, parts, name_of_word)
    write(path, word)
    before = [rows.clone() for rows in parts.rows()]
    found = {c.tool: c for c in verify(path, FAMILIES[name], parts, word, name_of_word)}
    assert all(torch.equal(a, b) for a, b in zip(before, parts.rows(), strict=True)), (
        "the parts are as before"
    )
    assert all(
        e is own
        for e, own in zip(
            parts.embeddings, (t.get_input_embeddings() for t in parts.text_encoders), strict=True
        )
    )
    return found


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_our_own_safetensors_are_the_same_everywhere(
    name: str, models: Path, tmp_path: Path
) -> None:
    found = checked(name, models, tmp_path / "zibu.safetensors")
    for tool in (*UIS, "diffusers"):
        assert found[tool].loads, found[tool]
        assert found[tool].same, found[tool]
        assert found[tool].difference is not None
        assert found[tool].difference <= 1e-5


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_pickles_are_the_same_where_they_load(name: str, models: Path, tmp_path: Path) -> None:
    found = checked(name, models, tmp_path / "zibu.pt")
    due = {*UIS, "diffusers"} - ({"SD.Next"} if name == "sdxl" else set())
    assert {tool for tool in (*UIS, "diffusers") if found[tool].same} == due
    if name == "sdxl":
        assert found["SD.Next"].why


def test_a_word_in_capitals_is_caught_in_diffusers(models: Path, tmp_path: Path) -> None:
    found = checked("sd1", models, tmp_path / "ZiBu.safetensors", "ZiBu")["diffusers"]
    assert not found.same
    assert found.difference is None or found.difference > 1e-2


@pytest.mark.parametrize("count", [30, 33, 70, 75])
def test_long_words_are_compared_too(count: int, models: Path, tmp_path: Path) -> None:
    parts = loaded("sd1", models / "sd1", models)
    torch.manual_seed(0)
    word = Word({"emb_params": 0.5 * torch.randn(count, 32)}, "zibu")
    write(tmp_path / "zibu.safetensors", word)
    found = {
        c.tool: c
        for c in verify(tmp_path / "zibu.safetensors", FAMILIES["sd1"], parts, word, "zibu")
    }
    assert all(found[tool].same for tool in (*UIS, "diffusers"))


def test_a_word_that_diffusers_refuses_fails(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "zibu.safetensors", word_for("sd1", loaded("sd1", models / "sd1", models)))
    assert (
        main(
            [
                "verify",
                str(tmp_path / "zibu.safetensors"),
                "--model",
                str(models / "sd1"),
                "--token",
                "ZiBu",
            ]
        )
        == 1
    )
    shown = capsys.readouterr()
    assert "this file gives different results in diffusers" in shown.err
    assert "load_textual_inversion" not in shown.out


def test_a_file_that_holds_something_else_is_caught(models: Path, tmp_path: Path) -> None:
    parts = loaded("sd1", models / "sd1", models)
    word = word_for("sd1", parts)
    write(
        tmp_path / "zibu.safetensors",
        Word({"emb_params": word.vectors["emb_params"].flip(0)}),
    )
    found = verify(tmp_path / "zibu.safetensors", FAMILIES["sd1"], parts, word, "zibu")
    assert not any(c.same for c in found)
    assert all(c.difference is None or c.difference > 1e-3 for c in found)


@pytest.mark.usefixtures("small_configs")
@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_the_command(
    name: str, models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "zibu.safetensors"
    write(path, word_for(name, loaded(name, models / name, models)))
    given = [
        "verify",
        str(path),
        "--model",
        str(models / f"{name}.safetensors"),
        "--tokenizer_cache_dir",
        str(models / "tokenizers"),
    ]
    assert main(given) == 0
    out = capsys.readouterr().out
    assert "embedding:zibu" in out
    assert "load_textual_inversion(" in out
    assert main([*given, "--json"]) == 0
    assert {c["tool"] for c in json.loads(capsys.readouterr().out) if c["same"]} >= {
        *UIS,
        "diffusers",
    }


def test_a_file_for_another_model_is_refused(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "x.safetensors", word_for("sdxl", loaded("sdxl", models / "sdxl", models)))
    assert main(["verify", str(tmp_path / "x.safetensors"), "--model", str(models / "sd1")]) == 1
    assert "the file has clip_l, clip_g, and the model takes emb_params" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("sd1", ["--mixed_precision=bf16"]),
        ("sdxl", ["--save_precision=fp16"]),
        ("sd2", ["--clip_skip=2"]),
    ],
)
def test_a_run_ends_with_its_file_checked(
    name: str,
    more: list[str],
    moon_dataset: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = flags(
        moon_dataset,
        tmp_path,
        f"--pretrained_model_name_or_path={MODELS / name}",
        "--max_train_steps=1",
        *more,
    )
    assert train_command("coinage", given) == 0
    told = capsys.readouterr().err
    assert (
        "works in AUTOMATIC1111, Forge, ComfyUI, InvokeAI, SD.Next, diffusers "
        "(prompts encode exactly as in training)" in told
    )
    assert "ComfyUI: put it into models/embeddings/; write embedding:zibu" in told


CHECKPOINTED, BF16 = "--gradient_checkpointing", "--mixed_precision=bf16"


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("sd1", (CHECKPOINTED,)),
        ("sd2", (CHECKPOINTED, BF16)),
        ("sdxl", (CHECKPOINTED, BF16, "--fp8_base")),
        ("sd1", (BF16, "--fp8_base")),
        ("sdxl", (BF16, "--full_bf16")),
        ("sd2", (CHECKPOINTED, BF16, "--full_bf16")),
        ("sd1", (BF16, "--torch_compile", "--dynamo_backend=aot_eager")),
        ("sdxl", (CHECKPOINTED, "--torch_compile", "--dynamo_backend=eager")),
        ("sdxl", (CHECKPOINTED, "--cache_text_encoder_outputs")),
    ],
    ids=str,
)
def test_what_flags_hang_on_a_model_is_no_obstacle(
    name: str,
    more: tuple[str, ...],
    moon_dataset: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    given = flags(
        moon_dataset,
        tmp_path,
        f"--pretrained_model_name_or_path={MODELS / name}",
        "--output_name=zibu",
        *more,
    )
    config = complete(parse("coinage", given, "test"))[0]
    run = prepare(config, make_plans([config])[0].samples, torch.device("cpu"))
    if "--torch_compile" not in more:  # the UNet is wrapped then, and compiling it takes long
        accumulate([run], [next(run.step_inputs())])  # some hooks come with the first step
    write(config.output_file, run.embedding())
    caplog.clear()
    with caplog.at_level(logging.INFO, "coinage"):
        found = {check.tool: check for check in check_saved_file(run).checks}
    assert {tool for tool in (*UIS, "diffusers") if found[tool].same} == {*UIS, "diffusers"}
    assert (
        "works in AUTOMATIC1111, Forge, ComfyUI, InvokeAI, SD.Next, diffusers "
        "(prompts encode exactly as in training)" in caplog.text
    )
    assert "not for" not in caplog.text
    assert "could not be checked" not in caplog.text


def test_nothing_is_left_of_the_check(models: Path, tmp_path: Path) -> None:
    """Neither the word, nor hooks, nor another table; what diffusers grows is a copy on the CPU."""
    parts = loaded("sdxl", models / "sdxl", models)
    path, word = tmp_path / "zibu.safetensors", word_for("sdxl", parts)
    write(path, word)
    # Transformers hangs on its own when a model is first used
    verify(path, FAMILIES["sdxl"], parts, word, "zibu")
    before = [
        (
            dict(e.named_parameters()),
            dict(e.named_buffers()),
            e.training,
            [len(m._forward_hooks) for m in e.modules()],
            e.config.to_dict(),
        )
        for e in parts.text_encoders
    ]
    assert all(
        check.same
        for check in verify(path, FAMILIES["sdxl"], parts, word, "zibu")
        if check.tool in COMPARED
    )
    for encoder, (parameters, buffers, training, hooks, config) in zip(
        parts.text_encoders, before, strict=True
    ):
        assert all(parameters[name] is parameter for name, parameter in encoder.named_parameters())
        assert all(buffers[name] is buffer for name, buffer in encoder.named_buffers())
        assert (encoder.training, encoder.config.to_dict()) == (training, config)
        assert [len(module._forward_hooks) for module in encoder.modules()] == hooks


class Ill:
    """A family that can encode the first prompt, and nothing more."""

    def __init__(self, family: ModelFamily) -> None:
        self._family, self._calls = family, 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._family, name)

    def encode(self, *args: object, **more: object) -> object:
        self._calls += 1
        if self._calls > 1:
            raise torch.OutOfMemoryError(
                "CUDA out of memory. Tried to allocate 2.00 GiB\nGPU 0 has ..."
            )
        return self._family.encode(*args, **more)  # type: ignore[arg-type]

    def pipeline(self, *_: object) -> object:
        raise TypeError("cannot create weak reference to 'NoneType' object")


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_a_check_that_fails_says_nothing_of_the_file(
    name: str, models: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """In any tool: here all but diffusers must encode once more, since the file is not what was trained."""
    parts = loaded(name, models / name, models)
    word = word_for(name, parts)
    write(
        tmp_path / "zibu.safetensors",
        Word({key: rows.flip(0) for key, rows in word.vectors.items()}),
    )
    ill: Any = Ill(FAMILIES[name])
    checks = verify(tmp_path / "zibu.safetensors", ill, parts, word, "zibu")
    told = {c.tool: c for c in checks if c.loads}
    assert set(told) >= {*UIS, "diffusers"}
    assert all(c.untried and not c.same and c.difference is None for c in told.values())
    assert told["Forge"].why == "CUDA out of memory. Tried to allocate 2.00 GiB"
    with caplog.at_level(logging.INFO, "coinage"):
        log_checks(tmp_path / "zibu.safetensors", checks)
    assert (
        "could not be checked in diffusers: cannot create weak reference to 'NoneType' object"
        in caplog.text
    )
    assert (
        "could not be checked in Forge: CUDA out of memory. Tried to allocate 2.00 GiB"
        in caplog.text
    )
    assert "not for" not in caplog.text
    assert "something else" not in caplog.text


def test_the_command_says_what_it_could_not_try(
    models: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "zibu.safetensors"
    write(path, word_for("sd1", loaded("sd1", models / "sd1", models)))
    ill: Any = Ill(FAMILIES["sd1"])
    ill.encode = FAMILIES["sd1"].encode
    monkeypatch.setitem(FAMILIES, "sd1", ill)
    assert main(["verify", str(path), "--model", str(models / "sd1")]) == 1
    shown = capsys.readouterr()
    assert (
        "this file could not be tried in diffusers: cannot create weak reference to 'NoneType' object"
        in shown.err
    )
    assert "something else" not in shown.err
    assert "could not be tried" in shown.out
    assert "embedding:zibu" in shown.out


def test_a_report_tells_what_was_not_tried(
    moon_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ill: Any = Ill(FAMILIES["sd1"])
    ill.encode = FAMILIES["sd1"].encode
    monkeypatch.setitem(FAMILIES, "sd1", ill)
    assert (
        train_command(
            "coinage",
            flags(
                moon_dataset,
                tmp_path,
                "--output_name=zibu",
                "--max_train_steps=1",
                "--sample_every_n_steps=0",
            ),
        )
        == 0
    )
    page = (tmp_path / "zibu-report.html").read_text(encoding="utf-8")
    assert '<b>diffusers</b><span class="verdict">not tried</span>' in page.replace("\n", "")
    assert "cannot create weak reference" in page


@pytest.mark.parametrize("token", ["squ", "whit"])
def test_a_word_that_is_in_the_vocabulary_is_not_for_diffusers(
    token: str, models: Path, tmp_path: Path
) -> None:
    found = checked("sd1", models, tmp_path / "zibu.safetensors", token)["diffusers"]
    assert not found.loads
    assert found.why.startswith(f"{token} is already in the model's vocabulary")


def test_the_calls_for_diffusers_run(models: Path, tmp_path: Path) -> None:
    """As they are printed, in a pipeline of SDXL."""
    import safetensors.torch

    parts = loaded("sdxl", models / "sdxl", models)
    path = tmp_path / "zibu.safetensors"
    write(path, word_for("sdxl", parts))
    lines = usage(
        path, "sdxl", verify(path, FAMILIES["sdxl"], parts, word_for("sdxl", parts), "zibu"), "zibu"
    )
    parts.install([], [])
    for encoder, table in zip(
        parts.text_encoders,
        [e.get_input_embeddings().weight for e in parts.text_encoders],
        strict=True,
    ):
        encoder.set_input_embeddings(torch.nn.Embedding.from_pretrained(table.detach().clone()))
    pipe = FAMILIES["sdxl"].pipeline(parts, None)
    calls = "\n".join(line.strip() for line in lines[lines.index("diffusers:") + 1 :])
    exec(calls, {"safetensors": safetensors, "torch": torch, "pipe": pipe})  # noqa: S102 - the lines are ours
    assert pipe.tokenizer.encode("zibu")[1] == pipe.tokenizer_2.encode("zibu")[1]  # type: ignore[attr-defined]
    assert pipe.text_encoder_2.text_model.eos_token_id == pipe.tokenizer_2.eos_token_id  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "asked"), [("my ring", ["ComfyUI"]), ("\u30df\u30af", ["InvokeAI"]), ("my-ring.2", [])]
)
def test_what_a_name_costs_is_told_where_it_is_to_be_written(
    name: str, asked: list[str], models: Path, tmp_path: Path
) -> None:
    parts, path = loaded("sd1", models / "sd1", models), tmp_path / f"{name}.safetensors"
    word = word_for("sd1", parts)
    write(path, word)
    lines = usage(path, "sd1", verify(path, FAMILIES["sd1"], parts, word, "zibu"), "zibu")
    assert [line.split(":")[0] for line in lines if ". Rename " in line] == asked
