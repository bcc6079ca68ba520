"""What the benches share: checkpoints and weights at random, figures, charts, the machine."""
