"""The studio: a page on this machine to understand a convolution, a network and a run; it calls and draws."""
