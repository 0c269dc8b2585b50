"""A word for the negative prompt: what it learns from, and that all around a run knows where it stands."""

import logging
from pathlib import Path

import pytest

from coinage.checks import make_plans
from coinage.demo.concepts import CONCEPTS
from coinage.demo.dataset import write_dataset
from coinage.embeddings.reading import read
from coinage.report.previews import stage_of
from coinage.report.record import PreviewPrompt, Record, Shot
from coinage.training.final_check import check_saved_file
from tests.helpers import config_for, prepared, rows_of, trained

NEGATIVE = ("--role=negative", "--cache_latents")


@pytest.fixture(scope="module")
def defects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight pictures of a moon, whose captions do not say so, nor hold the word."""
    dataset = write_dataset(tmp_path_factory.mktemp("defects"), CONCEPTS["moon"], "shape", seed=0)
    assert "shape" in next((dataset.parent / "images").glob("*.txt")).read_text()
    return dataset


def test_a_run_knows_where_the_word_stands(
    defects: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="coinage")
    run, word = trained(defects, tmp_path, *NEGATIVE)
    assert (rows_of(word) - run.start[0]).abs().max() > 1e-3
    header = read(tmp_path / "zibu.safetensors").metadata
    assert (header["ti.role"], header["modelspec.is_negative_embedding"]) == ("negative", "true")
    assert check_saved_file(run).path == tmp_path / "zibu.safetensors"
    assert (
        "AUTOMATIC1111: put it into embeddings/; write zibu in the negative prompt" in caplog.text
    )
    assert 'pipe(prompt, negative_prompt="zibu")' in caplog.text


def test_it_is_said_otherwise_where_that_is_asked(defects: Path, tmp_path: Path) -> None:
    trained(defects, tmp_path, *NEGATIVE, "--metadata_is_negative_embedding=false")
    assert (
        read(tmp_path / "zibu.safetensors").metadata["modelspec.is_negative_embedding"] == "false"
    )


@pytest.mark.parametrize(
    ("more", "said"), [((), " zibu"), (("--use_style_template",), "in the style of zibu")]
)
def test_captions_need_not_hold_the_word(
    more: tuple[str, ...], said: str, defects: Path, tmp_path: Path
) -> None:
    run = prepared(defects, tmp_path, *NEGATIVE, *more)
    captions = next(run.epoch_inputs(0)).batches[0].captions
    assert all(caption.endswith(said) for caption in captions)
    assert not any("shape" in caption or "background" in caption for caption in captions)


def test_a_word_for_prompts_learns_and_says_as_before(moon_dataset: Path, tmp_path: Path) -> None:
    trained(moon_dataset, tmp_path, "--cache_latents")
    header = read(tmp_path / "zibu.safetensors").metadata
    assert header["ti.role"] == "positive"
    assert "modelspec.is_negative_embedding" not in header


def test_previews_show_it_in_the_negative_prompt_and_without(defects: Path, tmp_path: Path) -> None:
    ours, plain, other, again = make_plans([config_for(defects, tmp_path, *NEGATIVE)])[0].prompts
    assert (ours.negative, plain.negative, other.negative, again.negative) == (
        "zibu",
        "",
        "zibu",
        "",
    )
    assert (ours.text, other.text) == (plain.text, again.text)
    assert (ours.text, other.text) == ("a photo", "a photo on a blue background")
    assert (ours.of, plain.of, other.of, again.of) == (None, 0, None, 2)


def test_the_page_tells_both_apart() -> None:
    prompts = [PreviewPrompt(text="a dog", negative="zibu"), PreviewPrompt(text="a dog", of=0)]
    record = Record(
        name="zibu", token="zibu", prompts=prompts, shots=[Shot(step=1, pictures=["a", "b"])]
    )
    stage = stage_of(record)
    assert stage is not None
    ((_, (ours, plain)),) = stage.groups
    assert ours.parts == [("a dog", False), (", negative prompt: ", False), ("zibu", True)]
    assert (ours.note, plain.note) == ("", "the same without the word")
    assert plain.still
    assert not ours.still
