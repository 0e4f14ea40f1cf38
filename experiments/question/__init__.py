"""`tightfit run`: an experiment in a file, its runs kept as they are done, its tables generated."""
