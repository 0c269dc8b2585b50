"""One lock for the threads of this process that load models or make modules.

While diffusers and transformers load a model, they change torch for the whole process: modules that
another thread makes meanwhile would have no weights.
"""

import threading

LOADING_LOCK = threading.RLock()
