"""Watch a training with an observer of your own.

`coinage demo --export demo` writes the model and the images that this example uses.
"""

import coinage


class Turning(coinage.Observer):
    """Keeps how far the first vector has turned from its start, in degrees, after each step."""

    def __init__(self) -> None:
        self.degrees: list[float] = []

    def stepped(self, run: coinage.Run) -> None:
        self.degrees.append(run.last.angles[0])


config = coinage.TrainConfig.from_mapping(
    {
        "pretrained_model_name_or_path": "demo/model",
        "dataset_config": "demo/dataset/dataset.toml",
        "token_string": "zibu",
        "init_word": "shape",
        "output_dir": "own_observer",
        "max_train_steps": 100,
    }
)
turning = Turning()
coinage.train(config, observers=[turning])
print(f"turned by {turning.degrees[-1]:.0f} degrees in {len(turning.degrees)} steps")
