"""What datasets mean for a run: readers, masks, regularisation and held-out images, latents on disk."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from coinage.checks import make_plans
from coinage.cli.train import train_command
from coinage.data.sample import LATENTS
from coinage.demo.concepts import CONCEPTS
from coinage.demo.dataset import write_dataset
from coinage.errors import ConfigError
from coinage.training.observers.saver import describe
from coinage.training.run import Run
from coinage.training.session import cache_latents
from coinage.training.step import forward
from tests.data.pictures import picture
from tests.helpers import captured, config_for, flags, prepared, rows_of, trained


def dataset(tmp_path: Path, *lines: str) -> Path:
    """Eight pictures of a moon in one subset, with more keys; each used twice an epoch."""
    file = write_dataset(tmp_path / "data", CONCEPTS["moon"], "zibu", seed=0)
    text = file.read_text(encoding="utf-8").replace("num_repeats = 10", "num_repeats = 2")
    file.write_text("\n".join([text, *lines, ""]), encoding="utf-8")
    return file


VARIED = ("color_aug = true", "random_crop = true", "flip_aug = true", "shuffle_caption = true")


@pytest.mark.parametrize("kind", ["uncached", "memory", "disk"])
def test_any_number_of_readers_trains_the_same_word(tmp_path: Path, kind: str) -> None:
    lines = VARIED if kind == "uncached" else VARIED[2:]
    cache = {"uncached": [], "memory": ["--cache_latents"], "disk": ["--cache_latents_to_disk"]}[
        kind
    ]
    file = dataset(tmp_path, *lines)
    file.write_text(
        file.read_text(encoding="utf-8").replace("resolution = 64", "resolution = [64, 48]"),
        encoding="utf-8",
    )
    words = []
    for readers in (0, 2, 8):
        _, word = trained(
            file,
            tmp_path / str(readers),
            *cache,
            f"--max_data_loader_n_workers={readers}",
            "--max_train_steps=6",
        )
        words.append(rows_of(word))
    assert torch.equal(words[0], words[1])
    assert torch.equal(words[0], words[2])


def test_varied_images_differ_from_epoch_to_epoch(tmp_path: Path) -> None:
    run = prepared(dataset(tmp_path, "color_aug = true"), tmp_path / "o")
    seen: dict[int, list[torch.Tensor]] = {}
    for epoch in (0, 1, 2):
        for group in run.epoch_inputs(epoch):
            for caption, moments in zip(
                group.batches[0].captions, group.batches[0].moments, strict=True
            ):
                seen.setdefault(hash(caption), []).append(moments)
    changed = [
        not all(torch.allclose(m, many[0], atol=1e-4) for m in many) for many in seen.values()
    ]
    assert any(changed)
    again = list(run.epoch_inputs(1))
    for one, two in zip(again, run.epoch_inputs(1), strict=True):
        assert torch.equal(one.batches[0].moments, two.batches[0].moments)


# Latents on disk


def test_latents_on_disk_train_the_same_word_and_are_used_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = dataset(tmp_path)
    _, plain = trained(file, tmp_path / "a", "--cache_latents")
    _, first = trained(file, tmp_path / "b", "--cache_latents_to_disk")
    entries = sorted((tmp_path / "data" / "images" / LATENTS).iterdir())
    before = [entry.stat().st_mtime_ns for entry in entries]
    _, second = trained(file, tmp_path / "c", "--cache_latents_to_disk")
    assert len(entries) == 8
    assert [entry.stat().st_mtime_ns for entry in entries] == before
    assert torch.equal(rows_of(first), rows_of(second))
    assert torch.equal(rows_of(first), rows_of(plain))
    entries[2].write_bytes(b"spoiled")
    with caplog.at_level(logging.WARNING, logger="coinage"):
        cache_latents([prepared(file, tmp_path / "d", "--cache_latents_to_disk")])
    assert (
        "1 latents on disk could not be used and are encoded again (03.png: the file is broken)"
        in caplog.text
    )


def test_a_cache_folder_of_ones_own(tmp_path: Path) -> None:
    trained(
        dataset(tmp_path),
        tmp_path / "o",
        "--cache_latents_to_disk",
        f"--cache_dir={tmp_path / 'cache'}",
    )
    assert len(list((tmp_path / "cache").rglob("*.safetensors"))) == 8
    assert not (tmp_path / "data" / "images" / ".coinage").exists()


def test_the_command_reports_what_it_encoded(tmp_path: Path) -> None:
    words = flags(
        dataset(tmp_path), tmp_path / "o", "--cache_latents_to_disk", "--max_train_steps=1"
    )
    done = captured(lambda: train_command("sd", words))
    assert done.returncode == 0, done.stderr
    assert "run     1 step, 1 epoch" in done.stderr
    assert "data    64x64, 1 bucket, 8 images (16 with repeats) in 4 batches of 4" in done.stderr


# Masks


def with_masks(tmp_path: Path, value: int, **more: object) -> Path:
    """The moon dataset with flat grey masks, or masks whose left half is white."""
    file = dataset(tmp_path, f'conditioning_data_dir = "{tmp_path / "masks"}"')
    (tmp_path / "masks").mkdir()
    for path in sorted((tmp_path / "data" / "images").glob("*.png")):
        mask = np.full((64, 64), value, dtype=np.uint8)
        if more.get("left_only"):
            mask[:, 32:] = 0
        Image.fromarray(mask).save(tmp_path / "masks" / path.name)
    return file


def losses(run: Run) -> torch.Tensor:
    (group, *_) = run.epoch_inputs(0)
    with torch.no_grad():
        return forward(
            run.family, run.parts, group.batches[0], run.config.noise, run.loss
        ).per_sample


@pytest.mark.parametrize("value", [255, 51])
def test_a_flat_mask_scales_the_loss(tmp_path: Path, value: int) -> None:
    file = with_masks(tmp_path, value)
    masked, normalized = (
        losses(prepared(file, tmp_path / "o", "--masked_loss", *more))
        for more in ((), ("--mask_normalize",))
    )
    plain = losses(prepared(dataset(tmp_path / "plain"), tmp_path / "o"))
    torch.testing.assert_close(masked, plain * value / 255, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(normalized, plain, rtol=1e-4, atol=1e-6)


def test_what_a_mask_hides_teaches_nothing(tmp_path: Path) -> None:
    run = prepared(with_masks(tmp_path, 255, left_only=True), tmp_path / "o", "--cache_latents")
    run.latents.cache(4, lambda _: None)
    (group, *_) = run.epoch_inputs(0)
    batch = group.batches[0]
    assert batch.mask is not None
    half = batch.mask.shape[-1] // 2
    assert (batch.mask[..., :half].mean(), batch.mask[..., half:].mean()) == (1, 0)


def test_images_without_a_mask_count_whole_beside_masked_ones(tmp_path: Path) -> None:
    file = dataset(tmp_path, "alpha_mask = true")
    image = tmp_path / "data" / "images" / "01.png"
    with Image.open(image) as opened:
        rgba = opened.convert("RGBA")
    rgba.putalpha(0)
    rgba.save(image)
    run = prepared(file, tmp_path / "o")
    means = [
        m.mean().item()
        for group in run.epoch_inputs(0)
        if group.batches[0].mask is not None
        for m in group.batches[0].mask
    ]
    assert set(means) == {0.0, 1.0}


def test_masks_that_are_asked_for_and_missing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--masked_loss: no image has a mask"):
        make_plans([config_for(dataset(tmp_path), tmp_path / "o", "--masked_loss")])[0]


def test_next_to_empty_masks_are_told(tmp_path: Path) -> None:
    found = make_plans([config_for(with_masks(tmp_path, 2), tmp_path / "o")])[0]
    assert "8 masks with less than 2% of the image left" in found.warnings[0].what


def test_masks_go_with_several_vectors_and_templates(tmp_path: Path) -> None:
    run = prepared(
        with_masks(tmp_path, 255),
        tmp_path / "o",
        "--num_vectors_per_token=3",
        "--use_object_template",
        "--cache_latents",
    )
    (group, *_) = run.epoch_inputs(0)
    assert all("zibu" in caption for caption in group.batches[0].captions)
    forward(
        run.family, run.parts, group.batches[0], run.config.noise, run.loss
    ).per_sample.sum().backward()
    gradient = run.parts.rows()[0].grad
    assert gradient is not None
    assert (gradient.abs().sum(dim=1) > 0).all()


# Regularisation images


def with_regularisation(tmp_path: Path, count: int = 3) -> Path:
    reg = tmp_path / "reg"
    for i in range(count):
        picture(reg / f"{i}.png", (64, 64), "green", caption="a photo of a shape")
    return dataset(
        tmp_path, "[[datasets.subsets]]", f'image_dir = "{reg}"', "is_reg = true", "num_repeats = 1"
    )


def test_regularisation_images_are_balanced_and_weighed(tmp_path: Path) -> None:
    config = config_for(with_regularisation(tmp_path), tmp_path / "o", "--prior_loss_weight=0.25")
    checked = make_plans([config])[0]
    assert [s.repeats for s in checked.samples] == [2] * 8 + [6, 5, 5]
    assert any(
        "3 regularisation images without the word zibu" in warning.what
        for warning in checked.warnings
    )
    run = prepared(
        with_regularisation(tmp_path / "again"), tmp_path / "o", "--prior_loss_weight=0.25"
    )
    uses = [
        (caption, weight)
        for group in run.epoch_inputs(0)
        for caption, weight in zip(
            group.batches[0].captions, group.batches[0].weights.tolist(), strict=True
        )
    ]
    assert len(uses) == 32
    assert all(weight == (1.0 if "zibu" in caption else 0.25) for caption, weight in uses)
    assert describe(run, "x")["ti.num_images"] == "8"


def test_a_weight_scales_a_samples_loss(tmp_path: Path) -> None:
    file = with_regularisation(tmp_path)
    whole, quarter = (
        losses(prepared(file, tmp_path / "o", f"--prior_loss_weight={weight}"))
        for weight in (1, 0.25)
    )
    ratios = (quarter / whole).tolist()
    assert sorted({round(ratio, 4) for ratio in ratios}) == [0.25, 1.0]


def test_templates_leave_regularisation_captions_alone(tmp_path: Path) -> None:
    run = prepared(with_regularisation(tmp_path), tmp_path / "o", "--use_object_template")
    captions = {caption for group in run.epoch_inputs(0) for caption in group.batches[0].captions}
    assert "a photo of a shape" in captions
    assert all("zibu" in caption for caption in captions - {"a photo of a shape"})


# Held-out images


def test_held_out_images_are_measured_and_never_trained_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = dataset(tmp_path, "validation_split = 0.25")
    logs = tmp_path / "logs"
    with caplog.at_level(logging.INFO, logger="coinage"):
        run, _ = trained(
            file,
            tmp_path / "o",
            "--cache_latents",
            "--max_train_steps=4",
            "--validate_every_n_steps=2",
            f"--logging_dir={logs}",
        )
    held_out = [s.path.name for s in run.samples if s.held_out]
    assert len(held_out) == 2
    captions = {s.path.name: s.caption for s in run.samples}
    used = [
        caption
        for epoch in range(3)
        for group in run.epoch_inputs(epoch)
        for caption in group.batches[0].captions
    ]
    assert not {captions[name] for name in held_out} & set(used)
    assert len(used) == 3 * 6 * 2
    assert [
        line for line in ("step 0:", "step 2:", "step 4:") if f"{line} loss" in caplog.text
    ] == ["step 0:", "step 2:", "step 4:"]
    (events,) = logs.glob("*/textual_inversion")
    data = EventAccumulator(str(events)).Reload()
    assert [e.step for e in data.Scalars("loss/validation")] == [0, 2, 4]


def test_measuring_does_not_change_the_run(tmp_path: Path) -> None:
    file = dataset(tmp_path, "validation_split = 0.25")
    words = [
        rows_of(trained(file, tmp_path / str(n), f"--validate_every_n_steps={n}")[1])
        for n in (1, 3)
    ]
    assert torch.equal(words[0], words[1])


def test_the_same_folder_at_two_resolutions_holds_out_the_same_images(tmp_path: Path) -> None:
    file = dataset(tmp_path, "validation_split = 0.25")
    text = file.read_text(encoding="utf-8")
    start = text.index("[[datasets]]")
    file.write_text(
        text + text[start:].replace("resolution = 64", "resolution = 48"), encoding="utf-8"
    )
    samples = make_plans([config_for(file, tmp_path / "o")])[0].samples
    held_out = [{s.path.name for s in samples if s.held_out and s.dataset == i} for i in (0, 1)]
    assert held_out[0] == held_out[1]
    assert len(held_out[0]) == 2


def test_holding_out_everything_leaves_nothing_to_train_on(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no images to train on"):
        make_plans([config_for(dataset(tmp_path, "validation_split = 1"), tmp_path / "o")])[0]
