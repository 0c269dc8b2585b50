"""Checks of words that train side by side: what one does to another. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

from coinage.checks.plan import Draft
from coinage.config import WordConfig
from coinage.errors import Findings
from coinage.runs.choice import as_chosen
from coinage.runs.files import SAVED
from coinage.runs.states import LATEST, states_of
from coinage.text.placeholder import pieces_of, word_pattern


def check_words_apart(drafts: Sequence[Draft], findings: Findings) -> None:
    """Find words that a caption, or a tool that ignores letter case, could not tell apart."""
    for first, second in combinations(drafts, 2):
        tokens = first.config.word.token, second.config.word.token
        why = _why_alike(first.config.word, second.config.word)
        if why:
            what = f"--token_string: {tokens[0]} and {tokens[1]} cannot be distinguished: {why}"
            hint = "choose words that share no pieces, such as mycat and mydog"
            findings.error(what, f"{first.label}, {second.label}", hint)


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
