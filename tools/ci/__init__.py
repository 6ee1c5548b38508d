"""What the workflows call; standard library, git and gh only, so that jobs with a write token install nothing."""
