"""The runs that a GPU owes us, prepared so that each is one command of known length."""
