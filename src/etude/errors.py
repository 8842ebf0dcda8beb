"""Every exception of the library.

EtudeError
├── ConfigError       a setting that is wrong, unknown, or cannot take effect
├── DataError         a sample, file or label that cannot be used
├── LoadError         a saved file or folder that is damaged, or is not what was expected
├── SaveError         a checkpoint could not be written, and the fit was to stop then
└── NonFiniteError    a loss or gradient became infinite or NaN

FitSignal             not errors: how a callback steers a fit; the message is the reason
├── StopFit           end this fit
├── StopEpoch         end this epoch's training, go on with its validation
└── SkipStep          leave weights and optimizer untouched in this step
"""

from __future__ import annotations


class EtudeError(Exception):
    """What every error of the library derives from; the message says what is wrong and what to do."""


class ConfigError(EtudeError, ValueError):
    """A setting is wrong, unknown, or cannot take effect."""


class DataError(EtudeError, ValueError):
    """A sample, file or label cannot be used."""


class LoadError(EtudeError):
    """A saved file or folder is damaged or is not what was expected."""


class SaveError(EtudeError):
    """A checkpoint could not be written; earlier ones are as they were."""


class NonFiniteError(EtudeError, FloatingPointError):
    """A loss, gradient, weight or optimizer state became infinite or NaN; weights are those of the last good step."""


class FitSignal(Exception):
    """Raised by a callback to steer a fit; the message is the reason and lands in the history."""


class StopFit(FitSignal):
    """End this fit after the current step."""


class StopEpoch(FitSignal):
    """End this epoch's training and go on with its validation."""


class SkipStep(FitSignal):
    """Leave weights, momentum and step count untouched in this step. Raised by the two transforms only."""
