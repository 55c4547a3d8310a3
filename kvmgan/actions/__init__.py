"""What the commands do once their words are understood: all that needs torch, which takes seconds to import."""
