"""Checkpoints: reading Hugging Face BitNet models and converting them to images."""

__all__ = ["convert", "hf"]
