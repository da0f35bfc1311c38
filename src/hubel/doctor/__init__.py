"""What is wrong with a training: measured while it runs, in hubel's loop or in anyone's, with cause and remedy."""
