"""Build the frozen training configuration from flag values.

Nothing here touches the network or the disk, but for the dataset file and other files that flags name. What
a model, a folder or a state tells about values that were not given comes from `discover`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from coinage.config import (
    OPEN_SEED,
    LoopConfig,
    LossConfig,
    ModelConfig,
    NoiseConfig,
    PreviewConfig,
    SaveConfig,
    ScoringConfig,
    StateConfig,
    TrainConfig,
    ValidationConfig,
    WordConfig,
)
from coinage.errors import Findings
from coinage.models.facts import FamilyFacts
from coinage.settings.build_data import build_data
from coinage.settings.build_log import build_hub, build_log
from coinage.settings.build_optimizer import build_optimizer
from coinage.settings.conflicts import conflicts
from coinage.settings.defaults import AUTO, with_defaults
from coinage.settings.flag_values import FlagValues
from coinage.settings.idle_flags import notes
from coinage.settings.low_memory import in_low_memory
from coinage.settings.number_range import DRAW
from coinage.settings.ranges import sound_values
from coinage.settings.scripts import asked_family
from coinage.text.placeholder import CHUNK

DATA_URL = "data:"
REQUIRED = {
    "pretrained_model_name_or_path": "the model to train for, such as path/to/model",
    "token_string": "the new word, such as mychar",
    "output_dir": "the folder for the embedding, such as output",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Discovered:
    """Values that were not given, and were looked up; by default none are known.

    Attributes:
        family: of the model.
        seed: of the state that is resumed, or drawn.
        resume: folder of the state, where it was fetched from the hub.
        thumbnail: data URL of the image file.
        folders: the image folders may be looked into.
        wandb_installed: None where nobody has looked.
    """

    family: FamilyFacts | None = None
    seed: int = OPEN_SEED
    resume: str | None = None
    thumbnail: str | None = None
    folders: bool = False
    wandb_installed: bool | None = None


NOTHING = Discovered()


def build(
    values: FlagValues, discovered: Discovered = NOTHING, findings: Findings | None = None
) -> tuple[TrainConfig, Findings]:
    """Return the configuration, and warnings and notes about it.

    Args:
        values: of all flags.
        discovered: what is known beyond them; without it, values that were not given stay open.
        findings: gets what is found; errors in it are raised with those found here.

    Raises:
        ConfigError: all problems of flags and dataset file together.
    """
    given, findings = values, Findings() if findings is None else findings
    values = with_defaults(values)
    findings.warnings += values.remarks.warnings
    findings.notes += [*notes(values), *values.remarks.notes]
    for name, meaning in REQUIRED.items():
        if not getattr(values, name):
            findings.error(f"--{name} is missing", hint=f"give {meaning}")
    values, wrong = sound_values(values)
    findings.errors += wrong
    if values.seed == DRAW:
        findings.note(f"--seed {DRAW}: a seed is drawn, as AUTOMATIC1111 does")
    facts = discovered.family or asked_family(values.script, v2=values.v2)
    data = build_data(values, facts, findings, look_into_folders=discovered.folders)
    findings.errors += conflicts(values)
    optim = build_optimizer(values, findings.errors)
    log = build_log(values, discovered.wandb_installed, findings)
    hub = build_hub(values, findings)
    if findings.errors:
        # What looks like a slip in the settings file may be the reason
        findings.errors += values.remarks.warnings
    findings.raise_errors()
    config = TrainConfig(
        model=_model(values, facts.name if facts else ""),
        word=_word(values),
        data=data,
        noise=_noise(values),
        loss=_loss(values),
        optim=optim,
        loop=_loop(values, discovered.seed),
        save=_save(values, discovered.thumbnail),
        state=_state(values, discovered.resume),
        preview=_preview(values),
        validation=_validation(values),
        scoring=_scoring(values),
        log=log,
        hub=hub,
        values=given,
    )
    if values.low_memory:
        config, lines = in_low_memory(config)
        findings.notes += lines
    return config, findings


def output_name_of(values: FlagValues) -> str:
    """Return the name of the word's file, without suffix."""
    return values.output_name or re.sub("[<>]", "", values.token_string)


def _model(values: FlagValues, family: str) -> ModelConfig:
    cache = values.tokenizer_cache_dir
    return ModelConfig(
        source=values.pretrained_model_name_or_path,
        family=family,
        # Only SDXL's script has the flag
        map_weights=not getattr(values, "disable_mmap_load_safetensors", False),
        tokenizer_cache=Path(cache) if cache else None,
        vae=values.vae or None,
        prediction_type="v_prediction" if values.v_parameterization else None,
        zero_terminal_snr=values.zero_terminal_snr,
        clip_skip=values.clip_skip,
        precision=values.mixed_precision,
        full_precision_vae=values.no_half_vae,
        low_precision_text=values.full_fp16 or values.full_bf16,
        fp8_unet=values.fp8_base,
        compile_backend=values.dynamo_backend if values.torch_compile else None,
        cuda_graphs=values.cuda_graphs == "on",
        gradient_checkpointing=values.gradient_checkpointing,
        max_token_length=values.max_token_length or CHUNK,
    )


