"""Errors meant for people: one line that says what was wrong, with the value, and what to do. Exit code 2."""


class AnycostError(Exception):
    """Base of every error that a user can cause and mend. The message is one line and complete in itself."""


class CheckpointError(AnycostError):
    """A weights file that cannot be read or does not hold the expected network."""


class DownloadError(AnycostError):
    """A named model that could not be fetched whole."""


class BuildError(AnycostError):
    """An engine or bundle that could not be built; what was finished before stays."""


class ParityError(BuildError):
    """An engine whose outputs differ too much from the reference."""


class BundleError(AnycostError):
    """A bundle that is missing, unfinished, damaged, unsafe or too new."""


class BackendError(AnycostError):
    """A compiler or runtime that is not installed or failed to load an engine."""


class BudgetError(AnycostError):
    """A budget that makes no sense, or that no engine fits."""


class InputError(AnycostError):
    """An argument outside what a pipeline accepts."""
