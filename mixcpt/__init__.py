"""mixcpt: Mix-CPT (arXiv 2407.10804) as a library. Adapt a language model to a field, and see what it forgets.

The light half makes no use of torch, so a page or a script opens at once; tests/test_imports.py holds it to that. The
heavy half, with torch inside, is imported only where it is needed:
    lssd teacher teaching heads models measures trainer training scoring alignment evaluation format resident generation
    talk serve merging exporting doctor
README.md tells what each module is for.
"""

__version__ = "0.1.0"
