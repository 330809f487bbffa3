"""The base of every error that a user can put right. Alone in its module, so that the command line starts fast."""


class UserError(Exception):
    """Something that the user can put right. The command line prints the message, no traceback, and exits with 2."""
