"""Find the word of the model's vocabulary to start from: the one that measurably fits the images best.

A vocabulary has tens of thousands of words, and a gradient ranks them all at once, though roughly
(HotFlip: Ebrahimi et al. 2018, arXiv:1712.06751). The best of them, and some nouns that stand for
anything, are then measured, ever fewer on ever more images and timesteps (successive halving:
Jamieson & Talwalkar 2016, arXiv:1502.07943). A word that fits as it stands need not be a good one
to start from, so the last ones learn side by side for a few steps, and the one that has come
furthest wins. Where the word has several vectors, the last ones are paired into phrases first.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from coinage.config import NoiseConfig
from coinage.models.base import Components
from coinage.models.token_embedding import initial_rows, table_of
from coinage.optim.directional import tangent
from coinage.seeding import generator_for, rng_for
from coinage.terminal.messages import fact
from coinage.text.placeholder import word_pattern
from coinage.text.whole_words import END_OF_WORD, id_of
from coinage.training.batches import (
    Batch,
    FixedUse,
    final_caption,
    fixed_batches,
    join,
)
from coinage.training.losses import EVALUATION_LOSS
from coinage.training.run import Run
from coinage.training.step import forward
from coinage.wording import counted

log = logging.getLogger("coinage")
SHORTEST_WORD = 3  # letters
FUNCTION_WORDS = frozenset(
    """about above after again against all also among and another any are because been before being
    below between both but can could did does doing down during each either else ever every few
    for from further had has have having her here hers him his how into its itself just less many
    may might more most much must neither nor not off once only other our ours out over own rather
    same shall she should since some such than that the their theirs them then there these they
    this those through thus too under until upon was were what when where whether which while who
    whom whose why will with within without would yet you your yours""".split()  # noqa: SIM905
)

# What images tend to be of, and what may stand for anything.
GENERIC_NOUNS = tuple(
    """person man woman girl boy child face animal dog cat bird creature object thing toy figure
    statue doll car house building food plant flower landscape painting drawing sketch photo
    picture illustration pattern texture style design shape colorful""".split()  # noqa: SIM905
)
NEUTRAL = ""  # stands for the vocabulary's mean
Rows = tuple[Tensor, ...]  # [n, D] for each text encoder


@dataclass(frozen=True, slots=True)
class SearchSettings:
    """How thoroughly init words are searched for.

    Attributes:
        probes: words at which the gradient is taken, beside the vocabulary's mean.
        pool: words that the gradient may propose.
        nouns: that are measured in any case, where the model has them as one token.
        draws: images and timesteps that are measured.
        rounds: how many draws measure each of the words that are left, and how many of the words stay.
        steps: that the last ones learn.
        turn: radians of each of these steps.
        step_draws: images and timesteps in each of these steps, and where the gradient is taken.
    """

    probes: int = 8
    pool: int = 32
    nouns: tuple[str, ...] = GENERIC_NOUNS
    draws: int = 16
    rounds: tuple[tuple[int, int], ...] = ((2, 16), (6, 5))
    steps: int = 4
    turn: float = 0.16
    step_draws: int = 4


THOROUGH = SearchSettings()


@dataclass(frozen=True, slots=True)
class MeasuredStart:
    """A text to start from: its loss on all draws as it stands, and after a few steps."""

    text: str
    loss: float
    learned: float


def start_from_the_best(run: Run, settings: SearchSettings = THOROUGH) -> int:
    """Find the init word of a run that asks for it and has not begun; all processes start from the same one.

    Returns:
        How many images have gone through the UNet for it.
    """
    if not run.config.word.search or run.config.word.init_word is not None:
        return 0
    search = Search(run, settings)
    starts = run.processes.gather(search.find())[0]
    if not starts:
        log.warning(
            "--init_word auto: no caption contains the word, so it starts from the mean of all words"
        )
        return search.passes
    words = [start for start in starts if start.text != NEUTRAL]
    best = words[0] if words else starts[0]
    run.begin_from(best.text, [(start.text, start.loss, start.learned) for start in starts])
    fact("start", f"{best.text or 'the mean of all words'} (best of {len(words)} tried)")
    (neutral,) = (start for start in starts if start.text == NEUTRAL)
    log.debug(
        "tried: %s; the vocabulary's mean %.4f (loss after %s; %s)",
        ", ".join(f"{start.text} {start.learned:.4f}" for start in words),
        neutral.learned,
        counted(settings.steps, "step"),
        counted(search.passes, "image"),
    )
    return search.passes


class Search:
    """Measures starts for the word of a run; rows, optimizer and draws of the run are left alone."""

    def __init__(self, run: Run, settings: SearchSettings = THOROUGH) -> None:
        self._run = run
        self._settings = settings
        self._draws = draws_of(run, settings.draws)
        self._pattern = word_pattern([" ".join(run.placeholder.pieces), run.placeholder.token])
        self.passes = 0  # images that have gone through the UNet

    def find(self) -> list[MeasuredStart]:
        """Return the starts that were measured to the end, best first, the vocabulary's mean among them.

        Without a caption that has the word there are none, nor without words that all text encoders
        know.
        """
        if not self._draws:
            return []
        texts = self._texts_to_try()
        if not texts:
            return []
        texts, losses = self._with_phrases(*self._halved(texts))
        texts = [*texts, NEUTRAL]
        starts = [self.rows(text) for text in texts]
        done = losses.shape[1]
        losses = torch.cat([losses, self.losses(starts[-1:], self._draws[:done])])
        if rest := self._draws[done:]:
            losses = torch.cat([losses, self.losses(starts, rest)], dim=1)
        learned = self.losses(self._learned(starts), self._draws)
        means = losses.mean(dim=1).tolist(), learned.mean(dim=1).tolist()
        measured = [MeasuredStart(*start) for start in zip(texts, *means, strict=True)]
        return sorted(measured, key=lambda start: start.learned)

    def _texts_to_try(self) -> list[str]:
        """Return the words that the gradient proposes, all words of a small vocabulary, and the nouns."""
        settings, words = self._settings, whole_words(self._run)
        small = len(words) <= settings.pool + len(settings.nouns)
        texts = words if small else self._by_slope(words)
        nouns = [noun for noun in settings.nouns if noun in words and noun not in texts]
        return [*texts, *nouns]

    def rows(self, text: str) -> Rows:
        """Return the first rows of a text in every text encoder."""
        parts, number = self._run.parts, self._run.placeholder.num_vectors
        rows = []
        for encoder, tokenizer in zip(parts.text_encoders, parts.tokenizers, strict=True):
            start = initial_rows(table_of(encoder), tokenizer, text or None, number)
            rows.append(start.to(parts.device))
        return tuple(rows)

    def losses(self, starts: Sequence[Rows], draws: Sequence[Batch]) -> Tensor:
        """Return the squared errors of starts on draws, [starts, draws], on the CPU."""
        losses = torch.zeros(len(starts), len(draws))
        with torch.no_grad(), self._trying(starts) as names:
            for jobs in self._jobs(len(starts), draws, 2):
                values = self._forward(jobs, names, draws).tolist()
                for (start, draw), value in zip(jobs, values, strict=True):
                    losses[start, draw] = value
        return losses

    def slopes(self, starts: Sequence[Rows], draws: Sequence[Batch]) -> list[Rows]:
        """Return the gradient of each start's loss; of the summed error, so that half precision holds it."""
        with torch.enable_grad(), self._trying(starts) as names:
            for jobs in self._jobs(len(starts), draws, 1):
                losses = self._forward(jobs, names, draws)
                (losses.sum() * draws[0].moments[0, 0].numel()).backward()
            parts = self._run.parts
            first = len(parts.embeddings[0].words) - len(starts)
            words = range(first, first + len(starts))
            return [_gradients_of(parts, word) for word in words]

    def _by_slope(self, names: Sequence[str]) -> list[str]:
        """Return the words for which gradients at words spread over the vocabulary promise the least loss."""
        probes = self._settings.probes
        spread = [names[(2 * i + 1) * len(names) // (2 * probes)] for i in range(probes)]
        starts = [self.rows(text) for text in (NEUTRAL, *spread)]
        promised = torch.zeros(len(names))
        slopes = self.slopes(starts, self._draws[: self._settings.step_draws])
        parts = self._run.parts
        pairs = zip(parts.text_encoders, parts.tokenizers, strict=True)
        for place, (encoder, tokenizer) in enumerate(pairs):
            table, vocabulary = table_of(encoder), tokenizer.get_vocab()
            ids = [index for name in names if (index := id_of(name, vocabulary)) is not None]
            rows = table[torch.tensor(ids, device=table.device)].to(parts.device).float()
            for slope in slopes:  # where it was taken adds the same to all words
                promised -= (rows @ slope[place].nan_to_num().sum(dim=0)).cpu()
        ranked = promised.argsort(descending=True).tolist()
        return [names[i] for i in ranked[: self._settings.pool]]

    def _halved(self, texts: list[str]) -> tuple[list[str], Tensor]:
        """Return the texts that are left after all rounds, and their losses so far, [texts, draws]."""
        losses, done = torch.zeros(len(texts), 0), 0
        for count, left in self._settings.rounds:
            starts = [self.rows(text) for text in texts]
            more = self.losses(starts, self._draws[done : done + count])
            texts, losses = best_of(texts, torch.cat([losses, more], dim=1), left)
            done = losses.shape[1]
        return texts, losses

    def _with_phrases(self, texts: list[str], losses: Tensor) -> tuple[list[str], Tensor]:
        """Return the best of the texts and of two of them in a row, as many as before.

        A single vector holds no two words: then the texts stay.
        """
        if self._run.placeholder.num_vectors == 1:
            return texts, losses
        phrases = [f"{first} {second}" for first in texts for second in texts if first != second]
        starts = [self.rows(phrase) for phrase in phrases]
        more = self.losses(starts, self._draws[: losses.shape[1]])
        return best_of([*texts, *phrases], torch.cat([losses, more]), len(texts))

    def _learned(self, starts: Sequence[Rows]) -> list[Rows]:
        """Return the starts after a few steps, each on the same draws."""
        trained = list(starts)
        turns = [self._settings.turn if learns else 0.0 for learns in self._run.learns_in]
        for step in range(self._settings.steps):
            draws = draws_of(self._run, self._settings.step_draws, f"step {step}")
            slopes = self.slopes(trained, draws)
            for number, (start, slope) in enumerate(zip(trained, slopes, strict=True)):
                triples = zip(start, slope, turns, strict=True)
                trained[number] = tuple(turned(*triple) for triple in triples)
        return trained

    @contextmanager
    def _trying(self, starts: Sequence[Rows]) -> Iterator[list[str]]:
        """Give the model a word for each start, beside those that it has; yields their names."""
        parts, placeholder = self._run.parts, self._run.placeholder
        words = [(f"{placeholder.token}~{i}~", placeholder.num_vectors) for i in range(len(starts))]
        by_encoder = [torch.cat(rows).detach() for rows in zip(*starts, strict=True)]
        with parts.with_words(words, by_encoder, keep=True):
            yield [name for name, _ in words]

    def _jobs(
        self, starts: int, draws: Sequence[Batch], times: int
    ) -> Iterator[list[tuple[int, int]]]:
        """Yield starts and draws that go through the UNet together, as pairs of numbers.

        They are of one latent size, and at most `times` as many as the samples of a batch of the run.
        """
        most = times * max(self._run.config.data.batch_sizes)
        by_size: dict[torch.Size, list[tuple[int, int]]] = {}
        for number, draw in enumerate(draws):
            pairs = by_size.setdefault(draw.moments.shape[2:], [])
            pairs += [(start, number) for start in range(starts)]
        for pairs in by_size.values():
            for first in range(0, len(pairs), most):
                yield pairs[first : first + most]

    def _forward(
        self, jobs: Sequence[tuple[int, int]], names: Sequence[str], draws: Sequence[Batch]
    ) -> Tensor:
        """Return the losses of some starts on some draws, [jobs]."""
        run, batch = self._run, join([self._renamed(draws[d], names[s]) for s, d in jobs])
        self.passes += len(jobs)
        with run.autocast():
            result = forward(run.family, run.parts, batch, NoiseConfig(), EVALUATION_LOSS)
        return result.per_sample

    def _renamed(self, draw: Batch, name: str) -> Batch:
        """Return a draw with another word in its caption, and its noise anew."""
        caption = self._pattern.sub(name, draw.captions[0])
        generator = torch.Generator().manual_seed(draw.generators[0].initial_seed())
        return replace(draw, captions=[caption], generators=[generator])


def _gradients_of(parts: Components, word: int) -> Rows:
    """Return the gradients of a word's rows, zeros where there is none."""
    rows = parts.rows(word)
    return tuple(torch.zeros_like(row) if row.grad is None else row.grad for row in rows)


def best_of(texts: Sequence[str], losses: Tensor, count: int) -> tuple[list[str], Tensor]:
    """Return the texts with the lowest mean of their [texts, draws] losses, and these losses, best first."""
    best = losses.mean(dim=1).nan_to_num(torch.inf).argsort(stable=True)[:count].tolist()
    return [texts[i] for i in best], losses[best]


def turned(rows: Tensor, gradient: Tensor, turn: float) -> Tensor:
    """Return [n, D] rows turned down the gradient by an angle in radians, each as long as before."""
    lengths, gradient = rows.norm(dim=1, keepdim=True), gradient.to(rows).nan_to_num()
    at = rows / lengths.clamp(min=1e-12)
    along = torch.nn.functional.normalize(tangent(gradient, at), dim=1)
    direction = torch.nn.functional.normalize(at - turn * along, dim=1)
    after: Tensor = lengths * direction
    return after


def draws_of(run: Run, count: int, purpose: str = "measured") -> list[Batch]:
    """Return draws, batches of one sample that are the same for all words.

    They are training images whose captions have the word, in turn, at timesteps spread over the
    run's range; the first ones are spread too. Empty where no caption has the word.

    Args:
        run: whose images and word are used.
        count: of draws.
        purpose: of the draws, which keys their noise and the order of the timesteps.
    """
    seed = run.config.loop.seed
    captions = _captions_with_word(run)
    if not captions:
        return []
    images = min(len(captions), count)
    chosen = [list(captions)[k * len(captions) // images] for k in range(images)]
    timesteps = run.parts.schedule.spread_times(run.config.noise, count)
    order = rng_for(seed, "init word", purpose).permutation(count)
    uses = []
    for k in range(count):
        sample = chosen[k % images]
        use = FixedUse(
            sample=sample,
            caption=captions[sample],
            timesteps=timesteps[int(order[k])][None],
            generators=[generator_for(seed, "init word", purpose, k)],
        )
        uses.append(use)
    return list(fixed_batches(run, uses))


def _captions_with_word(run: Run) -> dict[int, str]:
    """Return the captions of training images that have the word, by the number of the sample."""
    captions = {}
    for i, sample in enumerate(run.samples):
        if sample.trains:
            caption = final_caption(run, i, rng_for(run.config.loop.seed, "init word", i))
            if run.placeholder.is_in(caption):
                captions[i] = caption
    return captions


def whole_words(run: Run) -> list[str]:
    """Return the words of letters that are one token in every text encoder, most frequent first."""
    first, *others = [tokenizer.get_vocab() for tokenizer in run.parts.tokenizers]
    words = []
    for token in sorted(first, key=lambda token: first[token]):
        word = token.removesuffix(END_OF_WORD)
        if not token.endswith(END_OF_WORD) or not word.isalpha() or len(word) < SHORTEST_WORD:
            continue
        known = all(id_of(word, other) is not None for other in others)
        if known and word not in FUNCTION_WORDS:
            words.append(word)
    return words
