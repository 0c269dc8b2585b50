"""Coinage: teach Stable Diffusion a new word.

```python
import coinage

word = coinage.train(coinage.TrainConfig.from_toml("mychar.toml"))
model = coinage.load_model("sd15.safetensors")
model.install(word)
model.generate("a photo of mychar on a beach")[0].save("beach.png")
```

Importing the package is cheap: what needs torch is imported when it is first used.
"""

import logging
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from coinage.api import Model, load_model, train
    from coinage.checks import check
    from coinage.checks.dataset import DatasetReport, summarize_dataset
    from coinage.config import TrainConfig
    from coinage.embeddings.word import Word, load_word
    from coinage.errors import (
        CoinageError,
        ConfigError,
        EmbeddingFileError,
        Findings,
        Problem,
        TrainingError,
    )
    from coinage.scoring.encoders import ClipScorer, DinoScorer
    from coinage.scoring.prompts import Asked
    from coinage.scoring.results import Evaluation
    from coinage.scoring.scorer import Scorer, Scores
    from coinage.training.losses import Loss, LossInputs
    from coinage.training.observers.base import Observer, Priority
    from coinage.training.run import Run

__version__ = "0.1.0"
__all__ = [
    "Asked",
    "ClipScorer",
    "CoinageError",
    "ConfigError",
    "DatasetReport",
    "DinoScorer",
    "EmbeddingFileError",
    "Evaluation",
    "Findings",
    "Loss",
    "LossInputs",
    "Model",
    "Observer",
    "Priority",
    "Problem",
    "Run",
    "Scorer",
    "Scores",
    "TrainConfig",
    "TrainingError",
    "Word",
    "__version__",
    "check",
    "load_model",
    "load_word",
    "summarize_dataset",
    "train",
]
_ERRORS = (
    "CoinageError",
    "ConfigError",
    "EmbeddingFileError",
    "Findings",
    "Problem",
    "TrainingError",
)
_MODULES = {
    **dict.fromkeys(("Model", "load_model", "train"), "api"),
    **dict.fromkeys(("Word", "load_word"), "embeddings.word"),
    **dict.fromkeys(_ERRORS, "errors"),
    **dict.fromkeys(("ClipScorer", "DinoScorer"), "scoring.encoders"),
    **dict.fromkeys(("Scorer", "Scores"), "scoring.scorer"),
    **dict.fromkeys(("Loss", "LossInputs"), "training.losses"),
    **dict.fromkeys(("Observer", "Priority"), "training.observers.base"),
    **dict.fromkeys(("DatasetReport", "summarize_dataset"), "checks.dataset"),
    "Asked": "scoring.prompts",
    "Evaluation": "scoring.results",
    "Run": "training.run",
    "check": "checks",
    "TrainConfig": "config",
}
# A library does not choose where its messages go; without this, Python would print the warnings
logging.getLogger(__name__).addHandler(logging.NullHandler())

if not TYPE_CHECKING:  # so that type checkers know the names above, and no others

    def __getattr__(name: str) -> object:
        """Import a public name when it is first used (PEP 562)."""
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        """Return the public names, and what is there already."""
        return sorted({*__all__, *globals()})
