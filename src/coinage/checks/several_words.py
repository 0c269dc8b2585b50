"""Checks of words that train side by side: what one does to another. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Protocol, TypeVar

from coinage.checks.plan import Draft
from coinage.config import TrainConfig, WordConfig
from coinage.errors import Findings
from coinage.runs.choice import as_chosen
from coinage.runs.files import SAVED
from coinage.runs.states import LATEST, states_of
from coinage.text.placeholder import pieces_of, word_pattern


class Configured(Protocol):
    """A draft, a plan or a run."""

    @property
    def config(self) -> TrainConfig: ...


C = TypeVar("C", bound=Configured)


def check_words_apart(drafts: Sequence[Draft], findings: Findings) -> None:
    """Find words that a caption, or a tool that ignores letter case, could not tell apart."""
    words = [(draft.label, draft.config.word) for draft in drafts]
    for companion in drafts[0].config.companions if drafts else ():
        words.append((f"{companion.token} of {companion.init_file}", companion))
    for (label, first), (other_label, second) in combinations(words, 2):
        why = _why_alike(first, second)
        if why:
            what = (
                f"--token_string: {first.token} and {second.token} cannot be distinguished: {why}"
            )
            hint = "choose words that share no pieces, such as mycat and mydog"
            findings.error(what, f"{label}, {other_label}".removeprefix(", "), hint)


def _why_alike(first: WordConfig, second: WordConfig) -> str:
    """Return why two words cannot be distinguished, "" where they can."""
    one, other = first.token.casefold(), second.token.casefold()
    if one == other:
        return "they are the same"
    common = _pieces(first) & _pieces(second)
    if common:
        return f"{min(common)} is a piece of both"
    if word_pattern([one]).search(other):
        return f"one is part of {second.token}"
    if word_pattern([other]).search(one):
        return f"one is part of {first.token}"
    return ""


def _pieces(word: WordConfig) -> set[str]:
    return {piece.casefold() for piece in pieces_of(word.token, word.num_vectors)}


def check_names_apart(drafts: Sequence[Draft], findings: Findings) -> None:
    """Find output names whose files would be the same, also where letter case does not count."""
    for first, second in combinations(drafts, 2):
        names = first.config.word.output_name, second.config.word.output_name
        short, long = sorted((name.casefold() for name in names), key=len)
        if long.startswith(short) and SAVED.fullmatch(long.removeprefix(short)):
            what = f"--output_name: {names[0]} and {names[1]} would be written to the same files"
            hint = "give each word an output_name of its own"
            findings.error(what, f"{first.label}, {second.label}", hint)


def check_together(drafts: Sequence[Draft], findings: Findings) -> None:
    """Find words that are to learn together, and would not learn from the same batches."""
    joint = [draft for draft in drafts if draft.config.word.together]
    for draft in joint:
        _check_captions_kept(draft)
        if draft.config.loop.to_try:
            what = (
                "--autopilot tries the settings of one word, and not of words that learn together"
            )
            draft.findings.error(what, hint="leave out --autopilot, or together = true")
    for draft in joint[1:]:
        first, own = shared_settings(joint[0].config), shared_settings(draft.config)
        differing = [name for name, value in own.items() if value != first[name]]
        if differing:
            what = (
                f"{joint[0].config.word.token} and {draft.config.word.token} are to learn together, "
                f"and differ in {', '.join(differing)}"
            )
            hint = "give these above all [[words]], or leave out together = true"
            findings.error(what, f"{joint[0].label}, {draft.label}", hint)


def shared_settings(config: TrainConfig) -> dict[str, object]:
    """Return what words must have in common to learn from the same batches, by its name for people."""
    return {
        "images and captions": config.data,
        "--seed": config.loop.seed,
        "--gradient_accumulation_steps": config.optim.accumulation,
        "settings of the noise": config.noise,
        "settings of the loss": config.loss,
        "intervals of validation": config.validation,
    }


def _check_captions_kept(draft: Draft) -> None:
    """Find settings that replace captions by sentences with one word."""
    subsets = [subset for dataset in draft.config.data.datasets for subset in dataset.subsets]
    replaced = draft.config.word.role == "negative" or any(s.captions.template for s in subsets)
    if replaced:
        what = "words that learn together need captions that name them, and sentences replace these"
        hint = (
            "write caption files, such as 01.txt, and leave out --use_object_template, "
            "--use_style_template, --caption_templates and --role negative"
        )
        draft.findings.error(what, hint=hint)


def note_inseparable(drafts: Sequence[Draft], findings: Findings) -> None:
    """Note words that no caption tells apart: each of them holds both, or neither."""
    joint = [draft for draft in drafts if draft.config.word.together and draft.samples]
    for first, second in combinations(joint, 2):
        tokens = first.config.word.token, second.config.word.token
        patterns = [word_pattern([token]) for token in tokens]
        holds = [
            [bool(pattern.search(sample.caption)) for pattern in patterns]
            for sample in first.samples
            if sample.trains
        ]
        if any(one for one, _ in holds) and all(one == other for one, other in holds):
            both = f"{tokens[0]} and {tokens[1]} stand in the same captions, all of them"
            findings.note(
                f"{both}: only their init words and their places in the sentence tell which is which; "
                "a few images that show one of them alone help more"
            )


def with_batches(runs: Sequence[C]) -> list[C]:
    """Return those whose batches go through the model: of words that learn together, the first."""
    joint = [run for run in runs if run.config.word.together]
    return [run for run in runs if not run.config.word.together or run is joint[0]]


def choose_states(drafts: Sequence[Draft], findings: Findings) -> None:
    """Have several words go on from the last step at which all of them were saved."""
    resume = drafts[0].config.state.resume
    if resume is None or len(drafts) == 1:
        return
    if resume != LATEST or Path(LATEST).is_dir():
        what = f"--resume {resume}: a state belongs to one word, but this run trains {len(drafts)}"
        findings.error(what, hint="--resume latest finds the states of all")
        return
    states = []
    for draft in drafts:
        config = draft.config
        states.append(states_of(config.save.output_dir, config.word.output_name))
    if not any(states):
        return
    shared = set.intersection(*map(set, states))
    if not shared:
        _report_no_common_step(drafts, states, findings)
        return
    step = max(shared)
    for draft, by_step in zip(drafts, states, strict=True):
        state = replace(draft.config.state, resume=str(by_step[step]))
        draft.config = replace(draft.config, state=state)
        if step < max(by_step):
            what = f"the state of step {max(by_step)} is not used"
            why = "since not all words have one of it"
            draft.findings.note(f"--resume latest: {what}, {why}")


def _report_no_common_step(
    drafts: Sequence[Draft], states: Sequence[dict[int, Path]], findings: Findings
) -> None:
    shown = []
    for draft, by_step in zip(drafts, states, strict=True):
        steps = ", ".join(map(str, sorted(by_step)[-3:]))
        shown.append(f"{draft.config.word.token} {f'at {steps}' if steps else 'has none'}")
    what = "--resume latest: there is no step at which all words have a state"
    hint = "start again without --resume, or continue with each word alone"
    findings.error(f"{what}: {', '.join(shown)}", str(drafts[0].config.save.output_dir), hint)


def apply_choice(draft: Draft) -> None:
    """Put in what `--autopilot` chose when a run began that now goes on."""
    draft.config = as_chosen(draft.config, draft.findings)


def check_lengths_equal(drafts: Sequence[Draft], findings: Findings) -> None:
    """Find words with different numbers of steps: they take their steps together."""
    steps = [draft.length()[0] for draft in drafts]
    if len(set(steps)) == 1:
        return
    shown = []
    for draft, count in zip(drafts, steps, strict=True):
        shown.append(f"{count} for {draft.config.word.token}")
    what = "words that are trained together need the same number of steps, but these epochs are"
    hint = "use --max_train_steps instead of --max_train_epochs"
    findings.error(f"{what} {', '.join(shown)}", hint=hint)
