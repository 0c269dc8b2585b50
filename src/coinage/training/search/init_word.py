"""Which word of the model's own vocabulary to start from: the one that fits the images best, by measurement.

A vocabulary has tens of thousands of words, and a gradient ranks them all at once, though roughly (HotFlip: Ebrahimi et al.
2018, arXiv:1712.06751). The best of them, and some nouns that stand for anything, are then measured, ever fewer on ever more
images and timesteps (successive halving: Jamieson & Talwalkar 2016, arXiv:1502.07943). A word that fits as it stands need not
be a good one to start from, so the last ones learn side by side for a few steps, and the one that has come furthest wins.
Where the word has several vectors, the last ones are paired into phrases first.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from coinage.config import LossConfig, NoiseConfig
from coinage.data.batches import Item
from coinage.data.captions import vary
from coinage.models.token_embedding import initial_rows, table_of
from coinage.optim.directional import tangent
from coinage.seeding import key_for, rng_for
from coinage.terminal.messages import fact
from coinage.text.placeholder import word_pattern
from coinage.training.run import Run, stack_masks
from coinage.training.step import Batch, forward, join
from coinage.wording import counted

log = logging.getLogger("coinage")
SHORTEST = 3  # letters of a word
FUNCTION_WORDS = frozenset(
    """about above after again against all also among and another any are because been before being below between both but can could
    did does doing down during each either else ever every few for from further had has have having her here hers him his how into
    its itself just less many may might more most much must neither nor not off once only other our ours out over own rather same
    shall she should since some such than that the their theirs them then there these they this those through thus too under until
    upon was were what when where whether which while who whom whose why will with within without would yet you your yours""".split()  # noqa: SIM905
)

# What images tend to be of, and what may stand for anything.
GENERIC = tuple(
    """person man woman girl boy child face animal dog cat bird creature object thing toy figure statue doll car house building food
    plant flower landscape painting drawing sketch photo picture illustration pattern texture style design shape colorful""".split()  # noqa: SIM905
)
SLOPES = 8  # words at which the gradient is taken, beside the vocabulary's mean
POOL = 32  # words that the gradient names
DRAWS = 16  # images and timesteps that are measured
# So many draws for each of the words that are left, and how many of them stay
ROUNDS = ((2, 16), (6, 5))
STEPS, TURN, SHARE = 4, 0.16, 4  # steps that the last ones learn, radians of each, draws in it
NEUTRAL = ""  # stands for the vocabulary's mean
Rows = tuple[Tensor, ...]  # [n, D] for each text encoder


@dataclass(frozen=True, slots=True)
class Draw:
    """An image at a timestep, and the seed of its noise: the same for all words."""

    batch: Batch
    seed: int


@dataclass(frozen=True, slots=True)
class Tried:
    """A start: its loss on all draws as it stands, and after it has learned for a few steps."""

    text: str
    loss: float
    learned: float


def start_from_the_best(run: Run) -> int:
    """Find the init word of a run that asks for it and has not begun; all processes start from the same one.

    Returns:
        How many images have gone through the UNet for it.
    """
    if not run.config.word.search or run.config.word.init_word is not None:
        return 0
    search = Search(run)
    tried = run.processes.gather(search.find())[0]
    if not tried:
        log.warning(
            "--init_word auto: no caption has the word, which starts from the mean of the vocabulary"
        )
        return search.passes
    best = next((one for one in tried if one.text), tried[0])
    run.begin_from(best.text, [(one.text, one.loss, one.learned) for one in tried])
    neutral = next(one for one in tried if one.text == NEUTRAL)
    known = [one for one in tried if one.text]
    fact("start", f"{best.text or 'the mean of all words'} (best of {len(known)} tried)")
    shown = ", ".join(f"{one.text} {one.learned:.4f}" for one in known)
    text = "tried: %s; the vocabulary's mean %.4f (loss after %s; %s)"
    log.debug(text, shown, neutral.learned, counted(STEPS, "step"), counted(search.passes, "image"))
    return search.passes


class Search:
    """Measures starts for the word of a run; rows, optimizer and draws of the run are left alone."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._draws = draws_of(run, DRAWS)
        self._pattern = word_pattern([" ".join(run.placeholder.pieces), run.placeholder.token])
        self.passes = 0  # images that have gone through the UNet

    def find(self) -> list[Tried]:
        """Starts that were measured to the end, best first, the vocabulary's mean among them; none without a caption that has the word."""
        if not self._draws:
            return []
        words = whole_words(self._run)
        texts = words if len(words) <= POOL + len(GENERIC) else self._by_slope(words)
        texts += [noun for noun in GENERIC if noun in words and noun not in texts]
        found, losses = self._with_phrases(*self._halved(texts))
        texts, starts = [*found, NEUTRAL], [self.rows(text) for text in (*found, NEUTRAL)]
        losses = torch.cat([losses, self.losses(starts[-1:], self._draws[: losses.shape[1]])])
        rest = self._draws[losses.shape[1] :]
        losses = torch.cat([losses, self.losses(starts, rest)], dim=1) if rest else losses
        learned = self.losses(self._learned(starts), self._draws)
        measured = [
            Tried(*one)
            for one in zip(
                texts, losses.mean(dim=1).tolist(), learned.mean(dim=1).tolist(), strict=True
            )
        ]
        return sorted(measured, key=lambda one: one.learned)

    def rows(self, text: str) -> Rows:
        """What a text starts from in every text encoder."""
        parts, number = self._run.parts, self._run.placeholder.num_vectors
        pairs = zip(parts.text_encoders, parts.tokenizers, strict=True)
        return tuple(
            initial_rows(table_of(encoder), tokenizer, text or None, number)
            for encoder, tokenizer in pairs
        )

    def losses(self, starts: Sequence[Rows], draws: Sequence[Draw]) -> Tensor:
        """[starts, draws] squared errors, on the CPU."""
        found = torch.zeros(len(starts), len(draws))
        with torch.no_grad(), self._trying(starts) as names:
            for jobs in self._jobs(len(starts), draws, 2):
                for (start, draw), loss in zip(
                    jobs, self._forward(jobs, names, draws).tolist(), strict=True
                ):
                    found[start, draw] = loss
        return found

    def slopes(self, starts: Sequence[Rows], draws: Sequence[Draw]) -> list[Rows]:
        """For each start the gradient of its loss; of the summed error, so that half precision holds it."""
        with torch.enable_grad(), self._trying(starts) as names:
            for jobs in self._jobs(len(starts), draws, 1):
                losses = self._forward(jobs, names, draws)
                (losses.sum() * draws[0].batch.moments[0, 0].numel()).backward()
            embeddings = self._run.parts.embeddings
            own = [
                [
                    embedding.words[len(embedding.words) - len(starts) + i]
                    for embedding in embeddings
                ]
                for i in range(len(starts))
            ]
            return [
                tuple(torch.zeros_like(row) if row.grad is None else row.grad for row in rows)
                for rows in own
            ]

    def _by_slope(self, names: Sequence[str]) -> list[str]:
        """The words that the gradients at some words, spread over the vocabulary, promise the least loss."""
        at = [NEUTRAL, *(names[(2 * i + 1) * len(names) // (2 * SLOPES)] for i in range(SLOPES))]
        starts = [self.rows(text) for text in at]
        promised = torch.zeros(len(names))
        slopes = self.slopes(starts, self._draws[:SHARE])
        parts = self._run.parts
        for place, (encoder, tokenizer) in enumerate(
            zip(parts.text_encoders, parts.tokenizers, strict=True)
        ):
            table, vocabulary = table_of(encoder), tokenizer.get_vocab()
            ids = torch.tensor([vocabulary[f"{name}</w>"] for name in names], device=table.device)
            rows = table[ids].float()
            for slope in slopes:  # where it was taken adds the same to all words
                promised -= (rows @ slope[place].nan_to_num().sum(dim=0)).cpu()
        ranked = [names[i] for i in promised.argsort(descending=True).tolist()]
        return ranked[:POOL]

    def _halved(self, texts: list[str]) -> tuple[list[str], Tensor]:
        """The texts that are left after all rounds, and their losses so far, [texts, draws]."""
        losses, done = torch.zeros(len(texts), 0), 0
        for share, left in ROUNDS:
            draws = self._draws[done : done + share]
            losses = torch.cat(
                [losses, self.losses([self.rows(text) for text in texts], draws)], dim=1
            )
            texts, losses = best_of(texts, losses, left)
            done = losses.shape[1]
        return texts, losses

    def _with_phrases(self, texts: list[str], losses: Tensor) -> tuple[list[str], Tensor]:
        """The best of the texts and of two of them in a row, as many as before; a single vector holds no two words."""
        if self._run.placeholder.num_vectors == 1:
            return texts, losses
        phrases = [f"{one} {other}" for one in texts for other in texts if one != other]
        own = self.losses([self.rows(phrase) for phrase in phrases], self._draws[: losses.shape[1]])
        return best_of([*texts, *phrases], torch.cat([losses, own]), len(texts))

    def _learned(self, starts: Sequence[Rows]) -> list[Rows]:
        """The starts after a few steps, each on the same draws."""
        trained = list(starts)
        for step in range(STEPS):
            draws = draws_of(self._run, SHARE, f"step {step}")
            slopes = self.slopes(trained, draws)
            trained = [
                tuple(map(turned, rows, own)) for rows, own in zip(trained, slopes, strict=True)
            ]
        return trained

    @contextmanager
    def _trying(self, starts: Sequence[Rows]) -> Iterator[list[str]]:
        """Give the model a word for each start, beside those that it has; yields their names."""
        parts, token = self._run.parts, self._run.placeholder.token
        count = self._run.placeholder.num_vectors
        words = [(f"{token}~{i}~", count) for i in range(len(starts))]
        vectors = [torch.cat(encoder_rows).detach() for encoder_rows in zip(*starts, strict=True)]
        with parts.with_words(words, vectors, keep=True):
            yield [name for name, _ in words]

    def _jobs(
        self, starts: int, draws: Sequence[Draw], times: int
    ) -> Iterator[list[tuple[int, int]]]:
        """Starts and draws that go through the UNet together: of one size, and as many times what a step of the run takes."""
        most = times * max(self._run.config.data.batch_sizes)
        sizes: dict[torch.Size, list[tuple[int, int]]] = {}
        for draw, what in enumerate(draws):
            sizes.setdefault(what.batch.moments.shape[2:], []).extend(
                (start, draw) for start in range(starts)
            )
        for jobs in sizes.values():
            yield from (jobs[i : i + most] for i in range(0, len(jobs), most))

    def _forward(
        self, jobs: Sequence[tuple[int, int]], names: Sequence[str], draws: Sequence[Draw]
    ) -> Tensor:
        batches = [self._renamed(draws[draw], names[start]) for start, draw in jobs]
        self.passes += len(jobs)
        with self._run.autocast():
            return forward(
                self._run.family, self._run.parts, join(batches), NoiseConfig(), LossConfig()
            ).per_sample

    def _renamed(self, draw: Draw, name: str) -> Batch:
        """The draw with another word in its caption."""
        caption = self._pattern.sub(name, draw.batch.captions[0])
        return replace(
            draw.batch, captions=[caption], generators=[torch.Generator().manual_seed(draw.seed)]
        )


def best_of(texts: Sequence[str], losses: Tensor, count: int) -> tuple[list[str], Tensor]:
    """So many texts of the lowest mean of their [texts, draws] losses, and these losses, best first."""
    best = losses.mean(dim=1).nan_to_num(torch.inf).argsort(stable=True)[:count].tolist()
    return [texts[i] for i in best], losses[best]


def turned(rows: Tensor, gradient: Tensor) -> Tensor:
    """[n, D] rows turned down the gradient by `TURN`, each as long as before."""
    lengths, gradient = rows.norm(dim=1, keepdim=True), gradient.to(rows).nan_to_num()
    at = rows / lengths.clamp(min=1e-12)
    along = torch.nn.functional.normalize(tangent(gradient, at), dim=1)
    found: Tensor = lengths * torch.nn.functional.normalize(at - TURN * along, dim=1)
    return found


def draws_of(run: Run, count: int, purpose: str = "measured") -> list[Draw]:
    """Training images whose captions have the word, in turn, at timesteps spread over the run's range; the first ones are spread too."""
    able = [i for i, sample in enumerate(run.samples) if sample.trains]
    captions = {}
    for i in able:
        sample = run.samples[i]
        rng = rng_for(run.config.loop.seed, "init word", i)
        caption = vary(
            sample.caption,
            sample.subset.captions,
            run.placeholder.token,
            rng,
            run.total_steps,
            run.total_steps,
        )
        if run.placeholder.is_in(caption):
            captions[i] = caption
    if not captions:
        return []
    images = min(len(captions), count)
    chosen = [list(captions)[k * len(captions) // images] for k in range(images)]
    times = run.parts.schedule.spread_times(run.config.noise, count)
    plan = [(Item(chosen[k % images], 0, flipped=False),) for k in range(count)]
    order = rng_for(run.config.loop.seed, "init word", purpose).permutation(count)
    made = []
    for k, ((item,), (latent,)) in enumerate(zip(plan, run.latents.still(plan), strict=True)):
        sizes = torch.tensor([run.size_of(item, latent)])
        timestep = times[int(order[k])][None]
        batch = Batch(
            latent.moments[None],
            [captions[item.sample]],
            [],
            torch.ones(1),
            sizes,
            stack_masks([latent]),
            timestep,
        )
        made.append(Draw(batch, key_for(run.config.loop.seed, "init word", purpose, k)))
    return made


def whole_words(run: Run) -> list[str]:
    """Words of letters that are one token in every text encoder, most frequent first."""
    first, *others = [tokenizer.get_vocab() for tokenizer in run.parts.tokenizers]
    found = []
    for token in sorted(first, key=lambda token: first[token]):
        word = token.removesuffix("</w>")
        fits = (
            token.endswith("</w>")
            and word.isalpha()
            and len(word) >= SHORTEST
            and word not in FUNCTION_WORDS
        )
        if fits and all(token in other for other in others):
            found.append(word)
    return found