def _word(values: FlagValues) -> WordConfig:
    searched = values.init_word == AUTO
    return WordConfig(
        token=values.token_string,
        num_vectors=values.num_vectors_per_token,
        init_word=None if searched else values.init_word,
        search=searched,
        init_file=Path(values.weights) if values.weights else None,
        init_fit=values.weights_fit,
        output_name=output_name_of(values),
        role=values.role,
        train_encoders=values.train_encoders,
        together=values.together,
        start_step=values.start_step or 0,
        end_step=values.end_step,
    )


def _noise(values: FlagValues) -> NoiseConfig:
    return NoiseConfig(
        offset=values.noise_offset or 0.0,
        random_offset=values.noise_offset_random_strength,
        adaptive_offset=values.adaptive_noise_scale or 0.0,
        pyramid_levels=values.multires_noise_iterations or 0,
        pyramid_discount=values.multires_noise_discount,
        perturbation=values.ip_noise_gamma or 0.0,
        random_perturbation=values.ip_noise_gamma_random_strength,
        min_timestep=values.min_timestep or 0,
        max_timestep=1000 if values.max_timestep is None else values.max_timestep,
        timesteps=values.timestep_distribution,
        timestep_weight=values.noising_weight,
        timestep_bias=values.noising_bias,
        timestep_shift=values.timestep_shift,
    )


def _loss(values: FlagValues) -> LossConfig:
    return LossConfig(
        kind=values.loss_type,
        huber_schedule=values.huber_schedule,
        huber_c=values.huber_c,
        huber_scale=values.huber_scale,
        min_snr_gamma=values.min_snr_gamma or 0.0,
        debiased=values.debiased_estimation_loss,
        scale_v=values.scale_v_pred_loss_like_noise_pred,
        v_like=values.v_pred_like_loss or 0.0,
        prior_weight=values.prior_loss_weight,
        normalize_mask=values.mask_normalize,
        unmasked_probability=values.unmasked_probability,
        unmasked_weight=values.unmasked_weight,
        mask_prior_weight=values.masked_prior_preservation_weight,
        flow_weighting=values.flow_weighting,
    )


def _loop(values: FlagValues, seed: int) -> LoopConfig:
    return LoopConfig(
        max_steps=values.max_train_steps,
        max_epochs=values.max_train_epochs,
        seed=seed if values.seed in (None, DRAW) else values.seed,
        on_problem=values.on_problem,
        early_stop=values.early_stop,
        compare_images=values.compare_images,
        autopilot=values.autopilot,
    )


def _scoring(values: FlagValues) -> ScoringConfig:
    return ScoringConfig(
        clip=values.score_clip,
        dino=values.score_dino,
        prompts=values.score_prompts or "object",
    )


def _validation(values: FlagValues) -> ValidationConfig:
    return ValidationConfig(
        every_n_steps=values.validate_every_n_steps,
        every_n_epochs=values.validate_every_n_epochs,
    )


def _state(values: FlagValues, fetched: str | None) -> StateConfig:
    resume = fetched or values.resume
    return StateConfig(
        save=values.save_state,
        at_end=values.save_state_on_train_end or values.save_state,
        keep_epochs=values.save_last_n_epochs_state or values.save_last_n_epochs,
        keep_steps=values.save_last_n_steps_state or values.save_last_n_steps,
        resume=str(resume) if resume else None,
    )


def _save(values: FlagValues, thumbnail: str | None) -> SaveConfig:
    return SaveConfig(
        output_dir=Path(values.output_dir),
        format=values.save_model_as,
        precision=values.save_precision or "float",
        every_n_steps=values.save_every_n_steps,
        every_n_epochs=values.save_every_n_epochs,
        n_epoch_ratio=values.save_n_epoch_ratio,
        keep_epochs=values.save_last_n_epochs,
        keep_steps=values.save_last_n_steps,
        keep_best=bool(values.keep_best) or values.early_stop,
        best_by="scores" if values.keep_best == "scores" else "loss",
        metadata=_metadata(values, thumbnail),
    )


def _metadata(values: FlagValues, thumbnail: str | None) -> tuple[tuple[str, str], ...]:
    """Return the fields of the file's header that the user gave, in order of their names."""
    fields = {}
    for name, value in vars(values).items():
        if name.startswith("metadata_"):
            fields[name.removeprefix("metadata_")] = value
    given = values.metadata_thumbnail
    fields["thumbnail"] = given if given and given.startswith(DATA_URL) else thumbnail
    if values.metadata_is_negative_embedding:
        fields["is_negative_embedding"] = values.metadata_is_negative_embedding.lower()
    return tuple((name, str(fields[name])) for name in sorted(fields) if fields[name] is not None)


def _preview(values: FlagValues) -> PreviewConfig:
    asked = (values.sample_prompts, values.sample_every_n_steps, values.sample_every_n_epochs)
    silent = all(value is None for value in asked)
    return PreviewConfig(
        prompts=Path(values.sample_prompts) if values.sample_prompts else None,
        every_n_steps=_positive(values.sample_every_n_steps),
        every_n_epochs=_positive(values.sample_every_n_epochs),
        at_first=values.sample_at_first,
        automatic=silent and not values.sample_at_first,
        sampler=values.sample_sampler,
        show_word=values.show_word,
    )


def _positive(interval: int | None) -> int | None:
    return interval if interval and interval > 0 else None
