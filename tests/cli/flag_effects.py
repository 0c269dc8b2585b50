"""What each of sd-scripts' flags, and some of ours, must do, as data for test_every_flag.py."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Outcome:
    """What a run left and said."""

    code: int
    told: str  # stderr and stdout
    files: frozenset[str]  # digits of time stamps left out
    rows: bytes = b""  # the learned vectors
    header: dict[str, str] = field(default_factory=dict)
    dtype: str = ""


Check = Callable[[Outcome, Outcome], Any]  # given the outcomes without and with the flag


def learns(before: Outcome, after: Outcome) -> bool:
    """Another word is learned."""
    return bool(before.rows and after.rows and before.rows != after.rows)


def writes(*names: str) -> Check:
    """These files are there, and were not without the flag."""
    return lambda before, after: set(names) <= after.files - before.files


def drops(name: str) -> Check:
    """A file is not there, and was without the flag."""
    return lambda before, after: name in before.files - after.files


def says(text: str) -> Check:
    """A line says this, and did not without the flag."""
    return lambda before, after: text in after.told and text not in before.told


def notes(name: str, text: str) -> Check:
    """A line names the flag, says this of it, and another word is not learned."""
    line = re.compile(rf"^note: .*{name}\b.*{re.escape(text)}", re.MULTILINE)
    return lambda before, after: (
        line.search(after.told) and not line.search(before.told) and before.rows == after.rows
    )


def holds(key: str, value: str) -> Check:
    """The file's header says so, and the word is the same."""
    return lambda before, after: (
        after.header.get(key) == value != before.header.get(key) and before.rows == after.rows
    )


def halves(before: Outcome, after: Outcome) -> bool:
    """The vectors are saved in half the size."""
    return (before.dtype, after.dtype) == ("torch.float32", "torch.float16")


def quiet(before: Outcome, after: Outcome) -> bool:
    """Nothing is said, and something was without the flag."""
    return bool(before.told) and not after.told


def says_only_where(before: Outcome, after: Outcome) -> bool:
    """One line is said, the path of the file, and more without the flag."""
    return before.told.count("\n") > 1 == after.told.count("\n") and after.told.endswith(
        "zibu.safetensors\n"
    )


@dataclass(frozen=True)
class Row:
    """A flag as it is given, what is given with and without it, and what it must do.

    Or, instead, the test that asserts it.
    """

    given: str = ""
    beside: str = ""
    does: Check = learns
    code: int = 0  # of the command with the flag
    tested: str = ""  # path::function, in which the flag's name stands
    together: bool = False  # one run gives all such flags, which do not act on each other


def acts(given: str, beside: str = "", does: Check = learns, code: int = 0) -> Row:
    return Row(given, beside, does, code)


def tested(where: str) -> Row:
    return Row(tested=where)


def note(given: str, text: str) -> Row:
    return Row(given, does=notes(given.partition("=")[0], text), together=True)


def metadata(name: str, value: str, held: str = "") -> Row:
    return Row(
        f"--metadata_{name}={value}", does=holds(f"modelspec.{name}", held or value), together=True
    )


TAGS = "--shuffle_caption"
BUCKETS = "--enable_bucket --min_bucket_reso=64 --resolution=128"
LONGER = "--max_train_steps=6"
STEPS = "--max_train_steps=6 --save_every_n_steps=2"
EPOCHS = "--max_train_epochs=3"
UNNEEDED = "nothing is sharded"
PROMPTS = "--sample_prompts={prompts}"
LOGS = "--logging_dir={out}/logs"
# The demo model predicts the noise, and that would end the run
V = "--v_parameterization --on_problem=warn"

