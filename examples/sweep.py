"""Train one word with several learning rates and seeds, then compare the runs.

`coinage demo --export demo` writes the model and the images that this example uses. Afterwards,
`coinage report sweep --html compared.html` shows the runs side by side.
"""

from itertools import product

import coinage


class Last(coinage.Observer):
    """Keeps the last measured loss on the held-out images."""

    loss = float("nan")

    def measured(self, run: coinage.Run) -> None:
        self.loss = run.results.measurements[run.step].loss


SETTINGS = {
    "pretrained_model_name_or_path": "demo/model",
    "dataset_config": "demo/dataset/dataset.toml",
    "token_string": "zibu",
    "init_word": "shape",
    "output_dir": "sweep",
    "optimizer_type": "AdamW",
    "max_train_steps": 100,
    "validation_split": 0.25,
    "validation_seed": 0,
}

for rate, seed in product((1e-3, 5e-3, 2e-2), (0, 1)):
    name = {"learning_rate": rate, "seed": seed, "output_name": f"zibu-{rate:g}-{seed}"}
    last = Last()
    coinage.train(coinage.TrainConfig.from_mapping(SETTINGS | name), observers=[last])
    print(f"learning rate {rate:g}, seed {seed}: loss {last.loss:.4f} on held-out images")
