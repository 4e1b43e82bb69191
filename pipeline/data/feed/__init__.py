"""The feed: batches of chips for training, made by threads of this process or by Ray Data."""
