"""The browser page: filters, networks and runs, to look at and to play with."""
