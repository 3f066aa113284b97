"""mixcpt: Mix-CPT (arXiv 2407.10804) as a library. Adapt a language model to a field, and see what it forgets.

The light half (no torch: a page or a script opens at once):
    errors settings config workspace tokens    sources records decoding unpack cleaning intake split holdout documents
    manifest corpus    builtin atlas unify packing mixture    jobs processes supervisor worker runs recipes
    modelstore estimate statistics compare cli
The heavy half (torch inside, imported only where it is needed):
    lssd teacher heads models measures training evaluation doctor
"""

__version__ = "0.1.0"
