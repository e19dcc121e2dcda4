"""What the stages of the method will hold and cost, from sizes alone: no weights are read and no model is run."""
