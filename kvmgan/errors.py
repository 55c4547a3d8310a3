"""The errors that a user can mend."""


class UserError(Exception):
    """Bad input, a missing file or an impossible setting: the message is one line that says what to do.

    The command lines print it as ``error: ...`` and exit with status 2.
    """


class MissingFileError(UserError):
    """A file that something else names isn't there."""


class UndecodableError(UserError):
    """A text file in an encoding that wasn't named."""
