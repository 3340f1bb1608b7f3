"""What a job will cost, and what this machine reaches."""
