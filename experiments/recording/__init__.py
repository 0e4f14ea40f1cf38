"""Recording: any program, on a GPU or on a stand-in for one, and a corpus of our own programs."""