EFFECTS: dict[str, Row] = {
    # the new word
    "--token_string": acts(
        "--token_string=circle", does=says("is already in the model's vocabulary"), code=2
    ),
    "--init_word": tested(
        "training/search/test_init_word.py::test_a_run_tells_and_goes_on_without_another_search"
    ),
    "--num_vectors_per_token": acts("--num_vectors_per_token=2"),
    "--weights": acts("--weights={word}"),
    "--use_object_template": acts("--use_object_template"),
    "--use_style_template": acts("--use_style_template"),
    # model
    "--pretrained_model_name_or_path": acts(
        "--pretrained_model_name_or_path=no/such/model.ckpt", does=says("model not found"), code=2
    ),
    "--v2": acts("--v2", does=says("this is a Stable Diffusion 1.x model")),
    "--v_parameterization": acts("--v_parameterization", "--on_problem=warn"),
    "--vae": acts("--vae={vae}"),
    "--tokenizer_cache_dir": tested(
        "models/test_families.py::test_a_folder_of_tokenizers_serves_single_files"
    ),
    "--clip_skip": acts("--clip_skip=2"),
    "--max_token_length": acts("--max_token_length=150"),
    # dataset
    "--train_data_dir": acts("--train_data_dir={other}"),
    "--reg_data_dir": acts("--reg_data_dir={reg}"),
    "--in_json": acts("--in_json={metadata} --train_data_dir={images}"),
    "--dataset_repeats": acts(
        "--dataset_repeats=3",
        "--train_data_dir={images} --in_json={metadata}",
        says("2 images (6 with repeats)"),
    ),
    "--dataset_config": acts("--dataset_config={dataset}"),
    "--dataset_class": note("--dataset_class=my.Dataset", "it would run code that is not checked"),
    "--debug_dataset": acts("--debug_dataset", does=drops("zibu.safetensors")),
    "--cache_info": acts("--cache_info", does=writes(".coinage/sizes-2.json")),
    "--train_batch_size": acts("--train_batch_size=2"),
    "--prior_loss_weight": acts(
        "--prior_loss_weight=0.1", f"--reg_data_dir={{other}} {LONGER} --optimizer_type=SGD"
    ),
    "--conditioning_data_dir": acts("--conditioning_data_dir={masks}"),
    "--alpha_mask": acts("--alpha_mask"),
    "--max_data_loader_n_workers": tested(
        "training/test_data_in_training.py::test_any_number_of_readers_trains_the_same_word"
    ),
    "--persistent_data_loader_workers": note(
        "--persistent_data_loader_workers", "images are read by threads"
    ),
    # captions
    "--shuffle_caption": acts("--shuffle_caption"),
    "--caption_separator": acts("--caption_separator=;", TAGS),
    "--caption_extension": acts("--caption_extension=.alt"),
    "--caption_extention": acts("--caption_extention=.alt"),
    "--keep_tokens": acts("--keep_tokens=4", TAGS),
    "--keep_tokens_separator": acts("--keep_tokens_separator=|||", TAGS),
    "--secondary_separator": acts("--secondary_separator=;", TAGS),
    "--enable_wildcard": acts("--enable_wildcard"),
    "--caption_prefix": acts("--caption_prefix=red"),
    "--caption_suffix": acts("--caption_suffix=red"),
    "--token_warmup_min": acts("--token_warmup_min=3", f"{TAGS} --token_warmup_step=4"),
    "--token_warmup_step": acts("--token_warmup_step=4", TAGS),
    "--weighted_captions": note("--weighted_captions", "captions are read as they stand"),
    # buckets and latents
    "--resolution": acts("--resolution=32"),
    "--enable_bucket": acts("--enable_bucket", "--min_bucket_reso=64 --resolution=128"),
    "--min_bucket_reso": acts("--min_bucket_reso=128", BUCKETS),
    "--max_bucket_reso": acts("--max_bucket_reso=128", BUCKETS),
    "--bucket_reso_steps": acts(
        "--bucket_reso_steps=128", "--enable_bucket --min_bucket_reso=128 --resolution=256"
    ),
    "--bucket_no_upscale": acts("--bucket_no_upscale", f"{BUCKETS} --resolution=192"),
    "--resize_interpolation": acts("--resize_interpolation=nearest", LONGER),
    "--color_aug": acts("--color_aug", LONGER),
    "--flip_aug": acts("--flip_aug", LONGER),
    "--face_crop_aug_range": acts("--face_crop_aug_range=1.5,3"),
    "--random_crop": acts("--random_crop"),
    "--cache_latents": tested("cli/test_every_flag.py::test_cached_latents_need_no_vae"),
    "--cache_latents_to_disk": acts(
        "--cache_latents_to_disk",
        does=writes(".coinage/latents/a_60_40_20_20.png_64x64__.safetensors"),
    ),
    "--vae_batch_size": tested("data/test_latents.py::test_the_vae_takes_as_many_images_as_asked"),
    "--skip_cache_check": tested("cli/test_every_flag.py::test_latents_may_be_trusted_unchecked"),
    # output
    "--output_dir": acts("--output_dir={out}/elsewhere", does=writes("elsewhere/zibu.safetensors")),
    "--output_name": acts("--output_name=mine", does=writes("mine.safetensors")),
    "--save_model_as": acts("--save_model_as=pt", does=writes("zibu.pt")),
    "--save_precision": acts("--save_precision=fp16", does=halves),
    "--save_every_n_epochs": acts(
        "--save_every_n_epochs=1",
        EPOCHS,
        writes("zibu-000001.safetensors", "zibu-000002.safetensors"),
    ),
    "--save_every_n_steps": acts(
        "--save_every_n_steps=1", does=writes("zibu-step00000001.safetensors")
    ),
    "--save_n_epoch_ratio": acts(
        "--save_n_epoch_ratio=3",
        EPOCHS,
        writes("zibu-000001.safetensors", "zibu-000002.safetensors"),
    ),
    "--save_last_n_epochs": acts(
        "--save_last_n_epochs=1",
        f"{EPOCHS} --save_every_n_epochs=1",
        drops("zibu-000001.safetensors"),
    ),
    "--save_last_n_steps": acts(
        "--save_last_n_steps=2", STEPS, drops("zibu-step00000002.safetensors")
    ),
    # resuming
    "--save_state": acts(
        "--save_state",
        "--save_every_n_steps=1",
        writes("zibu-step00000001-state/state.pt", "zibu-state/state.pt"),
    ),
    "--save_state_on_train_end": acts(
        "--save_state_on_train_end", does=writes("zibu-state/state.json")
    ),
    "--save_last_n_epochs_state": acts(
        "--save_last_n_epochs_state=1",
        f"{EPOCHS} --save_every_n_epochs=1 --save_state",
        drops("zibu-000001-state/state.pt"),
    ),
    "--save_last_n_steps_state": acts(
        "--save_last_n_steps_state=2",
        f"{STEPS} --save_state",
        drops("zibu-step00000002-state/state.pt"),
    ),
    "--resume": acts(
        "--resume={state}",
        "--optimizer_type=SGD --learning_rate=1",
        says("continuing after step 1"),
    ),
    "--resume_from_huggingface": tested("test_hub.py::test_a_run_goes_on_from_a_state_on_the_hub"),
    "--save_state_to_huggingface": tested(
        "test_hub.py::test_every_embedding_and_state_is_uploaded"
    ),
    # hub upload
    "--huggingface_repo_id": tested(
        "test_hub.py::test_a_hub_that_does_not_answer_holds_nobody_up_for_long"
    ),
    "--huggingface_repo_type": tested("test_hub.py::test_a_repository_is_made_as_asked"),
    "--huggingface_path_in_repo": tested("test_hub.py::test_every_embedding_and_state_is_uploaded"),
    "--huggingface_token": tested(
        "test_hub.py::test_a_hub_that_does_not_answer_holds_nobody_up_for_long"
    ),
    "--huggingface_repo_visibility": tested("test_hub.py::test_a_repository_is_made_as_asked"),
    "--async_upload": tested(
        "test_hub.py::test_a_hub_that_does_not_answer_holds_nobody_up_for_long"
    ),
    # length and precision
    "--max_train_steps": acts("--max_train_steps=3"),
    "--max_train_epochs": acts("--max_train_epochs=2", does=says("8 steps, 2 epochs")),
    "--seed": acts("--seed=5"),
    "--gradient_accumulation_steps": acts("--gradient_accumulation_steps=2"),
    "--mixed_precision": acts("--mixed_precision=bf16"),
    "--full_fp16": acts(
        "--full_fp16", "--mixed_precision=fp16", says("the trained vectors stay in float32")
    ),
    "--full_bf16": acts("--full_bf16", "--mixed_precision=bf16"),
    "--fp8_base": acts("--fp8_base", "--mixed_precision=bf16"),
    "--no_half_vae": acts("--no_half_vae", "--mixed_precision=bf16"),
    # memory and attention
    "--gradient_checkpointing": tested(
        "training/test_training.py::test_checkpointing_computes_activations_twice"
    ),
    "--low_memory": acts("--low_memory", "--mixed_precision=bf16", says("to save memory: ")),
    "--mem_eff_attn": note("--mem_eff_attn", "scaled-dot-product attention is always used"),
    "--xformers": note("--xformers", "scaled-dot-product attention is always used"),
    "--sdpa": note("--sdpa", "scaled-dot-product attention is always used"),
    "--torch_compile": tested("training/test_training.py::test_a_compiled_unet_trains_the_same"),
    "--dynamo_backend": tested("training/test_training.py::test_a_compiled_unet_trains_the_same"),
    "--cuda_graphs": acts(
        "--cuda_graphs=on",
        does=says("--cuda_graphs has no effect: the model is not on a CUDA device"),
    ),
    "--lowram": note("--lowram", "weights are mapped from their file"),
    "--highvram": note("--highvram", "the cache is never flushed"),
    # optimizer
    "--optimizer_type": acts("--optimizer_type=Lion"),
    "--use_8bit_adam": acts("--use_8bit_adam", does=says("the trained rows are a few kilobytes")),
    "--use_lion_optimizer": acts("--use_lion_optimizer"),
    "--learning_rate": acts("--learning_rate=1e-3"),
    "--max_grad_norm": acts("--max_grad_norm=1e-4", "--optimizer_type=SGD --learning_rate=1"),
    "--optimizer_args": acts("--optimizer_args weight_decay=0.9"),
    "--fused_backward_pass": note("--fused_backward_pass", "the gradients are a few kilobytes"),
    # learning rate schedule
    "--lr_scheduler": acts("--lr_scheduler=cosine"),
    "--lr_scheduler_type": acts("--lr_scheduler_type=ExponentialLR --lr_scheduler_args gamma=0.5"),
    "--lr_scheduler_args": acts(
        "--lr_scheduler_args gamma=0.1",
        "--lr_scheduler_type=ExponentialLR --lr_scheduler_args gamma=0.5",
    ),
    "--lr_warmup_steps": acts("--lr_warmup_steps=1", "--lr_scheduler=linear"),
    "--lr_decay_steps": acts(
        "--lr_decay_steps=3", f"--lr_scheduler=warmup_stable_decay {LONGER} --lr_decay_steps=2"
    ),
    "--lr_scheduler_num_cycles": acts(
        "--lr_scheduler_num_cycles=2", f"--lr_scheduler=cosine_with_restarts {LONGER}"
    ),
    "--lr_scheduler_power": acts("--lr_scheduler_power=2", "--lr_scheduler=polynomial"),
    "--lr_scheduler_timescale": acts("--lr_scheduler_timescale=3", "--lr_scheduler=inverse_sqrt"),
    "--lr_scheduler_min_lr_ratio": acts(
        "--lr_scheduler_min_lr_ratio=0.5",
        "--lr_scheduler=cosine_with_min_lr --lr_scheduler_min_lr_ratio=0.1",
    ),
    # noise and loss
    "--noise_offset": acts("--noise_offset=0.1"),
    "--noise_offset_random_strength": acts("--noise_offset_random_strength", "--noise_offset=0.1"),
    "--adaptive_noise_scale": acts("--adaptive_noise_scale=-0.5", "--noise_offset=0.1"),
    "--multires_noise_iterations": acts("--multires_noise_iterations=3"),
    "--multires_noise_discount": acts(
        "--multires_noise_discount=0.5", "--multires_noise_iterations=3"
    ),
    "--ip_noise_gamma": acts("--ip_noise_gamma=0.1"),
    "--ip_noise_gamma_random_strength": acts(
        "--ip_noise_gamma_random_strength", "--ip_noise_gamma=0.1"
    ),
    "--zero_terminal_snr": acts("--zero_terminal_snr", V),
    "--min_timestep": acts("--min_timestep=500", LONGER),
    "--max_timestep": acts("--max_timestep=500", LONGER),
    "--loss_type": acts("--loss_type=l1"),
    "--huber_schedule": acts("--huber_schedule=exponential", "--loss_type=huber"),
    "--huber_c": acts("--huber_c=0.01", "--loss_type=huber"),
    "--huber_scale": acts("--huber_scale=0.1", "--loss_type=huber --huber_schedule=constant"),
    "--min_snr_gamma": acts("--min_snr_gamma=1", LONGER),
    "--debiased_estimation_loss": acts("--debiased_estimation_loss", LONGER),
    "--v_pred_like_loss": acts("--v_pred_like_loss=0.5"),
    "--scale_v_pred_loss_like_noise_pred": acts("--scale_v_pred_loss_like_noise_pred", V),
    "--masked_loss": acts("--masked_loss", does=says("no image has a mask"), code=2),
    # previews
    "--sample_prompts": acts(
        f"{PROMPTS} --sample_every_n_steps=2", does=writes("sample/zibu_000002_00___1.png")
    ),
    "--sample_every_n_steps": acts(
        "--sample_every_n_steps=1", PROMPTS, writes("sample/zibu_000001_00___1.png")
    ),
    "--sample_every_n_epochs": acts(
        "--sample_every_n_epochs=1", f"{PROMPTS} {EPOCHS}", writes("sample/zibu_e000001_00___1.png")
    ),
    "--sample_at_first": acts(
        "--sample_at_first", PROMPTS, writes("sample/zibu_e000000_00___1.png")
    ),
    "--sample_sampler": tested("cli/test_every_flag.py::test_the_sampler_of_previews"),
    # logging
    "--console_log_level": acts("--console_log_level=ERROR", does=quiet),
    "--console_log_file": acts("--console_log_file={out}/log.txt", does=writes("log.txt")),
    "--console_log_simple": tested("cli/test_bad_input.py::test_where_messages_go"),
    "--logging_dir": acts(LOGS, does=writes("logs/_/textual_inversion/events.out.tfevents")),
    "--log_with": tested(
        "training/observers/test_trackers.py::test_both_trackers_get_one_point_per_update_and_the_pictures"
    ),
    "--log_prefix": acts(
        "--log_prefix=mine-", LOGS, writes("logs/mine-_/textual_inversion/events.out.tfevents")
    ),
    "--log_tracker_name": acts(
        "--log_tracker_name=mine", LOGS, writes("logs/_/mine/events.out.tfevents")
    ),
    "--wandb_run_name": tested(
        "training/observers/test_trackers.py::test_both_trackers_get_one_point_per_update_and_the_pictures"
    ),
    "--log_tracker_config": acts(
        "--log_tracker_config={trackers}",
        LOGS,
        writes("logs/_/textual_inversion/events.out.tfevents.mine"),
    ),
    "--wandb_api_key": tested("training/observers/test_trackers.py::test_the_key_reaches_wandb"),
    "--log_config": tested(
        "training/observers/test_trackers.py::test_trackers_are_told_the_settings_without_keys_folders_and_command_line"
    ),
    # metadata
    "--metadata_is_negative_embedding": metadata("is_negative_embedding", "True", "true"),
    "--metadata_thumbnail": metadata("thumbnail", "data:x"),
    **{
        f"--metadata_{name}": metadata(name, f"my_{name}")
        for name in (
            "title",
            "author",
            "description",
            "license",
            "tags",
            "usage_hint",
            "merged_from",
            "trigger_phrase",
            "preprocessor",
        )
    },
    # several processes
    "--deepspeed": note("--deepspeed", UNNEEDED),
    "--zero_stage": note("--zero_stage=1", UNNEEDED),
    "--offload_optimizer_device": note("--offload_optimizer_device=cpu", UNNEEDED),
    "--offload_optimizer_nvme_path": note("--offload_optimizer_nvme_path=x", UNNEEDED),
    "--offload_param_device": note("--offload_param_device=cpu", UNNEEDED),
    "--offload_param_nvme_path": note("--offload_param_nvme_path=x", UNNEEDED),
    "--zero3_init_flag": note("--zero3_init_flag", UNNEEDED),
    "--zero3_save_16bit_model": note("--zero3_save_16bit_model", UNNEEDED),
    "--fp16_master_weights_and_gradients": note("--fp16_master_weights_and_gradients", UNNEEDED),
    "--ddp_timeout": tested(
        "training/test_processes.py::test_a_process_that_never_comes_is_not_waited_for"
    ),
    "--ddp_gradient_as_bucket_view": note("--ddp_gradient_as_bucket_view", UNNEEDED),
    "--ddp_static_graph": note("--ddp_static_graph", UNNEEDED),
    # SDXL
    "--disable_mmap_load_safetensors": tested(
        "models/test_families.py::test_weights_may_be_read_at_once"
    ),
    "--cache_text_encoder_outputs": note(
        "--cache_text_encoder_outputs", "since the gradient flows through them"
    ),
    "--cache_text_encoder_outputs_to_disk": acts(
        "--cache_text_encoder_outputs_to_disk --cache_dir={out}/kept",
        f"--reg_data_dir={{reg}} {LONGER}",
        writes("kept/text/_.safetensors"),
    ),
    # config file
    "--config_file": acts("--config_file={config}"),
    "--output_config": acts(
        "--output_config --config_file={out}/written", does=writes("written.toml")
    ),
    # only in Coinage
    "--norm_mode": acts("--norm_mode=target"),
    "--early_stop": tested(
        "training/test_early_stop.py::test_measuring_takes_a_twentieth_of_the_passes"
    ),
    "--show_word": tested(
        "training/observers/test_reporter.py::test_the_page_shows_where_the_word_acts"
    ),
    "--autopilot": acts("--autopilot=2", does=says("\ntried   ")),
    "--keep_best": acts("--keep_best", does=writes("zibu-best.safetensors")),
    "--score_clip": tested("training/test_scores.py::test_by_clip_and_dino"),
    "--score_dino": tested("training/test_scores.py::test_by_clip_and_dino"),
    "--score_prompts": tested("training/test_scores.py::test_the_highest_score_is_kept"),
    "--role": acts("--role=negative"),
    "--train_encoders": tested(
        "training/test_train_encoders.py::test_one_half_learns_and_the_other_stays_as_it_starts"
    ),
    "--quiet": acts("--quiet", does=says_only_where),
    "--verbose": acts("--verbose", "--cache_latents", says("latents are in memory")),
}
