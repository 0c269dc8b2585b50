"""The word to start from, found by measurement."""

import logging
from pathlib import Path

import pytest
import torch

from coinage.cli.build import build
from coinage.cli.parse import parse
from coinage.embeddings.saving import safe_open_metadata
from coinage.errors import ConfigError
from coinage.training.init_search import FUNCTION_WORDS, Search, draws_of, start_from_the_best, turned, whole_words
from tests.helpers import config_for, flags, prepared

AUTO = ("--init_word=auto", "--cache_latents")
