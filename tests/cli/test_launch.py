"""The user guide's command, through accelerate launch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
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
    home = {
        **os.environ,
        "HOME": str(tmp_path / "home"),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    done = subprocess.run(words, cwd=ROOT, env=home, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (vectors,) = safetensors.torch.load_file(tmp_path / "my_textual_inversion.safetensors").values()
    assert vectors.shape == (4, 128)
    assert "no effect yet" not in done.stderr


@pytest.mark.parametrize(
    ("given", "policy"), [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")]
)
def test_threads_sleep_while_they_wait_unless_the_user_chose(
    given: dict[str, str], policy: str
) -> None:
    told = "print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules, file=sys.stderr)"
    code = f"import os, sys; from coinage.cli.console import exit_code_of; exit_code_of(lambda: {told})"
    environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"} | given
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stderr.split() == [policy, "False"]
