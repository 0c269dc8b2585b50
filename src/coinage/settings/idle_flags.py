"""Notes on flags that have no effect, or another one than asked for."""

from __future__ import annotations

from collections.abc import Callable

from coinage.optim.table import find_optimizer
from coinage.settings.defaults import with_defaults
from coinage.settings.flag_values import FlagValues
from coinage.settings.flags import BY_DEST
from coinage.settings.scripts import Script


def _draws(values: FlagValues) -> bool:
    """Return whether previews are asked for."""
    return bool(
        values.sample_at_first or values.sample_every_n_steps or values.sample_every_n_epochs
    )


# A flag, the condition under which it has no effect, and the reason
IDLE: tuple[tuple[str, Callable[[FlagValues], object], str], ...] = (
    (
        "save_last_n_epochs",
        lambda v: not (v.save_every_n_epochs or v.save_n_epoch_ratio),
        "has no effect without --save_every_n_epochs",
    ),
    (
        "save_last_n_steps",
        lambda v: not v.save_every_n_steps,
        "has no effect without --save_every_n_steps",
    ),
    (
        "save_last_n_steps",
        lambda v: v.save_every_n_steps and v.save_last_n_steps < v.save_every_n_steps,
        "counts steps, not files (as in sd-scripts): only the newest file is kept",
    ),
    ("save_last_n_epochs_state", lambda v: not v.save_state, "has no effect without --save_state"),
    ("save_last_n_steps_state", lambda v: not v.save_state, "has no effect without --save_state"),
    ("words_at_once", lambda v: v.share != "words", "has no effect without --share words"),
    ("dynamo_backend", lambda v: not v.torch_compile, "has no effect without --torch_compile"),
    ("full_fp16", lambda _: True, "applies to the model only; the trained vectors stay in float32"),
    ("full_bf16", lambda _: True, "applies to the model only; the trained vectors stay in float32"),
    (
        "noise_offset_random_strength",
        lambda v: not v.noise_offset,
        "has no effect without --noise_offset",
    ),
    (
        "multires_noise_discount",
        lambda v: not v.multires_noise_iterations,
        "has no effect without --multires_noise_iterations",
    ),
    (
        "ip_noise_gamma_random_strength",
        lambda v: not v.ip_noise_gamma,
        "has no effect without --ip_noise_gamma",
    ),
    (
        "huber_schedule",
        lambda v: v.loss_type not in ("huber", "smooth_l1"),
        "has no effect without --loss_type huber or smooth_l1",
    ),
    (
        "huber_c",
        lambda v: v.loss_type not in ("huber", "smooth_l1"),
        "has no effect without --loss_type huber or smooth_l1",
    ),
    (
        "huber_scale",
        lambda v: v.loss_type not in ("huber", "smooth_l1"),
        "has no effect without --loss_type huber or smooth_l1",
    ),
    (
        "huber_scale",
        lambda v: v.huber_schedule == "snr",
        "has no effect with --huber_schedule snr (as in sd-scripts)",
    ),
    (
        "unmasked_probability",
        lambda v: v.unmasked_probability == 1,
        "is 1: no mask is ever used",
    ),
    ("unmasked_weight", lambda v: v.unmasked_weight == 1, "is 1: masks have no effect"),
    (
        "masked_prior_preservation_weight",
        lambda v: v.unmasked_weight == 1 or v.unmasked_probability == 1,
        "has no effect: no mask hides anything",
    ),
    (
        "timestep_distribution",
        lambda v: (
            v.timestep_distribution in ("heavy_tail", "sigmoid", "inverted_parabola")
            and not v.noising_weight
        ),
        "is as uniform: --noising_weight gives it its shape",
    ),
    (
        "noising_weight",
        lambda v: v.timestep_distribution in ("uniform", "cos_map"),
        "has no effect with --timestep_distribution uniform or cos_map",
    ),
    (
        "noising_bias",
        lambda v: (
            v.timestep_distribution in ("uniform", "cos_map", "heavy_tail")
            or (v.timestep_distribution != "logit_normal" and not v.noising_weight)
        ),
        "has no effect: it is for logit_normal, beta, and with a weight sigmoid and inverted_parabola",
    ),
    (
        "autopilot",
        lambda v: find_optimizer(v.optimizer_type).turns,
        "does not help with Directional; use it with other optimizers",
    ),
    (
        "score_clip",
        lambda v: v.keep_best != "scores",
        "has no effect without --keep_best scores",
    ),
    (
        "score_dino",
        lambda v: v.keep_best != "scores",
        "has no effect without --keep_best scores",
    ),
    (
        "score_prompts",
        lambda v: v.keep_best != "scores",
        "has no effect without --keep_best scores",
    ),
    (
        "norm_mode",
        lambda v: find_optimizer(v.optimizer_type).turns,
        "has no effect: Directional keeps the lengths anyway",
    ),
    (
        "lr_scheduler_power",
        lambda v: v.lr_scheduler != "polynomial",
        "is for --lr_scheduler polynomial",
    ),
    (
        "lr_scheduler_timescale",
        lambda v: v.lr_scheduler != "inverse_sqrt",
        "is for --lr_scheduler inverse_sqrt",
    ),
    (
        "lr_decay_steps",
        lambda v: v.lr_scheduler != "warmup_stable_decay",
        "is for --lr_scheduler warmup_stable_decay",
    ),
    (
        "lr_scheduler_num_cycles",
        lambda v: (
            v.lr_scheduler
            not in (
                "cosine_with_restarts",
                "cosine_with_min_lr",
                "cosine_warmup_with_min_lr",
                "warmup_stable_decay",
            )
        ),
        "is for --lr_scheduler cosine_with_restarts, cosine_with_min_lr and warmup_stable_decay",
    ),
    (
        "lr_scheduler_min_lr_ratio",
        lambda v: (
            v.lr_scheduler
            not in ("cosine_with_min_lr", "cosine_warmup_with_min_lr", "warmup_stable_decay")
        ),
        "is for --lr_scheduler cosine_with_min_lr and warmup_stable_decay",
    ),
    (
        "wandb_run_name",
        lambda v: v.log_with not in ("wandb", "all"),
        "has no effect without --log_with wandb",
    ),
    (
        "wandb_api_key",
        lambda v: v.log_with not in ("wandb", "all"),
        "has no effect without --log_with wandb",
    ),
    (
        "log_config",
        lambda v: not (v.log_with or v.logging_dir),
        "has no effect without --logging_dir or --log_with",
    ),
    (
        "log_tracker_config",
        lambda v: not (v.log_with or v.logging_dir),
        "has no effect without --logging_dir or --log_with",
    ),
    (
        "log_tracker_name",
        lambda v: not (v.log_with or v.logging_dir),
        "has no effect without --logging_dir or --log_with",
    ),
    ("log_prefix", lambda v: not v.logging_dir, "has no effect without --logging_dir"),
    (
        "huggingface_repo_type",
        lambda v: not v.huggingface_repo_id,
        "has no effect without --huggingface_repo_id",
    ),
    (
        "huggingface_path_in_repo",
        lambda v: not v.huggingface_repo_id,
        "has no effect without --huggingface_repo_id",
    ),
    (
        "huggingface_repo_visibility",
        lambda v: not v.huggingface_repo_id,
        "has no effect without --huggingface_repo_id",
    ),
    (
        "async_upload",
        lambda v: not v.huggingface_repo_id,
        "has no effect without --huggingface_repo_id",
    ),
    (
        "huggingface_token",
        lambda v: not (v.huggingface_repo_id or v.resume_from_huggingface),
        "has no effect without --huggingface_repo_id or --resume_from_huggingface",
    ),
    (
        "save_state_to_huggingface",
        lambda v: not (v.save_state or v.save_state_on_train_end),
        "has no effect without --save_state",
    ),
    ("resume_from_huggingface", lambda v: not v.resume, "has no effect without --resume"),
    ("weights_fit", lambda v: not v.weights, "has no effect without --weights"),
    (
        "save_model_as",
        lambda v: v.save_model_as == "ckpt",
        "ckpt: AUTOMATIC1111, Forge and SD.Next do not list such files; use safetensors",
    ),
    (
        "sample_every_n_steps",
        lambda v: v.sample_every_n_steps < 0,
        "is below 1: no previews are drawn at steps",
    ),
    (
        "sample_every_n_epochs",
        lambda v: v.sample_every_n_epochs < 0,
        "is below 1: no previews are drawn at epochs",
    ),
    ("clip_skip", lambda v: v.v2, "reads one layer further back than 2.x models are made for"),
    (
        "show_word",
        # `coinage train` has it on without being asked
        lambda v: v.script != Script.COINAGE and v.sample_every_n_steps == 0 and not _draws(v),
        "has no effect without previews",
    ),
    (
        "sample_prompts",
        lambda v: not _draws(v),
        "draws nothing: add --sample_every_n_steps N or --sample_every_n_epochs N",
    ),
)


