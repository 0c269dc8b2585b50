"""Checks of images, captions and prompts, and of whether all fits into the run's length. Imports no torch."""

from __future__ import annotations

from coinage.checks.plan import Draft
from coinage.checks.run_length import fit_into_run
from coinage.data.default_prompts import default_prompts
from coinage.data.examine import examine
from coinage.data.sample import uses_per_epoch
from coinage.errors import ConfigError
from coinage.models.facts import FACTS
from coinage.runs.states import find_state
from coinage.text.placeholder import CHUNK
from coinage.text.prompts import Prompt, read_prompts


def check_images(draft: Draft) -> None:
    """Look at all images and captions, and keep the images that can be used."""
    config, word = draft.config, draft.config.word
    examined = examine(
        config.data,
        config.loop.seed,
        word.token if draft.word_is_sound else None,
        word.num_vectors,
        draft.tokenizer,
        FACTS[config.model.family].chunks_read(config.model.max_token_length // CHUNK),
        draft.findings,
        beside=(*config.learns_with, *config.companions),
        learning=[other.token for other in config.learns_with],
    )
    draft.samples = examined.samples
    _note_idle_masks(draft)
    _find_nothing_to_measure(draft)


def _find_nothing_to_measure(draft: Draft) -> None:
    """Find flags that measure images of what the word means, where there is none."""
    config = draft.config
    asking = {
        "--early_stop": config.loop.early_stop,
        "--keep_best": config.save.lowest_loss and not config.loop.early_stop,
        "--autopilot": config.loop.to_try,
    }
    flags = [flag for flag, value in asking.items() if value]
    if flags and draft.samples and all(sample.beside for sample in draft.samples):
        what = f"{', '.join(flags)}: no image shows what the word means, so there is nothing to measure"
        hint = "add a subset without prior_prediction, or leave the flag out"
        draft.findings.error(what, hint=hint)


def _note_idle_masks(draft: Draft) -> None:
    """Note settings of masks where no image has one."""
    loss = draft.config.loss
    given = {
        "--unmasked_probability": loss.unmasked_probability,
        "--unmasked_weight": loss.unmasked_weight,
        "--masked_prior_preservation_weight": loss.mask_prior_weight,
    }
    flags = [flag for flag, value in given.items() if value]
    if flags and draft.samples and not any(sample.masked for sample in draft.samples):
        have = "has" if len(flags) == 1 else "have"
        draft.findings.note(f"{', '.join(flags)} {have} no effect: no image has a mask")


def check_length(draft: Draft) -> None:
    """Find warm-ups, decays and intervals that are longer than the run."""
    if uses_per_epoch(draft.samples):
        fit_into_run(draft.config, draft.samples, draft.findings)


def check_prompts(draft: Draft) -> None:
    """Read the prompts of previews."""
    try:
        draft.prompts = tuple(_prompts(draft))
    except ConfigError as error:
        draft.findings.errors += error.problems


def check_state(draft: Draft) -> None:
    """Find the state to go on from, and in what it differs from the run."""
    draft.state = find_state(draft.config, draft.samples, draft.findings)


def _prompts(draft: Draft) -> list[Prompt]:
    """Return the prompts of the file, or a set of our own; none where no preview is drawn."""
    config, tokenizer = draft.config, draft.tokenizer
    preview = config.preview
    by_interval = preview.every_n_steps or preview.every_n_epochs
    if not (preview.automatic or by_interval or preview.at_first):
        return []  # a file that GUIs name, and nobody reads, need not be there
    if preview.prompts:
        return read_prompts(preview.prompts, preview.sampler)

    def knows(word: str) -> bool:
        return tokenizer is None or len(tokenizer.encode(word, add_special_tokens=False)) == 1

    size = config.data.datasets[0].resolution_wh
    return default_prompts(draft.samples, config.word, size, preview, knows)
