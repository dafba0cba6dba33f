"""edgedsl beside its peers: the same prompts, grammar, weights and answer checks. See README.md of ``bench``."""
