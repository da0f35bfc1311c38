"""The loop and what belongs to it: optimizers, schedules, checkpoints and forks, transfer, several processes."""
