"""A hundred healthy runs, each with other settings: none raises an alarm."""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from coinage.checks import make_plans
from coinage.cli.parse import parse
from coinage.demo.concepts import CONCEPTS
from coinage.demo.dataset import write_dataset
from coinage.demo.worlds import MODELS
from coinage.settings.discover import complete
from coinage.terminal.messages import WarningCollector
from coinage.training.observers.watchdog import PATIENCE
from coinage.training.run import Run
from tests.helpers import flags, trained

RUNS, SEED, OFTEN = 100, 1, 3
# A rate, and a length of the run in which it teaches something and not too much.
RATES = {"1e-4": 1600, "3e-4": 800, "1e-3": 400, "3e-3": 300, "1e-2": 100, "3e-2": 50}
OWN_RATE = {"Prodigy", "DAdaptAdam", "DAdaptLion", "DAdaptSGD", "DAdaptAdaGrad"}
NO_SCHEDULE = {"AdaFactor", "AdamWScheduleFree", "RAdamScheduleFree"}
WARM_UP = "--lr_warmup_steps"
OPTIONS: Mapping[str, Sequence[str]] = {
    "family": ("sd1", "sd2 --v2", "sdxl"),
    "concept": tuple(CONCEPTS),
    "vectors": ("1", "1", "2", "3", "4", "5", "6", "7", "8"),
    "start": ("--init_word=shape", "--init_word=circle", "--init_word=a red square"),
    "batch": (
        "--train_batch_size=1", "--train_batch_size=1", "--train_batch_size=2",
        "--train_batch_size=1", "--train_batch_size=3",
    ),
    "accumulation": (
        "", "", "", "", "", "", "--gradient_accumulation_steps=2",
        "--gradient_accumulation_steps=3",
    ),
    "optimizer": (
        "AdamW", "AdamW", "AdamW8bit", "PagedAdamW", "Lion", "Prodigy", "DAdaptAdam", "DAdaptLion",
        "DAdaptSGD", "DAdaptAdaGrad",
        "AdaFactor", "AdaFactor --optimizer_args relative_step=False scale_parameter=False",
        "SGDNesterov", "AdamWScheduleFree",
        "RAdamScheduleFree", "RMSprop", "NAdam",
        "AdamW --optimizer_args weight_decay=0.1 eps=1e-6", "pytorch_optimizer.CAME",
    ),
    "rate": tuple(RATES),
    "schedule": (
        "", "", "--lr_scheduler=cosine", f"--lr_scheduler=constant_with_warmup {WARM_UP}=5",
        f"--lr_scheduler=cosine {WARM_UP}=0.5",
        f"--lr_scheduler=linear {WARM_UP}=30",
        "--lr_scheduler=cosine_with_restarts --lr_scheduler_num_cycles=3",
        f"--lr_scheduler=polynomial --lr_scheduler_power=2 {WARM_UP}=10",
        f"--lr_scheduler=inverse_sqrt {WARM_UP}=25",
        f"--lr_scheduler=warmup_stable_decay {WARM_UP}=0.2 --lr_decay_steps=0.2",
        "--lr_scheduler_type=StepLR --lr_scheduler_args step_size=5",
    ),
    "clipping": ("", "--max_grad_norm=0", "--max_grad_norm=0.01"),
    "precision": (
        "", "", "--mixed_precision=bf16", "--mixed_precision=bf16 --full_bf16",
        "--mixed_precision=bf16 --fp8_base",
        "--mixed_precision=fp16",
    ),
    "checkpointing": ("", "", "--gradient_checkpointing"),
    "latents": (
        "--cache_latents", "--cache_latents_to_disk", "", "--vae_batch_size=2 --cache_latents",
    ),
    "pictures": (
        "", "", "--flip_aug", "--color_aug", "--random_crop",
        "--enable_bucket --min_bucket_reso=64",
    ),
    "captions": (
        "", "", "--shuffle_caption",
        "--shuffle_caption --keep_tokens=1 --caption_tag_dropout_rate=0.3", "--enable_wildcard",
        "--shuffle_caption --token_warmup_step=100", "--use_object_template",
        "--use_style_template", "--caption_prefix=nice",
    ),
    "masks": ("", "", "", "--masked_loss", "--masked_loss --mask_normalize"),
    "noise": (
        "", "", "--noise_offset=0.1",
        "--noise_offset=0.05 --noise_offset_random_strength --adaptive_noise_scale=0.01",
        "--multires_noise_iterations=6", "--ip_noise_gamma=0.1",
        "--ip_noise_gamma=0.1 --ip_noise_gamma_random_strength",
    ),
    "timesteps": (
        "", "", "", "--min_timestep=500", "--max_timestep=500", "--min_timestep=900",
        "--max_timestep=100",
    ),
    "loss": (
        "", "", "--loss_type=huber", "--loss_type=huber --huber_schedule=constant --huber_c=0.01",
        "--loss_type=smooth_l1",
        "--loss_type=smooth_l1 --huber_schedule=exponential", "--loss_type=l1",
    ),
    "weighting": (
        "", "", "--min_snr_gamma=5", "--debiased_estimation_loss", "--min_snr_gamma=1", "own",
    ),
    "text": ("", "", "", "--clip_skip=2", "--max_token_length=150", "--max_token_length=225"),
    "validation": ("", "", "", "--validation_split=0.25 --validate_every_n_steps=10"),
    "previews": ("", "", "", "--sample_at_first --sample_every_n_steps=10"),
    "schedule of noise": ("", "", "--zero_terminal_snr"),
    "begun": ("", "", "", "", "resumed"),
}  # fmt: skip
OWN_WEIGHTING = {
    "sd1": "--v_pred_like_loss=0.3",
    "sd2": "--scale_v_pred_loss_like_noise_pred",
    "sdxl": "--v_pred_like_loss=0.1",
}


