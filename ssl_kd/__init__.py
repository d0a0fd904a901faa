"""ssl_kd: cohorts of small networks that learn together, without labels or with them.

Names are imported when first used, so that `import ssl_kd` costs nothing and changes nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "Cohort": "cohort",
    "Follow": "cohort",
    "Encoder": "encoder",
    "Head": "encoder",
    "Each": "terms",
    "Edge": "terms",
    "Mutual": "terms",
    "step": "engine",
    "fit": "engine",
    "Result": "engine",
    "InputError": "errors",
    "gather": "distributed",
    "load": "finished",
    "Finished": "finished",
    "Embedder": "embedder",
}
__all__ = [
    "Cohort",
    "Each",
    "Edge",
    "Embedder",
    "Encoder",
    "Finished",
    "Follow",
    "Head",
    "InputError",
    "Mutual",
    "Result",
    "fit",
    "gather",
    "load",
    "step",
]

if TYPE_CHECKING:
    from ssl_kd.cohort import Cohort, Follow
    from ssl_kd.distributed import gather
    from ssl_kd.embedder import Embedder
    from ssl_kd.encoder import Encoder, Head
    from ssl_kd.engine import Result, fit, step
    from ssl_kd.errors import InputError
    from ssl_kd.finished import Finished, load
    from ssl_kd.terms import Each, Edge, Mutual


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'ssl_kd' has no attribute '{name}'")
    return getattr(import_module(f"ssl_kd.{_HOME[name]}"), name)
