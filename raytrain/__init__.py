"""Training stages over Ray Train: the shipped base, supervised fine-tuning, merging."""
