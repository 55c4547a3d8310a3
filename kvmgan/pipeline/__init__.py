"""A trained model as a Python object: captions in, pictures out, and the folder that it is kept in."""
