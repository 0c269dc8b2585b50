"""Words, prompts and tokens, as texts."""
