"""What a run will take, before a GPU is asked for: by stage, in memory, and on how many nodes."""
