"""From flag values to the frozen training configuration."""

from __future__ import annotations

import argparse
import base64
import random
import re
from pathlib import Path

from coinage.config import (
    LoopConfig,
    LossConfig,
    ModelConfig,
    NoiseConfig,
    OptimConfig,
    PreviewConfig,
    SaveConfig,
    StateConfig,
    TrainConfig,
    ValidationConfig,
    WordConfig,
)
from coinage.errors import CoinageError, Findings, Problem
from coinage.hub import fetch_state
from coinage.models.facts import FACTS, FamilyFacts
from coinage.models.hub_files import detect_family
from coinage.optim.table import (
    find_optimizer,
    norm_problems,
    optimizer_problems,
    schedule_problems,
    warmup_problems,
)
from coinage.runs.states import named_state, read_summary
from coinage.settings.build_data import build_data
from coinage.settings.build_log import build_hub, build_log
from coinage.settings.pairs import read_pairs
from coinage.settings.ranges import DRAW, sound_values
from coinage.settings.scripts import Script, family_asked_for
from coinage.text.placeholder import CHUNK

AUTO = "auto"  # of --init_word
MOST_THUMBNAIL = 1_000_000  # bytes
REQUIRED = {
    "pretrained_model_name_or_path": "the model to train for, such as path/to/model",
    "token_string": "the new word, such as mychar",
    "output_dir": "the folder for the embedding, such as output",
}


def build(args: argparse.Namespace, shared: int | None = None) -> tuple[TrainConfig, Findings]:
    """The configuration, and what is to be said about it.

    Args:
        args: the flags.
        shared: the seed where neither they nor a state give one; None: it is drawn.

    Raises:
        ConfigError: all problems that flags and dataset file show, together.
    """
    findings = Findings()
    for name, what in REQUIRED.items():
        if not getattr(args, name):
            findings.error(f"--{name} is missing", hint=f"give {what}")
    args, wrong = sound_values(args)
    findings.errors += wrong
    if args.seed == DRAW:
        findings.note(f"--seed {DRAW}: a seed is drawn, as AUTOMATIC1111 does")
    facts = family_of(args)
    data = build_data(args, facts, findings)
    if args.script == Script.SDXL and args.v2:
        findings.error(
            "--v2 is for Stable Diffusion 2.x, and this is the script for SDXL",
            hint="use train_textual_inversion.py --v2",
        )
    if args.script == Script.ANY and args.v2 and "--v2" not in facts.script_flags:
        findings.warn(
            f"--v2: this is a {facts.display_name} model, and is trained as one",
            args.pretrained_model_name_or_path,
        )
    findings.errors += _conflicts(args)
    optim = _optim(args, findings.errors)
    log, hub, resume = build_log(args, findings), build_hub(args, findings), _resume(args, findings)
    findings.raise_errors()
    config = TrainConfig(
        model=_model(args, facts.name),
        word=_word(args),
        data=data,
        noise=NoiseConfig(
            offset=args.noise_offset or 0.0,
            random_offset=args.noise_offset_random_strength,
            adaptive_offset=args.adaptive_noise_scale or 0.0,
            pyramid_levels=args.multires_noise_iterations or 0,
            pyramid_discount=args.multires_noise_discount,
            perturbation=args.ip_noise_gamma or 0.0,
            random_perturbation=args.ip_noise_gamma_random_strength,
            min_timestep=args.min_timestep or 0,
            max_timestep=1000 if args.max_timestep is None else args.max_timestep,
        ),
        loss=LossConfig(
            kind=args.loss_type,
            huber_schedule=args.huber_schedule,
            huber_c=args.huber_c,
            huber_scale=args.huber_scale,
            min_snr_gamma=args.min_snr_gamma or 0.0,
            debiased=args.debiased_estimation_loss,
            scale_v=args.scale_v_pred_loss_like_noise_pred,
            v_like=args.v_pred_like_loss or 0.0,
            prior_weight=args.prior_loss_weight,
            normalize_mask=args.mask_normalize,
        ),
        optim=optim,
        loop=LoopConfig(
            max_steps=args.max_train_steps,
            max_epochs=args.max_train_epochs,
            seed=_seed(args, resume, shared),
            on_problem=args.on_problem,
            early_stop=args.early_stop,
            autopilot=args.autopilot,
        ),
        save=_save(args, findings),
        state=StateConfig(
            save=args.save_state,
            at_end=args.save_state_on_train_end or args.save_state,
            keep_epochs=args.save_last_n_epochs_state or args.save_last_n_epochs,
            keep_steps=args.save_last_n_steps_state or args.save_last_n_steps,
            resume=resume,
        ),
        preview=_preview(args),
        validation=ValidationConfig(
            every_n_steps=args.validate_every_n_steps, every_n_epochs=args.validate_every_n_epochs
        ),
        log=log,
        hub=hub,
    )
    return config, findings


