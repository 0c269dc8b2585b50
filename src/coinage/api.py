"""Coinage from Python: train words, check a training, draw with what was learned."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import get_args, overload

import torch
from PIL import Image

from coinage.checks import make_plans
from coinage.checks.model import model_problems, vae_problems
from coinage.config import ModelConfig, Precision, PredictionType, TrainConfig
from coinage.embeddings.base_model import base_of_model, log_other_base
from coinage.embeddings.install import install_embeddings, log_left_out
from coinage.embeddings.word import Word, load_word
from coinage.errors import ConfigError, Findings, Problem, reason_of
from coinage.generate import Drawn, draw_with_maps
from coinage.models.base import Components, Conditioning, ModelFamily
from coinage.models.facts import DEFAULT
from coinage.models.families import FAMILIES
from coinage.models.hub_files import detect_family, native_side
from coinage.models.loading import reported_as
from coinage.models.loading_lock import LOADING_LOCK
from coinage.models.placement import DTYPES, place, place_vae
from coinage.optim.factory import OptimizerFactory
from coinage.scoring.evaluate import Studio, Trial, as_pixels, named, score_words
from coinage.scoring.prompts import checked, templates_of
from coinage.scoring.results import Evaluation
from coinage.scoring.scorer import Pixels, Scorer, check_scorers
from coinage.seeding import draw_seed
from coinage.system.accelerator import default_device
from coinage.system.launch import process_count
from coinage.system.text_files import as_path
from coinage.text.placeholder import encoding_problems, pieces_of, vocabulary_problems
from coinage.text.prompts import Prompt
from coinage.text.samplers import SAMPLER_NAMES
from coinage.training.arguments import (
    check_callable,
    check_number,
    checked_configs,
    checked_observers,
    one_of,
)
from coinage.training.losses import Loss
from coinage.training.observers.base import Observer
from coinage.training.processes import ALONE, start_processes
from coinage.training.scores import by_scores
from coinage.training.session import train_plans

SIZE_UNIT = 8  # pixels: a latent's side
MAX_GUIDANCE = 1000
MAX_STEPS = 1000  # of the noise schedule
Texts = str | Sequence[str]
Size = int | tuple[int, int] | None


@overload
def train(
    config: TrainConfig,
    observers: Sequence[Observer] = ...,
    loss: Loss | None = ...,
    optimizer: OptimizerFactory | None = ...,
    scorers: Sequence[Scorer] = ...,
) -> Word: ...
@overload
def train(
    config: Sequence[TrainConfig],
    observers: Sequence[Observer] = ...,
    loss: Loss | None = ...,
    optimizer: OptimizerFactory | None = ...,
    scorers: Sequence[Scorer] = ...,
) -> list[Word]: ...
def train(
    config: TrainConfig | Sequence[TrainConfig],
    observers: Sequence[Observer] = (),
    loss: Loss | None = None,
    optimizer: OptimizerFactory | None = None,
    scorers: Sequence[Scorer] = (),
) -> Word | list[Word]:
    """Train a word, or several words together on one model, and save them.

    The training is that of `coinage train` with the same settings: it writes the same files to the
    output folder, byte for byte. It prints nothing; messages go to the log named `coinage`, so
    `logging.basicConfig(level=logging.INFO)` shows them. Signal handlers, environment variables and
    the random number generators of Python, NumPy and torch are left alone, and several trainings
    may run in threads of one process, each with output names of its own.

    If torchrun or accelerate has started this process together with others, they train together.

    A run that is asked to stop early returns the word as it is by then, with its state saved so
    that it can be continued with `resume`; `word.step` shows how far it came. Ctrl-C, or the stop
    button of a notebook, saves the word as it is and raises KeyboardInterrupt.

    Args:
        config: what to train; a sequence trains its words side by side, in one batch.
        observers: follow the run, or each of the runs; see `Observer`.
        loss: computes the loss in place of the configured one: any callable that takes `LossInputs`
            and returns one loss per sample; see `Loss`.
        optimizer: makes the optimizer in place of the configured one: any callable that takes the
            trained parameters and returns a torch optimizer. The configured schedule is applied
            on top of its learning rate.
        scorers: score the word during the run, in place of the configured ones; NAME-best is then
            the word where they score it highest, as with `keep_best = "scores"`.

    Returns:
        The word after the last step, or a list of words for a sequence of configs.

    Raises:
        ConfigError: the settings, the model or the images cannot be used: all problems together.
        TrainingError: the run cannot continue; what was learned is saved.
        CoinageError: a file cannot be read or written, or a service cannot be used.
    """
    single = isinstance(config, TrainConfig)
    configs = checked_configs(config)
    check_scorers(scorers)
    if scorers:
        configs = [by_scores(config) for config in configs]
    own_observers = checked_observers(observers)
    check_callable("loss", loss, "a function of `LossInputs`")
    check_callable("optimizer", optimizer, "a function of the trained parameters")
    with ExitStack() as stack:
        processes, device = ALONE, default_device()
        if process_count() > 1:
            processes, device = start_processes(None)
        plans = make_plans(configs, seed=processes.shared_seed())
        for plan in plans:
            stack.callback(plan.release)
        for plan in plans:
            plan.start()
        trained = train_plans(
            plans,
            processes,
            device,
            observers=lambda _: own_observers,
            loss=loss,
            optimizer=optimizer,
            scorers=scorers,
        )
    words = [word.word for word in trained]
    return words[0] if single else words


def load_model(
    source: str | Path,
    *,
    family: str | None = None,
    vae: str | Path | None = None,
    precision: Precision | None = None,
    device: str | torch.device | None = None,
    clip_skip: int | None = None,
    prediction_type: PredictionType | None = None,
    zero_terminal_snr: bool = False,
    tokenizer_cache: str | Path | None = None,
) -> Model:
    """Load a Stable Diffusion model to draw with, or to encode prompts.

    Args:
        source: a .safetensors or .ckpt file, a diffusers folder, or a Hugging Face id.
        family: `sd1`, `sd2`, `sdxl`, `sd3` or `flux`; None: as the files show.
        vae: in place of the model's own: a file, a folder or an id.
        precision: `no` is float32, `fp16` or `bf16`; None: fp16 on a GPU, float32 on a CPU.
        device: such as `cuda:1`; None: the accelerator of this machine, or the CPU.
        clip_skip: layer of the text encoder, counted from its end, as in training.
        prediction_type: `epsilon` or `v_prediction`; None: as the model's settings say.
        zero_terminal_snr: the noise schedule ends in pure noise.
        tokenizer_cache: a folder of tokenizers for models in single files.

    Raises:
        ConfigError: the source is not a model that can be used.
        CoinageError: the files are damaged.

    Example:
        ```python
        model = coinage.load_model("sd15.safetensors")
        model.install("mychar.safetensors")
        model.generate("a photo of mychar on a beach", seed=1)[0].save("beach.png")
        ```
    """
    chosen = default_device() if device is None else _usable_device(device)
    if clip_skip is not None:
        check_number("clip_skip", clip_skip, at_least=1)
    if tokenizer_cache is not None:
        tokenizer_cache = as_path(tokenizer_cache, "tokenizer_cache")
    automatic: Precision = "no" if chosen.type == "cpu" else "fp16"
    config = ModelConfig(
        source=str(source),
        family=family or detect_family(str(source)) or DEFAULT.name,
        vae=None if vae is None else str(vae),
        precision=precision or automatic,
        clip_skip=clip_skip,
        prediction_type=one_of("prediction_type", prediction_type, get_args(PredictionType)),
        zero_terminal_snr=zero_terminal_snr,
        tokenizer_cache=tokenizer_cache,
    )
    one_of("family", config.family, tuple(FAMILIES))
    one_of("precision", config.precision, tuple(DTYPES))
    Findings(errors=model_problems(config) + vae_problems(config)).raise_errors()
    return Model(config, chosen)


def _usable_device(device: object) -> torch.device:
    """Return a device of this machine.

    Raises:
        ConfigError: it has none of that name.
    """
    try:
        chosen = torch.device(device)  # type: ignore[call-overload]
        torch.empty(1, device=chosen)
    except (AssertionError, RuntimeError, TypeError) as error:
        what = f"device: {device!r} cannot be used: {reason_of(error)}"
        hint = f"leave it out for {default_device()}"
        raise ConfigError([Problem(what, hint=hint)]) from None
    return torch.device(chosen)


class Model:
    """A loaded model, with the words that were installed in it; `load_model` returns it.

    Attributes:
        family: `sd1`, `sd2`, `sdxl`, `sd3` or `flux`.
        embedding_keys: the names of its text encoders in embedding files, such as `emb_params`.
        device: that the model is on.
        dtype: that it computes in.
        words: installed by now, by the name that prompts write.
    """

    def __init__(self, config: ModelConfig, device: torch.device) -> None:
        self._kind: ModelFamily = FAMILIES[config.family]
        self._config = config
        self.family = config.family
        self.device = device
        self.dtype = DTYPES[config.precision]
        self.words: dict[str, Word] = {}
        with LOADING_LOCK:
            self.parts: Components = self._kind.load(config, self.dtype)
            self._base = base_of_model(config, self.parts.schedule.prediction_type)
            self.embedding_keys = self.parts.keys
            self.parts.home = device
            place_vae(self.parts)
            place(self.parts)
            install_embeddings(self.parts, self.embedding_keys, [])

    def __repr__(self) -> str:
        words = f", words {', '.join(self.words)}" if self.words else ""
        return f"Model({self._config.source!r}, {self.family} on {self.device}{words})"

    def install(self, word: Word | str | Path, token: str | None = None) -> str:
        """Add a learned word, beside those that the model has already.

        Args:
            word: or the path of its file.
            token: what prompts write for it; None: as in training, or the file's name.

        Returns:
            The token. A word that was installed under the same token before is replaced.

        Raises:
            ConfigError: the token is in the model's vocabulary, or is part of another word.
            EmbeddingFileError: the file is not an embedding, or is for another kind of model.
        """
        if not isinstance(word, Word):
            path = as_path(word, "word")
            word = load_word(path)
            token = token or word.token or path.stem
        name = token or word.token
        if name is not None and not isinstance(name, str):
            what = f"token: an object of type {type(name).__name__} is not a text"
            raise ConfigError([Problem(what, hint="give the word as prompts write it")])
        if name is None:
            problem = Problem("the word has no name", hint="give install(word, token=...)")
            raise ConfigError([problem])
        self._check_name(name, word)
        words = {**self.words, name: word}
        with LOADING_LOCK:
            install_embeddings(self.parts, self.embedding_keys, list(words.items()))
        self.words = words
        log_left_out(name, word, self.embedding_keys)
        log_other_base(name, word.metadata, self._base)
        return name

    def _check_name(self, name: str, word: Word) -> None:
        """See that a word's pieces are not known to the model by now.

        Raises:
            ConfigError: they are.
        """
        problems = encoding_problems([("the word", name)])
        pieces = pieces_of(name, word.num_vectors)
        problems += vocabulary_problems(pieces, self.parts.tokenizers[0].get_vocab(), name)
        for other, installed in self.words.items():
            shared = sorted({*pieces} & {*pieces_of(other, installed.num_vectors)})
            if shared and other != name:
                what = f"{name} and {other} are not distinct: {shared[0]} is a vector of both"
                problems.append(Problem(what, hint="install one under another token"))
        if problems:
            raise ConfigError(problems)

    def generate(
        self,
        prompts: Texts,
        *,
        steps: int = 30,
        guidance: float | None = None,
        size: Size = None,
        seed: int | None = None,
        sampler: str = "ddim",
        negative: str = "",
        batch_size: int = 1,
    ) -> list[Image.Image]:
        """Draw a picture of each prompt, as `coinage generate` does.

        A picture depends on its prompt, its settings and its seed alone, not on `batch_size`.

        Args:
            prompts: one or more; `(word:1.3)` gives a word more weight.
            steps: of the sampler.
            guidance: its scale; None: the model's own, 7.5, for FLUX.1 3.5.
            size: side, or (width, height), in pixels, rounded down to multiples of 8; None: the
                size that the model was made for.
            seed: of the first picture; the others count up from it. None: a random one.
            sampler: such as `ddim`, `euler_a` or `dpmsolver++`.
            negative: what the pictures should not show.
            batch_size: pictures that are drawn together.

        Raises:
            ConfigError: the sampler is not known, or the steps or the size are out of range.
            CoinageError: the model cannot draw.
        """
        plain = self._prompt(steps, guidance, size, seed, sampler)
        check_number("batch_size", batch_size, at_least=1)
        first = draw_seed() if seed is None else seed
        asked = [
            replace(plain, text=text, negative=negative, seed=first + number)
            for number, text in enumerate(_list_of(prompts))
        ]
        return [Image.fromarray(pixels) for pixels in self.draw(asked, batch_size)]

    def evaluate(
        self,
        words: Word | str | Path | Sequence[Word | str | Path],
        *,
        scorers: Sequence[Scorer] = (),
        images: Sequence[Image.Image | Pixels] = (),
        prompts: str | Sequence[str] = "object",
        noun: str | None = None,
        count: int = 2,
        seed: int = 0,
        steps: int = 30,
        guidance: float | None = None,
        size: Size = None,
        sampler: str = "ddim",
        batch_size: int = 1,
    ) -> Evaluation:
        """Score words with the same prompts and seeds, as `coinage evaluate` does.

        Without scorers nothing is drawn, and the words are only compared with the model's own. What
        is installed stays as it is.

        Args:
            words: one or more, or the paths of their files.
            scorers: such as `ClipScorer.load(folder)`, or objects of your own; see `Scorer`.
            images: of what the words mean, as Pillow's or as [H, W, 3] uint8 RGB.
            prompts: `object`, `live` or `style`, or texts with `{}` where the word stands.
            noun: what the words are a kind of; "" for nothing; None: the init word in each file.
            count: pictures of each prompt.
            seed: of the first of them; the others count up.
            steps: as for `generate`; so are the next four.
            guidance: its scale; None: the model's own, 7.5, for FLUX.1 3.5.
            size: side, or (width, height), in pixels.
            sampler: such as `ddim`.
            batch_size: pictures that are drawn together.

        Raises:
            ConfigError: a setting is out of range, or words do not fit the model.
            CoinageError: a file cannot be read, the model cannot draw, or a scorer fails.
        """
        check_scorers(scorers)
        plain = self._prompt(steps, guidance, size, seed, sampler)
        check_number("batch_size", batch_size, at_least=1)
        check_number("count", count, at_least=1)
        given = [words] if isinstance(words, Word | str | Path) else words
        candidates = [named(word, noun, number) for number, word in enumerate(given, 1)]
        if not candidates:
            raise ConfigError([Problem("words: there are none", hint="give a word or its file")])
        for one in candidates:
            log_other_base(one.name, one.word.metadata, self._base)
        templates = templates_of(prompts) if isinstance(prompts, str) else checked(prompts)
        studio = Studio(self._kind, self.parts, partial(self.draw, batch_size=batch_size))
        trial = Trial(templates, count, seed, plain)
        scored = score_words(candidates, studio, trial, scorers, [as_pixels(one) for one in images])
        return Evaluation(self._config.source, tuple(scored))

    def draw(self, prompts: Sequence[Prompt], batch_size: int = 1) -> Iterator[Pixels]:
        """Draw prompts that each have settings of their own.

        Yields:
            [H, W, 3] uint8 RGB, in order.

        Raises:
            CoinageError: the model cannot draw.
        """
        for drawn in self.draw_with_maps(prompts, batch_size, show_words=False):
            yield drawn.pixels

    def draw_with_maps(
        self, prompts: Sequence[Prompt], batch_size: int = 1, *, show_words: bool = True
    ) -> Iterator[Drawn]:
        """Draw the same pictures, each with a map for every installed word of its prompt.

        A map tells where in the picture the UNet attends to the word; see `Drawn`. Without
        `show_words` there are none.

        Raises:
            CoinageError: the model cannot draw.
        """
        low_precision = self.dtype != torch.float32
        autocast = torch.autocast(self.device.type, self.dtype, enabled=low_precision)
        with reported_as("the pictures", self._config.source, "cannot draw"):
            yield from draw_with_maps(
                self._kind, self.parts, prompts, batch_size, autocast, show_words=show_words
            )

    @torch.no_grad()
    def encode(self, prompts: Texts) -> Conditioning:
        """Return what the UNet gets for prompts of at most 75 tokens, as in training.

        Returns:
            `encoder_hidden_states` [B, T, D] float; for SDXL also `pooled` [B, P] and `time_ids`
            [B, 6], for pictures of the model's own size.
        """
        texts = _list_of(prompts)
        side = self._kind.facts.side
        sizes = torch.tensor([[side, side, 0, 0, side, side]] * len(texts))
        with reported_as("a prompt", self._config.source, "cannot encode"):
            return self._kind.encode(self.parts, texts, sizes)

    def _prompt(
        self, steps: int, guidance: float | None, size: Size, seed: int | None, sampler: str
    ) -> Prompt:
        """Return a prompt without text, with checked settings.

        Raises:
            ConfigError: the sampler is not known, or a number is out of range.
        """
        one_of("sampler", sampler, SAMPLER_NAMES)
        check_number("steps", steps, at_least=1, below=MAX_STEPS + 1)
        if guidance is not None:
            most = MAX_GUIDANCE
            check_number("guidance", guidance, at_least=-most, below=most, whole=False)
        if seed is not None:
            check_number("seed", seed, at_least=0, below=2**63)
        width, height = self._size(size)
        return Prompt(
            text="", width=width, height=height, seed=seed, steps=steps, scale=guidance,
            sampler=sampler,
        )  # fmt: skip

    def _size(self, size: Size) -> tuple[int, int]:
        """Return width and height in pixels.

        Raises:
            ConfigError: a side is too short.
        """
        if size is None:
            size = native_side(self._config.source) or self._kind.facts.side
        sides = size if isinstance(size, tuple | list) else (size, size)
        if len(sides) != 2:
            what = f"size: {size!r} is neither a side nor (width, height)"
            raise ConfigError([Problem(what, hint="use one number or two")])
        width, height = sides
        for side in sides:
            check_number("size", side, at_least=SIZE_UNIT * SIZE_UNIT)
        return width // SIZE_UNIT * SIZE_UNIT, height // SIZE_UNIT * SIZE_UNIT


def _list_of(prompts: Texts) -> list[str]:
    """Return prompts as a list.

    Raises:
        ConfigError: they are not texts.
    """
    texts = [prompts] if isinstance(prompts, str) else prompts
    listed = list(texts) if isinstance(texts, Iterable) else [texts]
    for text in listed:
        if not isinstance(text, str):
            what = f"prompts: an object of type {type(text).__name__} is not a text"
            raise ConfigError([Problem(what, hint="give a text or a list of texts")])
    return listed