def drawn(runs: int, seed: int) -> Iterator[dict[str, str]]:
    """Settings of each run: every option as often as any other of its kind, in an order of their own."""
    rng = np.random.default_rng(seed)
    columns = {
        kind: rng.permutation(np.resize(np.array(options, dtype=object), runs))
        for kind, options in OPTIONS.items()
    }
    for number in range(runs):
        yield mended({kind: str(column[number]) for kind, column in columns.items()})


def mended(settings: dict[str, str]) -> dict[str, str]:
    """Without what does not go together."""
    family, optimizer = settings["family"].split()[0], settings["optimizer"].split()[0]
    # It divides by the rate
    if settings["optimizer"] in NO_SCHEDULE or (
        optimizer == "DAdaptSGD" and WARM_UP in settings["schedule"]
    ):
        settings["schedule"] = ""
    if settings["weighting"] == "own":
        settings["weighting"] = OWN_WEIGHTING[family]
    if family != "sd2":
        settings["schedule of noise"] = ""  # a model of the noise cannot start from noise alone
    if settings["pictures"] in ("--color_aug", "--random_crop"):
        settings["latents"] = ""
    tokens = settings["start"].removeprefix("--init_word=").split()
    # More than vectors are cut, and told
    settings["start"] = f"--init_word={' '.join(tokens[-int(settings['vectors']) :])}"
    if optimizer in OWN_RATE:
        settings["rate"] = "1"
    return settings


@dataclass(frozen=True)
class Places:
    """Datasets by concept, with files that settings name."""

    root: Path

    def dataset(self, settings: Mapping[str, str]) -> Path:
        """A concept's pictures, with captions, shapes and masks as the settings want them."""
        folder = self.root / "data"
        shutil.rmtree(folder, ignore_errors=True)
        file = write_dataset(folder, CONCEPTS[settings["concept"]], "zibu", seed=0)
        for number, image in enumerate(sorted((folder / "images").glob("*.png"))):
            text = image.with_suffix(".txt")
            caption = text.read_text().strip()
            if "shuffle" in settings["captions"]:
                text.write_text(
                    caption.replace(" on ", ", on ").replace("a photo of ", "a photo of, ")
                )
            elif "wildcard" in settings["captions"]:
                text.write_text(f"{caption}\n{{nice|small}} zibu\na {{2$$red|round|large}} zibu")
            if "bucket" in settings["pictures"]:
                with Image.open(image) as opened:
                    pixels = opened.convert("RGB").resize(
                        ((64, 64), (128, 64), (64, 128))[number % 3]
                    )
                pixels.save(image)
            if settings["masks"]:
                (folder / "masks").mkdir(exist_ok=True)
                with Image.open(image) as opened:
                    mask = Image.new("L", opened.size, 30)
                mask.paste(255, (16, 16, 56, 48))
                mask.save(folder / "masks" / image.name)
        lines = [
            line for line in file.read_text().splitlines() if not line.startswith("batch_size")
        ]
        lines += (
            [f"conditioning_data_dir = {json.dumps((folder / 'masks').as_posix())}"]
            if settings["masks"]
            else []
        )
        file.write_text("\n".join(lines))
        return file

    def prompts(self) -> Path:
        file = self.root / "prompts.txt"
        file.write_text("a zibu --w 64 --h 64 --s 2 --d 1\na circle --w 64 --h 64 --s 2 --d 1\n")
        return file


