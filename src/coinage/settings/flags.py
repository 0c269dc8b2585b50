"""The flag table of the two training scripts: names, types, defaults and help, as data.

Names, types, choices and defaults are those of kohya-ss/sd-scripts, so that
existing commands run unchanged; a golden test holds them. Flags of our own are marked. The parser and
the help come from this table. A flag with a note is accepted, and the note is said once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from coinage.optim.table import SCHEDULES
from coinage.settings.number_range import (
    ANY_COUNT,
    COUNT,
    DRAW,
    FACTOR,
    LARGEST_SIDE,
    MOST,
    MOST_SEED,
    SHARE,
    Range,
)
from coinage.settings.scripts import Script
from coinage.text.samplers import SAMPLER_NAMES

Kind = Literal["str", "int", "float", "ratio", "path", "switch", "list"]


@dataclass(frozen=True, slots=True)
class Flag:
    """One command-line flag. `kind` "ratio" is an integer, a fraction below 1, or a percentage.

    Attributes:
        choices: the values that the help names; letter case does not count. The first one of a switch
            is what it means alone.
        also: further values that other tools write into files, and what they mean here; None: unset.
        note: said once when the flag is given and does not act as asked.
        own: the flag is Coinage's, not sd-scripts'.
        path: the value names a file or folder: "" means unset, and a leading ~ the home folder.
        secret: the value is never shown, and the flag never proposed.
        range: the numbers that mean something; every number has one, unless it has choices.
        per_word: each of several words may have its own value, as all flags of `GROUPS_PER_WORD` may.
    """

    name: str
    kind: Kind
    default: str | int | float | bool | None
    help: str
    choices: tuple[str | int, ...] = ()
    note: str = ""
    sdxl_only: bool = False
    own: bool = False
    group: str = ""
    path: bool = False
    also: tuple[tuple[str, str | None], ...] = ()
    secret: bool = False
    range: Range | None = None
    per_word: bool = False

    @property
    def dest(self) -> str:
        return self.name[2:]

    @property
    def shown_default(self) -> str:
        """The default as the help has it; "" where there is none, as of switches."""
        return "" if self.default is None or self.default is False else str(self.default)


WORD_TRAINS = "keeps what captions without the word are encoded to; those with the word are encoded each step, since the gradient flows through them"
OWN_KERNELS = "is not needed: torch's scaled-dot-product attention is always used"


def _rows(group: str, *rows: Flag) -> tuple[Flag, ...]:
    return tuple(replace(row, group=group) for row in rows)


def _own(*values: Any, **more: Any) -> Flag:
    """Return a flag that sd-scripts does not have."""
    return replace(Flag(*values, **more), own=True)


NO_SHARDING = (
    "is not needed: the processes exchange a few kilobytes of gradients, and nothing is sharded"
)

_MODEL = _rows(
    "model",
    Flag("--pretrained_model_name_or_path", "str", None, "Model to train for: a .safetensors or .ckpt file, a diffusers folder, or a hub id.", path=True),
    Flag("--v2", "switch", False, "The model is Stable Diffusion 2.x."),
    Flag("--v_parameterization", "switch", False, "The model predicts v instead of the noise."),
    Flag("--vae", "str", None, "Use the VAE of this file, diffusers folder or hub id instead of the model's own.", path=True),
    Flag("--tokenizer_cache_dir", "str", None, "Folder of tokenizers for single files: with vocab.json and merges.txt, in it or in a subfolder.", path=True),
    Flag("--clip_skip", "int", None, "Use the text encoder's n-th last layer; 1 is the last.", range=Range(1, 100)),
    Flag("--max_token_length", "int", None, "Caption length in tokens. Default: 75.", (150, 225), also=(("75", None),)),
)  # fmt: skip

_DATASET = _rows(
    "dataset",
    Flag("--train_data_dir", "str", None, "Folder of images, or of N_name subfolders with images, where N is the number of repeats.", path=True, per_word=True),
    Flag("--reg_data_dir", "str", None, "The same for regularisation images.", path=True, per_word=True),
    Flag("--in_json", "str", None, "Metadata file (JSON or JSONL) with captions for --train_data_dir.", path=True, per_word=True),
    Flag("--dataset_repeats", "int", 1, "Repeats of subsets that set no num_repeats.", range=Range(1, 100_000), per_word=True),
    Flag("--dataset_config", "path", None, "Dataset file (.toml or .json).", path=True, per_word=True),
    Flag("--dataset_class", "str", None, "Dotted path of a custom dataset class.", note="has no effect: it would run code that is not checked"),
    Flag("--debug_dataset", "switch", False, "Check the dataset and show what training would see, then stop."),
    Flag("--cache_info", "switch", False, "Remember image sizes between runs.", per_word=True),
    Flag("--train_batch_size", "int", 1, "Images per step of datasets that set no batch_size.", range=Range(1, 100_000), per_word=True),
    Flag("--prior_loss_weight", "float", 1.0, "Loss factor of regularisation images.", range=Range(0, FACTOR, hint="1 is usual"), per_word=True),
    Flag("--conditioning_data_dir", "str", None, "Folder of mask images.", path=True, per_word=True),
    Flag("--alpha_mask", "switch", False, "Weigh the loss by the images' alpha channel.", per_word=True),
    Flag("--max_data_loader_n_workers", "int", 8, "Threads that read images; 0 reads in the training thread.", range=Range(0, 1024, hint="8 is usual")),
    Flag("--persistent_data_loader_workers", "switch", False, "Keep the readers alive between epochs.", note="is not needed: images are read by threads, which start at once"),
)  # fmt: skip

_CAPTION = _rows(
    "captions",
    Flag("--shuffle_caption", "switch", False, "Shuffle the caption's tags each time."),
    Flag("--caption_separator", "str", ",", "What separates tags."),
    Flag("--caption_extension", "str", ".caption", "Suffix of caption files; .txt is tried too unless it is given."),
    Flag("--caption_extention", "str", None, "Old spelling of --caption_extension; wins when given."),
    Flag("--keep_tokens", "int", 0, "Number of leading tags that stay in place.", range=ANY_COUNT),
    Flag("--keep_tokens_separator", "str", "", "Marks the end of the tags that stay in place."),
    Flag("--secondary_separator", "str", None, "Separates tags that stay together when shuffled."),
    Flag("--enable_wildcard", "switch", False, "Random caption lines and {a|b} choices."),
    Flag("--caption_prefix", "str", None, "Text put before each caption."),
    Flag("--caption_suffix", "str", None, "Text put after each caption."),
    Flag("--token_warmup_min", "int", 1, "Tags used at the first step of the tag warm-up.", range=ANY_COUNT),
    Flag("--token_warmup_step", "float", 0, "Length of the tag warm-up, in steps or as a fraction.", range=ANY_COUNT),
    Flag("--weighted_captions", "switch", False, "Read (word:1.3) in captions as a weight.", note="has no effect: captions are read as they stand, as by sd-scripts' textual inversion"),
)  # fmt: skip

_BUCKETS = _rows(
    "buckets and latents",
    Flag("--resolution", "str", None, "Training size in pixels: S or W,H.", per_word=True),
    Flag("--enable_bucket", "switch", False, "Group images by aspect ratio instead of cropping all to one size.", per_word=True),
    Flag("--min_bucket_reso", "int", 256, "Smallest bucket side, pixels.", range=Range(1, LARGEST_SIDE), per_word=True),
    Flag("--max_bucket_reso", "int", 1024, "Largest bucket side, pixels.", range=Range(1, LARGEST_SIDE), per_word=True),
    Flag("--bucket_reso_steps", "int", 64, "Bucket sides are multiples of this, pixels.", range=Range(1, LARGEST_SIDE), per_word=True),
    Flag("--bucket_no_upscale", "switch", False, "Never enlarge an image.", per_word=True),
    Flag("--resize_interpolation", "str", None, "How images are resized.", ("lanczos", "nearest", "bilinear", "linear", "bicubic", "cubic", "area"), per_word=True),
    Flag("--color_aug", "switch", False, "Vary hue and brightness a little.", per_word=True),
    Flag("--flip_aug", "switch", False, "Mirror half of the images; not for asymmetric subjects.", per_word=True),
    Flag("--face_crop_aug_range", "str", None, "lo,hi: cut around the face named in the file name, which then takes 1/hi to 1/lo of the side.", per_word=True),
    Flag("--random_crop", "switch", False, "Crop at random instead of in the middle.", per_word=True),
    Flag("--cache_latents", "switch", False, "Encode every image once, before training."),
    Flag("--cache_latents_to_disk", "switch", False, "The same, kept on disk for later runs."),
    Flag("--vae_batch_size", "int", 1, "Images per VAE call while caching.", range=Range(1, 100_000)),
    Flag("--skip_cache_check", "switch", False, "Trust latents on disk unchecked."),
)  # fmt: skip

_OUTPUT = _rows(
    "output",
    Flag("--output_dir", "str", None, "Where embeddings and previews go.", path=True),
    Flag("--output_name", "str", None, "Name of the embedding file, without suffix. Default: the token string.", per_word=True),
    Flag("--save_model_as", "str", "pt", "File format.", ("ckpt", "pt", "safetensors"), also=((".ckpt", "ckpt"), (".pt", "pt"), (".safetensors", "safetensors"))),
    Flag("--save_precision", "str", None, "Number format of the saved vectors. Default: fp32.", ("float", "fp16", "bf16"), also=(("fp32", "float"),)),
    Flag("--save_every_n_epochs", "int", None, "Save after every n-th epoch.", range=COUNT),
    Flag("--save_every_n_steps", "int", None, "Save after every n-th step.", range=COUNT),
    Flag("--save_n_epoch_ratio", "int", None, "Save at least this many times, evenly over the epochs.", range=COUNT),
    Flag("--save_last_n_epochs", "int", None, "Keep the epoch saves of the last n intervals.", range=COUNT),
    Flag("--save_last_n_steps", "int", None, "Keep the step saves of the last n steps.", range=COUNT),
)  # fmt: skip

_STATE = _rows(
    "resuming",
    Flag("--save_state", "switch", False, "With every save, also save what resuming needs."),
    Flag("--save_state_on_train_end", "switch", False, "Save what resuming needs at the end."),
    Flag("--save_last_n_epochs_state", "int", None, "As --save_last_n_epochs, for states.", range=COUNT),
    Flag("--save_last_n_steps_state", "int", None, "As --save_last_n_steps, for states.", range=COUNT),
    Flag("--resume", "str", None, "Continue from this state folder.", path=True),
    Flag("--resume_from_huggingface", "switch", False, "--resume names a state on the hub: owner/repo/folder, with :revision and :type if need be."),
    Flag("--save_state_to_huggingface", "switch", False, "Upload every saved state."),
)  # fmt: skip

_HUB = _rows(
    "hub upload",
    Flag("--huggingface_repo_id", "str", None, "Upload every embedding to this repository, owner/name; it is made if need be."),
    Flag("--huggingface_repo_type", "str", None, "model, dataset or space. Default: model."),
    Flag("--huggingface_path_in_repo", "str", None, "Folder inside the repository. Default: its root."),
    Flag("--huggingface_token", "str", None, "Access token. Default: the stored login.", secret=True),
    Flag("--huggingface_repo_visibility", "str", None, "public or private, of a repository that is made. Default: private."),
    Flag("--async_upload", "switch", False, "Upload in the background."),
)  # fmt: skip

_LENGTH = _rows(
    "length and precision",
    Flag("--max_train_steps", "int", 1600, "Optimizer steps.", range=COUNT),
    Flag("--max_train_epochs", "int", None, "Passes over the dataset; overrides --max_train_steps.", range=COUNT),
    Flag("--seed", "int", None, "Makes the run repeatable. Default: drawn, and printed.", range=Range(DRAW, MOST_SEED, hint="-1 draws one"), per_word=True),
    Flag("--gradient_accumulation_steps", "int", 1, "Batches per optimizer step.", range=Range(1, 100_000), per_word=True),
    Flag("--mixed_precision", "str", "no", "Number format of the frozen parts and of computation.", ("no", "fp16", "bf16"), also=(("auto", "auto"),)),
    Flag("--full_fp16", "switch", False, "Frozen parts wholly in fp16; the trained rows stay fp32."),
    Flag("--full_bf16", "switch", False, "Frozen parts wholly in bf16; the trained rows stay fp32."),
    Flag("--fp8_base", "switch", False, "Keep the UNet's weights in 8 bits."),
    Flag("--no_half_vae", "switch", False, "Keep the VAE in fp32."),
)  # fmt: skip

_MEMORY = _rows(
    "memory and attention",
    Flag("--gradient_checkpointing", "switch", False, "Compute activations twice instead of keeping them."),
    _own("--low_memory", "switch", False, "Take as little GPU memory as possible, and more time: images encoded first, gradient checkpointing, 8-bit weights, pictures in tiles, and the UNet's weights on the CPU where even that is too much."),
    Flag("--mem_eff_attn", "switch", False, "Memory-efficient attention.", note=OWN_KERNELS),
    Flag("--xformers", "switch", False, "xFormers attention.", note=OWN_KERNELS),
    Flag("--sdpa", "switch", False, "torch's scaled-dot-product attention (always on).", note=OWN_KERNELS),
    Flag("--torch_compile", "switch", False, "Compile the blocks that the UNet repeats."),
    Flag("--dynamo_backend", "str", "inductor", "Compiler backend.", ("eager", "aot_eager", "inductor", "aot_ts_nvfuser", "nvprims_nvfuser", "cudagraphs", "ofi", "fx2trt", "onnxrt", "tensort", "ipex", "tvm"), also=(("no", None), ("tensorrt", "tensorrt"))),
    _own("--cuda_graphs", "str", "off", "Record the work of a training step on a CUDA device, and replay it: off or on.", ("off", "on")),
    Flag("--lowram", "switch", False, "Load weights straight onto the GPU.", note="is not needed: weights are mapped from their file, not read into memory"),
    Flag("--highvram", "switch", False, "Never flush the GPU's cache while encoding.", note="is not needed: the cache is never flushed"),
)  # fmt: skip

_OPTIMIZER = _rows(
    "optimizer",
    Flag("--optimizer_type", "str", "", "AdamW, Directional, Lion, SGDNesterov, AdaFactor, Prodigy, DAdapt*, *ScheduleFree, a class of torch.optim, or module.Class. Default: AdamW."),
    Flag("--use_8bit_adam", "switch", False, "Old spelling of --optimizer_type AdamW8bit."),
    Flag("--use_lion_optimizer", "switch", False, "Old spelling of --optimizer_type Lion."),
    Flag("--learning_rate", "float", 2e-6, "Learning rate; of Directional the angle of a step in radians.", range=Range(0, 1e6)),
    Flag("--max_grad_norm", "float", 1.0, "Clip the gradient of the trained rows to this norm; 0 is off.", range=Range(0, 1e9, hint="0 is off")),
    Flag("--optimizer_args", "list", None, "key=value arguments for the optimizer."),
    Flag("--fused_backward_pass", "switch", False, "Update during the backward pass.", note="is not needed: the gradients are a few kilobytes"),
)  # fmt: skip

_SCHEDULER = _rows(
    "learning rate schedule",
    Flag("--lr_scheduler", "str", "constant", ", ".join(SCHEDULES) + ", or adafactor."),
    Flag("--lr_scheduler_type", "str", "", "A class of torch.optim.lr_scheduler, or module.Class; overrides --lr_scheduler."),
    Flag("--lr_scheduler_args", "list", None, "key=value arguments for the scheduler."),
    Flag("--lr_warmup_steps", "ratio", 0, "Warm-up, in optimizer steps or as a fraction of the run.", range=ANY_COUNT),
    Flag("--lr_decay_steps", "ratio", 0, "Decay of warmup_stable_decay, in optimizer steps or as a fraction of the run.", range=ANY_COUNT),
    Flag("--lr_scheduler_num_cycles", "int", 1, "Restarts of cosine_with_restarts, half waves of the others that have waves.", range=Range(1, 100_000)),
    Flag("--lr_scheduler_power", "float", 1, "Exponent of polynomial.", range=Range(0, 100.0)),
    Flag("--lr_scheduler_timescale", "int", None, "Timescale of inverse_sqrt.", range=COUNT),
    Flag("--lr_scheduler_min_lr_ratio", "float", None, "Lowest rate, as a fraction of the learning rate.", range=SHARE),
)  # fmt: skip

_NOISE = _rows(
    "noise and loss",
    Flag("--noise_offset", "float", None, "Strength of a constant added to each channel's noise.", range=Range(0, FACTOR, hint="0.05 is usual")),
    Flag("--noise_offset_random_strength", "switch", False, "Draw the noise offset between 0 and its value."),
    Flag("--adaptive_noise_scale", "float", None, "Noise offset per unit of the latent's mean.", range=Range(-FACTOR, FACTOR, hint="0.005 is usual")),
    Flag("--multires_noise_iterations", "int", None, "Levels of pyramid noise.", range=Range(0, 1000, hint="6 is usual")),
    Flag("--multires_noise_discount", "float", 0.3, "Weight of each next level.", range=Range(0, 1, hint="0 to 1; 0.3 is usual")),
    Flag("--ip_noise_gamma", "float", None, "Strength of input perturbation.", range=Range(0, FACTOR, hint="0.1 is usual")),
    Flag("--ip_noise_gamma_random_strength", "switch", False, "Draw the perturbation between 0 and its value."),
    Flag("--zero_terminal_snr", "switch", False, "Rescale the schedule to pure noise at its end; for v-prediction models."),
    Flag("--min_timestep", "int", None, "Lowest timestep, inclusive.", range=Range(0, 999)),
    Flag("--max_timestep", "int", None, "Highest timestep, exclusive.", range=Range(1, 1000)),
    Flag("--loss_type", "str", "l2", "Loss.", ("l1", "l2", "huber", "smooth_l1")),
    Flag("--huber_schedule", "str", "snr", "How the Huber threshold depends on the timestep.", ("constant", "exponential", "snr")),
    Flag("--huber_c", "float", 0.1, "Error at which a Huber loss turns straight, above 0 to 1.", range=Range(0, 1, above=True, hint="0.1 is usual")),
    Flag("--huber_scale", "float", 1.0, "Factor of --huber_c; not with --huber_schedule snr.", range=Range(0, FACTOR, above=True, hint="1 is usual")),
    Flag("--min_snr_gamma", "float", None, "Min-SNR loss weight; 5 is usual.", range=Range(0, 1e6, hint="5 is usual")),
    Flag("--debiased_estimation_loss", "switch", False, "Debiased loss weight."),
    Flag("--v_pred_like_loss", "float", None, "Add this share of a v-like loss.", range=Range(0, FACTOR)),
    Flag("--scale_v_pred_loss_like_noise_pred", "switch", False, "Scale a v loss as a noise loss."),
    Flag("--masked_loss", "switch", False, "Weigh the loss by mask images."),
)  # fmt: skip

# The reference takes ddpm in prompt files only.
_SAMPLERS = tuple(name for name in SAMPLER_NAMES if name != "ddpm")

_PREVIEWS = _rows(
    "previews",
    Flag("--sample_prompts", "str", None, "File of prompts for previews, one per line. Without it: the word alone, in a caption and edited, and the same without the word.", path=True),
    Flag("--sample_every_n_steps", "int", None, "Previews every n steps; 0 is off. Without any such flag: a few times, where that takes at most a tenth of the run.", range=Range(-MOST, MOST)),
    Flag("--sample_every_n_epochs", "int", None, "Previews every n epochs; replaces the step interval.", range=Range(-MOST, MOST)),
    Flag("--sample_at_first", "switch", False, "Previews before the first step too."),
    Flag("--sample_sampler", "str", "ddim", "Sampler of previews.", _SAMPLERS, also=(("ddpm", "ddpm"),)),
)  # fmt: skip

_LOGGING = _rows(
    "logging",
    Flag("--console_log_level", "str", None, "Least level that is printed.", ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")),
    Flag("--console_log_file", "str", None, "Log to this file instead of the console.", path=True),
    Flag("--console_log_simple", "switch", False, "Log to stdout instead of stderr."),
    Flag("--logging_dir", "str", None, "Folder of the trackers' logs.", path=True),
    Flag("--log_with", "str", None, "Tracker; tensorboard when --logging_dir is given. all: both, as far as installed.", ("tensorboard", "wandb", "all")),
    Flag("--log_prefix", "str", None, "Prefix of the run's log folder."),
    Flag("--log_tracker_name", "str", None, "Name of the tracker. Default: textual_inversion."),
    Flag("--wandb_run_name", "str", None, "Name of the run on W&B."),
    Flag("--log_tracker_config", "str", None, "TOML file of tracker arguments: [wandb] for wandb.init, [tensorboard] for SummaryWriter.", path=True),
    Flag("--wandb_api_key", "str", None, "Key of W&B. Default: the stored login.", secret=True),
    Flag("--log_config", "switch", False, "Send the settings to the trackers, without keys and folders."),
)  # fmt: skip

_METADATA = _rows(
    "metadata",
    Flag("--metadata_title", "str", None, "Title. Default: the output name."),
    Flag("--metadata_author", "str", None, "Author."),
    Flag("--metadata_description", "str", None, "Description."),
    Flag("--metadata_license", "str", None, "Licence."),
    Flag("--metadata_tags", "str", None, "Tags, comma-separated."),
    Flag("--metadata_usage_hint", "str", None, "How to use it."),
    Flag("--metadata_thumbnail", "str", None, "Thumbnail: an image file or a data URL.", path=True),
    Flag("--metadata_merged_from", "str", None, "What it was merged from."),
    Flag("--metadata_trigger_phrase", "str", None, "The word to write in prompts. Default: the file's name."),
    Flag("--metadata_preprocessor", "str", None, "Preprocessor."),
    Flag("--metadata_is_negative_embedding", "str", None, "true for negative prompts.", also=(("true", "true"), ("false", "false"))),
)  # fmt: skip

_SHARDING = _rows(
    "several processes",
    Flag("--deepspeed", "switch", False, "Use DeepSpeed.", note=NO_SHARDING),
    Flag("--zero_stage", "int", 2, "ZeRO stage.", (0, 1, 2, 3), note=NO_SHARDING),
    Flag("--offload_optimizer_device", "str", None, "Where the optimizer is offloaded.", ("cpu", "nvme"), note=NO_SHARDING),
    Flag("--offload_optimizer_nvme_path", "str", None, "Path of the optimizer's NVMe.", note=NO_SHARDING, path=True),
    Flag("--offload_param_device", "str", None, "Where parameters are offloaded.", ("cpu", "nvme"), note=NO_SHARDING),
    Flag("--offload_param_nvme_path", "str", None, "Path of the parameters' NVMe.", note=NO_SHARDING, path=True),
    Flag("--zero3_init_flag", "switch", False, "Build models under ZeRO-3.", note=NO_SHARDING),
    Flag("--zero3_save_16bit_model", "switch", False, "Gather 16-bit weights on save.", note=NO_SHARDING),
    Flag("--fp16_master_weights_and_gradients", "switch", False, "fp16 master weights.", note=NO_SHARDING),
    Flag("--ddp_timeout", "int", None, "Minutes before a process group that hangs fails.", range=Range(0, 525_600, hint="minutes, up to a year; 0 is as if it were left out")),
    Flag("--ddp_gradient_as_bucket_view", "switch", False, "An option of torch's DDP.", note=NO_SHARDING),
    Flag("--ddp_static_graph", "switch", False, "An option of torch's DDP.", note=NO_SHARDING),
)  # fmt: skip

_WORD = _rows(
    "the new word",
    Flag("--token_string", "str", None, "The new word, as captions write it."),
    Flag("--init_word", "str", None, 'A known word to start from, such as girl; the scripts need it unless --weights is given. auto: the one that fits the images best, by measurement (" auto", with a space, is the word itself).'),
    Flag("--num_vectors_per_token", "int", 1, "Vectors (tokens of a prompt) that the word takes.", range=Range(1, 75, hint="a prompt has room for 75 tokens")),
    Flag("--weights", "str", None, "Start from this embedding file.", path=True),
    Flag("--use_object_template", "switch", False, 'Replace captions by sentences such as "a photo of a {}".'),
    Flag("--use_style_template", "switch", False, 'Replace captions by sentences such as "a painting in the style of {}".'),
)  # fmt: skip

_SEVERAL = _rows(
    "words of one picture",
    _own("--together", "switch", False, "Words of a config file whose captions name them together: they learn from the same images, and a step whose captions lack a word leaves it as it is."),
    _own("--train", "str", "true", "false: the word of --weights may stand in captions beside words that learn, and stays as it is.", ("true", "false"), also=(("true", "true"), ("false", "false"))),
    _own("--start_step", "int", 0, "Steps of the run that pass before the word begins to learn.", range=ANY_COUNT),
    _own("--end_step", "int", None, "Step of the run after which the word stays as it is. Default: the last one.", range=COUNT),
)  # fmt: skip

_SDXL = _rows(
    "SDXL",
    replace(Flag("--disable_mmap_load_safetensors", "switch", False, "Read the checkpoint into memory instead of mapping it."), sdxl_only=True),
    replace(Flag("--cache_text_encoder_outputs", "switch", False, "Keep the encodings that do not depend on the new word.", note=WORD_TRAINS), sdxl_only=True),
    replace(Flag("--cache_text_encoder_outputs_to_disk", "switch", False, "The same, on disk.", note=WORD_TRAINS), sdxl_only=True),
)  # fmt: skip

_CONFIG = _rows(
    "config file",
    Flag("--config_file", "str", None, "TOML file with values for these flags, as sd-scripts and GUIs write it too; the command line wins. A [[words]] table for each of several words: docs/guides/several-words.md.", path=True),
    Flag("--output_config", "switch", False, "Write the given flags to --config_file, then stop."),
)  # fmt: skip

_OWN = _rows(
    "only in Coinage",
    _own("--dry_run", "switch", False, "Check everything, show what the run would do, and stop before the model is loaded."),
    _own("--share", "str", "batches", "What several processes divide among themselves: the batches of each step, or the words of the config file, of which each process then trains some and takes more when it has done them.", choices=("batches", "words")),
    _own("--words_at_once", "int", 8, "With --share words: how many words go through one model side by side.", range=Range(1, 1000, hint="8 is a good number")),
    _own("--role", "str", "positive", "Where the word is to be written. negative: in the negative prompt; the images show what is not wanted, and sentences such as a photo of a {} take the place of captions.", choices=("positive", "negative"), per_word=True),
    _own("--train_encoders", "str", "both", "Of a model's several text encoders, those in which the word learns: l (CLIP-L) or g (OpenCLIP bigG) alone; for SD 3 and FLUX.1 also clip (all of CLIP) or t5 (T5) alone; both: all of them. In the others it stays as it starts.", choices=("l", "g", "clip", "t5", "both"), per_word=True),
    _own("--on_problem", "str", "stop", "What to do when a run turns out useless: before the first step, or within 20 steps that have the word.", choices=("stop", "warn")),
    _own("--weights_fit", "str", "error", "Where --weights has more or fewer vectors than the word: stop, take the first ones, or take them in turn.", choices=("error", "truncate", "repeat"), per_word=True),
    _own("--caption_templates", "str", None, "File with a sentence a line that takes the place of the captions: {} is the word, [filewords] the image's caption.", path=True, per_word=True),
    _own("--require_token", "switch", False, "A caption that lacks the word is an error, not a warning.", per_word=True),
    _own("--skip_bad_images", "switch", False, "Leave out images that cannot be read, with a warning.", per_word=True),
    _own("--caption_tag_dropout_rate", "float", 0.0, "Probability that a tag is left out; never one with the word.", range=SHARE, per_word=True),
    _own("--tag_dropout_mode", "str", "random", "What caption_tag_dropout_rate leaves out: each tag by itself (random), all at once (full), or each by itself and the last ones more often (random_weighted).", choices=("random", "full", "random_weighted"), per_word=True),
    _own("--tag_dropout_special_tags", "str", None, "Tags that are never left out, with the separator of tags between them.", per_word=True),
    _own("--tag_dropout_special_tags_mode", "str", "whitelist", "blacklist: the special tags are the only ones that may be left out.", choices=("whitelist", "blacklist"), per_word=True),
    _own("--tag_dropout_special_tags_regex", "switch", False, "The special tags are regular expressions for whole tags.", per_word=True),
    _own("--random_rotate_max_angle", "float", 0.0, "Turn images by up to so many degrees each time, without bare corners.", range=Range(0, 180, hint="5 to 15 are usual"), per_word=True),
    _own("--random_brightness_max_strength", "float", 0.0, "Change the brightness each time, at most by this share.", range=SHARE, per_word=True),
    _own("--random_contrast_max_strength", "float", 0.0, "Change the contrast each time, at most by this share.", range=SHARE, per_word=True),
    _own("--random_saturation_max_strength", "float", 0.0, "Change the saturation each time, at most by this share.", range=SHARE, per_word=True),
    _own("--random_hue_max_strength", "float", 0.0, "Shift hues each time, at most by this share of half a colour circle.", range=SHARE, per_word=True),
    _own("--background", "str", "white", "Colour behind transparent images: a name or #rrggbb.", per_word=True),
    _own("--cache_dir", "str", None, "Folder for what is kept on disk. Default: .coinage beside the images.", path=True),
    _own("--mask_normalize", "switch", False, "Divide a masked loss by the mask's mean, so that small masks teach as much.", per_word=True),
    _own("--unmasked_probability", "float", 0.0, "Share of the uses of an image in which its mask is ignored.", range=SHARE, per_word=True),
    _own("--unmasked_weight", "float", 0.0, "Least weight in a masked loss: that of what a mask hides.", range=SHARE, per_word=True),
    _own("--masked_prior_preservation_weight", "float", 0.0, "Hold what a mask hides to the model's own prediction without the word, with this weight.", range=Range(0, FACTOR, hint="1 is usual"), per_word=True),
    _own("--timestep_distribution", "str", "uniform", "How timesteps are drawn.", choices=("uniform", "logit_normal", "heavy_tail", "beta", "cos_map", "sigmoid", "inverted_parabola"), per_word=True),
    _own("--noising_weight", "float", 0.0, "Shape of the timestep distribution, as in OneTrainer: docs/guides/datasets.md.", range=Range(-FACTOR, FACTOR), per_word=True),
    _own("--noising_bias", "float", 0.0, "Where the timestep distribution has its middle; 0: at half of the noise. Of beta, its second number.", range=Range(-FACTOR, FACTOR), per_word=True),
    _own("--timestep_shift", "float", 1.0, "Shift the timesteps to more noise (above 1) or less.", range=Range(0, FACTOR, above=True, hint="1 is none"), per_word=True),
    _own("--flow_weighting", "str", "none", "Weight of the loss by the share of noise, for models of flow matching (SD 3, FLUX.1).", choices=("none", "sigma_sqrt", "cosmap"), per_word=True),
    _own("--bucket_log_ratio", "switch", False, "Choose buckets by the ratio of aspect ratios: tall and wide images alike.", per_word=True),
    _own("--data_as_reference", "switch", False, "Handle images and tags exactly like sd-scripts: EXIF rotation and transparency ignored, 16-bit grey saturated, gamma on 0..255, tags joined by comma, letterbox crop values for SDXL.", per_word=True),
    _own("--validation_split", "float", 0.0, "Share of images that are held out, 0 to 1.", range=SHARE, per_word=True),
    _own("--validation_seed", "int", None, "Chooses the images held out. Default: --seed.", range=Range(0, MOST_SEED), per_word=True),
    _own("--validate_every_n_steps", "int", None, "Measure the loss on held-out images, or that of --early_stop and --keep_best, every n steps. Default: ten times over the run, or as often as takes a twentieth of it, every 40 steps at least.", range=COUNT, per_word=True),
    _own("--validate_every_n_epochs", "int", None, "The same, every n epochs.", range=COUNT, per_word=True),
    _own("--early_stop", "switch", False, "End the run when the loss on a fixed set of images and noise no longer improves; implies --keep_best."),
    _own("--compare_images", "switch", False, "At the end, measure how much the word helps with each image, and name those that do not belong, where that takes at most a twentieth of the run."),
    _own("--show_word", "switch", False, "See where in the previews the word acts, and show it in the report."),
    _own("--norm_mode", "str", "none", "How long a vector may become: as the optimizer makes it, 1.6 times as long as at its start (clip), or as long as there (target). Directional keeps lengths anyway.", choices=("none", "clip", "target"), per_word=True),
    _own("--autopilot", "int", None, "Before the run, try so many settings side by side for a while (init words, vectors, learning rates, seeds), and train with the best. Default: none.", range=Range(2, 64, hint="4 is a good number; or leave it out"), per_word=True),
    _own("--keep_best", "switch", False, "Also write NAME-best: the word as it was where that loss was lowest; with scores, where pictures that are drawn with it score highest.", choices=("loss", "scores")),
    _own("--score_clip", "str", None, "With --keep_best scores: CLIP, which scores likeness and obedience; a transformers folder or a hub id.", path=True),
    _own("--score_dino", "str", None, "The same: DINO, DINOv2 or DINOv3, which scores likeness.", path=True),
    _own("--score_prompts", "str", None, "With --keep_best scores: what is drawn: object, live, style, or a text file with a prompt a line and {} where the word stands. Default: object.", path=True, per_word=True),
    _own("--quiet", "switch", False, "Print warnings and errors only, and at the end the path of the file."),
    _own("--verbose", "switch", False, "Also show what is cached, drawn and saved, and where in the code an error occurred."),
    _own("--debug_dataset_out", "str", None, "With --debug_dataset: folder for a contact sheet (dataset.html) and dataset.json.", path=True),
)  # fmt: skip

FLAGS: tuple[Flag, ...] = (
    *_WORD, *_MODEL, *_DATASET, *_CAPTION, *_BUCKETS, *_OUTPUT, *_STATE, *_HUB, *_LENGTH, *_MEMORY, *_OPTIMIZER,
    *_SCHEDULER, *_NOISE, *_PREVIEWS, *_LOGGING, *_METADATA, *_SHARDING, *_SEVERAL, *_SDXL, *_CONFIG,
    *_OWN,
)  # fmt: skip

SECRETS = tuple(flag.dest for flag in FLAGS if flag.secret)
BY_DEST: dict[str, Flag] = {flag.dest: flag for flag in FLAGS}


# What `coinage train` decides where nothing is said (`own_defaults`); the two scripts keep sd-scripts' defaults.
DECIDED = (
    "--optimizer_type",
    "--learning_rate",
    "--lr_scheduler",
    "--max_train_steps",
    "--save_model_as",
    "--cache_latents",
    "--early_stop",
    "--compare_images",
    "--show_word",
    "--mixed_precision",
)


# What its help says of them, and of others whose value it finds.
FOUND = {
    "--init_word": "auto",
    "--use_object_template": "on for a folder of images without captions",
    "--resolution": "for a folder, the size that the model is made for",
    "--optimizer_type": "Directional",
    "--learning_rate": "0.5 for Directional",
    "--lr_scheduler": "inverse_sqrt for Directional",
    "--max_train_steps": "1600 at most, with --early_stop",
    "--save_model_as": "safetensors",
    "--cache_latents": "on for a folder of images",
    "--mixed_precision": "auto: bf16 on a GPU that computes in it, fp16 on an older one, else no",
    "--early_stop": "on, unless a number of steps or epochs is given",
    "--compare_images": "on",
    "--show_word": "on",
}


def flags_of(script: str) -> tuple[Flag, ...]:
    """Return the flags of a script. Those of `coinage train` have no default where it decides itself.

    Args:
        script: "sd", "sdxl" or "coinage".
    """
    if script == Script.COINAGE:
        return _COINAGE_FLAGS
    if script == Script.SD:
        return _SD_FLAGS
    return FLAGS


def _decided(flag: Flag) -> Flag:
    """Return a flag as `coinage train` has it."""
    text = flag.help
    if flag.name in FOUND:
        text = f"{flag.help.partition(' Default:')[0]} Default: {FOUND[flag.name]}."
    return replace(flag, help=text, default=None if flag.name in DECIDED else flag.default)


_COINAGE_FLAGS = tuple(_decided(flag) for flag in FLAGS)
_SD_FLAGS = tuple(flag for flag in FLAGS if not flag.sdxl_only)
