"""The user guide's command, through accelerate launch."""

import os
import subprocess
import sys
from pathlib import Path

import safetensors.torch

from coinage.demo.run import MODEL

ROOT = Path(__file__).parents[2]


def test_the_guides_command_runs_to_the_end(moon_dataset: Path, tmp_path: Path) -> None:
    command = f"""
    accelerate launch --num_cpu_threads_per_process 1 train_textual_inversion.py
    --pretrained_model_name_or_path={MODEL} --dataset_config={moon_dataset}
    --output_dir={tmp_path} --output_name=my_textual_inversion --save_model_as=safetensors
    --token_string=zibu --init_word=shape --num_vectors_per_token=4 --max_train_steps=2
    --learning_rate=1e-6 --optimizer_type=AdamW8bit --mixed_precision=fp16 --cache_latents --sdpa
    """
    words = command.split()
    words[0] = str(Path(sys.executable).with_name("accelerate"))
    home = {**os.environ, "HOME": str(tmp_path / "home"), "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(words, cwd=ROOT, env=home, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (vectors,) = safetensors.torch.load_file(tmp_path / "my_textual_inversion.safetensors").values()
    assert vectors.shape == (4, 128)
    assert "no effect yet" not in done.stderr
