"""Training a member: samples, the step, checkpoints, the loop and the folder that it leaves."""
