"""What masks hide, what is held to the model's own prediction, and subsets that weigh more or less."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from coinage.checks import make_plans
from coinage.cli.parse import parse
from coinage.config import WordConfig
from coinage.data.batches import plan_epoch
from coinage.errors import ConfigError
from coinage.runs.states import fingerprint
from coinage.settings.discover import complete
from coinage.training.evaluation import evaluation_loss, evaluation_set
from coinage.training.loop import train_together
from coinage.training.prior import own_caption
from coinage.training.run import Run
from coinage.training.setup import prepare, prepare_all
from coinage.training.step import forward
from tests.helpers import config_for, flags, prepared, rows_of, trained
from tests.training.test_data_in_training import dataset, losses, with_masks

PRESERVE = "--masked_prior_preservation_weight=1"


def move(run: Run, distance: float) -> None:
    """Move the rows in a direction that is the same each time."""
    noise = torch.randn(run.rows[0].shape, generator=torch.manual_seed(0))
    with torch.no_grad():
        run.rows[0].add_(distance * noise)


@pytest.mark.parametrize(
    ("caption", "init_word", "expected"),
    [
        ("a photo of zibu zibu1 at night", "round shape", "a photo of round shape at night"),
        ("zibu, sea; zibus", "shape", "shape, sea; zibus"),
        ("a photo of a zibu at night", None, "a photo at night"),
        ("zibu1", r"\1", r"\1"),
        ("no word", "shape", "no word"),
    ],
)
def test_the_init_word_stands_for_the_word(
    caption: str, init_word: str | None, expected: str
) -> None:
    word = WordConfig(token="zibu", num_vectors=2, init_word=init_word)
    assert own_caption(caption, [word]) == expected


def test_no_word_that_learns_is_left_in_the_own_caption() -> None:
    words = [WordConfig(token="zibu", init_word="shape"), WordConfig(token="wopo")]
    assert own_caption("a zibu with the wopo, at night", words) == "a shape with, at night"


def test_the_least_weight_of_a_mask_is_that_of_what_it_hides(tmp_path: Path) -> None:
    file = with_masks(tmp_path, 255, left_only=True)
    plain = losses(prepared(dataset(tmp_path / "plain"), tmp_path / "o"))
    half, tenth, whole = (
        losses(prepared(file, tmp_path / "o", f"--unmasked_weight={weight}"))
        for weight in (0, 0.1, 1)
    )
    torch.testing.assert_close(whole, plain)
    torch.testing.assert_close(tenth, half + 0.1 * (whole - half))
    assert (half < tenth).all()


def test_masks_are_ignored_as_often_as_asked(tmp_path: Path) -> None:
    run = prepared(
        with_masks(tmp_path, 255, left_only=True), tmp_path / "o", "--unmasked_probability=0.3"
    )
    ignored = []
    for epoch in range(6):
        for group in run.epoch_inputs(epoch):
            mask = group.batches[0].mask
            ignored += [1.0] * 4 if mask is None else mask.flatten(1).amin(dim=1).tolist()
    assert 0.15 < sum(ignored) / len(ignored) < 0.45
    whole = prepared(
        with_masks(tmp_path / "b", 255, left_only=True), tmp_path / "o", "--unmasked_probability=1"
    )
    assert all(group.batches[0].mask is None for group in whole.epoch_inputs(0))


def test_what_a_mask_hides_is_held_to_the_models_own_prediction(tmp_path: Path) -> None:
    """As the word starts from its init word, nothing hidden pulls at it until it has moved."""
    file = with_masks(tmp_path, 255, left_only=True)
    plain, one, three, normal, plain_normal = (
        prepared(file, tmp_path / "o", f"--masked_prior_preservation_weight={weight}", *more)
        for weight, *more in ((0,), (1,), (3,), (1, "--mask_normalize"), (0, "--mask_normalize"))
    )
    torch.testing.assert_close(losses(one), losses(plain), rtol=0, atol=1e-9)
    for run in (plain, one, three, normal, plain_normal):
        move(run, 0.5)
    added = losses(one) - losses(plain)
    assert (added > 1e-5).all()
    torch.testing.assert_close(losses(three) - losses(plain), 3 * added, rtol=1e-2, atol=1e-6)
    # The hidden half is the mean of twice as much
    torch.testing.assert_close(
        losses(normal) - losses(plain_normal), 2 * added, rtol=1e-2, atol=1e-6
    )


def beside(tmp_path: Path, *lines: str, folder: str = "others") -> Path:
    """The moon dataset with a second subset, a copy of its images."""
    file = dataset(tmp_path)
    shutil.copytree(tmp_path / "data" / "images", tmp_path / folder)
    more = ["[[datasets.subsets]]", f'image_dir = "{tmp_path / folder}"', *lines, ""]
    with file.open("a", encoding="utf-8") as text:
        text.write("\n".join(more))
    return file


def by_subset(run: Run) -> tuple[list[float], list[float]]:
    """The losses of the first epoch, of the first subset and of the second."""
    found: tuple[list[float], list[float]] = ([], [])
    subsets = run.config.data.datasets[0].subsets
    plan = plan_epoch(run.samples, run.config.data.batch_sizes, run.config.loop.seed, 0)
    for planned, group in zip(plan, run.epoch_inputs(0), strict=True):
        with torch.no_grad():
            result = forward(
                run.family, run.parts, group.batches[0], run.config.noise, run.loss
            ).per_sample
        for item, loss in zip(planned, result.tolist(), strict=True):
            found[subsets.index(run.samples[item.sample].subset)].append(loss)
    return found


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_a_subset_may_teach_the_models_own_prediction(
    models: Path, tmp_path: Path, family: str
) -> None:
    file = beside(tmp_path, "prior_prediction = true")
    given = flags(file, tmp_path / "o", f"--pretrained_model_name_or_path={models / family}")
    config = complete(parse(family.removesuffix("1"), given, "test"))[0]
    run = prepare(config, make_plans([config])[0].samples, torch.device("cpu"))
    own, prior = by_subset(run)
    assert (len(own), len(prior)) == (16, 8)
    assert max(prior) < 1e-9 < min(own)
    move(run, 0.5)
    assert min(by_subset(run)[1]) > 1e-7


def test_such_a_subset_is_no_part_of_the_evaluation(tmp_path: Path) -> None:
    run = prepared(beside(tmp_path, "prior_prediction = true"), tmp_path / "o")
    plain = prepared(dataset(tmp_path / "plain"), tmp_path / "o")
    assert sum(sample.trains for sample in run.samples) == 8
    assert evaluation_loss(run, evaluation_set(run)) == evaluation_loss(
        plain, evaluation_set(plain)
    )


@pytest.mark.parametrize("flag", ["--early_stop", "--keep_best", "--autopilot=2"])
def test_without_other_images_there_is_nothing_to_measure(tmp_path: Path, flag: str) -> None:
    file = dataset(tmp_path, "prior_prediction = true")
    config = complete(parse("coinage", flags(file, tmp_path / "o", flag), "test"))[0]
    with pytest.raises(
        ConfigError, match=f"{flag.partition('=')[0]}: no image shows what the word means"
    ):
        make_plans([config])


def test_what_is_dropped_or_ignored_at_random_leaves_the_evaluation_alone(tmp_path: Path) -> None:
    file = with_masks(tmp_path, 255, left_only=True)
    more = (
        "--caption_tag_dropout_rate=0.9", "--unmasked_probability=0.5", "--unmasked_weight=0.5", PRESERVE,
        "--timestep_distribution=cos_map", "--random_rotate_max_angle=20", "--random_hue_max_strength=0.2",
    )  # fmt: skip
    plain, varied = (prepared(file, tmp_path / "o", *flags) for flags in ((), more))
    sets = evaluation_set(plain), evaluation_set(varied)
    assert [batch.captions for batch in sets[0]] == [batch.captions for batch in sets[1]]
    assert evaluation_loss(plain, sets[0]) == evaluation_loss(varied, sets[1])


def test_a_caption_without_the_word_teaches_no_prior(tmp_path: Path) -> None:
    file = beside(tmp_path, "prior_prediction = true")
    for caption in (tmp_path / "others").glob("*.txt"):
        caption.write_text("a photo of a shape", encoding="utf-8")
    (plan,) = make_plans([config_for(file, tmp_path / "o")])
    told = [warning.what for warning in plan.warnings if "prior-prediction" in warning.what]
    assert len(told) == 1
    assert told[0].startswith("8 prior-prediction images without the word zibu in the caption")


def test_a_subset_weighs_as_much_as_it_says(tmp_path: Path) -> None:
    plain = by_subset(prepared(beside(tmp_path / "a"), tmp_path / "o"))
    heavy = by_subset(prepared(beside(tmp_path / "b", "loss_weight = 2.5"), tmp_path / "o"))
    assert heavy[0] == plain[0]
    assert heavy[1] == pytest.approx([2.5 * loss for loss in plain[1]], rel=1e-5)


EVERYTHING: Sequence[str] = (
    "--unmasked_probability=0.3", "--unmasked_weight=0.1", PRESERVE, "--timestep_distribution=logit_normal",
    "--noising_weight=0.5", "--timestep_shift=2", "--random_rotate_max_angle=20",
    "--random_brightness_max_strength=0.2", "--random_contrast_max_strength=0.2",
    "--random_saturation_max_strength=0.2", "--random_hue_max_strength=0.1", "--flip_aug", "--random_crop",
    "--caption_tag_dropout_rate=0.5", "--tag_dropout_special_tags=sky", "--enable_bucket",
    "--min_bucket_reso=64", "--max_bucket_reso=128",
)  # fmt: skip


def all_together(tmp_path: Path) -> Path:
    file = beside(tmp_path, "prior_prediction = true", "samples_per_epoch = 5", "loss_weight = 0.5")
    masks = with_masks(tmp_path / "masked", 255, left_only=True)
    text = file.read_text(encoding="utf-8").replace(
        "resolution = 64",
        f'resolution = 64\nconditioning_data_dir = "{tmp_path / "masked" / "masks"}"',
    )
    assert masks
    file.write_text(text, encoding="utf-8")
    return file


def test_a_run_with_all_of_it_goes_on_as_if_it_had_never_stopped(tmp_path: Path) -> None:
    file = all_together(tmp_path)
    _, whole = trained(file, tmp_path / "a", *EVERYTHING, "--max_train_steps=5")
    trained(file, tmp_path / "b", *EVERYTHING, "--max_train_steps=3", "--save_state_on_train_end")
    _, resumed = trained(
        file, tmp_path / "b", *EVERYTHING, "--max_train_steps=5", "--resume=latest"
    )
    assert torch.equal(rows_of(whole), rows_of(resumed))
    plain = trained(file, tmp_path / "c", "--max_train_steps=5")[1]
    assert not torch.equal(rows_of(whole), rows_of(plain))


@pytest.mark.slow
def test_two_words_learn_with_priors_as_each_alone(tmp_path: Path) -> None:
    file = all_together(tmp_path)
    plain = dataset(tmp_path / "plain")
    for caption in (tmp_path / "plain" / "data" / "images").glob("*.txt"):
        text = caption.read_text(encoding="utf-8").replace("zibu", "wopo")
        caption.write_text(text, encoding="utf-8")
    configs = [
        config_for(file, tmp_path / "o", *EVERYTHING, "--init_word=round shape"),
        config_for(plain, tmp_path / "o", *EVERYTHING, "--token_string=wopo"),
    ]
    samples = [plan.samples for plan in (make_plans([config])[0] for config in configs)]
    device = torch.device("cpu")
    together = prepare_all(configs, samples, device, [None, None])
    train_together(together, [[], []])
    for run, config, own in zip(together, configs, samples, strict=True):
        alone = prepare_all([config], [own], device, [None])
        train_together(alone, [[]])
        torch.testing.assert_close(run.rows[0], alone[0].rows[0], rtol=1e-4, atol=1e-5)


def test_states_know_what_is_new_only_where_it_is_set(tmp_path: Path) -> None:
    """So that those of earlier versions fit as before."""
    plain = prepared(dataset(tmp_path / "a"), tmp_path / "o")
    known = fingerprint(plain.config, plain.samples)
    assert "timesteps" not in known["noise"]
    assert set(known["loss"]) == {
        "kind", "huber_schedule", "huber_c", "huber_scale", "min_snr_gamma", "debiased", "scale_v",
        "v_like", "prior_weight", "normalize_mask",
    }  # fmt: skip
    text = repr((plain.samples[0].subset.captions, plain.samples[0].subset.images))
    assert not {"rotate", "special_tags", "hue"} & {part.split("=")[0] for part in text.split(", ")}
    digests = {known["dataset"]}
    for line in (
        "random_rotate_max_angle = 10", "loss_weight = 2", "samples_per_epoch = 3", "prior_prediction = true",
        'tag_dropout_special_tags = ["a"]',
    ):  # fmt: skip
        file = dataset(tmp_path / str(len(digests)), line)
        run_config = config_for(file, tmp_path / "o")
        digests.add(fingerprint(run_config, make_plans([run_config])[0].samples)["dataset"])
    assert len(digests) == 6
    shifted = config_for(dataset(tmp_path / "s"), tmp_path / "o", "--timestep_shift=2", PRESERVE)
    changed = fingerprint(shifted, plain.samples)
    assert (changed["noise"]["timestep_shift"], changed["loss"]["mask_prior_weight"]) == (2, 1)


def test_settings_of_masks_without_masks_are_told(tmp_path: Path) -> None:
    (plan,) = make_plans([config_for(dataset(tmp_path), tmp_path / "o", PRESERVE)])
    assert "--masked_prior_preservation_weight has no effect: no image has a mask" in plan.notes


def test_a_folder_is_used_at_several_resolutions(tmp_path: Path) -> None:
    """As with OneTrainer's list of resolutions: a dataset for each, of the same folder."""
    file = dataset(tmp_path)
    text = file.read_text(encoding="utf-8")
    more = text[text.index("[[datasets]]") :].replace("resolution = 64", "resolution = [96, 64]")
    file.write_text(f"{text}\n{more}", encoding="utf-8")
    run = prepared(file, tmp_path / "o", "--validation_split=0.25")
    widths = {batch.moments.shape[-1] for group in run.epoch_inputs(0) for batch in group.batches}
    assert len(widths) == 2
    held = [sample.path for sample in run.samples if sample.held_out]
    assert sorted(held) == sorted(2 * list(dict.fromkeys(held)))
    assert len(held) == 4
