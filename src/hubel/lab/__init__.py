"""Rules of thumb, tried on your own images: variants of a recipe, claims of the textbooks, mistakes on purpose.

``hubel.lab.compare("photos/", hubel.lab.grid(model=["plain20", "resnet20"]), seeds=3)``
"""

from hubel.lab.compare import compare as compare
from hubel.lab.variants import grid as grid
