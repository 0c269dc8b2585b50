"""Train a word with a loss of your own.

`coinage demo --export demo` writes the model and the images that this example uses.
"""

from torch import Tensor

import coinage


def colour_loss(inputs: coinage.LossInputs) -> Tensor:
    """Return the mean squared error of each sample, [B]; the mean of each channel counts extra."""
    error = inputs.prediction.float() - inputs.target
    return error.square().mean(dim=(1, 2, 3)) + error.mean(dim=(2, 3)).square().mean(dim=1)


config = coinage.TrainConfig.from_mapping(
    {
        "pretrained_model_name_or_path": "demo/model",
        "dataset_config": "demo/dataset/dataset.toml",
        "token_string": "zibu",
        "init_word": "shape",
        "output_dir": "own_loss",
        "max_train_steps": 100,
    }
)
print(coinage.train(config, loss=colour_loss))
