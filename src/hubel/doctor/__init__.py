"""What is wrong with a training: measured while it runs, in hubel's loop or in anyone's, with cause and remedy.

``hubel.doctor.watch(model, optimizer)`` is a context manager around a loop.
"""

from hubel.doctor.lightning import lightning_callback as lightning_callback
from hubel.doctor.watch import watch as watch
