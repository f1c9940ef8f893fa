"""Whether an answer, or a candidate model, can be trusted: numpy only, no I/O."""
