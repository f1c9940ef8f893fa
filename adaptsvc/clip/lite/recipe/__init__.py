"""How the weights of `lite` were made: `python -m adaptsvc.clip.lite.recipe --out DIR --cache DIR`.

The service and the worker never import it.
"""
