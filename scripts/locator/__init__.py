"""Parts of scripts/train_locator.py: the simulated world, other ways to locate, small integers."""
