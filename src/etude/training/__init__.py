"""The training step, the learner around it, and the callbacks that change or watch it."""
