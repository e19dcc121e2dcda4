"""The command: a config composed, its stages called and filed, sweeps, jobs and signals. All that imports Hydra."""
