"""The metrics as rows: what each needs to see, and what it makes of that for a subject."""
