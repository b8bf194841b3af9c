"""Evaluates members and ensembles: metrics, scoring, the gate, ablation, pictures."""
