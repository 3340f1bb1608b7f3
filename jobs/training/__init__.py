"""Training as a job: wherever a worker runs, in Ray, under torchrun or alone."""
