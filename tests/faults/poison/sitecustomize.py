"""Toy models with a flaw: one word of a document ends the process, as a fault in native code would.

Python runs this first in every process that has its folder on PYTHONPATH.
"""

import importlib.util
import os
import signal
import sys
from importlib.abc import MetaPathFinder


class Flawed(MetaPathFinder):
    """Changes `nightrank.models.toy` when it is first imported."""

    def find_spec(self, name, path=None, target=None):
        if name != "nightrank.models.toy":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module

        def load_flawed(module):
            load(module)
            encode, score = module.ToyBiEncoder.encode, module.ToyCrossEncoder.score

            def die_of(word, tokens):
                if (tokens.ids == module.word_id(word)).any():
                    with open(os.environ["DEATHS"], "a") as file:
                        file.write(f"{word}\n")
                    os.kill(os.getpid(), signal.SIGKILL)

            def flawed_encode(self, tokens, kind):
                die_of("poisonvector", tokens)
                return encode(self, tokens, kind)

            def flawed_score(self, queries, documents, pairs):
                die_of("poisonpair", documents)
                return score(self, queries, documents, pairs)

            module.ToyBiEncoder.encode = flawed_encode
            module.ToyCrossEncoder.score = flawed_score

        spec.loader.exec_module = load_flawed
        return spec


sys.meta_path.insert(0, Flawed())
