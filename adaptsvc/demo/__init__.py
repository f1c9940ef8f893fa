"""The demo: the whole loop on real images, as real processes on this machine."""
