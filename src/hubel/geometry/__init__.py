"""The numbers of layers: sizes, receptive fields, parameters, operations, time."""
