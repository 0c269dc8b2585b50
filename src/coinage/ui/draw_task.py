"""Draw with words: a task, which keeps its model in memory for the next one."""

from __future__ import annotations

import logging
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from coinage.api import Model, load_model
from coinage.checks.flow import set_aside_drawing_flags
from coinage.data.default_prompts import without_word
from coinage.embeddings.install import install_embeddings
from coinage.embeddings.pairs import open_with_other_half
from coinage.errors import Findings
from coinage.models.facts import FACTS
from coinage.models.guidance import idle_negative
from coinage.models.hub_files import native_side
from coinage.models.process_fit import fit_process
from coinage.models.quiet import quiet_libraries
from coinage.report.word_maps import map_path, overlay
from coinage.system.files import save_image
from coinage.terminal.messages import WarningCollector
from coinage.text.placeholder import encoding_problems
from coinage.text.prompts import Prompt

log = logging.getLogger("coinage")
Tell = Callable[[Mapping[str, Any]], None]
PAUSE = 0.25  # seconds between two reports of progress


def draw(payload: Mapping[str, Any], tell: Tell) -> dict[str, Any]:
    """Draw a prompt with words, and without them, into numbered files; report each step and picture.

    Args:
        payload: `model`, `words` (paths), `prompt`, `negative`, `seeds` (how many), `first_seed`,
            `with_and_without`, `show_words`, `steps`, `guidance`, `width`, `height` (0: the model's own),
            `sampler`, `folder`.
        tell: gets `phase`, `done` and `total` pictures, the `share` of the work, `seconds_left`, and
            `notes`: what has no effect with this model, and whatever is warned of.

    Returns:
        `pictures`, each with its `number`, `prompt`, `seed`, `with_word` and `maps` (the words whose
        maps lie beside it, in the order of `map_path`), and `words`.
    """
    with WarningCollector() as warned:
        return _draw(payload, lambda news: tell({**news, "notes": warned.texts}))


def _draw(payload: Mapping[str, Any], tell: Tell) -> dict[str, Any]:
    """Draw as `draw` does, and log what is to be known of it as warnings."""
    texts = [("the prompt", payload["prompt"]), ("the negative prompt", payload["negative"])]
    Findings(errors=encoding_problems(texts)).raise_errors()
    tell({"phase": "loading", "done": 0, "total": 0, "share": 0.0, "seconds_left": None})
    words = [open_with_other_half(path) for path in map(Path, payload["words"])]
    model = _loaded(payload["model"])
    model.words = {}
    install_embeddings(model.parts, model.embedding_keys, [])
    for path, opened in zip(map(Path, payload["words"]), words, strict=True):
        word = opened.usable_word()
        model.install(word, word.token or path.stem)
    payload = _without_idle(payload, model)
    asked = _prompts(payload, list(model.words))
    told, began = Told(tell, len(asked), payload["steps"]), time.monotonic()
    pictures = []
    with told.steps_of(model):
        for number, (prompt, with_word) in enumerate(asked):
            (drawn,) = model.draw_with_maps([prompt], show_words=payload["show_words"])
            path = Path(payload["folder"]) / f"{number}.png"
            save_image(path, drawn.pixels)
            for place, word_map in enumerate(drawn.word_maps.values()):
                save_image(map_path(path, place), overlay(drawn.pixels, word_map))
            picture = {
                "number": number, "prompt": prompt.text, "seed": prompt.seed, "with_word": with_word,
                "maps": list(drawn.word_maps),
            }  # fmt: skip
            pictures.append(picture)
            told.picture(picture)
    seconds = round(time.monotonic() - began, 1)
    return {"pictures": pictures, "words": list(model.words), "seconds": seconds}


@lru_cache(maxsize=1)
def _loaded(source: str) -> Model:
    """Return a model; the last one stays loaded."""
    quiet_libraries()
    model = load_model(source)
    fit_process(model.parts)
    return model


def _without_idle(payload: Mapping[str, Any], model: Model) -> Mapping[str, Any]:
    """Return what to draw without what means nothing to a model, and warn of that."""
    facts = FACTS[model.family]
    flags = Namespace(sampler=payload["sampler"], show_word=payload["show_words"])
    notes = set_aside_drawing_flags(flags, facts)
    if payload["negative"] and (why := idle_negative(facts, model.parts, payload["guidance"])):
        notes.append(f"the negative prompt has no effect: {why}")
    for note in notes:
        log.warning("%s", note)
    return {**payload, "sampler": flags.sampler, "show_words": flags.show_word}


def _prompts(payload: Mapping[str, Any], tokens: Sequence[str]) -> list[tuple[Prompt, bool]]:
    """Return what to draw, and whether it is with the words: for each seed with and without."""
    side = native_side(payload["model"]) or 0
    plain = Prompt(
        text=payload["prompt"],
        negative=payload["negative"],
        width=payload["width"] or side,
        height=payload["height"] or side,
        steps=payload["steps"],
        scale=payload["guidance"],
        sampler=payload["sampler"],
    )
    bare = replace(
        plain, text=_without(plain.text, tokens), negative=_without(plain.negative, tokens)
    )
    asked = []
    for number in range(payload["seeds"]):
        seed = payload["first_seed"] + number
        asked.append((replace(plain, seed=seed), bool(tokens)))
        if payload["with_and_without"] and bare != plain:
            asked.append((replace(bare, seed=seed), False))
    return asked


def _without(text: str, tokens: Sequence[str]) -> str:
    for token in tokens:
        text = without_word(text, token)
    return text


class Told:
    """Reports how far the drawing is, and how long the rest will take.

    Args of the constructor:
        tell: gets the reports.
        total: pictures.
        steps: of each.
        now: a clock in seconds.
    """

    def __init__(
        self, tell: Tell, total: int, steps: int, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._tell, self._total, self._now = tell, total, now
        self._passes_each = steps  # of a picture, before the first one has shown how many
        self._began, self._due = now(), 0.0
        self._done = self._passes = 0

    @contextmanager
    def steps_of(self, model: Model) -> Iterator[None]:
        """Count the steps that a model takes meanwhile."""
        hook = model.parts.denoiser.register_forward_hook(lambda *_: self.step())
        try:
            yield
        finally:
            hook.remove()

    def step(self) -> None:
        """Note a step of a picture."""
        self._passes += 1
        if self._now() >= self._due:
            self._due = self._now() + PAUSE
            self._report({})

    def picture(self, picture: Mapping[str, Any]) -> None:
        """Note that a picture is done."""
        self._done += 1
        # Some samplers, and some models with guidance, take two passes a step
        self._passes_each, self._passes = self._passes or self._passes_each, 0
        self._report({"picture": picture})

    def _report(self, more: Mapping[str, Any]) -> None:
        of_picture = min(self._passes / self._passes_each, 1.0)
        share = (self._done + of_picture) / self._total
        seconds = self._now() - self._began
        self._tell(
            {
                "phase": "drawing",
                "done": self._done,
                "total": self._total,
                "share": round(share, 3),
                "seconds_left": round(seconds / share - seconds, 1) if share else None,
                **more,
            }
        )
