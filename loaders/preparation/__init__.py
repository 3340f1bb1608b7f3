"""An atlas prepared: checked, counted, split, copied; opened again."""
