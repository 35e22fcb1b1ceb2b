"""Train a scalar reward model on preference pairs with TRL's RewardTrainer, and measure it on held-out pairs."""
