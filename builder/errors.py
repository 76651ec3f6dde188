"""What the builder raises for its users.

Each message says what was expected, what came, and what to do. The command line prints it as one line, without a
traceback, and exits with the class's exit code.

BuilderError
├── SpecError          a flag, a YAML spec or a combination of both is wrong
├── DataError          the images or labels asked for are missing or wrong
├── WeightsError       the weights file cannot or must not be loaded
├── ExportError        the network cannot become a graph that honours the contract
├── ParityError        a graph does not compute what PyTorch computes
├── AccuracyError      a graph loses more accuracy than it may
├── MemoryBudgetError  a model does not fit the GPU that is to serve it
├── RepositoryError    a model repository cannot be written, or is not what its manifest says
└── ServerError        tritonserver cannot be found, started or reached
"""


class BuilderError(Exception):
    """The base of every error that a user can mend; exit code 1."""

    exit_code = 1


class SpecError(BuilderError):
    """The request itself is wrong; exit code 2, as argparse's own."""

    exit_code = 2


class DataError(BuilderError):
    """The images or labels asked for are missing or wrong; exit code 2: the request names them."""

    exit_code = 2


class WeightsError(BuilderError):
    """The weights cannot or must not be loaded."""


class ExportError(BuilderError):
    """The network cannot become a graph that honours the contract."""


class ParityError(BuilderError):
    """A graph does not compute what PyTorch computes."""

    exit_code = 3


class AccuracyError(BuilderError):
    """A graph loses more accuracy than it may."""

    exit_code = 3


class MemoryBudgetError(BuilderError):
    """A model does not fit the GPU that is to serve it."""


class RepositoryError(BuilderError):
    """A model repository cannot be written, or differs from its manifest."""


class ServerError(BuilderError):
    """tritonserver cannot be found, started or reached."""
