"""What a training will hold and cost, computed from sizes alone: no weights are read and nothing is trained."""
