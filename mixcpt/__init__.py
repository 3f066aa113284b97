"""mixcpt: Mix-CPT (arXiv 2407.10804) as a library. Adapt a language model to a field, and see what it forgets.

The light half (no torch: a page or a script opens at once):
    errors config workspace tokens sources cleaning corpus builtin atlas unify mixture packing runs jobs compare
The heavy half (torch inside):
    models lssd training measures evaluation doctor worker
`cli` and `recipes` drive both and import the heavy half only where they need it.
"""

__version__ = "0.1.0"