def _conflicts(args: argparse.Namespace) -> list[Problem]:
    """Find values that cannot be together."""
    low, high = args.min_timestep or 0, 1000 if args.max_timestep is None else args.max_timestep
    wrong = {
        Problem(f"--min_timestep {low} must be below --max_timestep {high}", hint="they may be 0 to 1000"): low >= high,
        Problem("--init_word is empty", hint="give a known word close to the concept, such as girl"):
            args.init_word is not None and not args.init_word.strip(),
        Problem("--init_word auto and --weights exclude each other", hint="keep one of them"): args.init_word == AUTO and args.weights,
        Problem("--adaptive_noise_scale needs --noise_offset", hint="add --noise_offset 0.05"):
            args.adaptive_noise_scale and not args.noise_offset,
        Problem("--full_fp16 and --full_bf16 exclude each other", hint="keep one of them"): args.full_fp16 and args.full_bf16,
        Problem("--full_fp16 goes with --mixed_precision fp16"): args.full_fp16 and args.mixed_precision != "fp16",
        Problem("--full_bf16 goes with --mixed_precision bf16"): args.full_bf16 and args.mixed_precision != "bf16",
        Problem("--fp8_base needs --mixed_precision", hint="add --mixed_precision bf16, or fp16"):
            args.fp8_base and args.mixed_precision == "no",
        Problem("--zero_stage 3 shards a model that is frozen: it would only cost time", hint="leave out --deepspeed"):
            args.deepspeed and args.zero_stage == 3,
        Problem("offloading a few kilobytes to NVMe would only cost time", hint="leave out the --offload_* flags"):
            "nvme" in (args.offload_optimizer_device, args.offload_param_device),
        Problem(f"--metadata_is_negative_embedding {args.metadata_is_negative_embedding} is neither true nor false"):
            (args.metadata_is_negative_embedding or "true").lower() not in ("true", "false"),
        Problem("--v_pred_like_loss is for models that predict the noise", hint="leave out --v_parameterization"):
            args.v_parameterization and args.v_pred_like_loss,
    }  # fmt: skip
    return [problem for problem, holds in wrong.items() if holds]


def _optim(args: argparse.Namespace, problems: list[Problem]) -> OptimConfig:
    old = {"AdamW8bit": args.use_8bit_adam, "Lion": args.use_lion_optimizer}
    named = [name for name, given in old.items() if given] + (
        [args.optimizer_type] if args.optimizer_type else []
    )
    if len(named) > 1:
        problems.append(
            Problem(
                "--optimizer_type, --use_8bit_adam and --use_lion_optimizer exclude each other",
                hint="keep --optimizer_type",
            )
        )
    name = named[-1] if named else "AdamW"
    arguments = read_pairs(args.optimizer_args, "--optimizer_args", problems)
    own_rate = dict(arguments).get("relative_step", True) or dict(arguments).get("warmup_init")
    relative_step = find_optimizer(name).path.endswith(".Adafactor") and bool(own_rate)
    problems += (
        optimizer_problems(name)
        + warmup_problems(name, args.lr_warmup_steps)
        + norm_problems(name, args.norm_mode)
    )
    problems += schedule_problems(
        args.lr_scheduler, args.lr_warmup_steps, args.lr_scheduler_type, relative_step
    )
    return OptimConfig(
        name=name,
        learning_rate=args.learning_rate,
        arguments=arguments,
        max_grad_norm=args.max_grad_norm,
        norm_mode=args.norm_mode,
        accumulation=args.gradient_accumulation_steps,
        relative_step=relative_step,
        schedule=args.lr_scheduler,
        schedule_class=args.lr_scheduler_type,
        schedule_arguments=read_pairs(args.lr_scheduler_args, "--lr_scheduler_args", problems),
        warmup=args.lr_warmup_steps,
        decay=args.lr_decay_steps,
        cycles=args.lr_scheduler_num_cycles,
        power=args.lr_scheduler_power,
        timescale=args.lr_scheduler_timescale,
        min_rate=args.lr_scheduler_min_lr_ratio,
    )


def _model(args: argparse.Namespace, family: str) -> ModelConfig:
    return ModelConfig(
        source=args.pretrained_model_name_or_path,
        family=family,
        map_weights=not getattr(args, "disable_mmap_load_safetensors", False),
        tokenizer_cache=Path(args.tokenizer_cache_dir) if args.tokenizer_cache_dir else None,
        vae=args.vae or None,
        prediction_type="v_prediction" if args.v_parameterization else None,
        zero_terminal_snr=args.zero_terminal_snr,
        clip_skip=args.clip_skip,
        precision=args.mixed_precision,
        full_precision_vae=args.no_half_vae,
        low_precision_text=args.full_fp16 or args.full_bf16,
        fp8_unet=args.fp8_base,
        compile_backend=args.dynamo_backend if args.torch_compile else None,
        gradient_checkpointing=args.gradient_checkpointing,
        max_token_length=args.max_token_length or CHUNK,
    )


