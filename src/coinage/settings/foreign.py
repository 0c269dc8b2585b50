"""Flags and keys of other tools, and what they are called or do here. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable

from coinage.errors import did_you_mean, is_slip
from coinage.models.facts import SDXL
from coinage.settings.flags import BY_DEST

# Names of diffusers' scripts, of dataset files, and what people guess: ours for the same.
CALLED: dict[str, tuple[str, ...]] = {
    "placeholder_token": ("token_string",),
    "initializer_token": ("init_word",),
    "num_vectors": ("num_vectors_per_token",),
    "learnable_property": ("use_object_template", "use_style_template"),
    "template_file": ("caption_templates",),
    "template_filename": ("caption_templates",),
    "prompt_path": ("caption_templates",),
    "repeats": ("dataset_repeats",),
    "save_steps": ("save_every_n_steps",),
    "checkpointing_steps": ("save_every_n_steps", "save_state"),
    "checkpoints_total_limit": ("save_last_n_steps",),
    "resume_from": ("resume",),
    "resume_from_checkpoint": ("resume",),
    "num_train_epochs": ("max_train_epochs",),
    "lr_num_cycles": ("lr_scheduler_num_cycles",),
    "lr_power": ("lr_scheduler_power",),
    "dataloader_num_workers": ("max_data_loader_n_workers",),
    "adam_beta1": ("optimizer_args",),
    "adam_beta2": ("optimizer_args",),
    "adam_weight_decay": ("optimizer_args",),
    "adam_epsilon": ("optimizer_args",),
    "report_to": ("log_with",),
    "push_to_hub": ("huggingface_repo_id",),
    "hub_model_id": ("huggingface_repo_id",),
    "validation_prompt": ("sample_prompts",),
    "num_validation_images": ("sample_prompts",),
    "validation_steps": ("sample_every_n_steps",),
    "validation_epochs": ("sample_every_n_epochs",),
    "no_safe_serialization": ("save_model_as",),
    "snr_gamma": ("min_snr_gamma",),
    "pretrained_vae_model_name_or_path": ("vae",),
    "instance_data_dir": ("train_data_dir",),
    "class_data_dir": ("reg_data_dir",),
    "with_prior_preservation": ("reg_data_dir",),
    "optimizer": ("optimizer_type",),
    "batch_size": ("train_batch_size",),
    "num_repeats": ("dataset_repeats",),
    "image_dir": ("train_data_dir",),
    "metadata_file": ("in_json",),
    "output": ("output_dir", "output_name"),
    "model": ("pretrained_model_name_or_path",),
    "token": ("token_string",),
    "lr": ("learning_rate",),
    "steps": ("max_train_steps",),
    "max_steps": ("max_train_steps",),
    "epochs": ("max_train_epochs",),
    "max_epochs": ("max_train_epochs",),
    "num_epochs": ("max_train_epochs",),
}
WHY: dict[str, str] = {
    "center_crop": "images are cut in the middle anyway, unless --random_crop is given: leave it out",
    "enable_xformers_memory_efficient_attention": "torch's own attention is always used: leave it out",
    "allow_tf32": "leave it out",
    "scale_lr": "leave it out, and pass the resulting rate as --learning_rate",
    "use_ema": "leave it out",
    "save_as_full_pipeline": "only the word's file is written, and pipelines load it: leave it out",
    "revision": "give a folder or file of that version as --pretrained_model_name_or_path",
    "variant": "give a folder or file of that version as --pretrained_model_name_or_path",
    "tokenizer_name": "the model's own tokenizer is used; for single files see --tokenizer_cache_dir",
    "local_rank": "leave it out: accelerate launch and torchrun set it for each process",
    "hub_token": "log in with `hf auth login`, and leave it out",
    "sdxl": f"use {SDXL.script}, or coinage train, which detects the family",
}
LORA = (
    "network_module", "network_dim", "network_alpha", "network_args", "network_weights",
    "network_dropout", "network_train_unet_only", "network_train_text_encoder_only",
    "dim_from_weights", "scale_weight_norms", "base_weights", "base_weights_multiplier",
    "unet_lr", "text_encoder_lr", "rank", "lora_alpha", "lora_dropout",
)  # fmt: skip
WHOLE_MODEL = (
    "train_text_encoder", "train_text_encoder_ti", "stop_text_encoder_training",
    "learning_rate_te", "learning_rate_te1", "learning_rate_te2", "block_lr",
)  # fmt: skip
# Editors and web pages make one out of two hyphens
DASHES = "-\u2010\u2011\u2012\u2013\u2014\u2212"


def bare(word: str) -> str:
    """Return a flag's name as the table has it: without dashes, `=` and what follows."""
    return word.split("=", maxsplit=1)[0].lstrip(DASHES).replace("-", "_")


def meant(name: str, known: Iterable[str], dashes: str = "--") -> str:
    """Return a hint for an unknown flag, or "". Secrets are never proposed.

    Args:
        name: without dashes.
        known: the flags of the script, likewise.
        dashes: what is written before a flag: "" for the keys of a file.
    """
    names = [other for other in known if not BY_DEST[other].secret]
    if name in names:
        return f"did you mean `{dashes}{name}`?"
    if name in BY_DEST and BY_DEST[name].sdxl_only:
        return f"it is only for SDXL: use {SDXL.script} or coinage train"
    if name in CALLED:
        names_here = " or ".join(f"`{dashes}{other}`" for other in CALLED[name])
        return f"it is called {names_here} here"
    if name in LORA:
        return "it is for LoRA training, and a word has no such network: leave it out"
    if name in WHOLE_MODEL:
        return "it is for training the model itself; here only the word is trained: leave it out"
    return WHY.get(name) or did_you_mean(name, names).replace("`", f"`{dashes}", 1)


def to_be_seen(name: str, known: Iterable[str]) -> bool:
    """Return whether a key is probably meant as a flag: misspelt, or under another tool's name."""
    if name in CALLED:
        return True
    return any(is_slip(name, other) for other in known if not BY_DEST[other].secret)