def of_many(reason: str) -> str:
    """Return a reason in the plural: "are not needed" for "is not needed"."""
    verb, _, rest = reason.partition(" ")
    plurals = {"is": "are", "has": "have", "applies": "apply"}
    return f"{plurals.get(verb, verb)} {rest}"


def notes(values: FlagValues) -> list[str]:
    """Return a line for each flag that does less than it says."""
    values = with_defaults(values)
    by_reason: dict[str, list[str]] = {}
    for flag in BY_DEST.values():
        if flag.note and _is_given(values, flag.dest):
            by_reason.setdefault(flag.note, []).append(flag.name)
    lines = []
    for reason, names in by_reason.items():
        lines.append(f"{', '.join(names)} {reason if len(names) == 1 else of_many(reason)}")
    for dest, is_idle, reason in IDLE:
        if _is_given(values, dest) and is_idle(values):
            lines.append(f"--{dest} {reason}")
    metadata = [value for name, value in vars(values).items() if name.startswith("metadata_")]
    if values.save_model_as != "safetensors" and any(metadata):
        what = f".{values.save_model_as} files hold no metadata; use --save_model_as safetensors"
        lines.append(f"--metadata_*: {what}")
    return lines


def _is_given(values: FlagValues, dest: str) -> bool:
    """Return whether a flag has another value than its default; other scripts' flags are not given."""
    default = BY_DEST[dest].default
    return bool(getattr(values, dest, default) != default)
