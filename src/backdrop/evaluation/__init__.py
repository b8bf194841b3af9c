"""How good members and ensembles are: metrics, scoring, the gate, ablation, pictures."""
