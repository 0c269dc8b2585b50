"""Twenty faults that would make a run useless: each is reported before or within the first 20 steps.

Those that need machinery of their own stand elsewhere; a test sees that they are there.
"""

import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from coinage.cli.train import train_command
from coinage.demo.worlds import MODELS
from coinage.errors import CoinageError, TrainingError
from coinage.models.stable_diffusion import StableDiffusion
from coinage.terminal.messages import WarningCollector
from coinage.training import loop
from coinage.training.observers.watchdog import PATIENCE
from coinage.training.run import Run
from tests.cli.test_bad_input import ROOT
from tests.helpers import flags, rows_of, trained

ELSEWHERE = {
    "disk full": "training/test_full_disk.py::test_a_disk_that_fills_up",
    "killed worker": "training/test_processes.py::test_a_process_that_is_killed_ends_the_run",
    "clock going backwards": "training/test_faults.py::test_a_clock_that_goes_backwards",
}
LONG = (f"--max_train_steps={PATIENCE + 5}", "--cache_latents")


@dataclass(frozen=True)
class Fault:
    """What is done to a dataset's folder, with which flags it is trained, and what must be told."""

    told: str
    given: tuple[str, ...] = ()
    spoil: Callable[[Path], None] = lambda _: None
    ends: bool = True  # before the model is loaded; else it is a warning, and the run goes on


