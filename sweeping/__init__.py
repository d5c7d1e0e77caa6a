"""Many runs from one plan: its runs, their state on disk, the workers, and the search."""
