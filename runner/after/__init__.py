"""What comes after a run: its checkpoints go to the Hugging Face hub, by a job without GPUs."""
