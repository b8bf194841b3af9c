"""From finished members to masks: prediction, the exact mean, and post-processing."""