def rewrite(old: str, new: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        for file in (folder / "images").glob("*.txt"):
            file.write_text(file.read_text().replace(old, new))

    return spoil


def set_in_toml(*lines: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        file = folder / "dataset.toml"
        file.write_text(
            file.read_text().replace("num_repeats = 10", "\n".join(["num_repeats = 10", *lines]))
        )

    return spoil


def late_word(folder: Path) -> None:
    rewrite("a photo of", "a photo of, " + "nice, " * 45)(folder)


def shuffled(folder: Path) -> None:
    rewrite("a photo of", "zibu, " + "nice, " * 45)(folder)
    set_in_toml("shuffle_caption = true")(folder)


def maybe(folder: Path) -> None:
    rewrite("zibu", "{zibu|shape}")(folder)
    set_in_toml("enable_wildcard = true")(folder)


def damaged(folder: Path) -> None:
    image = next((folder / "images").glob("*.png"))
    image.write_bytes(image.read_bytes()[:200])


def flat(folder: Path) -> None:
    Image.new("RGB", (64, 64), (90, 90, 90)).save(next((folder / "images").glob("*.png")))


def hidden(folder: Path) -> None:
    (folder / "masks").mkdir()
    for image in (folder / "images").glob("*.png"):
        Image.new("L", (64, 64), 0).save(folder / "masks" / image.name)
    set_in_toml(f'conditioning_data_dir = "{folder / "masks"}"')(folder)


def with_regularisation(folder: Path) -> None:
    shutil.copytree(folder / "images", folder / "reg")
    for file in (folder / "reg").glob("*.txt"):
        file.write_text("a photo of a shape")
    file = folder / "dataset.toml"
    more = (
        f'\n[[datasets.subsets]]\nimage_dir = "{folder / "reg"}"\n'
        'is_reg = true\nnum_repeats = 10\ncaption_extension = ".txt"\n'
    )
    file.write_text(file.read_text().replace("batch_size = 4", "batch_size = 1") + more)


BEFORE: dict[str, Fault] = {
    "caption without the word": Fault(
        "no caption contains the word zibu", spoil=rewrite("zibu", "shape")
    ),
    "word lost by shuffle": Fault(
        "captions are longer than 75 tokens, and the word zibu is cut off",
        spoil=shuffled,
        given=("--keep_tokens=0",),
    ),
    "word lost by drop": Fault(
        r"captions do not contain `zibu` \(8 of them not always\)", spoil=maybe, ends=False
    ),
    "word lost by truncation": Fault(
        "captions are longer than 75 tokens, and the word zibu is cut off", spoil=late_word
    ),
    "word in the vocabulary": Fault(
        "circle is already in the model's vocabulary", given=("--token_string=circle",)
    ),
    "lr 1e-6": Fault("the word can hardly change", given=("--learning_rate=1e-6",), ends=False),
    "lr 10": Fault(
        "times the length of the model's words", given=("--learning_rate=10",), ends=False
    ),
    "corrupt image": Fault("cannot be decoded|cannot read|damaged|truncated", spoil=damaged),
    "constant image": Fault("1 of 8 images is a single flat colour", spoil=flat, ends=False),
    "mask that hides everything": Fault(
        "the masks hide all of every image", spoil=hidden, given=("--masked_loss",)
    ),
    "wrong family": Fault(
        "--pretrained_model_name_or_path: .*XL",
        given=(f"--pretrained_model_name_or_path={MODELS / 'sdxl'}",),
    ),
    "regularisation images only": Fault(
        "8 regularisation images without the word zibu", spoil=with_regularisation, ends=False
    ),
    "read-only output": Fault(
        "--output_dir: cannot write there", given=("--output_dir=/proc/coinage",)
    ),
}


@pytest.fixture
def folder(moon_dataset: Path, tmp_path: Path) -> Path:
    """A dataset to spoil."""
    copied = tmp_path / "data"
    shutil.copytree(moon_dataset.parent, copied)
    file = copied / "dataset.toml"
    file.write_text(file.read_text().replace(str(moon_dataset.parent), str(copied)))
    return copied


@pytest.mark.parametrize("name", BEFORE)
def test_known_before_the_model_is_loaded(
    name: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fault = BEFORE[name]
    fault.spoil(folder)
    code = train_command(
        "sd", [*flags(folder / "dataset.toml", tmp_path / "out"), "--dry_run", *fault.given]
    )
    told = capsys.readouterr().err
    assert code == (2 if fault.ends else 0), told
    kind = "error: " if fault.ends else "warning: "
    blocks = [block for block in told.split("\n") if block.startswith(kind)]
    assert any(re.search(fault.told, block) for block in blocks), told


@pytest.fixture
def heard() -> Iterator[WarningCollector]:
    """The warnings so far."""
    with WarningCollector() as warned:
        yield warned


def test_steps_that_fp16_rounds_away(
    moon_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = loop.update

    def in_half(run: Run) -> None:
        for rows in run.parts.rows():
            rows.data = rows.data.half().float()

    def update(run: Run) -> None:
        real(run)
        in_half(run)

    monkeypatch.setattr(loop, "update", update)
    with pytest.raises(
        TrainingError,
        match=r"\d+% of its numbers have not changed in 20 steps: "
        "the changes are rounded away",
    ):
        trained(moon_dataset, tmp_path, *LONG, "--learning_rate=2e-6", change=in_half)


class Deaf:
    """An attention kernel whose gradient is lost."""

    def __init__(self, inner: Callable[..., torch.Tensor]) -> None:
        self._inner = inner

    def __call__(
        self,
        attn: torch.nn.Module,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        **more: object,
    ) -> torch.Tensor:
        text = None if encoder_hidden_states is None else encoder_hidden_states.detach()
        return self._inner(attn, hidden_states, text, **more)


def test_attention_without_gradient_is_replaced(
    moon_dataset: Path, tmp_path: Path, heard: WarningCollector
) -> None:
    def deafen(run: Run) -> None:
        kept = run.parts.denoiser.attn_processors
        run.parts.denoiser.set_attn_processor(
            {name: Deaf(processor) for name, processor in kept.items()}
        )

    _, word = trained(moon_dataset, tmp_path / "a", *LONG, change=deafen)
    assert any(
        "the attention kernels give a wrong gradient (0.00 of the right length" in text
        for text in heard.texts
    )
    _, healthy = trained(moon_dataset, tmp_path / "b", *LONG)
    torch.testing.assert_close(rows_of(word), rows_of(healthy), rtol=0, atol=1e-3)


def test_a_text_encoder_that_is_cut_off(
    moon_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = StableDiffusion.encode_ids

    def detached(*arguments: object, **more: object) -> object:
        with torch.no_grad():
            return encode(*arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(StableDiffusion, "encode_ids", detached)
    with pytest.raises(
        TrainingError, match=f"no gradient has reached the word in {PATIENCE} steps"
    ):
        trained(moon_dataset, tmp_path, *LONG)


def test_a_vae_that_makes_no_numbers(moon_dataset: Path, tmp_path: Path) -> None:
    def spoil(run: Run) -> None:
        run.parts.vae.encoder.conv_out.weight.data.fill_(float("nan"))

    with pytest.raises(CoinageError, match="the VAE makes no finite latents of this image"):
        trained(moon_dataset, tmp_path, f"--max_train_steps={PATIENCE}", change=spoil)


def test_one_image_whose_latents_are_no_numbers(moon_dataset: Path, tmp_path: Path) -> None:
    """It is named."""
    named = sorted((moon_dataset.parent / "images").glob("*.png"))[3]
    pixel = float(np.asarray(Image.open(named).convert("RGB"))[0, 0, 0]) / 127.5 - 1
    others = [
        path
        for path in named.parent.glob("*.png")
        if path != named
        and np.asarray(Image.open(path).convert("RGB"))[0, 0, 0] / 127.5 - 1 == pixel
    ]

    def spoil(run: Run) -> None:
        def poison(
            _: torch.nn.Module, arguments: tuple[torch.Tensor, ...]
        ) -> tuple[torch.Tensor, ...]:
            (images,) = arguments
            images = images.clone()
            images[(images[:, 0, 0, 0] - pixel).abs() < 1e-5] = float("nan")
            return (images,)

        run.parts.vae.encoder.register_forward_pre_hook(poison)

    with pytest.raises(
        CoinageError, match="the VAE makes no finite latents of this image"
    ) as caught:
        trained(moon_dataset, tmp_path, f"--max_train_steps={PATIENCE}", change=spoil)
    assert caught.value.problems[0].where in {str(path) for path in (named, *others)}


@pytest.mark.parametrize(
    ("family", "given", "told"),
    [
        (
            "sd1",
            "--v_parameterization",
            "the model predicts the noise, but is trained as if it predicted v",
        ),
        ("sd2", "", "the model predicts v, but is trained as if it predicted the noise"),
    ],
)
def test_a_wrong_prediction_type(
    family: str, given: str, told: str, moon_dataset: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(MODELS / family, model)
    if not given:
        config = model / "scheduler" / "scheduler_config.json"
        config.write_text(config.read_text().replace("v_prediction", "epsilon"))
    words = [f"--pretrained_model_name_or_path={model}", *([given] if given else ["--v2"])]
    with pytest.raises(TrainingError, match=told) as caught:
        trained(moon_dataset, tmp_path / "out", *LONG, *words)
    hint = (
        "leave out --v_parameterization"
        if given
        else "add --v_parameterization, and --zero_terminal_snr if the model was trained with it"
    )
    assert caught.value.problems[0].hint.startswith(hint)
    run, _ = trained(
        moon_dataset, tmp_path / "warned", "--max_train_steps=2", "--on_problem=warn", *words
    )
    assert run.step == 2


def test_a_clock_that_goes_backwards(
    moon_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, heard: WarningCollector
) -> None:
    """A day at every step: nothing is lost, overwritten or told wrong."""
    import time

    real, real_update = time.time, loop.update
    steps = []

    def update(run: Run) -> None:
        real_update(run)
        steps.append(run.step)

    monkeypatch.setattr(loop, "update", update)
    monkeypatch.setattr(time, "time", lambda: real() - 86_400 * len(steps))
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("zibu --w 64 --h 64 --s 1 --d 1\n" * 3)
    saved = (
        "--max_train_steps=6",
        "--cache_latents",
        "--save_every_n_steps=2",
        "--save_state",
        "--sample_every_n_steps=3",
    )
    saved += (f"--sample_prompts={prompts}",)
    trained(moon_dataset, tmp_path / "a", *saved)
    run, word = trained(moon_dataset, tmp_path / "a", *saved, "--resume=latest")
    assert (run.step, len(steps)) == (6, 6), (
        "the state with the most steps is the latest, whatever the clock says"
    )
    monkeypatch.undo()
    _, whole = trained(moon_dataset, tmp_path / "b", *saved)
    assert torch.equal(rows_of(word), rows_of(whole))
    assert len(list((tmp_path / "a" / "sample").glob("zibu_000006_*"))) == 3
    assert not heard.texts


def test_the_other_faults_have_their_tests() -> None:
    for place in ELSEWHERE.values():
        file, _, name = place.partition("::")
        assert f"def {name}(" in (ROOT / "tests" / file).read_text(encoding="utf-8"), place
