"""The training configuration: frozen, built once, then only read.

Every field has its unit and range beside it. Settings with `repr=False` came after the first states that
may be resumed: see `later_fields`. A `TrainConfig` is what was asked for; what only the model,
the images and the disk can tell is looked up by the checks (`checks.make_plans`). Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from coinage.data_config import DataConfig

if TYPE_CHECKING:
    from coinage.settings.flag_values import FlagValues

Precision = Literal["no", "fp16", "bf16"]
AskedPrecision = Literal["auto", "no", "fp16", "bf16"]
PredictionType = Literal["epsilon", "v_prediction"]
FlowWeighting = Literal["none", "sigma_sqrt", "cosmap"]
SaveFormat = Literal["safetensors", "pt", "ckpt"]
TrainedEncoders = Literal["both", "l", "g", "clip", "t5"]
Role = Literal["positive", "negative"]
NormMode = Literal["none", "clip", "target"]
OnProblem = Literal["stop", "warn"]
TrackerName = Literal["tensorboard", "wandb"]
OPEN_SEED = -1
AUTO_PRECISION: Final = "auto"
TimestepDistribution = Literal[
    "uniform", "logit_normal", "heavy_tail", "beta", "cos_map", "sigmoid", "inverted_parabola"
]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """Which model, and how its text encoder is read."""

    source: str  # diffusers folder, checkpoint file, or hub id
    family: str = "sd1"  # sd1, sd2 or sdxl; "": looked up in the source before training
    tokenizer_cache: Path | None = None  # folder of tokenizers, for single files
    map_weights: bool = True  # off: read a single file into memory at once
    vae: str | None = None  # replaces the model's own VAE
    prediction_type: PredictionType | None = None  # None: as the model's scheduler says
    # Rescale the schedule to end in pure noise; also on if the model's settings say so
    zero_terminal_snr: bool = False
    clip_skip: int | None = None  # 1..layers; None and 1: the last layer
    precision: AskedPrecision = "no"  # auto: the best of the device, found by the checks
    full_precision_vae: bool = False
    low_precision_text: bool = False  # text encoders in `precision` too; the new rows stay float32
    fp8_unet: bool = False  # UNet weights are kept in 8 bits and computed with in `precision`
    compile_backend: str | None = None  # of torch.compile, for the UNet; None: not compiled
    cuda_graphs: bool = False  # record the work of a step, and replay it
    gradient_checkpointing: bool = False
    # Text encoders in 8 bits and their token tables on the CPU, pictures in tiles, the loss one by one
    low_memory: bool = False
    streamed: bool = False  # the UNet's weights are on the CPU, and copied when they are needed
    max_token_length: int = 75  # tokens of a caption: 75, 150 or 225


@dataclass(frozen=True, slots=True, kw_only=True)
class WordConfig:
    """One new word."""

    token: str  # as captions write it; case-sensitive
    num_vectors: int = 1  # 1..75; of a companion 0: as many as its file has, found before training
    init_word: str | None = None  # one or more known tokens
    # Find the init word by the loss on the images; `init_word` is None until it is found
    search: bool = False
    init_file: Path | None = None  # an embedding file; wins over init_word
    # Where the file has more or fewer vectors
    init_fit: Literal["error", "truncate", "repeat"] = "error"
    output_name: str = ""  # file name without suffix; the token when empty
    role: Role = "positive"  # negative: in the negative prompt; the images show what is not wanted
    # Of SDXL: CLIP-L's half alone, bigG's alone, or both; the other one stays as it starts
    train_encoders: TrainedEncoders = "both"
    together: bool = False  # learns from the same batches as all other words that say so
    start_step: int = 0  # steps of the run before its first update, >= 0
    end_step: int | None = None  # step of its last update, > start_step; None: the run's last

    def steps_of(self, total: int) -> int:
        """Return in how many of a run's steps the word learns."""
        return max(0, min(self.end_step or total, total) - self.start_step)

    def learns_at(self, step: int) -> bool:
        """Return whether the word learns at a step of the run, counted from 1."""
        return self.start_step < step <= (self.end_step or step)


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseConfig:
    """The forward process."""

    offset: float = 0.0  # deviation of a constant per channel, >= 0
    random_offset: bool = False  # times U(0, 1), drawn for each sample
    adaptive_offset: float = 0.0  # offset grows by this times the channel's |mean|; may be negative
    pyramid_levels: int = 0  # coarser noises added
    pyramid_discount: float = 0.3  # weight of level i is this ** i
    perturbation: float = 0.0  # deviation of noise that is added to the input alone, >= 0
    random_perturbation: bool = False  # times U(0, 1), drawn for each sample
    min_timestep: int = 0  # inclusive
    max_timestep: int = 1000  # exclusive
    # How they are drawn in this range
    timesteps: TimestepDistribution = field(default="uniform", repr=False)
    # What it means depends on the distribution
    timestep_weight: float = field(default=0.0, repr=False)
    timestep_bias: float = field(default=0.0, repr=False)  # the same
    timestep_shift: float = field(default=1.0, repr=False)  # above 1: towards more noise; > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LossConfig:
    """How errors are measured, and weighed at different timesteps. A weight of 0 is off."""

    kind: Literal["l2", "l1", "huber", "smooth_l1"] = "l2"
    huber_schedule: Literal["constant", "exponential", "snr"] = "snr"
    huber_c: float = 0.1  # 0..1, where the loss turns straight
    huber_scale: float = 1.0  # factor of huber_c; not for `snr`
    min_snr_gamma: float = 0.0  # Hang et al. 2023
    debiased: bool = False  # Yu et al. 2023
    scale_v: bool = False  # v-loss as large as a noise loss
    v_like: float = 0.0  # weight of a v-like part of a noise loss
    prior_weight: float = 1.0  # factor of regularisation images
    normalize_mask: bool = False  # divide by the mask's mean, so that small masks teach as much
    # Share of uses of an image without its mask, 0..1
    unmasked_probability: float = field(default=0.0, repr=False)
    unmasked_weight: float = field(default=0.0, repr=False)  # weight of what a mask hides, 0..1
    # Weight of what a mask hides, compared with the model's own prediction without the word
    mask_prior_weight: float = field(default=0.0, repr=False)
    flow_weighting: FlowWeighting = field(default="none", repr=False)  # of flow matching, by noise


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimConfig:
    """Optimizer and learning rate."""

    name: str = "AdamW"
    learning_rate: float = 2e-6
    arguments: tuple[tuple[str, object], ...] = ()
    max_grad_norm: float = 1.0  # over all rows together; 0 is off
    norm_mode: NormMode = "none"  # what becomes of a row's length after each step
    accumulation: int = 1  # batches per step
    # Adafactor finds its own rate, and learning_rate only starts the log
    relative_step: bool = False
    schedule: str = "constant"
    # Class in torch.optim.lr_scheduler, or module.Class; wins over `schedule`
    schedule_class: str = ""
    schedule_arguments: tuple[tuple[str, object], ...] = ()
    warmup: float = 0  # steps, or a fraction of the run when below 1
    decay: float = 0  # the same, of `warmup_stable_decay`
    cycles: int = 1
    power: float = 1.0
    timescale: int | None = None  # of `inverse_sqrt`, steps
    min_rate: float | None = None  # lowest rate, as a share of learning_rate


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopConfig:
    """How long, and from which seed."""

    max_steps: int = 1600  # optimizer steps
    max_epochs: int | None = None  # wins over max_steps
    seed: int = 0  # OPEN_SEED: the resumed state's, or drawn before training
    on_problem: OnProblem = "stop"  # when the word cannot learn
    early_stop: bool = False  # end when the evaluation loss has settled
    compare_images: bool = False  # at the end, measure what the word gains on each image
    autopilot: int | None = None  # settings that are tried side by side before the run, >= 2
    chosen: str = ""  # name of those that were best
    # Their names and losses, best first; None is not finite
    tried: tuple[tuple[str, float | None], ...] = ()
    given_seed: int | None = None  # where they have another one

    @property
    def to_try(self) -> int:
        """Settings to try before the run; 0 where none are asked for, or the best is chosen already."""
        return 0 if self.chosen else self.autopilot or 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SaveConfig:
    """When and as what the embedding is written."""

    output_dir: Path
    format: SaveFormat = "pt"
    precision: Literal["float", "fp16", "bf16"] = "float"
    every_n_steps: int | None = None
    every_n_epochs: int | None = None
    n_epoch_ratio: int | None = None  # wins over every_n_epochs
    keep_epochs: int | None = None  # saves at epochs: this many stay
    keep_steps: int | None = None  # saves at steps: those of this many last steps stay
    keep_best: bool = False  # also write the word as it was where it was best
    best_by: Literal["loss", "scores"] = "loss"  # lowest evaluation loss, or highest scores
    metadata: tuple[tuple[str, str], ...] = ()  # ModelSpec fields given by the user

    @property
    def lowest_loss(self) -> bool:
        """True where the word at the lowest evaluation loss is kept."""
        return self.keep_best and self.best_by == "loss"

    def epochs_between(self, total_epochs: int) -> int | None:
        """Epochs from one save to the next in a run of so many; None where none are saved."""
        return (
            max(1, total_epochs // self.n_epoch_ratio)
            if self.n_epoch_ratio
            else self.every_n_epochs
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StateConfig:
    """When states are saved, from which a run can go on, and the state that this run goes on from."""

    save: bool = False  # with every embedding
    at_end: bool = False  # with the last one
    keep_epochs: int | None = None  # as SaveConfig
    keep_steps: int | None = None
    resume: str | None = None  # a state's folder, or `latest`


@dataclass(frozen=True, slots=True, kw_only=True)
class PreviewConfig:
    """When which pictures are drawn."""

    prompts: Path | None = None  # None: a set of our own
    every_n_steps: int | None = None
    every_n_epochs: int | None = None  # wins over every_n_steps
    at_first: bool = False
    automatic: bool = False  # a few times over the run, where they take little of it
    sampler: str = "ddim"
    show_word: bool = False  # see where in them the word acts, for the report


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoringConfig:
    """What scores the word during a run, and the prompts that are drawn for it."""

    clip: str | None = None  # a transformers folder or a hub id
    dino: str | None = None
    prompts: str = "object"  # a set's name, or a text file


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationConfig:
    """When the evaluation loss is measured.

    Without an interval: ten times over the run where images are held out; where the run stops early or keeps
    the best, as often as takes a twentieth of the passes through the UNet, and every 40 steps at least.
    """

    every_n_steps: int | None = None
    every_n_epochs: int | None = None


@dataclass(frozen=True, slots=True)
class GivenFlag:
    """A flag of the command line or of a settings file, for the report and its command."""

    group: str  # heading in the help
    name: str  # with its dashes
    arguments: tuple[str, ...] = ()  # what stands behind it; nothing behind a switch


@dataclass(frozen=True, slots=True, kw_only=True)
class LogConfig:
    """Where progress is recorded."""

    dir: Path | None = None
    trackers: tuple[TrackerName, ...] = ()
    prefix: str = ""
    name: str = "textual_inversion"  # TensorBoard's folder, the project on W&B
    run_name: str | None = None  # on W&B
    wandb_key: str | None = field(default=None, repr=False)
    # What the trackers are started with, by tracker
    arguments: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    settings: tuple[tuple[str, object], ...] = ()  # sent to the trackers
    program: str = "coinage train"
    given: tuple[GivenFlag, ...] = ()  # flags that differ from their defaults
    typed: tuple[GivenFlag, ...] = ()  # those of a command line with a settings file, and that file
    level: str = "INFO"
    file: Path | None = None  # takes what the console would show
    simple: bool = False  # to stdout instead of stderr
    quiet: bool = False  # no progress; the file's path at the end


@dataclass(frozen=True, slots=True, kw_only=True)
class HubConfig:
    """Where on the Hugging Face hub files are uploaded."""

    repo_id: str | None = None  # owner/name; None: nowhere
    repo_type: str = "model"  # model, dataset or space
    folder: str = ""  # within the repository
    token: str | None = field(default=None, repr=False)  # None: the stored login
    private: bool = True  # of a repository that is made; one that is there stays as it is
    background: bool = False  # training goes on while files are sent
    states: bool = False  # states too


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """Everything that a run of one word is asked to do.

    Several runs with different words may train side by side on the same model.
    """

    model: ModelConfig
    word: WordConfig
    data: DataConfig
    # Words of files that captions may hold, and that stay as they are
    companions: tuple[WordConfig, ...] = ()
    # The other words that learn from the same batches; found before training
    learns_with: tuple[WordConfig, ...] = ()
    noise: NoiseConfig = NoiseConfig()
    loss: LossConfig = LossConfig()
    optim: OptimConfig = OptimConfig()
    loop: LoopConfig = LoopConfig()
    save: SaveConfig
    state: StateConfig = StateConfig()
    preview: PreviewConfig = PreviewConfig()
    validation: ValidationConfig = ValidationConfig()
    scoring: ScoringConfig = ScoringConfig()
    log: LogConfig = LogConfig()
    hub: HubConfig = HubConfig()
    # The values of flags that it was made from; None where it was not made from any
    values: FlagValues | None = field(default=None, repr=False, compare=False)

    @property
    def output_file(self) -> Path:
        """Where the word is at the end."""
        return self.save.output_dir / f"{self.word.output_name}.{self.save.format}"

    @classmethod
    def from_mapping(cls, values: Mapping[str, object], *, script: str = "coinage") -> TrainConfig:
        """Make a configuration from values of flags.

        Neither model nor images are looked at, but a dataset file is read: what was not given and depends
        on them is found before training.

        Args:
            values: by the flags' names without dashes, such as `learning_rate`; numbers, switches, texts,
                paths and lists, as in Python or as in a TOML file. None means not given.
            script: whose defaults are taken: "coinage" those of `coinage train`, "sd" and "sdxl" those of
                the two scripts of sd-scripts.

        Raises:
            ConfigError: all problems together, unknown keys included.
        """
        from coinage.settings.mapping import config_from_mapping

        return config_from_mapping(values, script)

    @classmethod
    def from_toml(cls, path: str | Path, *, script: str = "coinage") -> TrainConfig:
        """Read a configuration of one word from a TOML file, as `--config_file` reads it.

        Args:
            path: of the file. Its tables are headings; one `[[words]]` table may hold the word's own keys.
            script: as in `from_mapping`.

        Raises:
            ConfigError: all problems of the file together, unknown keys included; it cannot be read, or
                it has several `[[words]]` tables: `list_from_toml` takes those.
        """
        from coinage.settings.mapping import config_from_toml

        return config_from_toml(path, script)

    @classmethod
    def list_from_toml(cls, path: str | Path, *, script: str = "coinage") -> list[TrainConfig]:
        """Read the configurations of all words of a TOML file; arguments and errors as `from_toml`."""
        from coinage.settings.mapping import configs_from_toml

        return configs_from_toml(path, script)

    def to_toml(self, path: str | Path | None = None) -> str:
        """Return the values that differ from the defaults as TOML, without keys and tokens.

        `from_toml` makes an equal configuration of it, with the same `script`.

        Args:
            path: a file to write as well; one that is there is replaced.

        Raises:
            ConfigError: the configuration is not what its values give: it was made or changed by hand.
            CoinageError: the file cannot be written.
        """
        from coinage.settings.mapping import config_to_toml

        return config_to_toml(self, path)