def family_of(args: argparse.Namespace) -> FamilyFacts:
    """Return the family that script and flags ask for; `coinage train` takes the model's own."""
    if args.script == Script.ANY and args.pretrained_model_name_or_path:
        family = detect_family(args.pretrained_model_name_or_path)
        if family:
            return FACTS[family]
    return family_asked_for(args.script, v2=args.v2)


def _resume(args: argparse.Namespace, findings: Findings) -> str | None:
    """The state to go on from, brought here if it is on the hub."""
    if args.resume and args.resume_from_huggingface and Path(args.resume).is_dir():
        findings.note(f"--resume {args.resume} is a folder here, so the hub is not asked")
    elif args.resume and args.resume_from_huggingface:
        try:
            return str(fetch_state(args.resume, args.huggingface_token))
        except CoinageError as error:
            findings.errors += error.problems
            return None
    return str(args.resume) if args.resume else None


def _seed(args: argparse.Namespace, resume: str | None, shared: int | None) -> int:
    """The seed given, else that of the state to go on from, else the shared one, else a drawn one."""
    if args.seed not in (None, DRAW):
        return int(args.seed)
    state = named_state(resume, Path(args.output_dir), _output_name(args))
    summary = read_summary(state) if state else None
    if summary:
        return int(summary.fingerprint["seed"])
    return random.SystemRandom().randrange(2**31) if shared is None else shared


def _output_name(args: argparse.Namespace) -> str:
    return args.output_name or re.sub("[<>]", "", args.token_string)


def _word(args: argparse.Namespace) -> WordConfig:
    return WordConfig(
        token=args.token_string,
        num_vectors=args.num_vectors_per_token,
        init_word=None if args.init_word == AUTO else args.init_word,
        search=args.init_word == AUTO,
        init_file=Path(args.weights) if args.weights else None,
        init_fit=args.weights_fit,
        output_name=_output_name(args),
        role=args.role,
    )


def _thumbnail(given: str | None, findings: Findings) -> str | None:
    """A data URL: as given, or of an image file."""
    if given is None or given.startswith("data:"):
        return given
    path = Path(given)
    kind = {".jpg": "jpeg", ".jpeg": "jpeg", ".png": "png", ".webp": "webp"}.get(
        path.suffix.lower()
    )
    try:
        if kind is None or path.stat().st_size > MOST_THUMBNAIL:
            findings.warn(
                "--metadata_thumbnail: left out", given, "give a PNG, JPEG or WebP file below 1 MB"
            )
            return None
        return f"data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
    except OSError as error:
        findings.warn(f"--metadata_thumbnail: left out: {error.strerror}", given)
        return None


def _save(args: argparse.Namespace, findings: Findings) -> SaveConfig:
    fields = {
        k.removeprefix("metadata_"): v for k, v in vars(args).items() if k.startswith("metadata_")
    }
    fields["thumbnail"] = _thumbnail(args.metadata_thumbnail, findings)
    fields["is_negative_embedding"] = (
        args.metadata_is_negative_embedding and args.metadata_is_negative_embedding.lower()
    )
    return SaveConfig(
        output_dir=Path(args.output_dir),
        format=args.save_model_as,
        precision=args.save_precision or "float",
        every_n_steps=args.save_every_n_steps,
        every_n_epochs=args.save_every_n_epochs,
        n_epoch_ratio=args.save_n_epoch_ratio,
        keep_epochs=args.save_last_n_epochs,
        keep_steps=args.save_last_n_steps,
        keep_best=args.keep_best or args.early_stop,
        metadata=tuple((k, str(v)) for k, v in sorted(fields.items()) if v is not None),
    )


def _positive(interval: int | None) -> int | None:
    return interval if interval and interval > 0 else None


def _preview(args: argparse.Namespace) -> PreviewConfig:
    silent = (
        args.sample_prompts is None
        and args.sample_every_n_steps is None
        and args.sample_every_n_epochs is None
    )
    return PreviewConfig(
        prompts=Path(args.sample_prompts) if args.sample_prompts else None,
        every_n_steps=_positive(args.sample_every_n_steps),
        every_n_epochs=_positive(args.sample_every_n_epochs),
        at_first=args.sample_at_first,
        automatic=silent and not args.sample_at_first,
        sampler=args.sample_sampler,
    )
