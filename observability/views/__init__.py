"""What is shown of a run and of plugins, as text and as pictures: it reads and writes no file."""
