"""Draw with words: a task, which keeps its model in memory for the next one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from coinage.api import Model, load_model
from coinage.data.default_prompts import without_word
from coinage.embeddings.install import install_embeddings
from coinage.embeddings.pairs import open_with_other_half
from coinage.errors import Findings
from coinage.models.hub_files import native_side
from coinage.models.process_fit import fit_process
from coinage.models.quiet import quiet_libraries
from coinage.report.word_maps import map_path, overlay
from coinage.system.files import save_image
from coinage.text.placeholder import encoding_problems
from coinage.text.prompts import Prompt

Tell = Callable[[Mapping[str, Any]], None]
PAUSE = 0.25  # seconds between two reports of progress


def draw(payload: Mapping[str, Any], tell: Tell) -> dict[str, Any]:
    """Draw a prompt with words, and without them, into numbered files; report each step and picture.

    Args:
        payload: `model`, `words` (paths), `prompt`, `negative`, `seeds` (how many), `first_seed`,
            `with_and_without`, `show_words`, `steps`, `guidance`, `width`, `height` (0: the model's own),
            `sampler`, `folder`.
        tell: gets `phase`, `done` and `total` pictures, the `share` of the work, `seconds_left`.

    Returns:
        `pictures`, each with its `number`, `prompt`, `seed`, `with_word` and `maps` (the words whose
        maps lie beside it, in the order of `map_path`), and `words`.
    """
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


def _prompts(payload: Mapping[str, Any], tokens: Sequence[str]) -> list[tuple[Prompt, bool]]:
    """Return what to draw, and whether it is with the words: for each seed with and without."""
    side = native_side(payload["model"]) or 0
    plain = Prompt(
        text=payload["prompt"],
        negative=payload["negative"],
        width=(payload["width"] or side) // 8 * 8,
        height=(payload["height"] or side) // 8 * 8,
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
        self._tell, self._total, self._steps, self._now = tell, total, steps, now
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
        self._passes = 0
        self._report({"picture": picture})

    def _report(self, more: Mapping[str, Any]) -> None:
        # Some samplers take two passes a step
        of_picture = min(self._passes / self._steps, 1.0)
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