def words(settings: Mapping[str, str], places: Places) -> list[str]:
    """The command of a run."""
    family, *more = settings["family"].split()
    given = [
        *more,
        f"--pretrained_model_name_or_path={MODELS / family}",
        settings["start"],
        f"--num_vectors_per_token={settings['vectors']}",
        f"--learning_rate={settings['rate']}",
        f"--max_train_steps={RATES.get(settings['rate'], 200)}",
        f"--optimizer_type={settings['optimizer']}",
        settings["previews"] or "--sample_every_n_steps=0",
    ]
    if settings["previews"]:
        given.append(f"--sample_prompts={places.prompts()}")
    as_they_are = {
        "family",
        "concept",
        "vectors",
        "start",
        "rate",
        "optimizer",
        "previews",
        "begun",
    }
    given += [value for kind, value in settings.items() if kind not in as_they_are]
    # The value of an option may hold spaces, other than those before its next flag.
    return [
        word
        for text in given
        for word in (text.split() if " --" in text or "args" in text else [text])
        if word
    ]


def alarms(settings: Mapping[str, str], places: Places) -> list[str]:
    """Everything a run warns of, and what ends it."""
    out = places.root / "out"
    shutil.rmtree(out, ignore_errors=True)
    given = flags(places.dataset(settings), out, *words(settings, places))
    parts = (
        [(3, []), (3 + PATIENCE, ["--resume=latest"])]
        if settings["begun"]
        else [(PATIENCE + 1, [])]
    )
    found: list[str] = []
    with WarningCollector() as warned:
        try:
            for steps, more in parts:
                config, _ = complete(parse("coinage", [*given, *more], "test"))
                found += map(str, make_plans([config])[0].warnings)
                run, _ = trained(
                    places.root,
                    out,
                    change=lambda run, steps=steps: end_after(run, steps),
                    config=config,
                )
                if run.step < steps:
                    found.append(f"it ended after {run.step} steps")
        except Exception as error:  # noqa: BLE001 - each is a finding
            found.append(f"{type(error).__name__}: {error}")
    return [*found, *warned.texts]


def end_after(run: Run, steps: int) -> None:
    """Have a run stop as where its user presses Ctrl-C, so that rate and schedule are those of a long one."""

    def count(*_: object) -> None:
        if run.step + 1 >= steps - 1:  # the next step is the last
            run.progress.stop_signal = 2

    run.optimizer.register_step_post_hook(count)


def test_every_option_is_drawn_often() -> None:
    runs = list(drawn(RUNS, SEED))
    for kind, options in OPTIONS.items():
        for option in set(options) - {"own"}:
            times = sum(settings[kind] == option for settings in runs)
            assert times >= OFTEN, f"{kind}: {option!r} is drawn {times} times"


@pytest.mark.slow
def test_healthy_runs_raise_no_alarm(tmp_path: Path) -> None:
    places, told = Places(tmp_path), []
    for number, settings in enumerate(drawn(RUNS, SEED)):
        found = alarms(settings, places)
        if found:
            told.append(
                "\n".join(
                    [
                        f"run {number}: {' '.join(words(settings, places))} {settings['begun']}",
                        *found,
                    ]
                )
            )
    assert not told, f"{len(told)} of {RUNS} healthy runs raise an alarm:\n" + "\n\n".join(told)
