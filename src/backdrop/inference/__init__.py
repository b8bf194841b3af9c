"""From finished members to masks: single networks, their exact mean, and what follows it."""
