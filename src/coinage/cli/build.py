"""From flag values to the frozen training configuration."""

from __future__ import annotations

import argparse
import ast
import random
import re
from pathlib import Path
from typing import Any

from coinage.cli.flags import BY_DEST
from coinage.config import (
    DataConfig,
    LogConfig,
    LoopConfig,
    LossConfig,
    ModelConfig,
    NoiseConfig,
    OptimConfig,
    PreviewConfig,
    SaveConfig,
    TrainConfig,
    WordConfig,
)
from coinage.config_io import folder_layout, read_datasets
from coinage.errors import ConfigError, Problem

REQUIRED = {
    "pretrained_model_name_or_path": "the model to train for, such as path/to/model",
    "token_string": "the new word, such as mychar",
    "output_dir": "the folder for the embedding, such as output",
}
SCHEDULES = ("constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial")


def build(args: argparse.Namespace) -> tuple[TrainConfig, list[str]]:
    """The configuration, and the names of given flags and keys that have no effect yet.

    Raises:
        ConfigError: all problems that flags and dataset file show, together.
    """
    problems = [Problem(f"--{name} is missing", hint=f"give {what}") for name, what in REQUIRED.items() if not getattr(args, name)]
    data, idle = DataConfig(datasets=()), set[str]()
    try:
        data, idle = _data(args)
    except ConfigError as error:
        problems += error.problems
    problems += _range_problems(args)
    optim = _optim(args, problems)
    if problems:
        raise ConfigError(problems)
    config = TrainConfig(
        model=_model(args),
        words=(_word(args),),
        data=data,
        noise=NoiseConfig(
            offset=args.noise_offset or 0.0,
            min_timestep=args.min_timestep or 0,
            max_timestep=1000 if args.max_timestep is None else args.max_timestep,
        ),
        loss=LossConfig(min_snr_gamma=args.min_snr_gamma or 0.0),
        optim=optim,
        loop=LoopConfig(
            max_steps=args.max_train_steps,
            max_epochs=args.max_train_epochs,
            seed=random.SystemRandom().randrange(2**31) if args.seed is None else args.seed,
        ),
        save=_save(args),
        preview=_preview(args),
        log=_log(args),
    )
    return config, sorted(idle)


def _data(args: argparse.Namespace) -> tuple[DataConfig, set[str]]:
    fallback = _fallback(args)
    idle: set[str] = set()
    if args.dataset_config:
        datasets, idle = read_datasets(Path(args.dataset_config), fallback)
    elif args.train_data_dir:
        datasets = folder_layout(Path(args.train_data_dir), fallback)
    else:
        raise ConfigError([Problem("no dataset", hint="give --dataset_config dataset.toml or --train_data_dir folder")])
    config = DataConfig(
        datasets=datasets,
        cache_latents=args.cache_latents or args.cache_latents_to_disk,
        vae_batch_size=args.vae_batch_size,
        readers=args.max_data_loader_n_workers,
    )
    return config, idle


def _fallback(args: argparse.Namespace) -> dict[str, Any]:
    """Dataset keys that flags supply."""
    extension = args.caption_extention or args.caption_extension
    names = (
        "enable_bucket", "min_bucket_reso", "max_bucket_reso", "bucket_reso_steps", "caption_separator", "keep_tokens",
        "caption_prefix", "caption_suffix", "shuffle_caption", "flip_aug", "keep_tokens_separator", "secondary_separator",
        "enable_wildcard", "token_warmup_min", "token_warmup_step", "max_train_steps",
    )  # fmt: skip
    return {
        **{name: getattr(args, name) for name in names},
        "batch_size": args.train_batch_size,
        "num_repeats": args.dataset_repeats,
        # The default suffix also finds .txt files: a folder of them must not train without captions.
        "caption_extension": None if extension == ".caption" else extension,
        "template": "object" if args.use_object_template else "style" if args.use_style_template else None,
        **({"resolution": _resolution(args.resolution)} if args.resolution else {}),
    }


def _resolution(text: str) -> tuple[int, int]:
    try:
        sides = [int(part) for part in text.split(",")]
    except ValueError:
        sides = []
    if len(sides) not in (1, 2):
        raise ConfigError([Problem(f"--resolution {text!r} is not a size", hint="write 512 or 512,768 (width,height)")])
    return sides[0], sides[-1]


