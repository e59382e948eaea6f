"""From YAML and the words of a command line to objects; the only room that knows Hydra and `_target_`.

settings.py      check and build: every setting against the constructor that takes it
composition.py   one config, or one a job of a sweep, composed by Hydra
preparation.py   what happens to the user's overrides before: quoting, `latest`, what a genotype brings
explanation.py   Hydra's errors as sentences
"""

from nas_cli.config.settings import build, check

__all__ = ["build", "check"]
