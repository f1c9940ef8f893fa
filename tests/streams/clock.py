"""A clock that moves only when told."""


class FakeClock:
    """Call it for the time, in seconds."""

    def __init__(self, now_s: float = 1_000_000.0) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s

    def advance(self, seconds: float) -> None:
        """Let time pass, or go back."""
        self.now_s += seconds
