"""What can go wrong, as sentences for a person.

NasError
├── InputError          what the user gave is wrong; nothing was written         exit code 2
│   ├── ConfigError     a setting: its key, its value, what is allowed
│   ├── DataError       a data set: its file or folder, what is missing
│   ├── GenotypeError   a genotype: its file, the choice, the options
│   ├── RunError        a run folder or a checkpoint in it
│   └── UnsupportedError  a combination that has no meaning, and what would work
├── TrainingError       the work itself failed; what was saved stays             exit code 1
│   └── DivergedError   a loss or a weight is no longer finite
└── Interrupted         a signal asked to stop; state was saved                  exit code 129, 130 or 143
"""


class NasError(Exception):
    """A failure whose message is written for the user; `exit_code` is what the command returns."""

    exit_code = 1


class InputError(NasError):
    exit_code = 2


class ConfigError(InputError):
    pass


class DataError(InputError):
    pass


class GenotypeError(InputError):
    pass


class RunError(InputError):
    pass


class UnsupportedError(InputError):
    pass


class TrainingError(NasError):
    pass


class DivergedError(TrainingError):
    pass


class Interrupted(NasError):  # noqa: N818 - it is no error
    """Raised after the state was saved; `signal_number` is 1 (SIGHUP), 2 (SIGINT) or 15 (SIGTERM)."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message, signal_number)
        self.signal_number = signal_number
        self.exit_code = 128 + signal_number

    def __str__(self) -> str:
        return str(self.args[0])