def _range_problems(args: argparse.Namespace) -> list[Problem]:
    problems = []
    positive = ("num_vectors_per_token", "max_train_steps", "gradient_accumulation_steps", "vae_batch_size", "train_batch_size")
    optional = ("max_train_epochs", "save_every_n_steps", "save_every_n_epochs", "save_n_epoch_ratio", "clip_skip")
    for name in (*positive, *optional):
        value = getattr(args, name)
        if value is not None and value < 1:
            problems.append(Problem(f"--{name} {value} must be at least 1"))
    for name in ("learning_rate", "max_grad_norm", "noise_offset", "min_snr_gamma", "max_data_loader_n_workers"):
        value = getattr(args, name)
        if value is not None and value < 0:
            problems.append(Problem(f"--{name} {value} must not be negative"))
    if args.num_vectors_per_token > 75:
        problems.append(Problem(f"--num_vectors_per_token {args.num_vectors_per_token} does not fit in a prompt of 75 tokens"))
    low, high = args.min_timestep or 0, 1000 if args.max_timestep is None else args.max_timestep
    if not 0 <= low < high <= 1000:
        problems.append(Problem(f"timesteps {low} to {high} are no range", hint="0 <= --min_timestep < --max_timestep <= 1000"))
    if args.use_object_template and args.use_style_template:
        problems.append(Problem("--use_object_template and --use_style_template exclude each other", hint="keep one of them"))
    if args.init_word is not None and not args.init_word.strip():
        problems.append(Problem("--init_word is empty", hint="give a known word close to the concept, such as girl"))
    if args.log_with in ("tensorboard", "all") and not args.logging_dir:
        problems.append(Problem(f"--log_with {args.log_with} needs --logging_dir", hint="add --logging_dir logs"))
    return problems


def _arguments(items: list[str] | None, flag: str, problems: list[Problem]) -> tuple[tuple[str, object], ...]:
    pairs = []
    for item in items or []:
        name, equals, text = item.partition("=")
        try:
            pairs.append((name, ast.literal_eval(text)))
        except (ValueError, SyntaxError):
            pairs.append((name, text))
        if not equals or not name.isidentifier():
            problems.append(Problem(f"{flag}: {item!r} is not key=value", hint='write weight_decay=0.01 or betas="(0.9, 0.99)"'))
    return tuple(pairs)


def _optim(args: argparse.Namespace, problems: list[Problem]) -> OptimConfig:
    if args.lr_scheduler not in SCHEDULES:
        problems.append(Problem(f"--lr_scheduler {args.lr_scheduler} is not known", hint=f"one of {', '.join(SCHEDULES)}"))
    if args.lr_scheduler == "constant" and args.lr_warmup_steps:
        problems.append(Problem("--lr_scheduler constant has no warm-up", hint="use constant_with_warmup"))
    if args.lr_warmup_steps < 0 or args.lr_warmup_steps >= args.max_train_steps > 0:
        problems.append(Problem(f"--lr_warmup_steps {args.lr_warmup_steps} does not fit in {args.max_train_steps} steps"))
    if args.use_8bit_adam and args.optimizer_type:
        problems.append(Problem("--use_8bit_adam and --optimizer_type exclude each other", hint="keep --optimizer_type"))
    return OptimConfig(
        name="AdamW8bit" if args.use_8bit_adam else args.optimizer_type or "AdamW",
        learning_rate=args.learning_rate,
        arguments=_arguments(args.optimizer_args, "--optimizer_args", problems),
        max_grad_norm=args.max_grad_norm,
        accumulation=args.gradient_accumulation_steps,
        schedule=args.lr_scheduler,
        warmup=args.lr_warmup_steps,
        cycles=args.lr_scheduler_num_cycles,
        power=args.lr_scheduler_power,
    )


def _model(args: argparse.Namespace) -> ModelConfig:
    return ModelConfig(
        source=args.pretrained_model_name_or_path,
        vae=args.vae,
        prediction_type="v_prediction" if args.v_parameterization else None,
        clip_skip=args.clip_skip,
        precision=args.mixed_precision,
        full_precision_vae=args.no_half_vae,
        gradient_checkpointing=args.gradient_checkpointing,
    )


def _word(args: argparse.Namespace) -> WordConfig:
    return WordConfig(
        token=args.token_string,
        num_vectors=args.num_vectors_per_token,
        init_word=args.init_word,
        init_file=Path(args.weights) if args.weights else None,
        output_name=args.output_name or re.sub("[<>]", "", args.token_string),
    )


def _save(args: argparse.Namespace) -> SaveConfig:
    fields = {k.removeprefix("metadata_"): v for k, v in vars(args).items() if k.startswith("metadata_") and not BY_DEST[k].note}
    return SaveConfig(
        output_dir=Path(args.output_dir),
        format=args.save_model_as,
        precision=args.save_precision or "float",
        every_n_steps=args.save_every_n_steps,
        every_n_epochs=args.save_every_n_epochs,
        n_epoch_ratio=args.save_n_epoch_ratio,
        metadata=tuple((k, str(v)) for k, v in sorted(fields.items()) if v is not None),
    )


def _preview(args: argparse.Namespace) -> PreviewConfig:
    return PreviewConfig(
        prompts=Path(args.sample_prompts) if args.sample_prompts else None,
        every_n_steps=args.sample_every_n_steps or None,
        every_n_epochs=args.sample_every_n_epochs or None,
        at_first=args.sample_at_first,
        sampler=args.sample_sampler,
    )


def _log(args: argparse.Namespace) -> LogConfig:
    return LogConfig(
        dir=Path(args.logging_dir) if args.logging_dir else None,
        tracker="tensorboard" if args.logging_dir and args.log_with != "wandb" else None,
        prefix=args.log_prefix or "",
        name=args.log_tracker_name or "textual_inversion",
        level=args.console_log_level or "INFO",
    )
