"""Does it work? Attacks, detection, repair and baselines on several data sets and networks (docs/evaluation.md)."""
