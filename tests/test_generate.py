"""Pictures: ours, diffusers' own, and prompt files."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import PartialState
from diffusers import StableDiffusionPipeline
from PIL import Image

from coinage.cli.main import main
from coinage.demo.run import MODEL
from coinage.errors import ConfigError
from coinage.generate import draw, make_scheduler
from coinage.text.prompts import (
    Prompt,
    parse_prompt_line,
    parse_weights,
    read_prompts,
)
from coinage.text.samplers import SAMPLER_NAMES, SAMPLERS, find_sampler
from coinage.training.run import Run, StepInput
from tests.helpers import TAUGHT, prepared, trained

# Wording of a library notice about image processors that no test here needs.
pytestmark = pytest.mark.filterwarnings("ignore:.*torchvision.*")


@pytest.mark.parametrize("vectors", [1, 3])
@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_diffusers_draws_the_same_picture(
    moon_dataset: Path, tmp_path: Path, vectors: int, suffix: str
) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text(
        "a photo of a red zibu on a white background --w 64 --h 64 --s 6 --d 5 --l 4 --n dirty\n"
    )
    options = (
        f"--num_vectors_per_token={vectors}",
        f"--save_model_as={suffix}",
        "--max_train_steps=3",
        "--learning_rate=3e-2",
    )
    trained(
        moon_dataset,
        tmp_path,
        TAUGHT,
        *options,
        f"--sample_prompts={prompts}",
        "--sample_every_n_steps=3",
    )
    (preview,) = (tmp_path / "sample").glob("*.png")
    pipeline = StableDiffusionPipeline.from_pretrained(MODEL, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.load_textual_inversion(str(tmp_path / f"zibu.{suffix}"), token="zibu")
    image = pipeline(
        "a photo of a red zibu on a white background",
        negative_prompt="dirty",
        width=64,
        height=64,
        num_inference_steps=6,
        guidance_scale=4.0,
        generator=torch.Generator().manual_seed(5),
        output_type="np",
    ).images[0]
    ours = np.asarray(Image.open(preview)).astype(int)
    theirs = (image * 255).round().astype(int)
    assert np.abs(ours - theirs).max() <= 2
    assert ours.std() > 10


def test_a_picture_depends_on_its_seed_alone(moon_dataset: Path, tmp_path: Path) -> None:
    run = prepared(moon_dataset, tmp_path, TAUGHT)
    prompts = [
        Prompt(text=f"a {c} zibu", width=64, height=64, seed=s, steps=3, scale=4)
        for c, s in (("red", 1), ("blue", 2), ("red", 3))
    ]
    state = torch.get_rng_state()
    batched = list(draw(run.family, run.parts, prompts, 3))
    assert torch.equal(state, torch.get_rng_state())
    (alone,) = draw(run.family, run.parts, prompts[2:])
    assert np.abs(batched[2].astype(int) - alone.astype(int)).max() <= 1
    assert not np.array_equal(batched[0], batched[2])


@pytest.mark.parametrize("sampler", list(SAMPLERS))
def test_every_sampler_draws(moon_dataset: Path, tmp_path: Path, sampler: str) -> None:
    run = prepared(moon_dataset, tmp_path, TAUGHT)
    (image,) = draw(
        run.family,
        run.parts,
        [
            Prompt(
                text="a red circle", width=64, height=64, seed=1, steps=8, scale=4, sampler=sampler
            )
        ],
    )
    assert image.shape == (64, 64, 3)
    assert image.std() > 5
    assert (
        make_scheduler(sampler, run.parts.scheduler_config).config.beta_schedule == "scaled_linear"
    )


def test_prompt_lines() -> None:
    full = parse_prompt_line(
        "a cat --n bad, ugly --w 768 --h 512 --d 42 --s 28 --l 7.5 --ss euler_a"
    )
    wanted = Prompt(
        text="a cat",
        negative="bad, ugly",
        width=768,
        height=512,
        seed=42,
        steps=28,
        scale=7.5,
        sampler="euler_a",
    )
    assert full == wanted
    assert parse_prompt_line("cat --d -1 --w 512").seed is None
    assert parse_prompt_line("a --s 0").steps == 1
    assert parse_prompt_line("a cat--w 512").text == "a cat--w 512"
    assert parse_prompt_line("s 10 cats") == Prompt(text="s 10 cats")
    assert parse_prompt_line("a --W 70 --H 3").width == 64
    assert parse_prompt_line("a --l .5").scale == 0.5
    assert parse_prompt_line("a --w\t128").width == 128


def test_options_that_are_not_used_are_told(caplog: pytest.LogCaptureFixture) -> None:
    for option in ("--steps 20", "--l 7,5", "--w 512.5", "--w512", "--d 99999999999999999999999"):
        caplog.clear()
        assert parse_prompt_line(f"a {option}") == Prompt(text="a")
        assert f"a prompt's option is not used: {option}" in caplog.text.replace(
            "--w512 ", "--w512"
        )
    caplog.clear()
    parse_prompt_line("a --g 3 --cn image.png --fs 1")
    assert not caplog.text, "options of other models, as in sd-scripts"


def test_every_sampler_name_finds_a_sampler() -> None:
    assert len(SAMPLER_NAMES) == 17
    assert {find_sampler(name).class_name for name in SAMPLER_NAMES} == {
        sampler.class_name for sampler in SAMPLERS.values()
    }
    assert find_sampler("k_dpm_2_a") is SAMPLERS["dpm_2_a"]


def test_a_prompt_names_the_one_that_it_repeats_without_the_word(tmp_path: Path) -> None:
    file = tmp_path / "prompts.json"
    file.write_text('[{"prompt": "a zibu"}, {"prompt": "a", "compared_with": 1}]')
    assert [prompt.of for prompt in read_prompts(file, "ddim")] == [None, 0]
    for wrong in (0, 2, -1, 10**30):
        file.write_text(f'["a zibu", {{"prompt": "a", "compared_with": {wrong}}}]')
        with pytest.raises(ConfigError, match="is not the number of a prompt before this one"):
            read_prompts(file, "ddim")
    file.write_text('["a zibu", {"prompt": "a", "compared_with": true}]')
    with pytest.raises(ConfigError, match="is not a number"):
        read_prompts(file, "ddim")


def test_prompt_files(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("# comment\n\na zibu\nb --ss eulr\nc --ss nonsense\n")
    with pytest.raises(
        ConfigError,
        match=r"unknown sampler 'eulr'[\s\S]*line 4[\s\S]*did you mean `euler`[\s\S]*line 5",
    ):
        read_prompts(file, "ddim")
    file.write_text("a zibu --s 3\n", encoding="utf-8-sig")
    assert read_prompts(file, "heun") == [Prompt(text="a zibu", steps=3, sampler="heun")]
    with pytest.raises(ConfigError, match=r"not a \.txt, \.toml or \.json file"):
        read_prompts(tmp_path / "prompts.yaml", "ddim")
    with pytest.raises(ConfigError, match="missing"):
        read_prompts(tmp_path / "missing.txt", "ddim")


def test_prompt_tables(tmp_path: Path) -> None:
    file = tmp_path / "prompts.toml"
    file.write_text(
        '[prompt]\nwidth = 515\nsample_steps = 5\nprompt = "shared"\n'
        '[[prompt.subset]]\nprompt = "a zibu"\nseed = 3\nscale = 4\n'
        '[[prompt.subset]]\nwidth = 64\nnegative_prompt = "bad"\nsample_sampler = "euler"\n'
    )
    first = Prompt(text="a zibu", width=512, steps=5, seed=3, scale=4, sampler="ddim")
    second = Prompt(text="shared", width=64, steps=5, negative="bad", sampler="euler")
    assert read_prompts(file, "ddim") == [first, second]
    file = tmp_path / "prompts.json"
    file.write_text(
        '[{"prompt": "a zibu", "width": 512, "sample_steps": 5, "seed": 3, "scale": 4}, "b --w 64 --s 2"]'
    )
    assert read_prompts(file, "ddim") == [first, Prompt(text="b", width=64, steps=2)]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("p.toml", "[prompt]\nwidth = 3", "must hold"),
        ("p.toml", "[prompt", "sample_prompts"),
        ("p.json", '{"prompt": "x"}', "must hold a list"),
        (
            "p.json",
            '[{"promt": "x"}, {"seed": "x"}, 7]',
            r"did you mean `prompt`[\s\S]*`seed = 'x'` is not a number[\s\S]*prompt 3",
        ),
        ("p.json", '[{"sample_sampler": "eulr"}]', "did you mean `euler`"),
    ],
)
def test_broken_prompt_tables(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_prompts(tmp_path / name, "ddim")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a (red) cat", [("a ", 1), ("red", 1.1), (" cat", 1)]),
        ("a [b] c", [("a ", 1), ("b", 1 / 1.1), (" c", 1)]),
        ("(a:1.3) ((x))", [("a", 1.3), (" ", 1), ("x", 1.21)]),
        ("(a (b:2) c)", [("a ", 1.1), ("b", 2.2), (" c", 1.1)]),
        (r"\(x\) (y", [("(x) ", 1), ("y", 1.1)]),
        ("a:b) c]", [("a:b) c]", 1)]),
        ("(a:b:1.2)", [("a:b", 1.2)]),
        ("", []),
    ],
)
def test_weights_in_prompts(text: str, parts: list[tuple[str, float]]) -> None:
    assert [(word, pytest.approx(weight)) for word, weight in parts] == parse_weights(text)


def test_a_weight_scales_its_words_hidden_states_and_keeps_the_mean(
    moon_dataset: Path, tmp_path: Path
) -> None:
    run = prepared(moon_dataset, tmp_path, TAUGHT, "--num_vectors_per_token=2")
    sizes = torch.zeros(1, 6)
    with torch.no_grad():
        plain, same, literal = (
            run.family.encode(run.parts, [text], sizes, weighted=weighted).encoder_hidden_states
            for text, weighted in (
                ("red zibu", True),
                ("red zibu", False),
                ("red (zibu:1.5)", False),
            )
        )
        heavy = run.family.encode(
            run.parts, ["red (zibu:1.5)"], sizes, weighted=True
        ).encoder_hidden_states
    assert torch.equal(plain, same)
    assert not torch.allclose(literal, plain)
    scale = plain.mean() / (plain * torch.tensor([1, 1, 1.5, 1.5, *[1] * 73])[None, :, None]).mean()
    torch.testing.assert_close(heavy[:, 2:4], plain[:, 2:4] * 1.5 * scale)
    torch.testing.assert_close(heavy[:, 4:], plain[:, 4:] * scale)
    assert heavy.mean().item() == pytest.approx(plain.mean().item(), rel=1e-4)


def test_long_prompts_are_read_in_parts(moon_dataset: Path, tmp_path: Path) -> None:
    run = prepared(moon_dataset, tmp_path, TAUGHT)
    texts = ["red " * 74, "red " * 80, "red " * 80 + "zibu"]
    images = list(
        draw(
            run.family,
            run.parts,
            [Prompt(text=t, width=64, height=64, seed=1, steps=2) for t in texts],
        )
    )
    assert not np.array_equal(images[1], images[2]), "a word beyond 75 tokens counts"
    assert run.parts.chunks == 1


def test_a_short_prompt_is_drawn_alike_at_any_length_of_training(
    moon_dataset: Path, tmp_path: Path
) -> None:
    prompt = Prompt(text="a red circle", width=64, height=64, seed=3, steps=2)
    short, long = (
        prepared(moon_dataset, tmp_path, TAUGHT, *more)
        for more in ((), ("--max_token_length=225",))
    )
    (one,), (other,) = (draw(run.family, run.parts, [prompt]) for run in (short, long))
    assert np.array_equal(one, other)


def test_a_prompts_picture_does_not_depend_on_its_neighbours_length(
    moon_dataset: Path, tmp_path: Path
) -> None:
    run = prepared(moon_dataset, tmp_path, TAUGHT)
    short = Prompt(text="a red circle", width=64, height=64, seed=3, steps=2)
    long = Prompt(text="a red circle " * 40, width=64, height=64, seed=4, steps=2)
    (alone,) = draw(run.family, run.parts, [short])
    beside, _, again = draw(run.family, run.parts, [short, long, short], 3)
    assert np.array_equal(alone, beside)
    assert np.array_equal(alone, again)


def test_brackets_take_no_room(moon_dataset: Path, tmp_path: Path) -> None:
    """A weight of 1 changes nothing, in a prompt that its brackets would make too long."""
    run = prepared(moon_dataset, tmp_path, TAUGHT)
    text = " ".join(["red"] * 73)
    plain, weighed = (
        draw(run.family, run.parts, [Prompt(text=t, width=64, height=64, seed=3, steps=2)])
        for t in (text, text.replace("red", "(red:1.0)", 1))
    )
    assert np.array_equal(next(plain), next(weighed))


def test_what_is_too_long_is_told(
    moon_dataset: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = prepared(moon_dataset, tmp_path, TAUGHT)
    list(
        draw(
            run.family, run.parts, [Prompt(text="red " * 226, width=64, height=64, seed=3, steps=1)]
        )
    )
    assert caplog.text.count("a prompt is longer than 225 tokens") == 1


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a [v] cat", [("a [v] cat", 1)]),
        ("([v]:1.5) cat", [("[v]", 1.5), (" cat", 1)]),
        ("[[v]]", [("[v]", 1 / 1.1)]),
        ("w(1) (b)", [("w(1) ", 1), ("b", 1.1)]),
    ],
)
def test_brackets_of_a_word_are_its_own(text: str, parts: list[tuple[str, float]]) -> None:
    assert parse_weights(text, ["w(1)", "[v]", "plain"]) == [
        (word, pytest.approx(weight)) for word, weight in parts
    ]


def test_prompts_are_read_again_when_their_file_has_changed(
    moon_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("zibu --w 64 --h 64 --s 1 --d 1\n")

    def change(run: Run) -> None:
        inputs = run.epoch_inputs

        def inputs_and_edit(epoch: int) -> Iterator[StepInput]:
            for number, step_input in enumerate(inputs(epoch)):
                if number == 1:
                    file.write_text("zibu --w 64 --h 64 --s 1 --d 2\n")
                    os.utime(file, ns=(1, 1))
                if number == 2:
                    file.write_text("# nothing\n")
                yield step_input

        monkeypatch.setattr(Run, "epoch_inputs", lambda _run, epoch, _done: inputs_and_edit(epoch))

    trained(
        moon_dataset,
        tmp_path / "out",
        f"--sample_prompts={file}",
        "--sample_every_n_steps=1",
        change=change,
    )
    seeds = sorted(p.stem.split("_")[-1] for p in (tmp_path / "out" / "sample").iterdir())
    assert seeds == ["1", "2", "2"]


def test_a_picture_that_does_not_fit_in_memory_is_decoded_in_parts(
    moon_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = prepared(moon_dataset, tmp_path, TAUGHT)
    prompt = Prompt(text="a red circle", width=128, height=128, seed=1, steps=3)
    (whole,) = draw(run.family, run.parts, [prompt])
    decode, tiled = run.parts.vae.decode, []

    def small(latents: torch.Tensor, **more: object) -> object:
        tiled.append(run.parts.vae.use_tiling)
        if not run.parts.vae.use_tiling:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return decode(latents, **more)

    monkeypatch.setattr(run.parts.vae, "decode", small)
    (parted,) = draw(run.family, run.parts, [prompt])
    assert tiled == [False, True]
    assert not run.parts.vae.use_tiling
    assert np.abs(parted.astype(int) - whole.astype(int)).mean() < 10


def test_pictures_are_drawn_on_the_device_that_training_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever its kind: this one is not there, and says so."""
    monkeypatch.setattr(PartialState, "_shared_state", {})
    monkeypatch.setenv("ACCELERATE_TORCH_DEVICE", "xpu")
    words = ["generate", str(MODEL), "a red circle", "--width=64", "--height=64", "--steps=1"]
    assert main([*words, f"--output={tmp_path}"]) != 0
    assert "xpu" in capsys.readouterr().err.lower()
