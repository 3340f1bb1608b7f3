"""The protocols of evaluation on files: cells and models in, reports out."""
