"""LoRA and QLoRA fine-tuning."""
