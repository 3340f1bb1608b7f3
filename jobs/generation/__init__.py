"""Generated atlases: what is asked for, the plan, the workers that draw and assemble."""
