"""The only wiring: a recipe and a folder of images become events, a run folder and answers."""
