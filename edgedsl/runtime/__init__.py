"""The run wing: token ids in, programs out. Imports nothing of torch, transformers or peft."""
